"""The tuning settings that engines measured on this machine, and how long they are stored."""

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
    """Yield a disk thread, and wait at the end until its work is done."""
    thread = DiskThread("store")
    try:
        yield thread
    finally:
        assert thread.stop(60.0)


def test_measured_settings_are_reused_by_the_next_engine() -> None:
    """The cache returns settings that an engine measured to the next engine, and stores the same settings only once."""
    kept: list[TuningSettings] = []
    tuned = TuningCache()
    tuned.on_change = lambda settings: kept.append({key: dict(each) for key, each in settings.items()})
    assert {} == tuned.lookup(LOAD)
    tuned.remember(LOAD, MEASURED)
    tuned.remember(LOAD, MEASURED)
    assert SETTINGS == tuned.lookup(LOAD)
    assert [{"abc f16 2": SETTINGS}] == kept


@pytest.mark.parametrize("source", ["remembered", "put off", "off", ""])
def test_only_measured_settings_are_stored(source: str) -> None:
    """The cache stores no settings that were remembered, put off or switched off, and none of an engine without
    tuning."""
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
def test_settings_are_specific_to_weights_threads_and_cache(other: LoadRequest) -> None:
    """An engine with other weights, threads or cache type finds no settings and measures for itself."""
    tuned = TuningCache({"abc f16 2": SETTINGS})
    assert SETTINGS == tuned.lookup(LOAD)
    assert {} == tuned.lookup(other)


def test_oldest_settings_are_dropped() -> None:
    """Beyond ENTRIES_MAX the oldest settings are dropped; measuring again makes settings the newest."""
    tuned = TuningCache()
    for place in range(ENTRIES_MAX):
        tuned.remember(LoadRequest(runtime="llama", weights=f"/blobs/{place}"), MEASURED)
    tuned.remember(LoadRequest(runtime="llama", weights="/blobs/0"), {**MEASURED, "threads": "3"})
    tuned.remember(LoadRequest(runtime="llama", weights="/blobs/new"), MEASURED)
    known = [bool(tuned.lookup(LoadRequest(runtime="llama", weights=f"/blobs/{place}"))) for place in (0, 1, 2)]
    assert [True, False, True] == known


def test_settings_survive_a_daemon_restart(tmp_path: Path) -> None:
    """A restarted daemon reads the stored settings from a file with mode 0600."""
    file = TuningFile(tmp_path / "settings.json")
    with disk() as thread:
        open_tuning_cache(file, thread).remember(LOAD, MEASURED)
    assert SETTINGS == open_tuning_cache(file, thread).lookup(LOAD)
    assert 0o600 == (tmp_path / "settings.json").stat().st_mode & 0o777


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"a": 1}', b"\xff", b"[" * 100_000])
def test_unreadable_settings_file_is_ignored(tmp_path: Path, content: bytes | None) -> None:
    """A settings file that is missing, truncated or invalid is ignored and overwritten after the next measurement."""
    file = TuningFile(tmp_path / "settings.json")
    if content is not None:
        (tmp_path / "settings.json").write_bytes(content)
    with disk() as thread:
        tuned = open_tuning_cache(file, thread)
        assert {} == tuned.lookup(LOAD)
        tuned.remember(LOAD, MEASURED)
    assert {"abc f16 2": SETTINGS} == file.read()


def test_settings_hold_in_memory_if_the_disk_fails(tmp_path: Path) -> None:
    """If the settings cannot be written, or the disk thread is closed, they apply until the daemon ends."""
    with disk() as thread:
        tuned = open_tuning_cache(TuningFile(tmp_path / "missing" / "settings.json"), thread)
        tuned.remember(LOAD, MEASURED)
    assert SETTINGS == tuned.lookup(LOAD)
    tuned.remember(LOAD, {**MEASURED, "threads": "2"})  # nor one that was closed
    assert "2" == tuned.lookup(LOAD)["threads"]


def test_hanging_disk_does_not_block_the_event_loop(tmp_path: Path) -> None:
    """Settings are usable at once while the disk hangs, and are written when it responds again."""
    file, hangs = TuningFile(tmp_path / "settings.json"), threading.Event()
    with disk() as thread:
        tuned = open_tuning_cache(file, thread)
        thread.submit(hangs.wait)
        tuned.remember(LOAD, MEASURED)
        assert ({}, SETTINGS) == (file.read(), tuned.lookup(LOAD))
        tuned.remember(LoadRequest(runtime="llama", weights="/blobs/new"), MEASURED)
        hangs.set()
    assert 2 == len(file.read())
