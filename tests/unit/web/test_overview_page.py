"""The overview page: banner, task rows, hidden sections, and the format of times and names."""

from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.client import BundleRef, CallFailed, Durations, Status, Task, TaskCounts
from edge_agent.web import overview_page, rendering, request_guard
from edge_agent.web.daemon_access import DaemonSnapshot
from edge_agent.web.overview_page import list_hidden_sections, summarize_health

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
REF = BundleRef("pos", "1.0.0", "ab" * 32)
CERTIFICATES = {"certificate_file": "a.crt", "key_file": "a.key", "client_ca_file": "ca.crt"}


def task(name: str = "pos", *, ready: bool = True) -> Task:
    return Task(name, "CLASSIFY", REF, ("refund", "price"), 10, 0, 8, ready, True, None)


def failed(message: str = "no daemon answers at unix:x") -> CallFailed:
    return CallFailed("UNAVAILABLE", "UNREACHABLE", message, remedy="Start it.", metadata={})


@pytest.mark.parametrize(
    ("seen", "tasks", "tone", "headline"),
    [
        (DaemonSnapshot(problems={"admin": failed()}), None, "bad", "The daemon does not answer"),
        (DaemonSnapshot(), None, "warn", "The daemon's state is unknown"),
        (DaemonSnapshot(answers=True), [task()], "warn", "The daemon takes no new work"),
        (DaemonSnapshot(answers=True, serving=True), [task(), task("b", ready=False)], "bad", "1 task not ready"),
        (DaemonSnapshot(answers=True, serving=True), [], "warn", "No tasks yet"),
        (DaemonSnapshot(answers=True, serving=True), None, "good", "The daemon answers"),
        (DaemonSnapshot(answers=True, serving=True), [task()], "good", "Healthy"),
    ],
)
def test_banner_shows_the_worst_problem(seen, tasks, tone, headline):
    """What is wrong is said first, the worst of it."""
    said = summarize_health(seen, tasks, None)
    assert (tone, headline) == (said.tone, said.headline)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (None, "'edge-agent status' on the machine"),
        (Status("0.1.0", NOW, True, 100, (), (), (), 0, 0), "This machine is not enrolled: 'edge-agent enrol FILE'"),
    ],
)
def test_without_a_task_the_banner_names_the_first_step(status, says):
    """The banner of a machine that is not enrolled suggests enrolment; a visitor without the status is sent to the
    machine."""
    seen = summarize_health(DaemonSnapshot(answers=True, serving=True), [], status)
    assert says == seen.sentence[: len(says)]


def test_banner_of_a_silent_daemon_has_its_remedy():
    """The banner has the problem and the remedy, and says that the console retries and the figures are old."""
    said = summarize_health(DaemonSnapshot(problems={"infer": failed()}), [task()], None)
    assert said.sentence == (
        "No daemon answers at unix:x. The console retries every few seconds. The figures below are older."
    )
    assert "Start it." == said.remedy


def test_hidden_sections_have_a_reason():
    """A section is hidden for a missing role of the visitor, an unused role of the console, or a refusal of the daemon,
    with a text each."""
    anyone, reviewer = (
        request_guard.token_principal(),
        request_guard.Principal("anna", frozenset({"feedback"}), "certificate", "f"),
    )
    every = frozenset({"infer", "feedback", "admin"})
    whole = DaemonSnapshot(answers=True, serving=True)
    assert [] == list_hidden_sections(whole, anyone, every)
    assert ["this console does not use the role admin"] == [
        each.why for each in list_hidden_sections(whole, anyone, every - {"admin"})
    ]
    assert ["your certificate lacks the role admin", "your certificate lacks the role infer"] == [
        each.why for each in list_hidden_sections(whole, reviewer, every)
    ]
    refused = DaemonSnapshot(answers=True, problems={"admin": failed("this user may not use admin.sock")})
    assert ["this user may not use admin.sock"] == [each.why for each in list_hidden_sections(refused, anyone, every)]
    assert [] == list_hidden_sections(DaemonSnapshot(problems={"admin": failed()}), anyone, every)  # the banner says it


def test_row_has_the_counts_of_its_task():
    """A task's row has the daemon's counts since its start, or a dash without any."""
    times = Durations((0.01, 0.1), (10, 0, 0), 0.05)
    counts = TaskCounts("pos", {"local": 8, "abstained": 2}, {"QUEUE_FULL": 1}, 8, 2, 0, times, times)
    status = Status("0.1.0", NOW, True, 100, (task(),), (), (), 0, 0, counts=(counts,))
    assert {"answers": 10, "errors": 1, "memory": 100, "kept": 0} == overview_page.daemon_totals(status)
    [row] = overview_page.task_rows([task()], status)
    assert (10, "25%", "5.0 ms") == (row.answers, row.below_threshold, row.median_time)
    assert [(0, "-", "-")] == [
        (each.answers, each.below_threshold, each.median_time) for each in overview_page.task_rows([task()], None)
    ]


@pytest.mark.parametrize(
    ("ago", "expected"),
    [(-5, "0 s"), (3, "3 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_duration_since_a_time(ago, expected):
    """A duration is shown in the largest unit with at least two of it; a clock that went back shows 0."""
    assert expected == rendering.duration_since(NOW - timedelta(seconds=ago), NOW)


def test_enum_names_become_words():
    """They are in lower case, without underscores."""
    assert "rolled back" == rendering.enum_words("ROLLED_BACK")
