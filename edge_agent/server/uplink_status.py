"""The state of the uplink, another daemon, read from its file `uplink.json`.

The uplink is not trusted: the file may be a pipe, contain control characters, or hold wrong values.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from edge_agent.errors import DiskFull, DocumentInvalid
from edge_agent.formats import uplink_state
from edge_agent.update.update_blockers import DownloadBlocker
from edge_agent.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from edge_agent.config import Config

SILENT_REASON = "UPLINK_SILENT"
_STATES = {
    "online": pb.LINK_STATE_ONLINE,
    "offline": pb.LINK_STATE_OFFLINE,
    "probing": pb.LINK_STATE_PROBING,
}
_COUNT_MAX = 2**62
"""Numbers in the file have no limit; those in the message do."""
_START = "Start it with 'sudo systemctl enable --now edge-uplink', and read its log: 'edge-agent logs uplink'."
_RIGHTS = "Give this daemon's user, edge-agent, the right to read the folder 'uplink' in the state directory."


@dataclass(frozen=True)
class UplinkReport:
    """The content of the file; `silence` and `remedy` are set if it does not describe the present."""

    state: uplink_state.UplinkState | None
    age_seconds: float = 0.0
    silence: str = ""
    remedy: str = ""


def uplink_message(config: Config) -> pb.UplinkStatus | None:
    """Describe the uplink; None if none is configured and none has written its file."""
    path = config.uplink_notes / uplink_state.FILE_NAME
    heard = read_uplink_report(path, time.clock_gettime(time.CLOCK_BOOTTIME))
    configured = bool(config.uplink.url or config.uplink.updates_url)
    if heard.state is None and not configured and not path.exists():
        return None
    message = _described(heard.state) if heard.state else pb.UplinkStatus()
    message.age_seconds = heard.age_seconds
    if heard.silence:
        message.state = pb.LINK_STATE_SILENT
        message.problems.insert(0, pb.UplinkProblem(reason=SILENT_REASON, message=heard.silence, remedy=heard.remedy))
    return message


def download_blocker(config: Config) -> DownloadBlocker | None:
    """Return why the uplink brings no files of updates; None = it does, as far as it reports."""
    if not config.uplink.updates_url:
        return DownloadBlocker("no uplink for updates is configured", has_uplink=False)
    path = config.uplink_notes / uplink_state.FILE_NAME
    heard = read_uplink_report(path, time.clock_gettime(time.CLOCK_BOOTTIME))
    if heard.silence or heard.state is None or heard.state.downloads is None:
        return DownloadBlocker("the uplink does not report that it downloads updates")
    if any(each.reason == DiskFull.reason for each in heard.state.problems):
        return DownloadBlocker("the uplink's disk is full", disk_full=True)
    if heard.state.downloads.state == "offline":
        return DownloadBlocker("the uplink is offline")
    return None


def read_uplink_report(path: Path, running_seconds: float) -> UplinkReport:
    """Read the file; `running_seconds` is CLOCK_BOOTTIME now."""
    try:
        raw = _read(path)
        state = uplink_state.parse(raw)
    except FileNotFoundError:
        return UplinkReport(None, silence=f"the uplink has not reported yet: {path} does not exist", remedy=_START)
    except OSError as error:
        return UplinkReport(
            None, silence=f"the uplink's report cannot be read: {path}: {error.strerror}", remedy=_RIGHTS
        )
    except DocumentInvalid as error:
        return UplinkReport(None, silence=f"the uplink's report is not valid: {error.message}", remedy=_START)
    age = running_seconds - state.running_seconds
    if age < 0:
        return UplinkReport(state, silence="the uplink has not reported since this machine was started", remedy=_START)
    if age > uplink_state.FRESH_SECONDS:
        silence = (
            f"the uplink has not reported for {age / 60:.0f} min; it does so every minute: it was stopped, or hangs"
        )
        return UplinkReport(state, age, silence, _START)
    return UplinkReport(state, age)


def _read(path: Path) -> bytes:
    """Read a plain file, one byte more than it may have at most."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "no plain file")
        return file.read(uplink_state.STATE_BYTES_MAX + 1)


def _described(state: uplink_state.UplinkState) -> pb.UplinkStatus:
    return pb.UplinkStatus(
        state=_STATES[state.state],
        upstream=_printable(state.upstream),
        since_time=_moment(state.since),
        contact_time=_moment(state.last_contact),
        retry_time=_moment(state.retry_at),
        failures=min(state.failures, _COUNT_MAX),
        waiting_segments=min(state.waiting_segments, _COUNT_MAX),
        waiting_bytes=min(state.waiting_bytes, _COUNT_MAX),
        sent_segments=min(state.sent_segments, _COUNT_MAX),
        sent_bytes=min(state.sent_bytes, _COUNT_MAX),
        downloads=_downloads(state.downloads),
        problems=[
            pb.UplinkProblem(
                reason=_printable(each.reason),
                message=_printable(each.message),
                remedy=_printable(each.remedy),
                about=_printable(each.about),
            )
            for each in state.problems
        ],
    )


def _downloads(said: uplink_state.DownloadProgress | None) -> pb.UplinkDownloads | None:
    if said is None:
        return None
    return pb.UplinkDownloads(
        state=_STATES[said.state],
        repository=_printable(said.repository),
        since_time=_moment(said.since),
        retry_time=_moment(said.retry_at),
        refresh_time=_moment(said.refreshed_at),
        waiting_blobs=min(said.waiting_blobs, _COUNT_MAX),
        waiting_bytes=min(said.waiting_bytes, _COUNT_MAX),
        fetched_blobs=min(said.fetched_blobs, _COUNT_MAX),
        fetched_bytes=min(said.fetched_bytes, _COUNT_MAX),
    )


def _printable(text: str) -> str:
    """Replace control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _moment(at: str | None) -> Timestamp | None:
    if at is None:
        return None
    moment = Timestamp()
    moment.FromJsonString(at)
    return moment
