"""A model without weights: the same input always gets the same answer. The shipped fake behind the runtime seam.

With it a device developer can build against the daemon before a model exists, and tests can reach every path of the
engine. A text that starts with one of these words has this effect:

    !crash    the process dies            !hang      the step never returns
    !fail     this job fails              !slow N    each step of the job takes N milliseconds
    !leak N   N megabytes are leaked      !lose      this job is never answered

If a bundle's prompt template begins with one of them, every text has this effect. There the first two lines may be
followed by `after N`: the effect begins after N jobs of the bundle in this process. A bundle of `!stall` is never
attached. Scores of a bundle of `!vary`, or with weights that begin with it, depend on how many jobs are computed in the
same step, and the runtime reports it.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import signal
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.engine.protocol import (
    AskedQuestion,
    EntitySpan,
    Event,
    FailureReport,
    JobRequest,
    JobResult,
    LoadRequest,
    TextChunk,
    own_questions,
)
from edge_agent.engine.runtimes import Runtime, cancellation_report, check_input_length, failure_report
from edge_agent.errors import ModelFailed, ModelLoadFailed
from edge_agent.formats.calibration import tag_types
from edge_agent.formats.manifest import LABEL_KINDS, SCORED_KINDS, Manifest

VECTOR_LENGTH = 8
_VARY = "!vary"
PROCESS_BYTES = 48 * 2**20  # Python: 30 MiB resident


@dataclass
class _EchoJob:
    request: JobRequest
    words: list[str]
    orders: list[str]
    """What the bundle's prompt template orders for this job."""
    next_word: int = 0


class EchoRuntime(Runtime):
    """Splits on white space: a word is a token."""

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._bundles: dict[str, Manifest] = {}
        self._jobs: dict[str, _EchoJob] = {}
        self._job_counts: dict[str, int] = {}
        self._weights_vary = False

    def load(self, spec: LoadRequest) -> dict[str, str]:
        """Load nothing, but require that a path to weights exists. Claims to compute on the given device."""
        if spec.weights and not os.path.exists(spec.weights):  # noqa: PTH110
            raise ModelLoadFailed(f"weights file {spec.weights} does not exist")
        if spec.weights:
            with open(spec.weights, "rb") as weights:  # noqa: PTH123
                self._weights_vary = weights.read(len(_VARY)) == _VARY.encode()
        need = MemoryNeed(weights=0, copies=0, cache=0, compute=0, process=PROCESS_BYTES)
        available = self.request_memory(need.total, spec.memory_bytes_max, 0)
        need.check(available, spec.memory_bytes_wanted)
        self.device = spec.device if spec.device == "cpu" else f"{spec.device}:0"
        return {"model": "echo"} | need.details(available)

    def attach(self, digest: str, manifest: Manifest, paths: Mapping[str, str]) -> None:
        """Note the bundle; a path to its adapter must exist."""
        if (adapter := paths.get("adapter")) and not os.path.exists(adapter):  # noqa: PTH110
            raise ModelLoadFailed(f"adapter file {adapter} does not exist")
        if "!stall" in _orders(manifest, 0):
            signal.pause()
        self._bundles[digest] = manifest

    def score_variance(self, digest: str) -> str:
        """Return why scores depend on what else is computed, for a bundle of `!vary`."""
        varies = self._varies(_orders(self._bundles[digest], 0)) and self._bundles[digest].task.kind in SCORED_KINDS
        return "the echo model was told to let scores depend on the batch" if varies else ""

    def _varies(self, orders: list[str]) -> bool:
        return self._weights_vary or _VARY in orders

    def detach(self, digest: str) -> list[Event]:
        """Forget the bundle and its jobs."""
        self._bundles.pop(digest, None)
        job_ids = [job_id for job_id, job in self._jobs.items() if job.request.digest == digest]
        return [event for job_id in job_ids for event in self.cancel(job_id)]

    def submit(self, job: JobRequest) -> None:
        """Take a job."""
        if job.digest not in self._bundles:
            raise ModelFailed(f"bundle {job.digest[:12]} is not attached to this engine", digest=job.digest)
        words = job.text.split()
        check_input_length(len(words), self._bundles[job.digest].task.limits.input_tokens_max)
        job_number = self._job_counts[job.digest] = self._job_counts.get(job.digest, 0) + 1
        orders = _orders(self._bundles[job.digest], job_number)
        if "!lose" not in (words[0], orders[0]):
            self._jobs[job.job_id] = _EchoJob(job, words, orders)

    def cancel(self, job_id: str) -> list[Event]:
        """Drop a job."""
        return [cancellation_report(job_id)] if self._jobs.pop(job_id, None) else []

    @property
    def busy(self) -> bool:
        """True while a job is unfinished."""
        return bool(self._jobs)

    def step(self) -> list[Event]:
        """Write one word of every generation; finish everything else."""
        events: list[Event] = []
        jobs = list(self._jobs.values())
        for job in jobs:
            job_events = self._advance(job, len(jobs))
            events += job_events
            if any(isinstance(event, JobResult | FailureReport) for event in job_events):
                del self._jobs[job.request.job_id]
        return events

    def close(self) -> None:
        """Forget everything."""
        self._bundles.clear()
        self._jobs.clear()

    def _advance(self, job: _EchoJob, batch: int) -> list[Event]:
        _obey(job.words)
        _obey(job.orders)
        if "!fail" in (job.words[0], job.orders[0]):
            return [failure_report(job.request.job_id, ModelFailed("the echo model was told to fail"))]
        manifest = self._bundles[job.request.digest]
        if manifest.task.kind == "generate":
            return _generate(job)
        result = JobResult(job_id=job.request.job_id, input_tokens=len(job.words))
        if manifest.task.kind in LABEL_KINDS:
            questions = job.request.questions or own_questions(manifest)
            divisor = batch if self._varies(job.orders) else 1
            scores = tuple(_scores(job.request.text, question, manifest.task.name, divisor) for question in questions)
            if manifest.task.kind == "classify":
                (result.scores,) = scores
            else:
                result.question_scores = scores
        elif manifest.task.kind == "embed":
            result.vector = _vector(job.request.text)
        else:
            result.entities, result.confidence = _number_spans(job.request.text, manifest), 1.0
        return [result]


_leaked: list[bytes] = []


def _orders(manifest: Manifest, job_number: int) -> list[str]:
    """Return what a bundle's prompt template orders for a job, counted from 1; [""] = nothing."""
    orders = manifest.task.prompt.template.partition("{input}")[0].split()
    if not orders or not orders[0].startswith("!"):
        return [""]
    is_too_early = "after" in orders and job_number <= int(orders[orders.index("after") + 1])
    return [""] if is_too_early else orders


def _obey(words: list[str]) -> None:
    if words[0] == "!crash":
        os.kill(os.getpid(), signal.SIGABRT)
    if words[0] == "!hang":
        signal.pause()
    if words[0] == "!slow":
        time.sleep(float(words[1]) / 1000)
    if words[0] == "!leak":
        _leaked.append(b"x" * (int(words[1]) << 20))


def _generate(job: _EchoJob) -> list[Event]:
    request = job.request
    if job.next_word >= min(len(job.words), request.output_tokens_max):
        finish = "stop" if job.next_word == len(job.words) else "length"
        return [
            JobResult(job_id=request.job_id, finish=finish, input_tokens=len(job.words), output_tokens=job.next_word)
        ]
    text = ("" if job.next_word == 0 else " ") + job.words[job.next_word]
    job.next_word += 1
    return [TextChunk(job_id=request.job_id, text=text)]


def _fraction(*parts: str) -> float:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:4], "big") / 2**32


def _scores(text: str, question: AskedQuestion, task: str, divisor: int) -> tuple[float, ...]:
    """Score the answers to a question; the raw scores are divided by `divisor`.

    A label that occurs in the text wins clearly, and so does "yes" if the name of a predicate occurs in it.
    Otherwise the hash of the text decides.
    """
    lowered, outputs = text.lower(), question.outputs
    words = ("", question.name) if question.type == "predicate" else outputs
    own = () if question.name == task else (question.name,)
    raw = [
        (8.0 * (bool(word) and word.lower() in lowered) + _fraction(lowered, *own, output)) / divisor
        for word, output in zip(words, outputs, strict=True)
    ]
    weights = [math.exp(score / question.temperature) for score in raw]
    return tuple(weight / sum(weights) for weight in weights)


def _vector(text: str) -> bytes:
    values = [_fraction(text, str(i)) - 0.5 for i in range(VECTOR_LENGTH)]
    norm = math.sqrt(sum(value * value for value in values))
    return struct.pack(f"<{VECTOR_LENGTH}f", *(value / norm for value in values))


def _number_spans(text: str, manifest: Manifest) -> tuple[EntitySpan, ...]:
    """Every run of digits is an entity of the first type."""
    labels = tag_types(manifest.task.labels) if manifest.task.kind == "redact" else manifest.task.labels
    label = labels[0] if labels else "number"
    return tuple(EntitySpan(label, match.start(), match.end(), 1.0) for match in re.finditer(r"\d+", text))
