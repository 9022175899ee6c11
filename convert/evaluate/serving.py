"""Runs bundles as on a site: the agent's own engine pool, with its child processes, confinement and limits.

    with serve_bundles([bundle]) as served:
        predictions = served.predict(bundle, texts, progress)

Measurements equal those of a device, apart from gRPC. Only this package of convert may import the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.evaluate.predictions import FoundEntity, ServedPrediction, unscaled_log_probabilities
from convert.package.bundle_assembly import candidate_bundle, chosen_weights
from convert.pipeline.stage import Progress, StageJob
from edge_agent.config import EngineConfig
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import JobRequest, JobResult, TextChunk
from edge_agent.errors import (
    BundleUnreadable,
    CallerError,
    EngineCrashed,
    FileMissing,
    HashMismatch,
    InputQuarantined,
    ModelFailed,
)
from edge_agent.formats.calibration import UNCALIBRATED
from edge_agent.formats.manifest import MANIFEST_NAME, Manifest, digest_of, encode, parse


@dataclass(frozen=True)
class BundleFolder:
    """A bundle directory with its manifest and the paths of its files."""

    folder: Path
    manifest: Manifest
    manifest_bytes: bytes
    paths: Mapping[str, Path]

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest."""
        return digest_of(self.manifest_bytes)

    @property
    def name(self) -> str:
        """Task and version."""
        return f"{self.manifest.task.name} {self.manifest.version}"

    def at_temperature(self, temperature: float) -> BundleFolder:
        """Return the same files with another temperature in the manifest; both share an engine."""
        return self._with({"confidence": self.manifest.confidence.model_copy(update={"temperature": temperature})})

    def at_temperatures(self, temperatures: Mapping[str, float]) -> BundleFolder:
        """Return the same files with a temperature for each question, by name; a classify task is one question."""
        task = self.manifest.task
        if task.kind != "decide":
            return self.at_temperature(temperatures[task.name])
        existing = self.manifest.question_confidence
        confidence = {
            name: existing.get(name, UNCALIBRATED).model_copy(update={"temperature": each})
            for name, each in temperatures.items()
        }
        return self._with({"question_confidence": {**existing, **confidence}})

    def at_cutoff(self, cutoff: float) -> BundleFolder:
        """Return the same files with another cut-off of redaction, and without a bound."""
        section = self.manifest.redaction_rule.model_copy(update={"cutoff": cutoff, "bound": None})
        return self._with({"redaction": section})

    def _with(self, update: dict[str, Any]) -> BundleFolder:
        manifest = self.manifest.model_copy(update=update)
        return BundleFolder(self.folder, manifest, encode(manifest), self.paths)


@contextlib.contextmanager
def chosen_bundle(job: StageJob) -> Iterator[BundleFolder]:
    """Yield the candidate that the quantize stage chose, as a bundle that exists inside the block.

    Raises as `candidate_bundle` and `open_bundle`.
    """
    with tempfile.TemporaryDirectory(dir=job.out) as folder:
        yield open_bundle(candidate_bundle(job, chosen_weights(job), Path(folder, "bundle")))


def open_bundle(folder: Path) -> BundleFolder:
    """Open a directory.

    Raises:
        BundleUnreadable: no manifest.json there.
        FileMissing, HashMismatch: a file of the bundle is missing, or its size differs from the manifest.
        ManifestInvalid, SchemaUnknown: the manifest breaks a rule.
    """
    file = folder / MANIFEST_NAME
    if not file.is_file():
        message = f"{folder} is not a bundle directory: it has no {MANIFEST_NAME}"
        remedy = "Name a bundle directory made by 'edge-convert run' or 'assemble'; unpack a tar first."
        raise BundleUnreadable(message, remedy=remedy)
    manifest_bytes = file.read_bytes()
    manifest = parse(manifest_bytes)
    for artifact in manifest.artifacts:
        path = folder / artifact.path
        if not path.is_file():
            raise FileMissing(f"{path} does not exist, though the manifest names it", remedy="Copy the bundle again.")
        if path.stat().st_size != artifact.size_bytes:
            raise HashMismatch(f"{path} has {path.stat().st_size} bytes; the manifest has {artifact.size_bytes}")
    # Absolute, because the child processes have another working directory.
    paths: dict[str, Path] = {artifact.role: (folder / artifact.path).resolve() for artifact in manifest.artifacts}
    return BundleFolder(folder, manifest, manifest_bytes, paths)


ANSWER_SECONDS_MAX = 600.0
SEED = 1  # seed of a generation with a temperature, so that the same text gets the same answer
_QUEUE = 1024


def quiet(_what: str, _done: int, _all: int) -> None:
    """Show no progress."""


def predict(folder: Path, texts: Sequence[str], progress: Progress = quiet, at_once: int = 1) -> list[ServedPrediction]:
    """Run one bundle directory over texts.

    Args:
        folder: of the bundle.
        texts: what a device would send.
        progress: called after each answer.
        at_once: texts in the engine at the same time: 1 for the latency of a single caller, more for throughput.

    Raises:
        BundleError, ManifestInvalid: it is not a bundle.
        ModelError, MemoryShort: it does not load. A single input that fails is a prediction with `failure`.
    """
    bundle = open_bundle(folder)
    with serve_bundles([bundle], at_once) as served:
        return served.predict(bundle, texts, progress)


class ServedBundles:
    """Bundles in running engines, made by `serve_bundles`."""

    def __init__(self, runner: asyncio.Runner, pool: EnginePool, at_once: int) -> None:
        """Use the loop that owns the pool."""
        self._runner = runner
        self._pool = pool
        self._at_once = at_once
        self._ids = itertools.count()

    def predict(
        self, bundle: BundleFolder, texts: Sequence[str], progress: Progress = quiet, at_once: int = 0
    ) -> list[ServedPrediction]:
        """Answer texts in order; a bundle that is not loaded yet is loaded first.

        `at_once` texts are in the engine at the same time; 0 = as many as it takes.
        """
        return self._runner.run(self._predict(bundle, texts, progress, at_once or self._at_once))

    def score_variance(self, bundle: BundleFolder) -> str:
        """Return why scores of a loaded bundle depend on other texts in the batch; empty = they do not."""
        return self._pool.score_variance(bundle.digest)

    def details(self, bundle: BundleFolder) -> dict[str, str]:
        """Return the report of a loaded bundle's engine."""
        return next(dict(each.details) for each in self._pool.statuses() if bundle.digest in each.digests)

    def memory_bytes(self, bundle: BundleFolder) -> int:
        """Return the agent's estimate of the engine's memory for a bundle, in bytes; 0 for a runtime without one."""
        return int(self.details(bundle).get("memory_estimated_bytes", 0))

    async def _predict(
        self, bundle: BundleFolder, texts: Sequence[str], progress: Progress, at_once: int
    ) -> list[ServedPrediction]:
        if not self._pool.ready(bundle.digest):
            await _attach(self._pool, bundle)
        answers: list[ServedPrediction] = [ServedPrediction()] * len(texts)
        indexes = iter(range(len(texts)))
        finished = itertools.count(1)

        async def work() -> None:
            for index in indexes:
                answers[index] = await self._predict_one(bundle, texts[index])
                progress(bundle.name, next(finished), len(texts))

        async with asyncio.TaskGroup() as workers:
            for _ in range(at_once):
                workers.create_task(work())
        return answers

    async def _predict_one(self, bundle: BundleFolder, text: str) -> ServedPrediction:
        task = bundle.manifest.task
        request = JobRequest(
            job_id=str(next(self._ids)),
            digest=bundle.digest,
            text=text,
            output_tokens_max=task.written_tokens_max,
            temperature=task.prompt.temperature,
            seed=SEED,
            stops=task.prompt.stops,
        )
        started = time.perf_counter()
        try:
            text_written, result = await self._collect_answer(request)
        except (CallerError, ModelFailed, EngineCrashed, InputQuarantined) as error:
            return ServedPrediction(failure=error.reason, seconds=time.perf_counter() - started)
        return _prediction(bundle, text_written, result, time.perf_counter() - started)

    async def _collect_answer(self, request: JobRequest) -> tuple[str, JobResult]:
        chunks: list[str] = []
        deadline = asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX
        async with contextlib.aclosing(self._pool.events(request, deadline)) as events:
            async for event in events:
                if isinstance(event, TextChunk):
                    chunks.append(event.text)
                else:
                    return "".join(chunks), event.result
        raise AssertionError("a job ends with an answer or an error")


@contextlib.contextmanager
def serve_bundles(bundles: Sequence[BundleFolder], at_once: int = 1, cpu_threads: int = 0) -> Iterator[ServedBundles]:
    """Context manager: loads bundles, and stops their engines at the end.

    Args:
        bundles: of any tasks; those with the same weights share an engine.
        at_once: texts in an engine at the same time.
        cpu_threads: for all engines; 0 = one for each core, as on a site.

    Raises ModelLoadFailed, EngineCrashed, MemoryShort if a bundle does not load.
    """
    config = EngineConfig(
        device="cpu",  # thresholds are calibrated on the CPU; a site checks whether its accelerator computes the same
        cpu_threads=cpu_threads,
        sequences_max=at_once,
        queue_requests_max=_QUEUE,
        load_failures_max=1,
        # Between two calls of `predict` the loop does not run, so the children are not supervised then.
        heartbeat_seconds_max=ANSWER_SECONDS_MAX,
    )
    folders = {path.parent for bundle in bundles for path in bundle.paths.values()}
    with asyncio.Runner() as runner:
        pool = runner.run(_start_pool(config, bundles, sorted(folders)))
        try:
            yield ServedBundles(runner, pool, at_once)
        finally:
            runner.run(pool.stop())


async def _start_pool(config: EngineConfig, bundles: Sequence[BundleFolder], folders: Sequence[Path]) -> EnginePool:
    pool = EnginePool(config, lambda: None, folders)
    try:
        for bundle in bundles:
            await _attach(pool, bundle)
    except BaseException:
        await pool.stop()
        raise
    return pool


async def _attach(pool: EnginePool, bundle: BundleFolder) -> None:
    await pool.attach(bundle.digest, bundle.manifest, bundle.manifest_bytes, bundle.paths)


def _prediction(bundle: BundleFolder, text: str, result: JobResult, seconds: float) -> ServedPrediction:
    manifest = bundle.manifest
    answer, confidence = text, result.confidence
    if result.scores:
        confidence = max(result.scores)
        answer = manifest.task.labels[result.scores.index(confidence)]
    elif result.question_scores:
        pairs = zip(manifest.task.questions_asked, result.question_scores, strict=True)
        best = {question.name: question.outputs[scores.index(max(scores))] for question, scores in pairs}
        answer = json.dumps(best, ensure_ascii=False)
    elif manifest.task.kind in ("extract", "redact"):
        answer = result.record or json.dumps([[each.label, each.start, each.end] for each in result.entities])
    return ServedPrediction(
        answer=answer,
        confidence=confidence,
        log_probabilities=unscaled_log_probabilities(result.scores, manifest.confidence.temperature),
        scores=result.scores,
        question_scores=result.question_scores,
        question_masses=result.question_masses,
        label_mass=result.label_mass,
        ood_score=result.ood_score,
        entities=tuple(FoundEntity(each.start, each.end, each.label) for each in result.entities),
        vector=struct.unpack(f"<{len(result.vector) // 4}f", result.vector),
        input_tokens=result.input_tokens,
        output_tokens=result.output_tokens,
        seconds=seconds,
    )
