"""Encoders in ONNX: text classification, several questions (decide), token classification (extract), embedding.

A score does not depend on other inputs in the batch, to the last bit (decision 52). So an input to classify or to
decide on is always computed alone: the head of such a model multiplies one row for each input, and ONNX Runtime has
another kernel for a single row. All questions about an input are outputs of one run.
For extract the head reads every token, and inputs share a batch if `attach` has measured that no bit changes. Vectors,
which are compared with no threshold, may share a batch if no element changes by more than NEIGHBOUR_TOLERANCE. That
fails for int8 with dynamic quantization, which scales activations over the whole batch: its inputs are computed alone.

Up to `LoadRequest.threads` batches are computed at the same time, each on one thread; see onnx_session.py. `load`,
`attach` and the tokenizer run on the caller's thread.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import tokenizers

from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.engine.protocol import (
    SEQUENCES,
    SEQUENCES_DEFAULT,
    Event,
    JobRequest,
    JobResult,
    LoadRequest,
    own_questions,
)
from edge_agent.engine.runtimes import (
    Runtime,
    cancellation_report,
    check_input_length,
    failure_report,
    onnx_graph,
    onnx_outputs,
)
from edge_agent.engine.runtimes.onnx_graph import estimate_memory, long_input_bytes
from edge_agent.engine.runtimes.onnx_outputs import Floats, PersonalSpans, TagColumns, WantedOutputs, find_personal
from edge_agent.engine.runtimes.onnx_session import BATCH_ROWS_MAX, BatchWorkers, OnnxSession, Row, choose_batch
from edge_agent.errors import EmptyInput, InputTooLong, ModelFailed, ModelLoadFailed
from edge_agent.formats.manifest import LABEL_KINDS, Manifest

# No language has words this long: more characters per token are an attack on the tokenizer, or white space.
CHARACTERS_PER_TOKEN_MAX = 64
# Most encoders end at 512 positions; attention grows with the square, so a huge limit is not proven to its end.
PROBE_TOKENS_MAX = 1024
# embed, on raw outputs. Measured on MiniLM: fp32 0 to 1e-6, dynamically quantized int8 0.3 and more.
NEIGHBOUR_TOLERANCE = 1e-4
_PROBE_LENGTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
"""Lengths of the inputs that are computed alone and together, as multiples of the fixed text's."""
JOBS_PER_THREAD = 2
"""Inputs that the child has at once, so that a thread that has computed one finds the next."""
_SAMPLE_TEXT = "Please check order 12345 for me."
CLEAN_TEXTS = (
    "The kettle does not heat the water any more, and the lid is broken.",
    "Das Gerät ist nach zwei Wochen defekt, bitte tauschen Sie es um.",
    "Le produit est arrivé en retard et la boîte était ouverte.",
    "Quiero cambiar este pantalón por una talla más grande.",
    "La ricetta va ritirata in farmacia prima di sera.",
)
"""No word of these is personal."""
CLEAN_REPLACED_MAX = 0.5
"""Largest share of their characters that a redaction model may replace."""


@dataclass(frozen=True)
class _OnnxBundle:
    manifest: Manifest
    tokenizer: tokenizers.Tokenizer
    tokenizer_path: str
    tokenizer_bytes: int
    outputs: WantedOutputs
    temperatures: tuple[float, ...]
    """One for each output that answers a question."""
    rows_max: int


@dataclass(frozen=True)
class _OnnxJob:
    request: JobRequest
    encoding: tokenizers.Encoding
    row: Row


_BatchEvents = list[tuple[_OnnxJob, Event]]


class OnnxRuntime(Runtime):
    """One session, and the bundles that share it."""

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._session: OnnxSession | None = None
        self._spec = LoadRequest(runtime="onnx")
        self._need: MemoryNeed
        self._available = 0
        self._workers: BatchWorkers[_BatchEvents] | None = None
        self._bundles: dict[str, _OnnxBundle] = {}
        self._waiting: dict[str, _OnnxJob] = {}
        self._running: dict[str, _OnnxJob] = {}

    def load(self, spec: LoadRequest) -> dict[str, str]:
        """Open the model, if memory holds it, and start the threads."""
        need = estimate_memory(spec.weights, spec.threads, spec.device)
        available = self.request_memory(need.total, spec.memory_bytes_max, 0)
        need.check(available, spec.memory_bytes_wanted)
        onnx_graph.check_graph(spec.weights)
        self._spec, self._need, self._available = spec, need, available
        self._session = OnnxSession(spec.weights, spec.device, spec.device_index)
        self.device = self._session.device
        self._workers = BatchWorkers(spec.threads)
        jobs_max = JOBS_PER_THREAD * spec.threads
        details = {SEQUENCES: str(jobs_max)} if not spec.sequences_max and jobs_max > SEQUENCES_DEFAULT else {}
        return self._session.details | {"threads": str(spec.threads)} | details | need.details(available)

    def attach(self, digest: str, manifest: Manifest, paths: Mapping[str, str]) -> None:
        """Open the tokenizer, compute a fixed text and one as long as the task allows, and measure neighbours."""
        path = paths["tokenizer"]
        open_tokenizers = (each.tokenizer for each in self._bundles.values() if each.tokenizer_path == path)
        size = onnx_graph.check_tokenizer_file(path)
        sizes = {each.tokenizer_path: each.tokenizer_bytes for each in self._bundles.values()} | {path: size}
        limits = [each.manifest.task.limits.input_tokens_max for each in self._bundles.values()]
        headroom = self._spec.threads * long_input_bytes(max([manifest.task.limits.input_tokens_max, *limits]))
        need = replace(self._need, process=self._need.process + sum(sizes.values()))
        self.request_memory(need.total, self._available, headroom)
        need.check(self._available)
        tokenizer = next(open_tokenizers, None) or onnx_graph.open_tokenizer(path)
        encoding = _encode(tokenizer, _SAMPLE_TEXT, ModelLoadFailed)
        outputs = onnx_outputs.outputs_for(manifest, self._opened_session.outputs)
        rows_max = self._measure_rows_max(manifest, outputs, (encoding.ids, encoding.type_ids))
        if manifest.task.kind == "redact":
            self._check_clean(manifest, outputs.names, tokenizer)
        temperatures = tuple(question.temperature for question in own_questions(manifest))
        self._bundles[digest] = _OnnxBundle(manifest, tokenizer, path, size, outputs, temperatures, rows_max)

    def score_variance(self, digest: str) -> str:
        """Return nothing: inputs with scores are computed alone, or share batches that change no bit."""
        return ""

    def detach(self, digest: str) -> list[Event]:
        """Forget a bundle and its jobs."""
        self._bundles.pop(digest, None)
        job_ids = [id_ for id_, job in (self._running | self._waiting).items() if job.request.digest == digest]
        return [event for id_ in job_ids for event in self.cancel(id_)]

    def submit(self, job: JobRequest) -> None:
        """Tokenize and take a job."""
        bundle = self._bundles.get(job.digest)
        if bundle is None:
            raise ModelFailed(f"bundle {job.digest[:12]} is not attached to this engine", digest=job.digest)
        limit = bundle.manifest.task.limits.input_tokens_max
        # Before a tokenizer has to read the text.
        if not job.text.strip():
            raise EmptyInput("the input has no text")
        length, characters_max = len(job.text), limit * CHARACTERS_PER_TOKEN_MAX
        if length > characters_max:
            message = f"the input has {length} characters; the limit of {limit} tokens allows at most {characters_max}"
            raise InputTooLong(message, characters=length, characters_limit=characters_max, limit=limit)
        encoding = _encode(bundle.tokenizer, job.text, ModelFailed)
        if all(encoding.special_tokens_mask):
            raise EmptyInput("the input has no text that the tokenizer knows")
        row = encoding.ids, encoding.type_ids
        check_input_length(len(row[0]), limit)
        self._waiting[job.job_id] = _OnnxJob(job, encoding, row)

    def cancel(self, job_id: str) -> list[Event]:
        """Drop a job; if its batch is being computed, that continues."""
        job = self._waiting.pop(job_id, None) or self._running.pop(job_id, None)
        return [cancellation_report(job_id)] if job else []

    @property
    def busy(self) -> bool:
        """True while a job is unfinished or a batch is being computed."""
        return bool(self._waiting) or (self._workers is not None and self._workers.busy)

    def step(self) -> list[Event]:
        """Give each idle worker a batch; wait until one is done, or until the mailbox has something."""
        assert self._workers is not None, "load comes first"
        while self._waiting and (idle := self._workers.idle):
            batch = self._next_batch(idle)
            self._workers.start(batch, lone=not self._waiting)
        events: list[Event] = []
        for job, event in itertools.chain.from_iterable(self._workers.wait(self.mailbox)):
            if self._running.get(job.request.job_id) is job:  # it was not cancelled meanwhile
                del self._running[job.request.job_id]
                events.append(event)
        return events

    def close(self) -> None:
        """Let running batches end, and free the model."""
        if self._workers is not None:
            self._workers.close()
        self._waiting.clear()
        self._running.clear()
        self._bundles.clear()
        self._workers = self._session = None

    @property
    def _opened_session(self) -> OnnxSession:
        assert self._session is not None, "load comes first"
        return self._session

    def _next_batch(self, idle: int) -> Callable[[], _BatchEvents]:
        """Take the oldest job and those of its bundle nearest in length, at most the share of one idle worker."""
        oldest = next(iter(self._waiting.values()))
        bundle, batch = self._bundles[oldest.request.digest], [oldest]
        if len(self._waiting) > 1:
            waiting = [job for job in self._waiting.values() if job.request.digest == oldest.request.digest]
            share = math.ceil(len(waiting) / idle)
            indexes = choose_batch([len(job.row[0]) for job in waiting], min(bundle.rows_max, share))
            batch = [waiting[index] for index in indexes]
        for job in batch:
            self._running[job.request.job_id] = self._waiting.pop(job.request.job_id)
        return partial(_compute_batch, self._opened_session, bundle, batch)

    def _measure_rows_max(self, manifest: Manifest, outputs: WantedOutputs, sample: Row) -> int:
        """Return how many inputs may be computed together. Raises ModelLoadFailed if the model does not compute."""
        names = outputs.names
        answering, gate = outputs.split(self._probe(names, sample))
        onnx_outputs.check_rows(manifest.task, answering)
        for each in gate:
            onnx_outputs.check_ood_score(each)
        limit = manifest.task.limits.input_tokens_max
        self._probe(names, _stretch(sample, min(limit, PROBE_TOKENS_MAX)), f"; the manifest allows {limit}")
        if manifest.task.kind in LABEL_KINDS:
            return 1
        tolerance = NEIGHBOUR_TOLERANCE if manifest.task.kind == "embed" else 0.0
        lengths = {min(limit, int(factor * len(sample[0]))) for factor in _PROBE_LENGTHS}
        try:
            are_independent = self._rows_are_independent(names, [_rotate(sample, each) for each in lengths], tolerance)
        except ModelFailed:  # exported with a fixed batch of 1
            are_independent = False
        return BATCH_ROWS_MAX if are_independent else 1

    def _check_clean(self, manifest: Manifest, names: tuple[str, ...], tokenizer: tokenizers.Tokenizer) -> None:
        """Raise ModelLoadFailed for a model that replaces most of texts without personal data."""
        replaced = characters = 0
        for text in CLEAN_TEXTS:
            encoding = _encode(tokenizer, text, ModelLoadFailed)
            if len(encoding.ids) <= manifest.task.limits.input_tokens_max:
                (row, *_) = self._probe(names, (encoding.ids, encoding.type_ids))
                personal = _find_personal(manifest, text, encoding, row)
                replaced += sum(each.end - each.start for each in personal.spans)
                characters += len(text)
        if replaced > CLEAN_REPLACED_MAX * characters:
            raise ModelLoadFailed(
                f"the model replaces {replaced} of {characters} characters of texts without personal data; at most"
                f" {CLEAN_REPLACED_MAX:.0%} is allowed",
                replaced=replaced,
                characters=characters,
            )

    def _rows_are_independent(self, names: tuple[str, ...], rows: list[Row], tolerance: float) -> bool:
        """Tell whether inputs of several lengths have the same outputs alone, in pairs and all together."""
        run = self._opened_session.run
        alone = [run(names, [row])[0] for row in rows]
        batches = [rows, [*rows, *rows][:BATCH_ROWS_MAX], *([row, rows[-1 - index]] for index, row in enumerate(rows))]
        outputs_alone = {id(row): values for row, values in zip(rows, alone, strict=True)}
        return all(
            np.allclose(one, other, rtol=tolerance if other.ndim == 0 else 0.0, atol=tolerance)  # 0: the gate's score
            for batch in batches
            for row, values in zip(batch, run(names, batch), strict=True)
            for one, other in zip(outputs_alone[id(row)], values, strict=True)
        )

    def _probe(self, names: tuple[str, ...], row: Row, hint: str = "") -> tuple[Floats, ...]:
        try:
            return self._opened_session.run(names, [row])[0]
        except ModelFailed as error:
            if error.metadata.get("memory_short") == "True":
                raise MemoryError from None  # the process ends, and its parent says how much it was allowed
            raise ModelLoadFailed(error.message + hint, **error.metadata) from None


def _compute_batch(session: OnnxSession, bundle: _OnnxBundle, batch: list[_OnnxJob]) -> _BatchEvents:
    """Compute a batch; if that fails, each job alone, so that a bad one fails nobody else. Runs on a worker."""
    started = time.perf_counter()
    try:
        rows = session.run(bundle.outputs.names, [job.row for job in batch])
    except ModelFailed as error:
        if len(batch) == 1:
            return [(batch[0], failure_report(batch[0].request.job_id, error))]
        return [pair for job in batch for pair in _compute_batch(session, bundle, [job])]
    elapsed_ms = (time.perf_counter() - started) * 1000
    return [(job, _answer(bundle, job, row, elapsed_ms)) for job, row in zip(batch, rows, strict=True)]


def _encode(
    tokenizer: tokenizers.Tokenizer, text: str, failure: type[ModelFailed | ModelLoadFailed]
) -> tokenizers.Encoding:
    """Tokenize a text. Raises `failure` if the tokenizer cannot, for example because it has no unknown token."""
    try:
        return tokenizer.encode(text)
    except Exception as error:  # noqa: BLE001 - the library raises plain ones
        raise failure(f"the tokenizer of the bundle cannot read a text: {error}") from None


def _rotate(row: Row, length: int) -> Row:
    """Return an input of that length, which begins at a token of the row that depends on the length."""
    ids, types = row
    start = length % len(ids)
    return _stretch(([*ids[start:], *ids[:start]], types), length)


def _stretch(row: Row, length: int) -> Row:
    times = length // len(row[0]) + 1
    return (list(row[0]) * times)[:length], (list(row[1]) * times)[:length]


def _answer(bundle: _OnnxBundle, job: _OnnxJob, outputs: tuple[Floats, ...], elapsed_ms: float) -> Event:
    rows, gate = bundle.outputs.split(outputs)
    if not all(map(onnx_outputs.is_finite, rows)):
        return failure_report(
            job.request.job_id, ModelFailed("the model computes values that are not finite for this input")
        )
    manifest = bundle.manifest
    task, row = manifest.task, rows[0]
    result = JobResult(job_id=job.request.job_id, input_tokens=len(job.row[0]), prefill_ms=elapsed_ms)
    for each in gate:
        result.ood_score = each.item()
    if task.kind == "decide":
        result.question_scores = tuple(
            onnx_outputs.label_probabilities(each, temperature)
            for each, temperature in zip(rows, bundle.temperatures, strict=True)
        )
    elif task.kind == "classify":
        result.scores = onnx_outputs.label_probabilities(row, manifest.confidence.temperature)
    elif task.kind == "extract":
        words = onnx_outputs.word_spans(job.request.text, job.encoding.word_ids, job.encoding.offsets)
        probs = onnx_outputs.probabilities(row, manifest.confidence.temperature)
        result.entities, result.confidence = onnx_outputs.decode_entities(words, probs, task.labels)
    elif task.kind == "redact":
        personal = _find_personal(manifest, job.request.text, job.encoding, row)
        result.entities, result.confidence = personal.spans, personal.margin
    else:
        result.vector = onnx_outputs.embedding_bytes(row, manifest.engine.pooling, manifest.engine.normalize)
    return result


def _find_personal(manifest: Manifest, text: str, encoding: tokenizers.Encoding, row: Floats) -> PersonalSpans:
    words = onnx_outputs.word_spans(text, encoding.word_ids, encoding.offsets)
    probs, rule = onnx_outputs.probabilities(row, manifest.confidence.temperature), manifest.redaction_rule
    return find_personal(text, words, probs, TagColumns(manifest.task.labels, rule), rule.cutoff)
