"""Looks at the copy of the repository, and at how far each task has come."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from edge_agent.client import BundleRef, TaskUpdate
from edge_agent.doctor.findings import Unseen
from edge_agent.doctor.probes.serving import Case
from edge_agent.doctor.probes.settings import signed_part
from edge_agent.doctor.updates import MetadataFacts, UpdatesFacts
from edge_agent.store.update_records import UpdateProgress

TRUSTED = "trust"


def metadata(case: Case) -> MetadataFacts:
    """Look at the timestamp: what came last, or what was believed last."""
    config = case.place.config
    folder, by_itself = config.incoming / "metadata", bool(config.uplink.updates_url)
    expected = bool(config.update.root_file)
    path = folder / "timestamp.json"
    if not path.exists():
        # A stick leaves nothing in incoming/.
        path = next(iter(sorted((config.state_dir / TRUSTED).glob("**/timestamp.json"))), path)
    if not path.exists():
        return MetadataFacts(str(folder), there=False, by_itself=by_itself, expected=expected)
    try:
        version, expires = signed_part(path, "timestamp")
    except ValueError as error:
        return MetadataFacts(str(path.parent), True, str(error), by_itself=by_itself, expected=expected)
    return MetadataFacts(str(path.parent), True, "", version, expires - time.time(), by_itself, expected)


def updates(case: Case) -> UpdatesFacts | Unseen:
    """Take what the daemon says; without it what it wrote down last."""
    said = case.status.updates if case.status else None
    channel = case.place.config.update.channel
    if said:
        return UpdatesFacts(said.plan_version, said.channel, said.problem, said.tasks, time.time(), live=True)
    if isinstance(case.stored, Unseen):
        return case.stored
    tasks = tuple(map(_written, case.stored.journal.values()))
    return UpdatesFacts(0, channel, "", tasks, time.time(), live=False)


def _written(row: UpdateProgress) -> TaskUpdate:
    return TaskUpdate(
        task=row.task,
        active=None,
        previous=None,
        candidate=BundleRef(row.task, row.version, row.candidate),
        state=row.state.upper(),
        since=datetime.fromtimestamp(row.since, UTC),
        reason=row.reason,
        message=row.message,
        attempts=row.attempts,
    )
