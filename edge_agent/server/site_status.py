"""The tasks and updates of this site, as its status document for the central team describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formats.status_object import SiteUpdates, TaskStatus, UpdateStatus

if TYPE_CHECKING:
    from edge_agent.capture.example_capture import ExampleCapture
    from edge_agent.engine.pool import EnginePool
    from edge_agent.server.task_modes import MonitoringAlarms
    from edge_agent.store.update_records import UpdateProgress
    from edge_agent.update.activation import Activation
    from edge_agent.update.updater import UpdateOverview

MESSAGE_CHARACTERS_MAX = 1000


def task_statuses(
    engines: EnginePool,
    activation: Activation,
    overview: UpdateOverview,
    capture: ExampleCapture,
    alarms: MonitoringAlarms,
) -> list[TaskStatus]:
    """Describe the tasks that are answered."""
    return [
        TaskStatus(
            task=task,
            kind=bundle.manifest.task.kind,
            version=bundle.manifest.version,
            digest=bundle.digest,
            ready=engines.ready(bundle.digest),
            collect=capture.consent(task),
            previous=activation.inventory.rollbacks.get(task),
            update=update_status(overview.rows[task]) if task in overview.rows else None,
            revoked=task in overview.revoked,
            alarms=alarms.report(task),
        )
        for task, bundle in list(activation.serving.items())
    ]


def site_updates(activation: Activation, overview: UpdateOverview) -> SiteUpdates:
    """Describe the state of the site's updates."""
    arriving = {task: update_status(row) for task, row in overview.rows.items() if task not in activation.serving}
    problem = overview.problem.message[:MESSAGE_CHARACTERS_MAX] if overview.problem else ""
    return SiteUpdates(
        arriving=arriving, channel=overview.channel, plan_version=overview.plan_version, update_problem=problem
    )


def update_status(row: UpdateProgress) -> UpdateStatus:
    """Write a row of the journal as the status document has it."""
    return UpdateStatus(
        candidate=row.candidate,
        version=row.version,
        state=row.state,
        since=format_timestamp(row.since),
        plan_version=row.plan_version,
        reason=row.reason,
        message=row.message[:MESSAGE_CHARACTERS_MAX],
        attempts=row.attempts,
    )
