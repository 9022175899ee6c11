"""The settings that suit this machine, as engines measured them, and for how long they are stored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent.durable.disk_thread import DiskThread
from edge_agent.engine.pool import ENTRIES_MAX, TuningCache, TuningSettings
from edge_agent.engine.protocol import LoadRequest
from edge_agent.server.engine_access import open_tuning_cache
from edge_agent.store.bundle_store import TuningFile

LOAD = LoadRequest(runtime="llama", weights="/blobs/abc", threads=2)
SETTINGS = {"threads": "1", "flash_attention": "on", "bulk_rows": "128", "tuned_for": "zen4", "tuning": "64 rows: +2%"}
MEASURED = {**SETTINGS, "tuned": "measured", "model": "llama 135M"}


@contextmanager
def disk() -> Iterator[DiskThread]:
    """Yield a thread for the disk, and wait at the end for what it has to do."""
    thread = DiskThread("store")
    try:
        yield thread
    finally:
        assert thread.stop(60.0)


def test_what_an_engine_has_measured_is_handed_to_the_next() -> None:
    """The settings and nothing else, once: what is known already is not kept again."""
    kept: list[TuningSettings] = []
    tuned = TuningCache()
    tuned.on_change = lambda settings: kept.append({key: dict(each) for key, each in settings.items()})
    assert {} == tuned.lookup(LOAD)
    tuned.remember(LOAD, MEASURED)
    tuned.remember(LOAD, MEASURED)
    assert SETTINGS == tuned.lookup(LOAD)
    assert [{"abc f16 2": SETTINGS}] == kept


@pytest.mark.parametrize("source", ["remembered", "put off", "off", ""])
def test_nothing_else_is_noted(source: str) -> None:
    """Neither what was remembered, nor what could not be measured; an engine of another kind says nothing of it."""
    tuned = TuningCache()
    tuned.remember(LOAD, {**MEASURED, "tuned": source})
    assert {} == tuned.lookup(LOAD)


@pytest.mark.parametrize(
    "other",
    [
        LoadRequest(runtime="llama", weights="/blobs/abd", threads=2),
        LoadRequest(runtime="llama", weights="/blobs/abc", threads=3),
        LoadRequest(runtime="llama", weights="/blobs/abc", threads=2, kv_type="q8_0"),
    ],
)
def test_settings_hold_for_weights_threads_and_cache(other: LoadRequest) -> None:
    """Another engine measures for itself."""
    tuned = TuningCache({"abc f16 2": SETTINGS})
    assert SETTINGS == tuned.lookup(LOAD)
    assert {} == tuned.lookup(other)


def test_the_oldest_settings_are_forgotten() -> None:
    """Beyond ENTRIES_MAX; measuring again makes them the newest."""
    tuned = TuningCache()
    for place in range(ENTRIES_MAX):
        tuned.remember(LoadRequest(runtime="llama", weights=f"/blobs/{place}"), MEASURED)
    tuned.remember(LoadRequest(runtime="llama", weights="/blobs/0"), {**MEASURED, "threads": "3"})
    tuned.remember(LoadRequest(runtime="llama", weights="/blobs/new"), MEASURED)
    known = [bool(tuned.lookup(LoadRequest(runtime="llama", weights=f"/blobs/{place}"))) for place in (0, 1, 2)]
    assert [True, False, True] == known


def test_the_file_keeps_what_was_noted(tmp_path: Path) -> None:
    """A daemon that is started anew reads it."""
    file = TuningFile(tmp_path / "settings.json")
    with disk() as thread:
        open_tuning_cache(file, thread).remember(LOAD, MEASURED)
    assert SETTINGS == open_tuning_cache(file, thread).lookup(LOAD)
    assert 0o600 == (tmp_path / "settings.json").stat().st_mode & 0o777


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_as_none(tmp_path: Path, content: bytes | None) -> None:
    """Missing, cut off, or something else: it is measured anew, and written over."""
    file = TuningFile(tmp_path / "settings.json")
    if content is not None:
        (tmp_path / "settings.json").write_bytes(content)
    with disk() as thread:
        tuned = open_tuning_cache(file, thread)
        assert {} == tuned.lookup(LOAD)
        tuned.remember(LOAD, MEASURED)
    assert {"abc f16 2": SETTINGS} == file.read()


def test_a_disk_that_takes_nothing_is_borne(tmp_path: Path) -> None:
    """The settings hold until the daemon ends."""
    with disk() as thread:
        tuned = open_tuning_cache(TuningFile(tmp_path / "missing" / "settings.json"), thread)
        tuned.remember(LOAD, MEASURED)
    assert SETTINGS == tuned.lookup(LOAD)
    tuned.remember(LOAD, {**MEASURED, "threads": "2"})  # nor one that was closed
    assert "2" == tuned.lookup(LOAD)["threads"]


def test_a_disk_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    """The event loop, which hears of the settings, goes on; they are written when the disk does."""
    file, hangs = TuningFile(tmp_path / "settings.json"), threading.Event()
    with disk() as thread:
        tuned = open_tuning_cache(file, thread)
        thread.submit(hangs.wait)
        tuned.remember(LOAD, MEASURED)
        assert ({}, SETTINGS) == (file.read(), tuned.lookup(LOAD))
        tuned.remember(LoadRequest(runtime="llama", weights="/blobs/new"), MEASURED)
        hangs.set()
    assert 2 == len(file.read())
