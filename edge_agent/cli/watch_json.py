"""One line of `edge-agent watch --json`: a look as a document of its own version. Pure.

docs/watch.md lists the fields. Shares are 0 to 1, times are seconds, None = not known. Fields are added, and no field
changes its meaning, within one version.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from edge_agent.cli.watch_history import TOTAL, TaskRates, WatchSnapshot
from edge_agent.client import Status, UpdatesStatus, UplinkStatus

SCHEMA = "edge-agent/watch/v1"


def watch_document(look: WatchSnapshot, now: datetime) -> dict[str, Any]:
    """Return a look as JSON holds it."""
    status = look.status
    head = {
        "schema": SCHEMA,
        "at": now.isoformat(timespec="milliseconds"),
        "answers": not look.problem,
        "problem": look.problem,
        "remedy": look.remedy,
        "silent_seconds": round(look.silent_seconds, 3),
        "restarts": look.restarts,
        "window_seconds": round(look.seconds, 3),
    }
    if status is None:
        return head
    return {
        **head,
        "site": status.site,
        "version": status.agent_version,
        "started_at": status.start_time.isoformat(),
        "serving": status.serving,
        "resident_bytes": status.resident_bytes,
        "disk_free_bytes": status.disk_free_bytes,
        **_figures(look.rates.get(TOTAL)),
        "tasks": [
            {
                "task": task.name,
                "version": task.bundle.version,
                "digest": task.bundle.digest,
                "ready": task.ready,
                "mode": task.mode.lower(),
                **_figures(look.rates.get(task.name)),
            }
            for task in status.tasks
        ],
        "engines": [
            {
                "engine": engine.name,
                "state": engine.state.lower(),
                "tasks": list(engine.tasks),
                "resident_bytes": engine.resident_bytes,
                "restarts": engine.restarts,
                "running": engine.running,
                "running_max": engine.running_max,
                "waiting": max(0, engine.pending - engine.running),
                "problem": engine.problem,
            }
            for engine in status.engines
        ],
        "refusals": [
            {
                "task": each.task,
                "reason": each.reason,
                "count": each.count,
                "recent": each.recent,
                "seconds_ago": None if each.seconds_ago is None else round(each.seconds_ago, 3),
            }
            for each in look.refusals
        ],
        "alarms": [
            {"task": alarm.task, "alarm": alarm.alarm, "since": alarm.since.isoformat(), "demoted": alarm.demoted}
            for alarm in status.alarms
        ],
        **_transfers(status, look),
        "warnings": list(status.warnings),
    }


def _figures(rates: TaskRates | None) -> dict[str, Any]:
    """Return the rates of a task or of all; None before there are two looks."""
    known = rates or TaskRates()
    return {
        "answers_per_second": None if rates is None else round(known.answers, 3),
        "refused_per_second": None if rates is None else round(known.errors, 3),
        "confident": _rounded(known.confident),
        "escalated": _rounded(known.escalated),
        "abstained": _rounded(known.abstained),
        "queue_p95_seconds": _rounded(known.queue_p95),
        "p50_seconds": _rounded(known.total_p50),
        "p95_seconds": _rounded(known.total_p95),
    }


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 6)


def _transfers(status: Status, look: WatchSnapshot) -> dict[str, Any]:
    rates = look.transfers
    return {
        "updates": None if status.updates is None else _updates(status.updates, rates.copied),
        "upload": None if status.uplink is None else _upload(status.uplink, rates.uploaded),
        "download": None if status.uplink is None else _download(status.uplink, rates.downloaded),
    }


def _updates(updates: UpdatesStatus, rate: float | None) -> dict[str, Any]:
    return {
        "channel": updates.channel,
        "plan_version": updates.plan_version,
        "problem": updates.problem,
        "tasks": [
            {
                "task": task.task,
                "to_version": task.candidate.version,
                "state": task.state.lower(),
                "since": task.since.isoformat() if task.since else None,
                "reason": task.reason,
            }
            for task in updates.tasks
            if task.candidate
        ],
        "copying": updates.copying,
        "copied_bytes": updates.copied_bytes,
        "total_bytes": updates.total_bytes,
        "bytes_per_second": rate,
    }


def _upload(uplink: UplinkStatus, rate: float | None) -> dict[str, Any]:
    return {
        "state": uplink.state.lower(),
        "waiting_segments": uplink.waiting_segments,
        "waiting_bytes": uplink.waiting_bytes,
        "sent_bytes": uplink.sent_bytes,
        "bytes_per_second": rate,
        "problem": uplink.problems[0].reason if uplink.problems else "",
    }


def _download(uplink: UplinkStatus, rate: float | None) -> dict[str, Any] | None:
    downloads = uplink.downloads
    if downloads is None:
        return None
    return {
        "state": downloads.state.lower(),
        "waiting_files": downloads.waiting_blobs,
        "waiting_bytes": downloads.waiting_bytes,
        "fetched_bytes": downloads.fetched_bytes,
        "bytes_per_second": rate,
    }
