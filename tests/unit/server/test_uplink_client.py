"""What the daemon reports of the uplink: fresh, silent, unreadable or hostile, and never an exception."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest

from edge_agent.capture.spool_writer import PendingCharges
from edge_agent.config import Config
from edge_agent.errors import UpstreamUnreachable
from edge_agent.formats import uplink_state
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.routing.large_model_questions import LargeModelQuestion
from edge_agent.server.uplink_client import (
    COST_MICROS_MAX,
    UplinkClient,
    download_blocker,
    read_uplink_report,
    uplink_message,
)
from edge_agent.v1 import admin_pb2 as pb
from edge_agent.v1 import escalation_pb2
from edge_agent.v1.escalation_pb2_grpc import (
    EscalationServiceServicer,
    add_EscalationServiceServicer_to_server,
)
from tests.support.eventually import eventually
from tests.support.examples import NOW
from tests.support.site_cases import SiteCase
from tests.support.uplink_cases import UplinkCase

URL = "s3://fleet/examples"
BOOT_SECONDS = 1000.0


def said(**changes: object) -> uplink_state.UplinkState:
    """Return the state of an uplink that is online."""
    plain = {
        "pid": 1,
        "version": "0.1.0",
        "upstream": URL,
        "at": format_timestamp(NOW),
        "running_seconds": BOOT_SECONDS,
        "state": "online",
        "since": format_timestamp(NOW - 60),
        "last_contact": format_timestamp(NOW - 1),
        "failures": 0,
        "waiting_segments": 2,
        "waiting_bytes": 5000,
        "sent_segments": 7,
        "sent_bytes": 9000,
    }
    return uplink_state.UplinkState.model_validate({**plain, **changes})


def message(folder: Path, raw: bytes | None, url: str = URL) -> pb.UplinkStatus | None:
    """Write the uplink's file and describe it."""
    config = Config.model_validate({"state_dir": folder, "uplink": {"url": url}})
    if raw is not None:
        config.uplink_notes.mkdir()
        (config.uplink_notes / uplink_state.FILE_NAME).write_bytes(raw)
    return uplink_message(config)


def fresh(**changes: object) -> bytes:
    """Return a state file that was written just now."""
    return uplink_state.encode(said(running_seconds=time.clock_gettime(time.CLOCK_BOOTTIME), **changes))


def silence(found: pb.UplinkStatus | None) -> str:
    """Return why the uplink counts as silent."""
    assert found is not None
    assert ("UPLINK_SILENT", pb.LINK_STATE_SILENT) == (found.problems[0].reason, found.state)
    assert found.problems[0].remedy
    return found.problems[0].message


def test_state_of_a_real_uplink_is_shown(tmp_path: Path):
    """The file of a real uplink gives its state, its last contact and its counts."""
    (tmp_path / "upstream").mkdir()
    case = UplinkCase(tmp_path, str(tmp_path / "upstream"))
    case.seal(2)
    case.once()
    found = uplink_message(Config.model_validate({"uplink": {"url": "x", "notes_dir": str(case.notes)}}))
    assert found is not None
    assert (pb.LINK_STATE_ONLINE, 0, 2) == (found.state, found.waiting_segments, found.sent_segments)
    assert found.HasField("contact_time")
    assert not found.HasField("retry_time")
    assert 0 <= found.age_seconds <= uplink_state.FRESH_SECONDS


def test_every_field_of_the_state_is_shown(tmp_path: Path):
    """Downloads and problems are shown, and the time of the next attempt if the uplink is not online."""
    downloads = {
        "repository": "https://updates.example",
        "state": "probing",
        "since": format_timestamp(NOW),
        "waiting_blobs": 3,
        "waiting_bytes": 10,
        "fetched_blobs": 5,
        "fetched_bytes": 700,
    }
    problem = {"reason": "UPSTREAM_BUSY", "message": "busy", "remedy": "wait", "about": "x-1"}
    changes = {"state": "offline", "failures": 4, "retry_at": format_timestamp(NOW + 60)}
    found = message(tmp_path, fresh(downloads=downloads, problems=[problem], **changes))
    assert found is not None
    assert (pb.LINK_STATE_OFFLINE, 4, int(NOW) + 60) == (found.state, found.failures, found.retry_time.seconds)
    assert (pb.LINK_STATE_PROBING, 3) == (found.downloads.state, found.downloads.waiting_blobs)
    assert (5, 700) == (found.downloads.fetched_blobs, found.downloads.fetched_bytes)
    assert ["UPSTREAM_BUSY busy wait x-1"] == [
        " ".join((each.reason, each.message, each.remedy, each.about)) for each in found.problems
    ]


def test_missing_state_file_is_reported_if_an_uplink_is_configured(tmp_path: Path):
    """A configured uplink without a file is reported as silent; without a configured uplink there is no message."""
    assert "does not exist" in silence(message(tmp_path, None))
    assert message(tmp_path, None, url="") is None


def test_unreadable_folder_does_not_break_status(tmp_path: Path):
    """If the folder cannot be read, a site without an uplink has no message and one with an uplink the reason."""
    closed = tmp_path / ("x" * 300)  # no system lets anybody in there, root included
    assert uplink_message(Config.model_validate({"uplink": {"notes_dir": str(closed)}})) is None
    found = uplink_message(Config.model_validate({"uplink": {"url": URL, "notes_dir": str(closed)}}))
    assert "cannot be read" in silence(found)


def test_an_uplink_of_another_configuration_is_shown(tmp_path: Path):
    """A state file is shown even if this daemon's configuration has no uplink."""
    found = message(tmp_path, fresh(), url="")
    assert found is not None
    assert pb.LINK_STATE_ONLINE == found.state


@pytest.mark.parametrize(
    ("running", "words"),
    [
        (BOOT_SECONDS + uplink_state.FRESH_SECONDS + 60, "not reported for 4 min"),
        (BOOT_SECONDS - 1, "since this machine was started"),
    ],
)
def test_old_state_counts_as_silent(tmp_path: Path, running: float, words: str):
    """Age is measured by a clock that cannot be set; the last known state is still shown."""
    path = tmp_path / uplink_state.FILE_NAME
    path.write_bytes(uplink_state.encode(said()))
    heard = read_uplink_report(path, running)
    assert words in heard.silence
    assert heard.state is not None
    assert "" == read_uplink_report(path, BOOT_SECONDS + 100).silence


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", fresh().replace(b"online", b"fine"), b" " * 300_000])
def test_invalid_state_file_is_reported(tmp_path: Path, raw: bytes):
    """Whatever the file holds, status answers."""
    assert "is not valid" in silence(message(tmp_path, raw))


def test_pipe_link_or_folder_is_not_read(tmp_path: Path):
    """A link, a pipe or a folder in place of the state file is reported as unreadable without waiting."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ""):
        assert "cannot be read" in read_uplink_report(tmp_path / name, BOOT_SECONDS).silence


def test_hostile_state_file_cannot_break_the_message(tmp_path: Path):
    """Control characters are replaced and counts beyond 64 bits limited, as a compromised uplink could write them."""
    problem = {"reason": "X", "message": "\x1b[2Jall is well\n"}
    found = message(tmp_path, fresh(upstream="s3://\x1b]0;x\x07", problems=[problem], waiting_bytes=2**70))
    assert found is not None
    assert ("s3://?]0;x?", "?[2Jall is well?") == (found.upstream, found.problems[0].message)
    assert 2**62 == found.waiting_bytes


DOWNLOADS = {
    "repository": URL,
    "state": "online",
    "since": format_timestamp(NOW),
    "waiting_blobs": 1,
    "waiting_bytes": 5,
    "fetched_blobs": 0,
    "fetched_bytes": 0,
}


@pytest.mark.parametrize(
    ("changes", "said_of_it"),
    [
        ({"downloads": DOWNLOADS}, None),
        ({"downloads": {**DOWNLOADS, "state": "probing"}}, None),
        ({"downloads": {**DOWNLOADS, "state": "offline"}}, "the uplink is offline"),
        ({}, "the uplink does not report that it downloads updates"),
        (
            {"downloads": DOWNLOADS, "problems": [{"reason": "DISK_FULL", "message": "no room"}]},
            "the uplink's disk is full",
        ),
    ],
)
def test_state_decides_the_download_blocker(tmp_path: Path, changes: dict[str, object], said_of_it: str | None):
    """The uplink's report decides why no files are being downloaded."""
    config = Config.model_validate({"state_dir": tmp_path, "uplink": {"updates_url": URL}})
    config.uplink_notes.mkdir()
    (config.uplink_notes / uplink_state.FILE_NAME).write_bytes(fresh(**changes))
    found = download_blocker(config)
    assert said_of_it == (found and found.message)
    assert (said_of_it == "the uplink's disk is full") == bool(found and found.disk_full)


def test_missing_uplink_is_a_download_blocker(tmp_path: Path):
    """Downloads are blocked if no uplink for updates is configured or it does not run."""
    unset = download_blocker(Config.model_validate({"state_dir": tmp_path, "uplink": {"url": URL}}))
    silent = download_blocker(Config.model_validate({"state_dir": tmp_path, "uplink": {"updates_url": URL}}))
    assert ("no uplink for updates is configured", False) == (unset and (unset.message, unset.has_uplink))
    assert ("the uplink does not report that it downloads updates", True) == (
        silent and (silent.message, silent.has_uplink)
    )


class _BeginsAnAnswer(EscalationServiceServicer):
    """An uplink whose large model writes one word and nothing more."""

    async def Ask(self, request: Any, context: Any) -> None:
        await context.write(escalation_pb2.AskResponse(text="once"))
        await asyncio.Event().wait()

    async def Watch(self, request: Any, context: Any) -> None:
        await context.write(escalation_pb2.WatchResponse(online=True, affordable=True, free=True, model="oracle-1"))
        await asyncio.Event().wait()


class _ExaggeratingUplink(EscalationServiceServicer):
    """An uplink that reports impossible numbers."""

    async def Ask(self, request: Any, context: Any) -> None:
        await context.write(escalation_pb2.AskResponse(finish=escalation_pb2.AskFinish(cost_micros=2**64 - 1)))

    async def Watch(self, request: Any, context: Any) -> None:
        usual_ms = float(self.usual_ms)
        await context.write(escalation_pb2.WatchResponse(online=True, usual_ms=usual_ms, model="oracle-1"))
        await asyncio.Event().wait()

    usual_ms = "inf"


@asynccontextmanager
async def watched_uplink(
    servicer: EscalationServiceServicer | None = None, capture: Any = None
) -> AsyncIterator[tuple[UplinkClient, asyncio.Task[None]]]:
    """Yield a client that watches such an uplink, and the task that does."""
    with TemporaryDirectory(prefix="ea-") as short:
        escalation = {"url": "http://large.example", "model": "m", "tasks": ["t"], "socket": f"{short}/e.sock"}
        client = UplinkClient(Config.model_validate({"state_dir": short, "escalation": escalation}), capture)
        server = grpc.aio.server()
        add_EscalationServiceServicer_to_server(servicer or _BeginsAnAnswer(), server)
        server.add_insecure_port(f"unix:{short}/e.sock")
        await server.start()
        watching = asyncio.create_task(client.run())
        try:
            await eventually(lambda: client.availability("t").online)
            yield client, watching
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await server.stop(0)


async def read_answer(client: UplinkClient, seconds: float, heard: asyncio.Event, pause: float = 0.0) -> None:
    """Ask a question and read its answer to the end, with a pause after each part."""
    loop = asyncio.get_running_loop()
    question = LargeModelQuestion("t", (("user", "hmm"),), "", 10)
    async with aclosing(client.ask(question, seconds)) as parts:
        async for _ in parts:
            heard.set()
            until = loop.time() + pause
            await eventually(lambda: loop.time() >= until)  # noqa: B023 - awaited in the same turn


async def test_closed_connection_raises_an_error_instead_of_cancelling():
    """If the connection closes, the caller gets UpstreamUnreachable and is not cancelled, so it can return the local
    answer."""
    heard = asyncio.Event()
    async with watched_uplink() as (client, watching):
        reading = asyncio.create_task(read_answer(client, 60, heard))
        await heard.wait()
        watching.cancel()
        with pytest.raises(UpstreamUnreachable):
            await reading


async def test_timeout_between_two_parts_does_not_cancel_the_reader():
    """A slow reader gets the error at its next read; what it awaits meanwhile is not cancelled."""
    async with watched_uplink() as (client, _):
        with pytest.raises(UpstreamUnreachable, match="in time"):
            await read_answer(client, 0.2, asyncio.Event(), pause=0.5)


async def test_cancelled_reader_raises_cancelled_error():
    """The cancellation of a reader is not turned into an error of the connection."""
    heard = asyncio.Event()
    async with watched_uplink() as (client, _):
        reading = asyncio.create_task(read_answer(client, 60, heard))
        await heard.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


@pytest.mark.parametrize("usual_ms", ["inf", "nan", "-1"])
async def test_impossible_numbers_of_the_uplink_are_limited(tmp_path: Path, usual_ms: str):
    """An impossible latency counts as unknown, and prices are limited so that they can be summed in the database."""
    servicer, charges = _ExaggeratingUplink(), PendingCharges()
    servicer.usual_ms = usual_ms
    async with watched_uplink(servicer, SimpleNamespace(add_charge=charges.add)) as (client, _):
        shown = client.message()
        assert (0.0, 0.0) == (client.availability("t").seconds_expected, shown and shown.usual_ms)
        for _ in range(3):
            await read_answer(client, 60, asyncio.Event())
    site = SiteCase(tmp_path)
    charges.settle(site.worker.store_charges)
    [spend] = site.worker.monitoring.daily_spend()
    assert (3, 3 * COST_MICROS_MAX) == (spend.questions, spend.micros)
