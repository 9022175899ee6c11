"""A bundle asked in the words of its golden file, in a child of its own or where it serves.

    async with trying(pool, digest, loadable, seconds_max) as asked:
        said, milliseconds = await asked.answer("where is my parcel")
        asked.resident_bytes()

The child of a trial is thrown away, whatever it did.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.engine.child_process import loop_time
from edge_agent.engine.job_dispatch import EngineAnswer
from edge_agent.engine.job_requests import golden_answer, golden_job
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import TextChunk
from edge_agent.formats.golden_cases import GoldenAnswer
from edge_agent.formats.manifest import Manifest

PRIORITY = 10  # the devices go first
_ids = itertools.count()


@dataclass(frozen=True)
class LoadableBundle:
    """What an engine needs of a bundle."""

    manifest: Manifest
    manifest_bytes: bytes
    paths: Mapping[str, Path]
    """By role."""


class SandboxedBundle:
    """One bundle of a pool, to be asked one text after the other."""

    def __init__(self, pool: EnginePool, digest: str, manifest: Manifest) -> None:
        """Ask a bundle that is attached."""
        self._pool, self._digest, self._manifest = pool, digest, manifest

    async def answer(self, text: str, seconds_max: float) -> tuple[GoldenAnswer, float]:
        """Return what is said to a text, and the milliseconds in the child, for each token if it is written.

        Raises:
            CallerError, CapacityError, ModelError: as the job ended.
        """
        run = golden_job(self._manifest, self._digest, text, f"trial-{next(_ids)}")
        started, written = loop_time(), []
        async with contextlib.aclosing(self._pool.events(run, started + seconds_max, PRIORITY)) as events:
            async for event in events:
                if isinstance(event, TextChunk):
                    written.append(event.text)
                else:
                    return golden_answer(self._manifest, "".join(written), event.done), _milliseconds(
                        event, loop_time() - started
                    )
        raise AssertionError("a job ends with an answer or an error")

    def resident_bytes(self) -> int:
        """Return the memory of the child, in bytes."""
        return self._pool.resident_bytes(self._digest)

    def estimated_bytes(self) -> int:
        """Return the memory that the child was computed to need, in bytes; 0 = not known."""
        return self._pool.estimated_bytes(self._digest)

    def crashes(self) -> int:
        """Return how often the child has died by itself."""
        return self._pool.stats(self._digest).crashes


@contextlib.asynccontextmanager
async def open_sandbox(
    pool: EnginePool, digest: str, loadable: LoadableBundle, seconds_max: float
) -> AsyncIterator[SandboxedBundle]:
    """Load a bundle beside those of `pool`, in a child that ends with the block.

    Raises:
        ModelLoadFailed, EngineCrashed: it does not load, or not within `seconds_max`.
        MemoryShort: there is not enough memory for it now.
    """
    async with pool.sandbox_pool(seconds_max) as trial:
        await trial.attach(digest, loadable.manifest, loadable.manifest_bytes, loadable.paths)
        yield SandboxedBundle(trial, digest, loadable.manifest)


def _milliseconds(answer: EngineAnswer, seconds: float) -> float:
    return (1000.0 * seconds - answer.queue_ms) / (answer.done.output_tokens or 1)
