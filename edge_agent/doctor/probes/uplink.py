"""Listens to the uplink: by the daemon, or by the file in which it says how it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from edge_agent.client import UplinkStatus
from edge_agent.doctor.probes.place import content, look
from edge_agent.doctor.probes.serving import Case, running_seconds
from edge_agent.doctor.uplink import Trouble, UplinkFacts
from edge_agent.errors import DocumentInvalid
from edge_agent.formats import signed_document, uplink_state


def link(case: Case) -> UplinkFacts | None:
    """Take what the daemon heard; without it listen to the file. None = none is wanted, and none is there."""
    config = case.place.config
    wanted = bool(config.uplink.url or config.uplink.updates_url)
    if case.status is not None:
        return _heard(case.status.uplink, wanted, case) if case.status.uplink else None
    path = config.uplink_notes / uplink_state.FILE_NAME
    file = look(path)
    if not file.kind:
        return UplinkFacts(wanted, f"it has said nothing yet: there is no {path}") if wanted else None
    try:
        return _read(uplink_state.parse(content(path, uplink_state.STATE_BYTES_MAX + 1)), wanted, case)
    except DocumentInvalid as error:
        return UplinkFacts(wanted, f"what it says makes no sense: {error.message}", managed=case.answering.managed)


def _heard(said: UplinkStatus, wanted: bool, case: Case) -> UplinkFacts:
    troubles = tuple(Trouble(each.reason, each.message, each.remedy, each.about) for each in said.problems)
    silent = said.state == "SILENT"
    return UplinkFacts(
        wanted=wanted,
        silence=(troubles[0].message if troubles else "it is silent") if silent else "",
        state=said.state.lower(),
        upstream=said.upstream,
        since_seconds=_age(said.since),
        failures=said.failures,
        waiting_segments=said.waiting_segments,
        waiting_bytes=said.waiting_bytes,
        troubles=troubles,
        downloads=said.downloads.state.lower() if said.downloads else "",
        waiting_blobs=said.downloads.waiting_blobs if said.downloads else 0,
        managed=case.answering.managed,
    )


def _read(said: uplink_state.UplinkState, wanted: bool, case: Case) -> UplinkFacts:
    age = running_seconds() - said.running_seconds
    silence = ""
    if age < 0:
        silence = "it has said nothing since this machine was started"
    elif age > uplink_state.FRESH_SECONDS:
        silence = f"it has said nothing for {age / 60:.0f} min; it does so every minute: it was stopped, or hangs"
    return UplinkFacts(
        wanted=wanted,
        silence=silence,
        state=said.state,
        upstream=said.upstream,
        since_seconds=time.time() - signed_document.seconds(said.since),
        failures=said.failures,
        waiting_segments=said.waiting_segments,
        waiting_bytes=said.waiting_bytes,
        troubles=tuple(Trouble(each.reason, each.message, each.remedy, each.about) for each in said.problems),
        downloads=said.downloads.state if said.downloads else "",
        waiting_blobs=said.downloads.waiting_blobs if said.downloads else 0,
        managed=case.answering.managed,
    )


def _age(since: datetime | None) -> float:
    return (datetime.now(UTC) - since).total_seconds() if since else 0.0
