"""A folder as an object store: what is said when it is missing, closed, read-only or no folder."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.errors import EdgeAgentError, UpstreamMissing, UpstreamRefused
from edge_agent.uplink.store_backends import FolderStore

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user without rights, if this one could do everything."""
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(before)


def fault(folder: Path) -> EdgeAgentError:
    """Return how a write to a folder fails."""
    with pytest.raises(EdgeAgentError) as caught:
        asyncio.run(FolderStore(folder).put("site=a/status.json", b"{}"))
    return caught.value


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_missing_folder_is_one_to_mount(shared: Path):
    """A fault of the whole store, which the metadata tells; so is a file in its place."""
    (shared / "file").write_text("")
    for path in (shared / "none", shared / "file", shared / "file" / "below"):
        error = fault(path)
        assert (UpstreamMissing, f"the folder {path} does not exist") == (type(error), error.message)
        assert ("Mount" in error.remedy, str(path)) == (True, error.metadata["folder"])


@pytest.mark.parametrize("closed", ["fleet", "."])
def test_a_folder_that_is_closed_is_a_matter_of_rights(shared: Path, closed: str):
    """Its own mode, or that of a folder above it: an error that names the user, and no credential or login page."""
    folder = shared / "fleet"
    folder.mkdir()
    (shared / closed).chmod(0)
    with as_nobody():
        error = fault(folder)
    shared.chmod(0o755)
    assert (UpstreamRefused, str(folder)) == (type(error), error.metadata["folder"])
    assert "may not read the folder" in error.message
    assert ("doctor" in error.remedy, "credential" in error.remedy, "login" in error.remedy) == (True, False, False)


def test_a_folder_that_may_only_be_read_is_a_matter_of_rights(shared: Path):
    """The store itself answers: other objects in it can be used."""
    folder = shared / "fleet"
    folder.mkdir()
    folder.chmod(0o555)
    with as_nobody():
        error = fault(folder)
        assert asyncio.run(FolderStore(folder).head("site=a/status.json")) is None
    assert (UpstreamRefused, False, True) == (type(error), "folder" in error.metadata, "drop-in" in error.remedy)
