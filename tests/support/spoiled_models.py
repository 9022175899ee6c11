"""Damages a model file in many ways, loads each in a real child, and prints the results.

    python -m tests.support.spoiled_models FOLDER COUNT

A process of its own because the kernel counts what a parent had resident as its child's: a test run has gigabytes.
Prints JSON: how each seed ended, how the intact model did, and the bytes of the largest child.
"""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from edge_agent.engine import protocol
from tests.support.bundles import manifest_of, paths_of
from tests.support.children import spawned
from tests.support.corrupt import Corruption, corrupted, corruption

CASE_SECONDS_MAX = 30.0
RESIDENT_BYTES_MAX = 2 * 2**30
AT_ONCE = 2


@dataclass(frozen=True)
class Trial:
    """A bundle whose weights are spoiled in one way after the other."""

    bundle: Path
    original: Path

    async def outcome(self, how: Corruption) -> str:
        """Load, attach and run as the product does; say how it ended."""
        with corrupted(Path(paths_of(self.bundle)["weights"]), self.original, how):
            try:
                async with asyncio.timeout(CASE_SECONDS_MAX):
                    return await self._lived()
            except TimeoutError:
                return "hang"

    async def _lived(self) -> str:
        events: asyncio.Queue[protocol.FromChild | int] = asyncio.Queue()
        child = await spawned(events.put_nowait, events.put_nowait, RESIDENT_BYTES_MAX)
        manifest = manifest_of(self.bundle)
        paths = paths_of(self.bundle)
        encoded = (self.bundle / "manifest.json").read_bytes()
        steps = (
            protocol.LoadRequest(
                runtime=manifest.runtime,
                weights=paths["weights"],
                readable=(str(self.bundle),),
                memory_bytes_max=RESIDENT_BYTES_MAX,
            ),
            protocol.AttachRequest(digest="digest", manifest=encoded, paths=paths),
            protocol.JobRequest(job_id="job", digest="digest", text="I want my money back"),
        )
        try:
            for step in steps:
                child.send(step)
                while isinstance(event := await events.get(), protocol.Heartbeat):
                    pass
                if isinstance(event, int):
                    return "crash"
                if isinstance(event, protocol.FailureReport):
                    return f"{type(step).__name__} failed"
            return "works"
        finally:
            child.kill()
            await child.wait_until_gone()


def _header(data: bytes) -> int:
    """Length of what describes the tensors: all of a small file, up to the last tensor's name in a GGUF."""
    return data.rindex(b".weight", 0, 1 << 22) + 64 if data.startswith(b"GGUF") else len(data)


async def main(folder: Path, count: int) -> dict[str, object]:
    """Spoil the weights of the bundle in FOLDER/intact with the seeds from 0."""
    intact, outcomes = folder / "intact", dict[int, str]()
    original = Path(paths_of(intact)["weights"])
    data = original.read_bytes()

    async def work(name: str, seeds: range) -> None:
        trial = Trial(shutil.copytree(intact, folder / name), original)
        for seed in seeds:
            outcomes[seed] = await trial.outcome(corruption(seed, data, _header(data)))

    await asyncio.gather(*(work(str(first), range(first, count, AT_ONCE)) for first in range(AT_ONCE)))
    unspoiled = await Trial(intact, original).outcome(Corruption())
    # The largest child, the crashed ones too.
    resident_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"outcomes": outcomes, "intact": unspoiled, "resident_bytes": resident_bytes}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))))
