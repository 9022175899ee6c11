"""Spoiled model files in real children: a load error, a clean crash or a working model; never a hang, never memory
without bound, and the parent lives."""

from __future__ import annotations

import asyncio
import resource
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.engine import protocol
from edge_agent.engine.process import ChildProcess
from tests.bundles import manifest_of, paths_of, smollm2_bundle, tiny_onnx_bundle
from tests.corrupt import Corruption, corrupted, corruption

CASE_SECONDS_MAX = 30.0
RESIDENT_BYTES_MAX = 2 * 2**30
AT_ONCE = 2
QUICK, ALL = 20, 200


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
        child = await ChildProcess.spawn(events.put_nowait, events.put_nowait)
        manifest = manifest_of(self.bundle)
        paths = paths_of(self.bundle)
        encoded = (self.bundle / "manifest.json").read_bytes()
        steps = (
            protocol.Load(
                runtime=manifest.runtime,
                weights=paths["weights"],
                readable=(str(self.bundle),),
                memory_bytes_max=RESIDENT_BYTES_MAX,
            ),
            protocol.Attach(digest="digest", manifest=encoded, paths=paths),
            protocol.Run(job_id="job", digest="digest", text="I want my money back"),
        )
        try:
            for step in steps:
                child.send(step)
                while isinstance(event := await events.get(), protocol.Progress):
                    pass
                if isinstance(event, int):
                    return "crash"
                if isinstance(event, protocol.Failed):
                    return f"{type(step).__name__} failed"
            return "works"
        finally:
            child.kill()
            await child.ended()


def _header(data: bytes) -> int:
    """Length of what describes the tensors: all of a small file, up to the last tensor's name in a GGUF."""
    return data.rindex(b".weight", 0, 1 << 22) + 64 if data.startswith(b"GGUF") else len(data)


def gguf(folder: Path) -> Path:
    """Two labels behind a short prompt: attaching computes them."""
    prompt = {"template": "{input}\nWants:"}
    return smollm2_bundle(folder, labels=("refund", "price"), task={"prompt": prompt})


@pytest.mark.parametrize("build", [gguf, tiny_onnx_bundle], ids=["gguf", "onnx"])
@pytest.mark.parametrize("count", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)])
async def test_a_spoiled_model_file_harms_only_its_child(
    tmp_path: Path, build: Callable[[Path], Path], count: int
) -> None:
    """Load error, clean crash or working model for every seed, within the deadline, below 2 GiB."""
    intact = build(tmp_path / "intact")
    original = Path(paths_of(intact)["weights"])
    data = original.read_bytes()
    outcomes: dict[int, str] = {}

    async def work(name: str, seeds: range) -> None:
        trial = Trial(shutil.copytree(intact, tmp_path / name), original)
        for seed in seeds:
            outcomes[seed] = await trial.outcome(corruption(seed, data, _header(data)))

    await asyncio.gather(*(work(str(first), range(first, count, AT_ONCE)) for first in range(AT_ONCE)))
    kinds = Counter(outcomes.values())
    assert [] == [seed for seed, outcome in outcomes.items() if outcome == "hang"], kinds
    assert kinds["Load failed"] > kinds.total() / 4, kinds
    # The largest child of this process so far, the crashed ones too.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < RESIDENT_BYTES_MAX
    assert "works" == await Trial(intact, original).outcome(Corruption())
