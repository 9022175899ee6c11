"""The path of a Classify call through the daemon's own process, counted with a profiler hook: files and frames.

The daemon is the real one, with an engine in a child process and a client on its socket, in this process. Frames of
libraries are not counted, nor generated code.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType

import grpc.aio
import pytest

from edge_agent.config import Config
from edge_agent.daemon import Daemon
from edge_agent.store.bundle_archive import StoreLimits
from edge_agent.store.bundle_store import Store
from edge_agent.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from tests.support.bundles import echo_bundle

TASK = "till"
CALLS = 5
"""The daemon may do other work during one call, but not during each: the shortest path is that of the call."""
FILES_MAX, FRAMES_MAX = 15, 12
OURS = str(Path(__file__).parents[2] / "edge_agent")
GENERATED = f"{OURS}/v1/"


class CallPath:
    """The functions of this project that the daemon's thread enters, and how deep they nest."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.files: set[str] = set()
        self.functions: set[tuple[str, int]] = set()
        self.deepest: list[str] = []

    def hook(self, frame: FrameType, event: str, _: object) -> None:
        """Record a frame that starts or resumes."""
        path = frame.f_code.co_filename
        if not path.startswith(OURS) or path.startswith(GENERATED):
            return
        if event == "call":
            depth = len(own_frames(frame))
            name = f"{path.removeprefix(OURS)[1:]}:{frame.f_code.co_qualname}"
            self.lines.append("  " * (depth - 1) + name)
            self.files.add(path)
            self.functions.add((path, frame.f_code.co_firstlineno))
            if depth > len(self.deepest):
                self.deepest = own_frames(frame)


def own_frames(frame: FrameType | None) -> list[str]:
    """Return the frames of this project's code below a frame, the outermost first."""
    frames = []
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(OURS) and not path.startswith(GENERATED):
            frames.append(f"{path.removeprefix(OURS)[1:]}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return frames[::-1]


@pytest.fixture
async def daemon_stub(tmp_path) -> AsyncIterator[inference_pb2_grpc.InferenceServiceStub]:
    """A client of a daemon in this process that answers one task."""
    run_dir = Path("/tmp") / f"ea-{secrets.token_hex(4)}"
    config = Config.model_validate(
        {
            "state_dir": str(tmp_path / "state"),
            "run_dir": str(run_dir),
            "store": {"allow_unsigned": True},
        }
    )
    store = Store.open(config.state_dir, StoreLimits(2**30, 2**30, 10, 0))
    try:
        async with Daemon(config, store).running():
            async with grpc.aio.insecure_channel(f"unix:{config.admin_socket}") as channel:
                bundle = echo_bundle(tmp_path / "bundle", TASK, labels=("refund", "price"))
                await admin_pb2_grpc.AdminServiceStub(channel).InstallBundle(
                    admin_pb2.InstallBundleRequest(path=str(bundle))
                )
            async with grpc.aio.insecure_channel(f"unix:{config.inference_socket}") as channel:
                yield inference_pb2_grpc.InferenceServiceStub(channel)
    finally:
        store.close()
        shutil.rmtree(run_dir, ignore_errors=True)


async def test_classify_call_passes_through_few_files_and_frames(daemon_stub):
    """A Classify call enters at most FILES_MAX of the project's files in the daemon's process and nests at most
    FRAMES_MAX frames deep."""
    request = inference_pb2.ClassifyRequest(task=TASK, texts=["a refund"])
    await daemon_stub.Classify(request)  # the first call does more than later ones
    paths = []
    for _ in range(CALLS):
        path = CallPath()
        sys.setprofile(path.hook)
        try:
            response = await daemon_stub.Classify(request)
        finally:
            sys.setprofile(None)
        paths.append(path)
    path = min(paths, key=lambda each: (len(each.files), len(each.functions)))
    figures = f"{len(path.files)} files, {len(path.functions)} functions, {len(path.deepest)} frames deep"
    sys.stdout.write("\n".join([*path.lines, figures, ""]))
    assert "refund" in response.results[0].classification.label
    assert 0 < len(path.files) <= FILES_MAX, sorted(path.files)
    assert len(path.deepest) <= FRAMES_MAX, path.deepest
