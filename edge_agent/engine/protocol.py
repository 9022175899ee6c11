"""What parent and child say to each other: msgpack structs in length-prefixed frames over one socketpair.

Parent to child: `LoadRequest` once, then `AttachRequest`, `DetachRequest`, `JobRequest`, `CancelRequest`, `Ping`,
`StopRequest` in any order. Child to parent: `ChildReady` or `FailureReport(job_id="")` after `LoadRequest`; `Heartbeat`
when an `AttachRequest` begins, then `BundleAttached` or `FailureReport(job_id=<digest>)` with its number; for each
`JobRequest` any number of `TextChunk`s, then exactly one `JobResult` or `FailureReport`; `Pong`; and `Heartbeat` after
steps of work, at most one in PROGRESS_SECONDS, which is the heartbeat: a child with work pending and none of these is
wedged. Only an attach that has begun may be silent for longer, as long as it computes.

A child that loads or attaches sends `MemoryEstimate` before it gives a file to a library, and waits for `MemoryGrant`.

A frame is a 4-byte little-endian length and that many bytes of one msgpack map with its type in `t`.

Golden cases and questions of a manifest become jobs here, and answers words of the case. Pure.
"""

from __future__ import annotations

import json
import signal
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from edge_agent.formats.golden_cases import GoldenAnswer
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.questions import QuestionSpec

FRAME_BYTES_MAX = 65 * 2**20
"""Takes the largest text that `service.message_bytes_max` allows, 64 MiB, with what else a Run says."""
IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Ctrl-C and a stop reach the whole group of processes. When a child ends is the daemon's matter: calls run."""
PROGRESS_SECONDS = 0.25
EXIT_OUT_OF_MEMORY = 12  # ENOMEM; a child's last word when it could not allocate
EXIT_DEVICE_LOST = 19  # ENODEV; the device under it failed
TUNING_DETAILS = (
    *("threads", "flash_attention", "bulk_rows", "bulk_scores", "thread_scores", "row_groups"),
    *("tuned_for", "tuning"),
)
"""Details of Ready that say which settings suit the processor, and for what they were measured."""
SEQUENCES = "sequences_max"
"""The detail of Ready that says how many requests are computed together."""
SEQUENCES_DEFAULT = 8
"""So many where neither the site nor the child says it."""
_LENGTH = struct.Struct("<I")


class ChildMessage(msgspec.Struct, tag_field="t", kw_only=True):
    """The base of all messages."""


class LoadRequest(ChildMessage, tag="load", frozen=True):  # type: ignore[misc]  # a dataclass could not be
    """Load the base that every later bundle stands on. A value: what a child was loaded with does not change."""

    runtime: str
    weights: str = ""
    """Path of the weights; empty for echo."""
    context_tokens: int = 1024
    kv_type: str = "f16"
    sequences_max: int = 8
    """Requests computed together; 0 = as many as memory allows, which Ready then says as SEQUENCES."""
    threads: int = 1
    readable: tuple[str, ...] = ()
    """All that the child may read once it is confined, beside the runtime's own code: the folder of the blobs."""
    memory_bytes_max: int = 0
    """Memory that there is for the child, in bytes; what needs more is not loaded. 0 = no limit."""
    memory_bytes_wanted: int = 0
    """Memory that the bundle asks for in its manifest, in bytes."""
    device: str = "cpu"
    """Where to compute: cpu, cuda or vulkan; nowhere else, whatever there is."""
    device_index: int = -1
    """Which of the devices, as the driver counts them; -1 = the first that the library would take by itself."""
    device_memory_bytes_max: int = 0
    """The most that it may take of the device's memory, in bytes; 0 = what is free there."""
    gpu_layers: int = -1
    """The most layers to compute there; -1 = all that fit."""
    prompt_cache_bytes_max: int = 64 * 2**20
    """What may be kept of prompts that were computed, in bytes, beside what jobs are using."""
    tune: bool = False
    """Try which settings suit the processor, unless `settings` say so for it."""
    settings: dict[str, str] = {}
    """Of an earlier Ready, those of its details that are named in REMEMBERED."""
    seconds_max: float = 0.0
    """Time that loading may take; then the process ends itself. 0 = no limit. Likewise in Attach."""
    fallback: str = ""
    """Why it is not the device that was wanted, for a bundle that needs that one."""


def concurrent_jobs(load: LoadRequest, details: Mapping[str, str]) -> int:
    """Return how many requests a child computes together, which has said `details` when it was ready."""
    told = details.get(SEQUENCES, "")
    return load.sequences_max or (max(int(told), 1) if told.isdecimal() else SEQUENCES_DEFAULT)


class AttachRequest(ChildMessage, tag="attach"):
    """Make one bundle ready: tokenize its prefix, load its adapter."""

    digest: str
    manifest: bytes
    """The stored bytes of manifest.json."""
    paths: dict[str, str]
    """Path of each artifact of the bundle, by role."""
    seconds_max: float = 0.0
    number: int = 0
    """Of this attach, from 1 for what an engine asks: the outcome repeats it. A bundle can be attached again before the
    outcome of an earlier attach has come."""


class DetachRequest(ChildMessage, tag="detach"):
    """Forget a bundle. Jobs still running on it are cancelled."""

    digest: str


class AskedQuestion(msgspec.Struct, array_like=True, frozen=True):
    """A question of a job, as formats/questions.py describes it."""

    name: str
    type: str
    instructions: str
    outputs: tuple[str, ...]
    """The possible answers, in the order of their probabilities; of a predicate "no" and "yes"."""
    descriptions: tuple[str, ...] = ()
    """Of each output; empty = of none."""
    temperature: float = 1.0
    """Scores are divided by it before the softmax; 1 for a question that was never calibrated."""


class JobRequest(ChildMessage, tag="run"):
    """Compute one input."""

    job_id: str
    digest: str
    text: str
    output_tokens_max: int = 0
    temperature: float = 0.0
    seed: int = 0
    stops: tuple[str, ...] = ()
    priority: int = 0
    """0 is first; of what the child has at once."""
    seconds: float = 0.0
    """What is left of the time that its caller waits, when it is sent; 0 = no limit."""
    logprobs: int | None = None
    """generate: tell the probability of each token, and of so many of the likeliest; None = do not."""
    questions: tuple[AskedQuestion, ...] = ()
    """decide on a runtime of OPEN_RUNTIMES, which computes each question for itself: what to answer instead of all of
    the bundle's own questions. Empty = all of its own, which other runtimes always answer."""


class CancelRequest(ChildMessage, tag="cancel"):
    """Stop a job; answered with Failed(CANCELLED) unless it was finished already."""

    job_id: str


class Ping(ChildMessage, tag="ping"):
    """Ask an idle child for a sign of life."""


class StopRequest(ChildMessage, tag="stop"):
    """End the process; nothing is answered."""


class MemoryGrant(ChildMessage, tag="memory_grant"):
    """The limit is set; go on."""

    available_bytes: int
    """What there is for the child now, in bytes; 0 = nobody measured it."""


class MemoryEstimate(ChildMessage, tag="memory_estimate"):
    """What the child will take in all, as it has added up; nothing that others made has been given to a library."""

    needed_bytes: int
    headroom_bytes: int = 0
    """What the longest inputs may take for a moment, in bytes: no reason to refuse, and not over the limit."""
    threads: int = 1
    device: str = "cpu"


class ChildReady(ChildMessage, tag="ready"):
    """The base is loaded."""

    device: str
    details: dict[str, str] = {}


class BundleAttached(ChildMessage, tag="attached"):
    """The bundle is ready and warmed."""

    digest: str
    number: int = 0
    """That of the Attach."""
    score_variance: str = ""
    """Why its scores depend on what else is computed at that time; empty = they do not."""


class EntitySpan(msgspec.Struct, array_like=True):
    """One entity: label, [start, end) in code points, score 0 to 1."""

    label: str
    start: int
    end: int
    score: float


class TextChunk(ChildMessage, tag="chunk"):
    """More text of a generation: whole characters, of one token or several."""

    job_id: str
    text: str


class Token(msgspec.Struct, array_like=True):
    """One token of a text, and what the model thought of it."""

    piece: bytes
    """Not always whole characters."""
    logprob: float
    alternatives: tuple[tuple[bytes, float], ...] = ()
    """The likeliest in its place."""


class JobResult(ChildMessage, tag="done"):
    """The answer to a job. Only the fields of its task kind are set."""

    job_id: str
    scores: tuple[float, ...] = ()
    """classify: temperature-scaled probabilities in the order of the task's labels, adding up to 1."""
    question_scores: tuple[tuple[float, ...], ...] = ()
    """decide: for each question asked, in their order, the probabilities of its outputs, at its own temperature."""
    question_masses: tuple[float, ...] = ()
    """decide by a decoder: for each question what `label_mass` is for a classify task; empty = 1 for each."""
    label_mass: float = 1.0
    ood_score: float | None = None
    """What the graph of the bundle says of how strange the input is; None = it has no such output."""
    entities: tuple[EntitySpan, ...] = ()
    confidence: float = 0.0
    """extract: probability of the whole record, 0 to 1."""
    vector: bytes = b""
    """embed: little-endian float32."""
    record: str = ""
    """extract by a model that writes the record: a JSON object."""
    fields: dict[str, float] = {}
    """Of that record, each field that is in it, in its order: probability, 0 to 1."""
    finish: str = ""
    """generate: "stop" or "length"."""
    tokens: tuple[Token, ...] = ()
    """generate, where `logprobs` was set and the runtime knows them: what was written."""
    input_tokens: int = 0
    output_tokens: int = 0
    rows: int = 0
    """What was computed for it, in tokens; what it had in common with others is not. 0 = that is not counted."""
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


def result_of_question(done: JobResult, place: int) -> JobResult:
    """Return the answer to one question of a decide task as that of a classify task: in `scores` and `label_mass`."""
    mass = done.question_masses[place] if done.question_masses else 1.0
    scores = done.question_scores[place]
    return msgspec.structs.replace(done, scores=scores, label_mass=mass, question_scores=(), question_masses=())


class FailureReport(ChildMessage, tag="failed"):
    """A job, an attach or the load failed: the parts of an EdgeAgentError."""

    job_id: str
    reason: str
    message: str
    remedy: str = ""
    metadata: dict[str, str] = {}
    attach: int = 0
    """The number of the Attach that failed; 0 = a job or the load did."""


class Heartbeat(ChildMessage, tag="progress"):
    """The heartbeat of the step loop."""


class CacheUse(msgspec.Struct, array_like=True):
    """What a key-value cache holds, and what it has saved since the model was loaded; all in tokens but `hits`."""

    cells_in_use: int
    hits: int
    """Inputs that found the beginning of their prompt in it."""
    reused: int
    computed: int
    lookups: int = 0
    """Inputs that looked for it."""
    kept_bytes: int = 0
    """Of prompts kept outside the buffer."""


class Pong(ChildMessage, tag="pong"):
    """The answer to Ping."""

    cache: CacheUse | None = None
    """None = the runtime has none."""
    threads: int = 0
    """With how many it computes now; 0 = with those that it was given, always."""


ToChild = LoadRequest | AttachRequest | DetachRequest | JobRequest | CancelRequest | Ping | StopRequest | MemoryGrant
FromChild = MemoryEstimate | ChildReady | BundleAttached | TextChunk | JobResult | FailureReport | Heartbeat | Pong
Event = TextChunk | JobResult | FailureReport

_encoder = msgspec.msgpack.Encoder()
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_from_child = msgspec.msgpack.Decoder(FromChild).decode


def frame(message: ChildMessage) -> bytes:
    """Encode one message with its length in front."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def frame_bytes(run: JobRequest) -> int:
    """Return at least the size of the frame of a job, in bytes; exactly where it may be over the limit."""
    if run.questions:
        return len(_encoder.encode(run))
    most = 4 * len(run.text)  # in UTF-8; what else there is comes out of a manifest and has its own limits
    return most if most < FRAME_BYTES_MAX // 2 else len(_encoder.encode(run))


class FrameSplitter:
    """Cuts a byte stream into frames. Raises ValueError on a frame over FRAME_BYTES_MAX."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._buffer = bytearray()
        self.is_partial = False
        """The beginning of a frame has come, and not its end."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the body of every frame that is complete with `data`."""
        self._buffer += data
        start, end = 0, len(self._buffer)
        while end - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {length} bytes; the limit is {FRAME_BYTES_MAX}")
            if end - start - _LENGTH.size < length:
                break
            body_start = start + _LENGTH.size
            start = body_start + length
            yield bytes(self._buffer[body_start:start])
        del self._buffer[:start]
        self.is_partial = start < end


SEED = 1


def golden_job(manifest: Manifest, digest: str, text: str, job_id: str) -> JobRequest:
    """Return the job that asks a bundle what a golden file asks it."""
    task = manifest.task
    return JobRequest(
        job_id=job_id,
        digest=digest,
        text=text,
        output_tokens_max=task.written_tokens_max,
        temperature=task.prompt.temperature,
        seed=SEED,
        stops=task.prompt.stops,
    )


def golden_answer(manifest: Manifest, written: str, done: JobResult) -> GoldenAnswer:
    """Put an answer, and the text of its chunks, in the words of a golden case."""
    strangeness = ood_score(manifest, done)
    match manifest.task.kind:
        case "classify":
            return GoldenAnswer(manifest.task.labels[argmax(done.scores)], done.scores, strangeness)
        case "decide":
            questions, scores = manifest.task.questions, done.question_scores
            by_name = {question.name: each for question, each in zip(questions, scores, strict=True)}
            labels = {each.name: each.outputs[argmax(by_name[each.name])] for each in questions}
            return GoldenAnswer("", (), strangeness, labels, by_name)
        case "extract" | "redact":
            found = [[each.label, each.start, each.end] for each in done.entities]
            return GoldenAnswer(done.record or json.dumps(found), (done.confidence,), strangeness)
        case "embed":
            return GoldenAnswer("", struct.unpack(f"<{len(done.vector) // 4}f", done.vector), strangeness)
        case _:
            return GoldenAnswer(written)


def argmax(scores: Sequence[float]) -> int:
    """Return the place of the largest score, the first one of several."""
    return scores.index(max(scores))


def ood_score(manifest: Manifest, done: JobResult) -> float | None:
    """Return how strange an input is by the score of the bundle's gate; None = the bundle has no gate."""
    gate = manifest.confidence.gate
    return gate.score_of(done.ood_score, done.label_mass) if gate else None


def own_questions(manifest: Manifest) -> tuple[AskedQuestion, ...]:
    """Return the questions that a bundle defines; of a classify task its only one."""
    return as_asked(manifest, manifest.task.questions_asked)


def as_asked(manifest: Manifest, questions: Iterable[QuestionSpec]) -> tuple[AskedQuestion, ...]:
    """Return questions of a bundle, or of a call, each with the temperature that the bundle has for it."""
    return tuple(
        AskedQuestion(
            *(each.name, each.type, each.instructions, each.outputs, each.descriptions),
            temperature=manifest.confidence_of(each.name).temperature,
        )
        for each in questions
    )
