"""The messages between parent and child: msgpack structs in length-prefixed frames over one socketpair.

Parent to child: `LoadRequest` once, then `AttachRequest`, `DetachRequest`, `JobRequest`, `CancelRequest`, `Ping`,
`StopRequest` in any order. Child to parent: `ChildReady` or `FailureReport(job_id="")` after `LoadRequest`; `Heartbeat`
when an `AttachRequest` begins, then `BundleAttached` or `FailureReport(job_id=<digest>)` with its number; for each
`JobRequest` any number of `TextChunk`s, then exactly one `JobResult` or `FailureReport`; `Pong`; and `Heartbeat` after
steps of work, at most one in PROGRESS_SECONDS. A child that has work pending and sends none of these hangs. Only an
attach that has begun may be silent for longer, as long as it computes.

A child that loads or attaches sends `MemoryEstimate` before a library opens a file, and waits for `MemoryGrant`.

A frame is a 4-byte little-endian length and that many bytes of one msgpack map with its type in `t`.

The module also makes jobs from the golden cases and questions of a manifest, and golden answers from results. Pure.
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
"""Holds the largest text that `service.message_bytes_max` allows, 64 MiB, and the other fields of a JobRequest."""
IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Ctrl-C and a service stop reach all processes, but calls still run: the daemon decides when a child ends."""
PROGRESS_SECONDS = 0.25
EXIT_OUT_OF_MEMORY = 12  # ENOMEM: the child could not allocate
EXIT_DEVICE_LOST = 19  # ENODEV: the child's device failed
TUNING_DETAILS = (
    *("threads", "flash_attention", "bulk_rows", "bulk_scores", "thread_scores", "row_groups"),
    *("tuned_for", "tuning"),
)
"""Details of ChildReady with the settings that suit the processor, and the conditions of their measurement."""
SEQUENCES = "sequences_max"
"""The detail of ChildReady with the number of requests that are computed together."""
SEQUENCES_DEFAULT = 8
"""That number if neither the site nor the child sets it."""
_LENGTH = struct.Struct("<I")


class ChildMessage(msgspec.Struct, tag_field="t", kw_only=True):
    """The base of all messages."""


class LoadRequest(ChildMessage, tag="load", frozen=True):  # type: ignore[misc]  # a dataclass could not be
    """Load the base of all later bundles. Immutable: it also records what a child was loaded with."""

    runtime: str
    weights: str = ""
    """Path of the weights; empty for echo."""
    context_tokens: int = 1024
    kv_type: str = "f16"
    sequences_max: int = 8
    """Requests computed together; 0 = as many as memory allows, which ChildReady then reports as SEQUENCES."""
    threads: int = 1
    readable: tuple[str, ...] = ()
    """Paths that the confined child may read in addition to the runtime's own code: the folder of the blobs."""
    memory_bytes_max: int = 0
    """Memory available to the child, in bytes; a model that needs more is not loaded. 0 = no limit."""
    memory_bytes_wanted: int = 0
    """Memory that the bundle requires by its manifest, in bytes."""
    device: str = "cpu"
    """Where to compute: cpu, cuda or vulkan; never anywhere else."""
    device_index: int = -1
    """Which of the devices, as the driver counts them; -1 = the library's first choice."""
    device_memory_bytes_max: int = 0
    """The most that it may take of the device's memory, in bytes; 0 = what is free there."""
    gpu_layers: int = -1
    """The most layers to compute there; -1 = all that fit."""
    prompt_cache_bytes_max: int = 64 * 2**20
    """The most bytes of stored prompts, in addition to the memory that jobs use."""
    tune: bool = False
    """Measure which settings suit the processor, unless `settings` were measured for it."""
    settings: dict[str, str] = {}
    """The TUNING_DETAILS of an earlier ChildReady."""
    seconds_max: float = 0.0
    """Time limit of the load; then the process ends itself. 0 = no limit. Likewise in AttachRequest."""
    fallback: str = ""
    """Why `device` is not the wanted one; shown if a bundle requires that one."""


def concurrent_jobs(load: LoadRequest, details: Mapping[str, str]) -> int:
    """Return how many requests a child computes together; `details` are those of its ChildReady."""
    reported = details.get(SEQUENCES, "")
    return load.sequences_max or (max(int(reported), 1) if reported.isdecimal() else SEQUENCES_DEFAULT)


class AttachRequest(ChildMessage, tag="attach"):
    """Make one bundle ready: tokenize its prefix, load its adapter."""

    digest: str
    manifest: bytes
    """The stored bytes of manifest.json."""
    paths: dict[str, str]
    """Path of each artifact of the bundle, by role."""
    seconds_max: float = 0.0
    number: int = 0
    """Identifies this attach in its outcome, from 1: a bundle can be attached again before the outcome of an earlier
    attach has arrived."""


class DetachRequest(ChildMessage, tag="detach"):
    """Forget a bundle. Jobs still running on it are cancelled."""

    digest: str


class AskedQuestion(msgspec.Struct, array_like=True, frozen=True):
    """A question of a job, as formats/questions.py describes it."""

    name: str
    type: str
    instructions: str
    outputs: tuple[str, ...]
    """The possible answers, in the order of the returned probabilities; "no" and "yes" for a predicate."""
    descriptions: tuple[str, ...] = ()
    """One for each output, or empty."""
    temperature: float = 1.0
    """Scores are divided by it before the softmax; 1 for an uncalibrated question."""


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
    """0 is first among the jobs that the child has."""
    seconds: float = 0.0
    """Time left until the caller's deadline when the job is sent; 0 = no limit."""
    logprobs: int | None = None
    """generate: return the log-probability of each token and of this many of the likeliest ones; None = of none."""
    questions: tuple[AskedQuestion, ...] = ()
    """decide: the questions to answer instead of the bundle's own, on a runtime of OPEN_RUNTIMES, which computes each
    question separately. Empty = all of the bundle's own, which other runtimes always answer."""


class CancelRequest(ChildMessage, tag="cancel"):
    """Stop a job; answered with FailureReport(CANCELLED) unless the job has finished."""

    job_id: str


class Ping(ChildMessage, tag="ping"):
    """Ask an idle child for a sign of life."""


class StopRequest(ChildMessage, tag="stop"):
    """End the process; nothing is answered."""


class MemoryGrant(ChildMessage, tag="memory_grant"):
    """The limit is set; continue."""

    available_bytes: int
    """Memory available to the child now, in bytes; 0 = not measured."""


class MemoryEstimate(ChildMessage, tag="memory_estimate"):
    """The child's estimate of all memory that it will take, before a library opens a file from outside."""

    needed_bytes: int
    headroom_bytes: int = 0
    """What the longest inputs may take for a moment, in bytes: it raises the limit, but is no reason to refuse."""
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
    """That of the AttachRequest."""
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
    """One token of a text, with its log-probability."""

    piece: bytes
    """Not always whole characters."""
    logprob: float
    alternatives: tuple[tuple[bytes, float], ...] = ()
    """The likeliest tokens in its place, with their log-probabilities."""


class JobResult(ChildMessage, tag="done"):
    """The answer to a job. Only the fields of its task kind are set."""

    job_id: str
    scores: tuple[float, ...] = ()
    """classify: temperature-scaled probabilities in the order of the task's labels, adding up to 1."""
    question_scores: tuple[tuple[float, ...], ...] = ()
    """decide: for each question asked, in their order, the probabilities of its outputs, at its own temperature."""
    question_masses: tuple[float, ...] = ()
    """decide by a decoder: the label mass of each question, as `label_mass` of a classify task; empty = 1 for each."""
    label_mass: float = 1.0
    """classify by a decoder: probability of all labels together before renormalisation, 0 to 1."""
    ood_score: float | None = None
    """The out-of-distribution score from the bundle's graph; None = the graph has no such output."""
    entities: tuple[EntitySpan, ...] = ()
    confidence: float = 0.0
    """extract: probability of the whole record, 0 to 1."""
    vector: bytes = b""
    """embed: little-endian float32."""
    record: str = ""
    """extract by a model that writes the record: a JSON object."""
    fields: dict[str, float] = {}
    """The probability of each field of that record, 0 to 1, in its order."""
    finish: str = ""
    """generate: "stop" or "length"."""
    tokens: tuple[Token, ...] = ()
    """generate: the written tokens, if `logprobs` was set and the runtime knows them."""
    input_tokens: int = 0
    output_tokens: int = 0
    rows: int = 0
    """Tokens computed for it, without those taken from the cache; 0 = not counted."""
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


def result_of_question(result: JobResult, index: int) -> JobResult:
    """Return the answer to one question of a decide task as that of a classify task: in `scores` and `label_mass`."""
    label_mass = result.question_masses[index] if result.question_masses else 1.0
    scores = result.question_scores[index]
    return msgspec.structs.replace(result, scores=scores, label_mass=label_mass, question_scores=(), question_masses=())


class FailureReport(ChildMessage, tag="failed"):
    """A job, an attach or the load failed: the parts of an EdgeAgentError."""

    job_id: str
    reason: str
    message: str
    remedy: str = ""
    metadata: dict[str, str] = {}
    attach: int = 0
    """The number of the AttachRequest that failed; 0 = a job or the load failed."""


class Heartbeat(ChildMessage, tag="progress"):
    """The heartbeat of the step loop."""


class CacheUse(msgspec.Struct, array_like=True):
    """What a key-value cache holds, and what it has saved since the model was loaded; in tokens unless stated."""

    cells_in_use: int
    hits: int
    """Inputs that found the beginning of their prompt in it."""
    reused: int
    computed: int
    lookups: int = 0
    """Inputs that looked for the beginning of their prompt in it."""
    kept_bytes: int = 0
    """Bytes of prompts stored outside the buffer."""


class Pong(ChildMessage, tag="pong"):
    """The answer to Ping."""

    cache: CacheUse | None = None
    """None = the runtime has none."""
    threads: int = 0
    """Threads that compute now; 0 = always those of the LoadRequest."""


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


def frame_bytes(request: JobRequest) -> int:
    """Return a job's frame size in bytes: exact if it has questions or is near the limit, else by its text."""
    if request.questions:
        return len(_encoder.encode(request))
    bytes_max = 4 * len(request.text)  # in UTF-8; the other fields come from a manifest, which limits them
    return bytes_max if bytes_max < FRAME_BYTES_MAX // 2 else len(_encoder.encode(request))


class FrameSplitter:
    """Cuts a byte stream into frames. Raises ValueError on a frame over FRAME_BYTES_MAX."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._buffer = bytearray()
        self.is_partial = False
        """The beginning of a frame has arrived, but not its end."""

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
    """Return the job for one input of a golden file."""
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


def golden_answer(manifest: Manifest, text: str, result: JobResult) -> GoldenAnswer:
    """Return a result, and the text of its chunks, in the form of a golden case."""
    ood = ood_score(manifest, result)
    match manifest.task.kind:
        case "classify":
            return GoldenAnswer(manifest.task.labels[argmax(result.scores)], result.scores, ood)
        case "decide":
            questions, scores = manifest.task.questions, result.question_scores
            scores_by_name = {question.name: each for question, each in zip(questions, scores, strict=True)}
            labels = {each.name: each.outputs[argmax(scores_by_name[each.name])] for each in questions}
            return GoldenAnswer("", (), ood, labels, scores_by_name)
        case "extract" | "redact":
            spans = [[each.label, each.start, each.end] for each in result.entities]
            return GoldenAnswer(result.record or json.dumps(spans), (result.confidence,), ood)
        case "embed":
            return GoldenAnswer("", struct.unpack(f"<{len(result.vector) // 4}f", result.vector), ood)
        case _:
            return GoldenAnswer(text)


def argmax(scores: Sequence[float]) -> int:
    """Return the index of the largest score; the first one of equals."""
    return scores.index(max(scores))


def ood_score(manifest: Manifest, result: JobResult) -> float | None:
    """Return the out-of-distribution score that the bundle's gate compares; None = the bundle has no gate."""
    gate = manifest.confidence.gate
    return gate.score_of(result.ood_score, result.label_mass) if gate else None


def own_questions(manifest: Manifest) -> tuple[AskedQuestion, ...]:
    """Return the questions that a bundle defines; a classify task has exactly one."""
    return asked_questions(manifest, manifest.task.questions_asked)


def asked_questions(manifest: Manifest, questions: Iterable[QuestionSpec]) -> tuple[AskedQuestion, ...]:
    """Return questions of a bundle, or of a call, each with the temperature that the bundle has for it."""
    return tuple(
        AskedQuestion(
            *(each.name, each.type, each.instructions, each.outputs, each.descriptions),
            temperature=manifest.confidence_of(each.name).temperature,
        )
        for each in questions
    )
