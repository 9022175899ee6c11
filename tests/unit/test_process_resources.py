"""Memory that malloc holds is returned to the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from edge_agent import process_resources
from edge_agent.process_resources import resident_bytes, trim_periodically
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]
PIECES, PIECE_BYTES, PIN_BYTES = 2_500, 64_000, 700
"""160 MB in pieces that malloc keeps, since something small lives on between any two."""
GROWN_BYTES, LEFT_BYTES_MAX = 120 << 20, 40 << 20


def test_memory_of_a_flood_is_returned_to_the_kernel() -> None:
    """malloc returns no memory between small live objects; a trim does. (In a process of its own.)"""
    code = "from tests.unit.test_process_resources import flooded; print(*flooded())"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    grown, left = map(int, said.split())
    assert grown > GROWN_BYTES
    assert left < LEFT_BYTES_MAX


def flooded() -> tuple[int, int]:
    """Return by how much a process has grown, and how much of it is left."""

    async def flood() -> tuple[int, int]:
        before = resident_bytes(os.getpid())
        async with watched():
            kept = [(b"x" * PIECE_BYTES, b"y" * PIN_BYTES) for _ in range(PIECES)]
            grown = resident_bytes(os.getpid()) - before
            pins = [pin for _, pin in kept]
            del kept
            await eventually(lambda: resident_bytes(os.getpid()) - before < LEFT_BYTES_MAX)
            assert PIECES == len(pins)
            return grown, resident_bytes(os.getpid()) - before

    return asyncio.run(flood())


def test_process_that_does_not_grow_is_not_trimmed() -> None:
    """Without growth nothing happens, and the watch ends when it is told to."""

    async def watch() -> bool:
        async with watched() as task:
            await asyncio.wait([task], timeout=0.05)
            return task.done()

    assert asyncio.run(watch()) is False


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[asyncio.Task[None]]:
    """Trim periodically while the block runs."""
    task = asyncio.create_task(trim_periodically(0.01))
    await asyncio.wait([task], timeout=0)  # it notes how large the process is at its beginning
    try:
        yield task
    finally:
        task.cancel()


def test_malloc_makes_few_arenas() -> None:
    """The number of arenas is limited whatever the number of threads; malloc_info(3) counts them."""
    code = """
import ctypes, threading
from edge_agent import process_resources
process_resources.limit_malloc_arenas()
here = threading.Barrier(21)
def work():
    kept = [b"x" * 5000 for _ in range(50)]
    here.wait(); here.wait()
threads = [threading.Thread(target=work) for _ in range(20)]
for thread in threads: thread.start()
here.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
here.wait()
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert process_resources.ARENAS_MAX == len(re.findall("<heap nr=", said))


def test_startup_objects_are_excluded_from_garbage_collection() -> None:
    """After `freeze_startup_objects` Python skips existing objects and uses its default thresholds."""
    code = (
        "import gc; gc.set_threshold(100_000); from edge_agent import process_resources as limits;"
        "limits.freeze_startup_objects();"
        " print(gc.get_freeze_count() > 10_000, *gc.get_threshold())"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "True 700 10 10\n" == said
