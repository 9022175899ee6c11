"""Mounting, for tests that need a disk of their own."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*arguments: str) -> None:
    """Mount, or skip the test where this process may not."""
    if not shutil.which("mount"):
        pytest.skip("needs mount")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")


@contextmanager
def tmpfs(disk: Path, options: str) -> Iterator[Path]:
    """Yield the root of a file system in memory, such as one with `size=2m`."""
    disk.mkdir()
    mount("-t", "tmpfs", "-o", options, "edge-agent-test", str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)
