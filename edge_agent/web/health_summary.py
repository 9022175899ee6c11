"""The daemon's health in one sentence, the figures of each task, and why sections are hidden. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_agent.client import Status, Task, TaskCounts
from edge_agent.config import Role
from edge_agent.errors.base import first_task_remedy
from edge_agent.report.daemon_figures import NO_DURATIONS, histogram_quantile
from edge_agent.report.number_format import UNKNOWN, counted, milliseconds, percent
from edge_agent.web.authentication import Principal
from edge_agent.web.daemon_access import DaemonSnapshot

_ASK_STATUS = "'edge-agent status' on the machine says how the first one comes to it."
Tone = Literal["good", "warn", "bad"]
SECTIONS: dict[Role, str] = {
    "admin": "Health of engines, updates, alarms and charts",
    "feedback": "The review queue",
    "infer": "Tasks, and the gateway under /v1",
}
"""What a page shows with each role."""


@dataclass(frozen=True)
class HealthSummary:
    """The banner of the first page."""

    tone: Tone
    headline: str
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class HiddenSection:
    """A section that this principal does not see."""

    what: str
    why: str
    remedy: str


def summarize_health(snapshot: DaemonSnapshot, tasks: Sequence[Task] | None, status: Status | None) -> HealthSummary:
    """Judge the daemon from what the principal may see of it."""
    if not snapshot.answers:
        return _unanswered(snapshot, known=bool(tasks or status))
    if not snapshot.serving:
        return HealthSummary(
            "warn",
            "The daemon takes no new work",
            "It finishes running calls. It is stopping, or an operator drained it.",
        )
    unready = [task.name for task in tasks or () if not task.ready]
    alarms = len(status.alarms) if status else 0
    if unready:
        return HealthSummary(
            "bad", f"{counted(len(unready), 'task')} not ready", f"No answers from {', '.join(unready)}."
        )
    if alarms:
        return HealthSummary(
            "warn", f"{counted(alarms, 'alarm')} of production monitoring", "What to do is shown below."
        )
    if tasks is None:
        return HealthSummary("good", "The daemon answers", "Other roles see more.")
    if not tasks:
        return HealthSummary("warn", "No tasks yet", _first_steps(status))
    return HealthSummary("good", "Healthy", f"{counted(len(tasks), 'task')}, all ready.")


def _first_steps(status: Status | None) -> str:
    return first_task_remedy(status.site) if status else _ASK_STATUS


def _unanswered(snapshot: DaemonSnapshot, *, known: bool) -> HealthSummary:
    problem = next(iter(snapshot.problems.values()), None)
    before = " The figures below are older." if known else ""
    if problem is None:
        return HealthSummary(
            "warn", "The daemon's state is unknown", f"This console uses the role feedback only.{before}"
        )
    sentence = f"{problem.message[:1].upper()}{problem.message[1:]}. The console retries every few seconds.{before}"
    return HealthSummary("bad", "The daemon does not answer", sentence, problem.remedy)


def list_hidden_sections(snapshot: DaemonSnapshot, principal: Principal, used: frozenset[Role]) -> list[HiddenSection]:
    """List hidden sections and why: a missing role of the principal or of the console, or a failed call."""
    found = []
    for role, what in SECTIONS.items():
        if not principal.has_role(role):
            why = f"your certificate lacks the role {role}"
            found.append(
                HiddenSection(what, why, f"'sudo edge-agent certs issue NAME --role {role}' makes one that has it.")
            )
        elif role not in used:
            why = f"this console does not use the role {role}"
            found.append(HiddenSection(what, why, "'roles' under 'web' in agent.yaml lists the roles that it uses."))
        elif snapshot.answers and role in snapshot.problems:
            found.append(HiddenSection(what, snapshot.problems[role].message, snapshot.problems[role].remedy))
    return found


@dataclass(frozen=True)
class TaskRow:
    """A task, with its figures since the daemon started."""

    task: Task
    answers: int = 0
    below_threshold: str = UNKNOWN
    """Share of answers below the threshold, of those with a confidence."""
    median_time: str = UNKNOWN
    """Median time of an answer."""

    @property
    def threshold(self) -> str:
        """The threshold; of a decide task how many of its questions have one."""
        if self.task.kind == "DECIDE":
            proved = sum(each.threshold is not None for each in self.task.questions)
            return f"{proved} of {len(self.task.questions)} questions"
        return UNKNOWN if self.task.threshold is None else f"{self.task.threshold:.2f}"


def task_rows(tasks: Sequence[Task], status: Status | None) -> list[TaskRow]:
    """Return a row for each task."""
    counts = {each.task: each for each in status.counts} if status else {}
    return [_row(task, counts.get(task.name)) for task in tasks]


def _row(task: Task, counts: TaskCounts | None) -> TaskRow:
    if counts is None:
        return TaskRow(task)
    median = histogram_quantile(0.5, NO_DURATIONS, counts.total)
    return TaskRow(
        task=task,
        answers=sum(counts.answers.values()),
        below_threshold=percent(counts.below_threshold / counts.graded if counts.graded else None),
        median_time=UNKNOWN if median is None else milliseconds(1000 * median),
    )


def daemon_totals(status: Status) -> dict[str, int]:
    """Return sums over all tasks: answers, errors, bytes of memory, captured examples."""
    retained = status.examples.retained if status.examples else {}
    return {
        "answers": sum(sum(each.answers.values()) for each in status.counts),
        "errors": sum(sum(each.errors.values()) for each in status.counts),
        "memory": status.resident_bytes + sum(engine.resident_bytes for engine in status.engines),
        "kept": sum(number for name, number in retained.items() if name != "feedback"),
    }
