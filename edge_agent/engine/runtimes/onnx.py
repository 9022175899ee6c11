"""Encoders in ONNX: text classification, token classification (extract), embedding.

Beside the contract of the seam it keeps this: an answer is the same alone and in company, within 1e-5 on every score
and vector element (rows of other lengths change the order of float32 sums). A model for which that does not hold
computes one input at a time: int8 with dynamic quantization scales its activations over the whole batch, so that
neighbours move each other's scores. `attach` finds out by measuring.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers

from edge_agent.engine.protocol import Done, Event, Load, Run
from edge_agent.engine.runtimes import onnx_outputs
from edge_agent.engine.runtimes.jobs import cancelled, checked_length, failed
from edge_agent.engine.runtimes.onnx_batch import ROWS_MAX, chosen
from edge_agent.engine.runtimes.onnx_outputs import Floats
from edge_agent.engine.runtimes.onnx_session import OnnxSession, Row
from edge_agent.errors import EmptyInput, InputTooLong, ModelFailed, ModelLoadFailed
from edge_agent.formats.manifest import Manifest

# No language has words this long; more characters a token are an attack on the tokenizer, or white space.
CHARACTERS_PER_TOKEN_MAX = 64
# Most encoders end at 512 positions; attention grows with the square, so a huge limit is not proven to its end.
PROBE_TOKENS_MAX = 1024
# On raw outputs. Measured on MiniLM with a classifier: fp32 3e-7, dynamically quantized int8 0.3.
NEIGHBOUR_TOLERANCE = 1e-4
_WARM_TEXT = "Please check order 12345 for me."


@dataclass(frozen=True)
class _Bundle:
    manifest: Manifest
    tokenizer: tokenizers.Tokenizer
    tokenizer_path: str
    output: str
    rows_max: int


@dataclass(frozen=True)
class _Job:
    run: Run
    encoding: tokenizers.Encoding

    @property
    def row(self) -> Row:
        return self.encoding.ids, self.encoding.type_ids


class OnnxRuntime:
    """One session, and the bundles that share it."""

    device = "cpu"

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._session: OnnxSession | None = None
        self._bundles: dict[str, _Bundle] = {}
        self._jobs: dict[str, _Job] = {}

    def load(self, spec: Load) -> dict[str, str]:
        """Open the model. `threads` of the spec is not used: see onnx_session."""
        self._session = OnnxSession(spec.weights)
        return self._session.details()

    def attach(self, digest: str, manifest: Manifest, paths: Mapping[str, str]) -> None:
        """Open the tokenizer, compute a fixed text and one as long as the task allows, and measure neighbours."""
        path = paths["tokenizer"]
        same = (each.tokenizer for each in self._bundles.values() if each.tokenizer_path == path)
        tokenizer = next(same, None) or _opened(path)
        encoding = tokenizer.encode(_WARM_TEXT)
        output = onnx_outputs.output_for(manifest.task.kind, self._opened_session.outputs)
        rows_max = self._proven(manifest, output, (encoding.ids, encoding.type_ids))
        self._bundles[digest] = _Bundle(manifest, tokenizer, path, output, rows_max)

    def detach(self, digest: str) -> list[Event]:
        """Forget a bundle and its jobs."""
        self._bundles.pop(digest, None)
        gone = [job_id for job_id, job in self._jobs.items() if job.run.digest == digest]
        return [event for job_id in gone for event in self.cancel(job_id)]

    def submit(self, job: Run) -> None:
        """Tokenize and take a job."""
        bundle = self._bundles.get(job.digest)
        if bundle is None:
            raise ModelFailed(f"bundle {job.digest[:12]} is not attached to this engine", digest=job.digest)
        limit = bundle.manifest.task.limits.input_tokens_max
        _check_characters(job.text, limit)
        encoding = bundle.tokenizer.encode(job.text)
        if all(encoding.special_tokens_mask):
            raise EmptyInput("the input has no text that the tokenizer knows")
        checked_length(len(encoding.ids), limit)
        self._jobs[job.job_id] = _Job(job, encoding)

    def cancel(self, job_id: str) -> list[Event]:
        """Drop a job."""
        return [cancelled(job_id)] if self._jobs.pop(job_id, None) else []

    @property
    def busy(self) -> bool:
        """True while a job is unfinished."""
        return bool(self._jobs)

    def step(self) -> list[Event]:
        """Compute the oldest job, and with it those of its bundle that are nearest in length."""
        digest = next(iter(self._jobs.values())).run.digest
        waiting = [job for job in self._jobs.values() if job.run.digest == digest]
        bundle = self._bundles[digest]
        batch = [waiting[place] for place in chosen([len(job.encoding) for job in waiting], bundle.rows_max)]
        for job in batch:
            del self._jobs[job.run.job_id]
        return self._computed(bundle, batch)

    def close(self) -> None:
        """Free the model."""
        self._jobs.clear()
        self._bundles.clear()
        self._session = None

    @property
    def _opened_session(self) -> OnnxSession:
        assert self._session is not None, "load comes first"
        return self._session

    def _computed(self, bundle: _Bundle, batch: list[_Job]) -> list[Event]:
        """Compute a batch; if that fails, each job alone, so that a bad one fails nobody else."""
        started = time.perf_counter()
        try:
            rows = self._opened_session.run(bundle.output, [job.row for job in batch])
        except ModelFailed as error:
            if len(batch) == 1:
                return [failed(batch[0].run.job_id, error)]
            return [event for job in batch for event in self._computed(bundle, [job])]
        elapsed_ms = (time.perf_counter() - started) * 1000
        return [_answer(bundle.manifest, job, row, elapsed_ms) for job, row in zip(batch, rows, strict=True)]

    def _proven(self, manifest: Manifest, output: str, warm: Row) -> int:
        """Return how many inputs may be computed together. Raises ModelLoadFailed if the model does not compute."""
        alone = self._probe(output, warm)
        onnx_outputs.check_row(manifest.task, alone)
        limit = manifest.task.limits.input_tokens_max
        self._probe(output, _stretched(warm, min(limit, PROBE_TOKENS_MAX)), f"; the manifest allows {limit}")
        neighbour = _stretched((warm[0][::-1], warm[1]), 2 * len(warm[0]))
        try:
            together = self._opened_session.run(output, [warm, neighbour])[0]
        except ModelFailed:  # exported with a fixed batch of 1
            return 1
        return ROWS_MAX if np.allclose(alone, together, rtol=0.0, atol=NEIGHBOUR_TOLERANCE) else 1

    def _probe(self, output: str, row: Row, more: str = "") -> Floats:
        try:
            return self._opened_session.run(output, [row])[0]
        except ModelFailed as error:
            raise ModelLoadFailed(error.message + more, **error.metadata) from None


def _opened(path: str) -> tokenizers.Tokenizer:
    """Open a tokenizer.json; what it says of truncation and padding is undone, for the task's limits count."""
    name = Path(path).name
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(Path(path).read_bytes())
    except OSError as error:
        raise ModelLoadFailed(f"tokenizer {name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ModelLoadFailed(f"tokenizer {name} is no tokenizer.json that the tokenizers library reads") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a text that says [SEP] has these five characters and no separator
    return tokenizer


def _check_characters(text: str, limit: int) -> None:
    """Raise EmptyInput or InputTooLong before a tokenizer has to read the text."""
    if not text.strip():
        raise EmptyInput("the input has no text")
    allowed = limit * CHARACTERS_PER_TOKEN_MAX
    if len(text) > allowed:
        message = f"the input has {len(text)} characters; the limit of {limit} tokens allows at most {allowed}"
        raise InputTooLong(message, characters=len(text), characters_limit=allowed, limit=limit)


def _stretched(row: Row, length: int) -> Row:
    times = length // len(row[0]) + 1
    return (list(row[0]) * times)[:length], (list(row[1]) * times)[:length]


def _answer(manifest: Manifest, job: _Job, row: Floats, elapsed_ms: float) -> Event:
    if not np.isfinite(row).all():
        return failed(job.run.job_id, ModelFailed("the model computes values that are not finite for this input"))
    task, temperature = manifest.task, manifest.confidence.temperature
    done = Done(job_id=job.run.job_id, input_tokens=len(job.encoding), prefill_ms=elapsed_ms)
    if task.kind == "classify":
        done.scores = tuple(onnx_outputs.probabilities(row, temperature).tolist())
    elif task.kind == "extract":
        words = onnx_outputs.words(job.run.text, job.encoding.word_ids, job.encoding.offsets)
        shares = onnx_outputs.probabilities(row, temperature)
        done.entities, done.confidence = onnx_outputs.entities(words, shares, task.labels)
    else:
        done.vector = onnx_outputs.vector(row, manifest.engine.pooling, manifest.engine.normalize)
    return done
