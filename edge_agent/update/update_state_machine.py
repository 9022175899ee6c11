"""How a task moves from its active bundle to the bundle that the plan wants. Pure.

    waiting ──► fetching ──► staged ──► testing ──► switching ──► probation ──► done
                               ▲           │            │             └───────► rolled_back
                               └───────────┴────────────┴─────────────────────► failed

The updater calls `decide` again and again with the facts: it returns the row of the journal as it should be, and the
next action. The outcome of a step goes through `after_test` and `after_switch`. The row is written before the step
begins, and the pointer moves in one transaction with the row that records it. So `decide` can continue after a kill at
any point: a row found in `testing` or `switching` is a step that was interrupted.

A task is `held` if an operator activated a bundle other than candidate and incumbent, returned to the incumbent after
the candidate had answered, or removed the task. failed, rolled_back and held stay until the plan changes for the task;
`allow` lifts held, and so does a person who brings the files of a removed task again. A failure of this machine is not
a failure of the bundle: the step is retried, with pauses, or waits for a person; blocked_update_messages.py has the
messages.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, replace

from edge_agent.backoff import backoff_seconds
from edge_agent.errors import CapacityError, EdgeAgentError, RequirementUnmet, SiteError, StateError
from edge_agent.formats.plan import DesiredState
from edge_agent.formats.status_object import UpdateState
from edge_agent.store.state_database import UpdateProgress
from edge_agent.update.blocked_update_messages import (
    BlockedUpdate,
    BlockingCause,
    DownloadBlocker,
    Explanation,
    UpdatePhase,
    explain,
)

INTERRUPTIONS_MAX = 3
"""After this many tries in which the daemon itself ended, the bundle counts as the cause."""
PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 10.0, 1800.0
VERDICT_MESSAGES = {
    "HALTED": "the plan has halted it",
    "WAVE_LATER": "this site's wave begins later",
    "NO_WAVE": "no wave of the plan takes this site yet",
    "HARDWARE_UNMET": "no bundle that the plan offers fits this machine",
}
CHOSEN_MESSAGE = "somebody activated it here, without a test"
HELD_MESSAGE = (
    "somebody activated another bundle here; it stays until the plan wants something else of the task."
    " 'sudo edge-agent bundles allow {task}' lets the plan's bundle take its place"
)
REMOVED_MESSAGE = (
    "somebody removed the task here, and nothing answers it. To have it back, import the USB drive again, or run"
    " 'sudo edge-agent bundles allow {task}'"
)
ALLOWED_MESSAGE = "somebody here allowed it again"
LASTING_CAUSES = {
    "UPDATE_INCOMPLETE": BlockingCause.DRIVE_INCOMPLETE,
    "STICK_FAILED": BlockingCause.DRIVE_UNREADABLE,
    "DISK_FULL": BlockingCause.DISK_FULL,
    "STORE_DAMAGED": BlockingCause.DISK_FAILED,
    "STATE_DIR_UNWRITABLE": BlockingCause.DISK_FAILED,
    "REQUIREMENT_UNMET": BlockingCause.AGENT_OLD,
    "SCHEMA_UNKNOWN": BlockingCause.AGENT_OLD,
    "INTERRUPTED": BlockingCause.INTERRUPTED,
}
"""Reasons of a failed import that left files missing: they stay until the files arrive."""


class UpdateAction(enum.Enum):
    """The next action for a task."""

    NOTHING = "nothing"
    ADMIT = "admit"
    """Copy the candidate into the store: all its files are here."""
    TEST = "test"
    ROLL_BACK = "roll_back"
    """Activate the incumbent again."""


class StepResult(enum.Enum):
    """How a step ended."""

    PASSED = "passed"
    FAILED = "failed"
    """Because of the bundle: not retried."""
    BLOCKED = "blocked"
    """Because of this machine: retried."""


@dataclass(frozen=True)
class StepOutcome:
    """The end of a step, with its reason (a code) and a sentence."""

    end: StepResult
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class TaskFacts:
    """What `decide` needs to know of one task."""

    active: str
    """Digest of the bundle that answers; empty = none."""
    desired: DesiredState | None = None
    """None = no accepted plan names the task: a probation continues, and nothing else begins."""
    plan_version: int = 0
    installed: bool = False
    """The candidate is in the store."""
    missing: str = ""
    """The candidate's missing files, in words; empty = none."""
    drive_failed: bool = False
    """The folder cannot be read to its end; `missing` explains why."""
    importing: bool = False
    """The files are searched in a folder that a person has brought."""
    download: DownloadBlocker | None = None
    """Why the uplink brings no files; None = it does."""
    disk: str = ""
    """The folder whose disk takes the files."""
    short_bytes: int | None = None
    """Bytes to free on it before the files fit; None = unknown."""
    unreadable: bool = False
    """This agent cannot read the active bundle."""
    window_open: bool = True
    may_retry: bool = True
    """The pause after the last failure of this machine is over."""
    probation_outcome: StepOutcome | None = None
    """How the probation ended; None = it continues."""

    @property
    def is_complete(self) -> bool:
        """Whether the candidate is in the store, or all its files are here."""
        return self.desired is not None and (self.installed or not self.missing)


def classify_error(error: EdgeAgentError) -> StepOutcome:
    """Return the outcome for an error: the bundle failed, or this machine blocked the step."""
    blocked = isinstance(error, SiteError | StateError | CapacityError | RequirementUnmet)
    return StepOutcome(StepResult.BLOCKED if blocked else StepResult.FAILED, error.reason, error.message)


Decision = tuple[UpdateProgress, UpdateAction]


def desired_state_id(desired: DesiredState) -> str:
    """Return a hash of the bundle that the plan wants for a task, and of its probation rules.

    Its schedule (waves, window, halt) is left out: a site that failed or is held must not begin again because a wave
    grows.
    """
    offer = desired.offer or desired.plan.offers[0]
    content = f"{offer.model_dump_json()}\n{desired.plan.probation.model_dump_json()}"
    return hashlib.sha256(content.encode()).hexdigest()


def pause_seconds(attempts: int) -> float:
    """Return how long to wait after `attempts` failures of this machine in a row."""
    return backoff_seconds(attempts, PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX)


def decide(task: str, row: UpdateProgress | None, facts: TaskFacts, now: float) -> Decision:
    """Return the row as it should be, and the next action; `now` in seconds since 1970."""
    if facts.desired is not None:
        row = _current_row(task, row, facts.desired, facts, now)
    assert row is not None, "a task without a desired state must have a row"
    if facts.active == row.candidate:
        return _decide_answering(row, facts, now)
    row = _lift_removal(row, facts, now)
    if row.state in ("failed", "rolled_back"):
        return row, UpdateAction.NOTHING
    if row.state in ("probation", "done", "held") or facts.active != row.incumbent:
        return _hold(row, facts, now), UpdateAction.NOTHING
    if row.state in ("testing", "switching"):
        row = _count_interruption(row, now)
    if facts.desired is None or row.state == "failed":
        return row, UpdateAction.NOTHING
    return _advance(row, facts.desired, facts, now)


def wants_files(row: UpdateProgress) -> bool:
    """Tell whether files of the candidate must still be fetched or copied into the store."""
    is_blocked = row.state == "waiting" and (row.reason in LASTING_CAUSES or row.reason == "FILES_MISSING")
    return row.state in ("fetching", "staged") or is_blocked


def with_choice(row: UpdateProgress, active: str, now: float) -> UpdateProgress:
    """Return the row, held if an operator has chosen another bundle, `active`, since the last check; empty = none."""
    expected = row.candidate if row.state in ("probation", "done") else row.incumbent
    if row.state in ("testing", "switching", "failed", "rolled_back", "held") or active == expected:
        return row
    return _hold_for_choice(row, active, now)


def allow(row: UpdateProgress, active: str, now: float) -> UpdateProgress:
    """Return the row after an operator lifts `held`: the plan's bundle may replace `active`."""
    if row.state != "held":
        return row
    return replace(
        _in_state(row, "waiting", now, message=ALLOWED_MESSAGE), incumbent=active, attempts=0, interruptions=0
    )


def after_failed_admission(row: UpdateProgress, outcome: StepOutcome, now: float, facts: TaskFacts) -> UpdateProgress:
    """Return the row after the candidate could not be copied into the store; `facts` are those of the attempt."""
    if outcome.end is StepResult.FAILED:
        return _in_state(row, "failed", now, outcome.reason, outcome.message)
    details = BlockedUpdate(outcome.message, outcome.reason, facts.disk, facts.short_bytes, facts.download)
    return _after_blocked_step(
        row, outcome, now, UpdatePhase.IMPORTING if facts.importing else UpdatePhase.ADMITTING, details
    )


def after_test(row: UpdateProgress, outcome: StepOutcome, now: float) -> UpdateProgress:
    """Return the row after the self-test, or after a failure to read the candidate from the store."""
    if outcome.end is StepResult.PASSED:
        return _in_state(row, "switching", now, message=outcome.message)
    return _after_failed_step(row, outcome, now)


def after_switch(row: UpdateProgress, outcome: StepOutcome, now: float) -> UpdateProgress:
    """Return the row after the switch to the candidate; with PASSED, the one to be written with the pointer."""
    if outcome.end is StepResult.PASSED:
        return replace(_in_state(row, "probation", now), attempts=0, interruptions=0)
    return _after_failed_step(row, outcome, now)


def after_rollback(row: UpdateProgress, now: float) -> UpdateProgress:
    """Return the row to be written with the pointer when the incumbent answers again."""
    return _in_state(row, "rolled_back", now, row.reason, row.message)


def after_failed_rollback(row: UpdateProgress, outcome: StepOutcome) -> UpdateProgress:
    """Return the row if the incumbent cannot answer: the candidate stays, and the rollback is tried again."""
    message = f"it is to be rolled back ({row.reason}), but the bundle before cannot answer: {outcome.message}"
    return replace(row, attempts=row.attempts + 1, message=message)


def suspend(row: UpdateProgress, now: float) -> UpdateProgress:
    """Return the row for an orderly stop of the daemon in the middle of a step."""
    return _in_state(row, "staged", now) if row.state in ("testing", "switching") else row


def _current_row(
    task: str, row: UpdateProgress | None, desired: DesiredState, facts: TaskFacts, now: float
) -> UpdateProgress:
    """Return the row for what the plan wants now: a new one if that has changed."""
    state_id = desired_state_id(desired)
    if row is not None and row.wish == state_id:
        return replace(row, plan_version=facts.plan_version)
    if row is not None and row.state == "probation" and facts.active == row.candidate and desired.verdict != "WANTED":
        return row  # the probation continues, because nothing replaces the candidate yet
    offer = desired.offer or desired.plan.offers[0]
    return UpdateProgress(
        task=task,
        candidate=offer.bundle,
        version=offer.version,
        wish=state_id,
        plan_version=facts.plan_version,
        incumbent=facts.active,
        state="waiting",
        since=now,
    )


def _decide_answering(row: UpdateProgress, facts: TaskFacts, now: float) -> Decision:
    """Decide about a candidate that answers."""
    if row.state == "done":
        return row, UpdateAction.NOTHING
    if row.state != "probation":  # it answered before the plan wanted it, or an operator activated it
        reason = ("BY_HAND", CHOSEN_MESSAGE) if row.incumbent != row.candidate else ()
        return _in_state(row, "done", now, *reason), UpdateAction.NOTHING
    if row.reason:  # it has failed, and the rollback was interrupted or failed
        return row, UpdateAction.ROLL_BACK if facts.may_retry else UpdateAction.NOTHING
    if facts.probation_outcome is None:
        return row, UpdateAction.NOTHING
    outcome = facts.probation_outcome
    if outcome.end is StepResult.PASSED:
        return _in_state(row, "done", now, message=outcome.message), UpdateAction.NOTHING
    if not row.incumbent:
        message = f"{outcome.message}; nothing answered before, so there is nothing to go back to"
        return _in_state(row, "done", now, outcome.reason, message), UpdateAction.NOTHING
    return replace(row, reason=outcome.reason, message=outcome.message), UpdateAction.ROLL_BACK


def _count_interruption(row: UpdateProgress, now: float) -> UpdateProgress:
    row = replace(row, interruptions=row.interruptions + 1)
    if row.interruptions < INTERRUPTIONS_MAX:
        return _in_state(row, "staged", now)
    message = f"the daemon ended {row.interruptions} times while it was tested or switched to"
    return _in_state(row, "failed", now, "INTERRUPTED", message)


def _advance(row: UpdateProgress, desired: DesiredState, facts: TaskFacts, now: float) -> Decision:
    """Take the next step towards the candidate, if nothing blocks it."""
    if desired.verdict != "WANTED":
        return _in_state(row, "waiting", now, desired.verdict, VERDICT_MESSAGES[desired.verdict]), UpdateAction.NOTHING
    if not facts.installed and facts.missing:
        explanation = _explain_missing_files(row, facts)
        return _in_state(row, explanation.state, now, explanation.reason, explanation.message), UpdateAction.NOTHING
    if not facts.may_retry or not facts.installed:
        reason = _staged_reason(row, facts)
        return _in_state(row, "staged", now, *reason), UpdateAction.ADMIT if facts.may_retry else UpdateAction.NOTHING
    if not facts.window_open:
        message = "the plan's window for switching opens later"
        return _in_state(row, "staged", now, "WINDOW_CLOSED", message), UpdateAction.NOTHING
    return _in_state(row, "testing", now), UpdateAction.TEST


def _explain_missing_files(row: UpdateProgress, facts: TaskFacts) -> Explanation:
    """Explain why files are missing, and what brings them."""
    details = BlockedUpdate(facts.missing, "", facts.disk, facts.short_bytes, facts.download)
    cause, phase = BlockingCause.FILES_MISSING, UpdatePhase.FETCHING
    if facts.importing:
        phase = UpdatePhase.IMPORTING
        cause = BlockingCause.DRIVE_UNREADABLE if facts.drive_failed else cause
    elif row.state == "staged" and not row.reason:
        cause = BlockingCause.INTERRUPTED
    elif row.reason in LASTING_CAUSES and facts.download is not None:
        cause, details = LASTING_CAUSES[row.reason], replace(details, reason=row.reason, detail=row.message)
    explanation = explain(cause, phase, details)
    assert explanation is not None, "missing files always block an update"
    return explanation


def _staged_reason(row: UpdateProgress, facts: TaskFacts) -> tuple[str, str]:
    """Return reason and message of a bundle that will be copied into the store, or waits for its next try."""
    if row.state != "staged":
        return "", ""
    if row.reason == "DISK_FULL" and facts.short_bytes is not None:
        details = BlockedUpdate(row.message, disk=facts.disk, short_bytes=facts.short_bytes)
        explanation = explain(BlockingCause.DISK_FULL, UpdatePhase.ADMITTING, details)
        return (explanation.reason, explanation.message) if explanation else ("", "")
    return row.reason, row.message


def _after_failed_step(row: UpdateProgress, outcome: StepOutcome, now: float) -> UpdateProgress:
    if outcome.end is StepResult.FAILED:
        return _in_state(row, "failed", now, outcome.reason, outcome.message)
    phase = UpdatePhase.SWITCHING if row.state == "switching" else UpdatePhase.TESTING
    return _after_blocked_step(row, outcome, now, phase, BlockedUpdate(outcome.message, outcome.reason))


def _after_blocked_step(
    row: UpdateProgress, outcome: StepOutcome, now: float, phase: UpdatePhase, details: BlockedUpdate
) -> UpdateProgress:
    """Return the row after this machine or the drive blocked a step, which counts as a try."""
    cause = LASTING_CAUSES.get(outcome.reason)
    explanation = (explain(cause, phase, details) if cause else None) or Explanation(
        "staged", outcome.reason, outcome.message
    )
    return replace(
        _in_state(row, explanation.state, now, explanation.reason, explanation.message), attempts=row.attempts + 1
    )


def _lift_removal(row: UpdateProgress, facts: TaskFacts, now: float) -> UpdateProgress:
    """Lift the removal of a task whose files a person brings again."""
    if not facts.importing or not facts.is_complete or facts.active:
        return row
    return allow(row if facts.unreadable else with_choice(row, "", now), "", now)


def _hold(row: UpdateProgress, facts: TaskFacts, now: float) -> UpdateProgress:
    """Return the row of a task for which an operator has chosen another bundle than the plan's."""
    if facts.unreadable:  # no operator's choice: it answers again with an agent that can read it
        return row
    if facts.importing and facts.missing and not facts.active:  # the drive should restore it, but lacks files
        explanation = _explain_missing_files(row, facts)
        return _in_state(
            row, "held", now, explanation.reason, f"{explanation.message}. Until then the task stays removed"
        )
    return _hold_for_choice(row, facts.active, now)


def _hold_for_choice(row: UpdateProgress, active: str, now: float) -> UpdateProgress:
    reason, message = ("BY_HAND", HELD_MESSAGE) if active else ("REMOVED", REMOVED_MESSAGE)
    return _in_state(row, "held", now, reason, message.format(task=row.task))


def _in_state(
    row: UpdateProgress, state: UpdateState, now: float, reason: str = "", message: str = ""
) -> UpdateProgress:
    """Return the row in a state; `since` stays if it is in that state already."""
    since = row.since if row.state == state else now
    return replace(row, state=state, since=since, reason=reason, message=message)
