"""`edge-agent status --watch`: polls the daemon each second, computes rates, and draws a frame of 80 columns."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_agent.cli.daemon_target import DaemonTarget
from edge_agent.cli.output import (
    ENGINE_STYLES,
    LINK_STYLES,
    UPDATE_STYLES,
    duration,
    large_model_state,
    print_trimmed,
    table,
)
from edge_agent.cli.terminal import EscapedTable
from edge_agent.client import (
    AdminClient,
    CallFailed,
    Durations,
    Engine,
    ExamplesStatus,
    FieldAlarm,
    LargeModel,
    Status,
    TaskCounts,
    UplinkStatus,
)
from edge_agent.formatting import format_bytes
from edge_agent.report.daemon_figures import histogram_quantile

INTERVAL_SECONDS = 1.0
STATUS_SECONDS_MAX = 2.0
WINDOW_SECONDS = 10.0
"""Rates are over the last so many seconds: of one second they would jump."""
_NO_DURATIONS = Durations((), (), 0.0)
BAR_CELLS = 8
_PARTS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Snapshot:
    """What is known at one moment."""

    status: Status | None
    """As it was last; None = the daemon was never reached."""
    rates: dict[str, TaskRates]
    seconds: float
    """Of the window that the rates are over."""
    problem: str = ""
    """Why the daemon does not answer; empty = it does."""


def watch(site: DaemonTarget, console: Console) -> None:
    """Show a frame a second: over one another on a terminal, one below the other elsewhere."""
    # Ctrl-C is held back and looked for between frames: it would tear a call, and the terminal is to be left as it was
    # found. Not a handler that sets an event: it would wait for ever for the lock of the wait that it interrupts.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with site.admin() as admin:
            watched = _DaemonPoller(admin)
            if console.is_terminal:
                _watch_on_screen(watched, console)
            else:
                _watch_in_lines(watched, console)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupted_while_waiting() -> bool:
    """Wait until the next look; tell whether Ctrl-C was pressed."""
    return signal.sigtimedwait({signal.SIGINT}, INTERVAL_SECONDS) is not None


class _DaemonPoller:
    """One daemon, look by look."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin, self._window = admin, RateWindow()
        self._status: Status | None = None

    def look(self) -> Snapshot:
        """Ask the daemon."""
        problem = ""
        try:
            self._status = self._admin.status(timeout_seconds=STATUS_SECONDS_MAX)
            self._window.add(self._status, time.monotonic())
        except CallFailed as error:
            problem = error.message
        return Snapshot(self._status, self._window.rates(), self._window.seconds, problem)


def _watch_on_screen(watched: _DaemonPoller, console: Console) -> None:
    first = draw_frame(watched.look(), datetime.now(UTC))
    with Live(first, console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while not _interrupted_while_waiting():
            live.update(draw_frame(watched.look(), datetime.now(UTC)), refresh=True)


def _watch_in_lines(watched: _DaemonPoller, console: Console) -> None:
    while True:
        print_trimmed(console, draw_frame(watched.look(), datetime.now(UTC)))
        console.file.write("\n")
        console.file.flush()
        if _interrupted_while_waiting():
            return


@dataclass(frozen=True)
class TaskRates:
    """What came of one task's inputs in a window."""

    answers: float = 0.0
    """This and the next, per second."""
    errors: float = 0.0
    below: float | None = None
    """Share of the graded answers below the threshold, 0 to 1; None = there was none."""
    abstained: float | None = None
    """Share of the answers withheld."""
    queue_p95: float | None = None
    """This and the next in seconds; None = there was no answer."""
    total_p50: float | None = None
    total_p95: float | None = None


class RateWindow:
    """The latest looks at one daemon; a daemon that was started again begins a new window."""

    def __init__(self) -> None:
        """Start with none."""
        self._looks: deque[tuple[float, Status]] = deque()

    def add(self, status: Status, now: float) -> None:
        """Note a look, at that many seconds by whatever clock."""
        if self._looks and self._looks[-1][1].start_time != status.start_time:
            self._looks.clear()
        self._looks.append((now, status))
        while len(self._looks) > 2 and self._looks[1][0] <= now - WINDOW_SECONDS:
            self._looks.popleft()

    @property
    def seconds(self) -> float:
        """How long the window is."""
        return self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0

    def rates(self) -> dict[str, TaskRates]:
        """Return the rates by task; none before there are two looks."""
        if not self.seconds:
            return {}
        first = {counts.task: counts for counts in self._looks[0][1].counts}
        return {
            counts.task: rates_of(first.get(counts.task), counts, self.seconds) for counts in self._looks[-1][1].counts
        }


def rates_of(before: TaskCounts | None, after: TaskCounts, seconds: float) -> TaskRates:
    """Return what happened in so many seconds; `before` None = nothing had been counted."""
    first = before or TaskCounts(after.task, {}, {}, 0, 0, 0, _NO_DURATIONS, _NO_DURATIONS)
    answers = sum(after.answers.values()) - sum(first.answers.values())
    abstained = after.answers.get("abstained", 0) - first.answers.get("abstained", 0)
    graded = after.graded - first.graded
    return TaskRates(
        answers=answers / seconds,
        errors=(sum(after.errors.values()) - sum(first.errors.values())) / seconds,
        below=(after.below_threshold - first.below_threshold) / graded if graded else None,
        abstained=abstained / answers if answers else None,
        queue_p95=histogram_quantile(0.95, first.queue, after.queue),
        total_p50=histogram_quantile(0.5, first.total, after.total),
        total_p95=histogram_quantile(0.95, first.total, after.total),
    )


def draw_frame(look: Snapshot, now: datetime) -> RenderableType:
    """Draw it."""
    return Group(*_frame_parts(look, now))


def _frame_parts(look: Snapshot, now: datetime) -> Iterator[RenderableType]:
    status = look.status
    if look.problem:
        yield Text.assemble(("no answer  ", "bold red"), look.problem)
        yield Text("It is tried again every second; what stands below is from before." if status else "", "dim")
    if status is None:
        return
    yield _headline(status, now)
    yield Text()
    yield _task_table(status, look)
    yield Text()
    yield _engine_table(status)
    yield Text()
    notes = EscapedTable.grid(padding=(0, 2, 0, 0))
    for label, said in _notes(status, now):
        notes.add_row(label, said)
    yield notes


def _notes(status: Status, now: datetime) -> Iterator[tuple[Text, Text]]:
    """Yield what stands below the tables: what it is about, and a sentence."""
    for alarm in status.alarms:
        yield Text("alarm", "bold red"), _alarm_line(alarm, now)
    if status.large_model:
        yield Text("large model", "bold"), _large_model_line(status.large_model)
    if status.examples:
        yield Text("examples", "bold"), _examples_line(status.examples)
    if status.uplink:
        yield Text("uplink", "bold"), _uplink_line(status.uplink, now)
    yield from _update_lines(status)
    for warning in status.warnings:
        yield Text("warning", "yellow"), Text(warning)


def _headline(status: Status, now: datetime) -> Text:
    state = ("serving", "green") if status.serving else ("draining", "yellow")
    up = duration((now - status.start_time).total_seconds())
    return Text.assemble(
        ("edge-agent ", "bold"),
        f"{status.agent_version} ",
        state,
        f", up {up}; memory {format_bytes(status.resident_bytes)}; disk {format_bytes(status.disk_free_bytes)} free"
        f"  {now.astimezone():%H:%M:%S}",
    )


def _task_table(status: Status, look: Snapshot) -> Table:
    right = ("calls/s", "p50", "p95", "queued", "unsure", "errors/s")
    made = table("task", "version", "ready", *right, right=right, wrap=("task",))
    unseen = TaskRates()
    for task in status.tasks:
        rates = look.rates.get(task.name, unseen)
        made.add_row(
            task.name,
            task.bundle.version,
            Text("yes", "green") if task.ready else Text("no", "bold red"),
            _format_rate(rates.answers) if look.seconds else "-",
            *map(_format_latency, (rates.total_p50, rates.total_p95, rates.queue_p95)),
            "-" if rates.below is None else f"{rates.below:.0%}",
            Text(_format_rate(rates.errors), "bold red" if rates.errors else "") if look.seconds else "-",
        )
    unknown = look.rates.get("")
    if unknown and unknown.errors:
        made.add_row(Text("not installed", "dim"), *[""] * 7, Text(_format_rate(unknown.errors), "bold red"))
    made.caption = f"of the last {look.seconds:.0f} s" if look.seconds else "rates come with the next look"
    made.caption_justify, made.caption_style = "left", "dim"
    return made


def _engine_table(status: Status) -> Table:
    right = ("waiting", "restarts", "memory", "tasks")
    made = table("engine", "state", "device", "busy", *right, right=right, wrap=("state",))
    for engine in status.engines:
        made.add_row(
            engine.name,
            Text(engine.state.lower().replace("_", " "), ENGINE_STYLES.get(engine.state, "")),
            Text(engine.device or "-", "yellow" if engine.shortfall else ""),
            _busy_bar(engine),
            str(max(0, engine.pending - engine.running)),
            Text(str(engine.restarts), "yellow" if engine.restarts else ""),
            format_bytes(engine.resident_bytes),
            str(len(engine.tasks)),
        )
    return made


def _busy_bar(engine: Engine) -> Text:
    """Draw how many of its places are taken."""
    if not engine.running_max:
        return Text("-")
    share = min(1.0, engine.running / engine.running_max)
    eighths = round(share * BAR_CELLS * 8)
    drawn = "█" * (eighths // 8) + (_PARTS[eighths % 8] if eighths % 8 else "")
    colour = "red" if share >= 1 else "cyan"
    return Text.assemble((drawn.ljust(BAR_CELLS), f"{colour} on grey23"), f" {engine.running}/{engine.running_max}")


def _examples_line(examples: ExamplesStatus) -> Text:
    kept = sum(number for name, number in examples.retained.items() if name != "feedback")
    said = Text(
        f"{kept} kept, {format_bytes(examples.spool_bytes)}; {examples.retained.get('feedback', 0)} with feedback; "
    )
    said.append(f"{examples.outbox_segments} sealed without a receipt, {format_bytes(examples.outbox_bytes)}")
    lost = sum(number for name, number in examples.counters.items() if name.startswith(("dropped_", "sacrificed_")))
    return said.append(f"; {lost} given up", "yellow") if lost else said


def _alarm_line(alarm: FieldAlarm, now: datetime) -> Text:
    said = f", {alarm.alarm} for {duration((now - alarm.since).total_seconds())}: {alarm.message}"
    return Text.assemble((alarm.task, "bold"), said, ("; in shadow because of it", "yellow") if alarm.demoted else "")


def _large_model_line(large: LargeModel) -> Text:
    said = large_model_state(large)
    return said.append(f"; {large.problem}", "red") if large.problem else said


def _uplink_line(uplink: UplinkStatus, now: datetime) -> Text:
    said = Text(uplink.state.lower(), LINK_STYLES.get(uplink.state, ""))
    if uplink.last_contact:
        said.append(f", last contact {duration((now - uplink.last_contact).total_seconds())} ago")
    said.append(f"; {uplink.waiting_segments} to go up")
    if uplink.downloads and uplink.downloads.waiting_blobs:
        said.append(f"; {uplink.downloads.waiting_blobs} files to come down")
    return said.append(f"; {uplink.problems[0].message}", "red") if uplink.problems else said


def _update_lines(status: Status) -> Iterator[tuple[Text, Text]]:
    if status.updates is None:
        return
    for task in status.updates.tasks:
        if task.candidate and task.state != "DONE":
            state = (task.state.lower().replace("_", " "), UPDATE_STYLES.get(task.state, ""))
            why = task.message or task.reason
            said = Text.assemble(f"{task.task} to {task.candidate.version}: ", state, f", {why}" if why else "")
            yield Text("update", "bold"), said
    if status.updates.problem:
        yield Text("updates", "yellow"), Text(status.updates.problem)


def _format_rate(rate: float) -> str:
    return "0" if not rate else f"{rate:.2f}" if rate < 1 else f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


def _format_latency(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    milliseconds = 1000 * seconds
    if milliseconds >= 1000:
        return f"{seconds:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
