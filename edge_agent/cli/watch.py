"""`edge-agent watch`: one live screen of a daemon, or a stream of JSON; `status --follow` and `--watch` are the same.

docs/watch.md lists the fields. Shares are 0 to 1, times are seconds, None = not known. Fields are added, and no field
changes its meaning, within one version.

The daemon gets one GetStatus call per look, never two at a time, and looks start at least one interval apart. A look
that fails or hangs is shown and repeated, so a restarted daemon appears again.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment

from edge_agent.cli.daemon_target import DaemonTarget, target_of
from edge_agent.cli.output import AsJson, off_terminal_width, out, print_json, print_trimmed
from edge_agent.cli.terminal import Terminal
from edge_agent.cli.watch_history import TOTAL, TaskRates, WatchHistory, WatchSnapshot
from edge_agent.cli.watch_screen import ASCII, WatchDisplay, draw_screen, glyphs_for
from edge_agent.client import AdminClient, CallFailed, UpdatesStatus, UplinkStatus

SCHEMA = "edge-agent/watch/v1"


def watch_document(look: WatchSnapshot, now: datetime) -> dict[str, Any]:
    """Return a look for JSON."""
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
                "task": refusal.task,
                "reason": refusal.reason,
                "count": refusal.count,
                "recent": refusal.recent,
                "seconds_ago": None if refusal.seconds_ago is None else round(refusal.seconds_ago, 3),
            }
            for refusal in look.refusals
        ],
        "alarms": [
            {"task": alarm.task, "alarm": alarm.alarm, "since": alarm.since.isoformat(), "demoted": alarm.demoted}
            for alarm in status.alarms
        ],
        "updates": None if status.updates is None else _updates(status.updates, look.transfers.copied),
        "upload": None if status.uplink is None else _upload(status.uplink, look.transfers.uploaded),
        "download": None if status.uplink is None else _download(status.uplink, look.transfers.downloaded),
        "warnings": list(status.warnings),
    }


def _figures(rates: TaskRates | None) -> dict[str, Any]:
    """Return the rates of a task or of all tasks; None before the second look."""
    figures = rates or TaskRates()
    return {
        "answers_per_second": None if rates is None else round(figures.answers, 3),
        "refused_per_second": None if rates is None else round(figures.errors, 3),
        "confident": _round_figure(figures.confident),
        "escalated": _round_figure(figures.escalated),
        "abstained": _round_figure(figures.abstained),
        "queue_p95_seconds": _round_figure(figures.queue_p95),
        "p50_seconds": _round_figure(figures.total_p50),
        "p95_seconds": _round_figure(figures.total_p95),
    }


def _round_figure(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 6)


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


STATUS_SECONDS_MAX = 2.0
_QUIT_KEYS = (b"q", b"Q", b"\x03", b"\x04")
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TERMINATED = 128

Interval = Annotated[
    float,
    typer.Option("--interval", metavar="SECONDS", min=0.5, max=3600.0, help="Time between two calls of the daemon."),
]
Count = Annotated[int, typer.Option("--count", metavar="N", min=0, help="End after N refreshes; 0 = continue.")]


def run(ctx: typer.Context, as_json: AsJson = False, interval: Interval = 1.0, count: Count = 0) -> None:
    """Watch tasks, engines, calls, transfers and refusals on one live screen, until q or Ctrl-C.

    It shows no inputs and no answers. Without a terminal it prints one screen and ends; --count asks for more. With
    --json it prints one object per measurement, each on a line of its own.

    Example: [bold]edge-agent watch --json --count 2 | jq .answers_per_second[/bold]
    """
    watch(target_of(ctx), WatchPlan(interval, count, as_json))


@dataclass(frozen=True)
class WatchPlan:
    """How often to look, and the form of the output."""

    interval_seconds: float = 1.0
    count: int = 0
    """Number of looks; 0 = until interrupted, or one without a terminal."""
    as_json: bool = False


def watch(target: DaemonTarget, plan: WatchPlan) -> None:
    """Watch a daemon: redraw frames on a terminal, print them one below the other elsewhere.

    Raises:
        typer.Exit: a signal other than Ctrl-C ended the watch.
    """
    glyphs = glyphs_for(os.environ)
    console = _AsciiTerminal(width=off_terminal_width()) if glyphs is ASCII else out()
    if not (plan.count or plan.as_json or console.is_terminal):
        plan = replace(plan, count=1)  # output to a file or a pipe would never end
    with Interruptions() as interruptions, target.admin() as admin:
        daemon_watch = _DaemonWatch(admin, plan, interruptions)
        if plan.as_json:
            for look in daemon_watch.looks():
                print_json(watch_document(look, datetime.now(UTC)))
                sys.stdout.flush()
        else:
            display = WatchDisplay(console, glyphs, plan.interval_seconds, interruptions.has_keys)
            (_watch_on_screen if console.is_terminal else _watch_in_lines)(daemon_watch, display)
    if interruptions.signal not in (0, signal.SIGINT):
        raise typer.Exit(_TERMINATED + interruptions.signal)


class _AsciiTerminal(Terminal):
    """A terminal with an ASCII locale: other characters in data become question marks."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text.replace("\N{HORIZONTAL ELLIPSIS}", ".")
            yield segment if segment.control else segment._replace(text=text.encode("ascii", "replace").decode())


class _DaemonWatch:
    """One daemon, look by look."""

    def __init__(self, admin: AdminClient, plan: WatchPlan, interruptions: Interruptions) -> None:
        self._admin, self._plan, self._interruptions = admin, plan, interruptions
        self._history = WatchHistory()

    def looks(self) -> Iterator[WatchSnapshot]:
        """Yield looks until interrupted; after a change of the terminal's size the last one again."""
        count, due = 0, time.monotonic()
        while True:
            if time.monotonic() >= due:
                # Not from the planned time: after a long look or a suspend, no looks are made up for.
                due = time.monotonic() + self._plan.interval_seconds
                self._look()
                count += 1
                yield self._history.snapshot(time.monotonic())
            if count == self._plan.count or self._interruptions.wait(due - time.monotonic()):
                return
            if self._interruptions.take_resized():
                yield self._history.snapshot(time.monotonic())

    def _look(self) -> None:
        """Ask the daemon once."""
        try:
            status = self._admin.status(timeout_seconds=STATUS_SECONDS_MAX)
        except CallFailed as error:
            self._history.fail(error.message, time.monotonic(), error.remedy)
        else:
            self._history.add(status, time.monotonic())


def _watch_in_lines(daemon_watch: _DaemonWatch, display: WatchDisplay) -> None:
    for look in daemon_watch.looks():
        print_trimmed(display.console, draw_screen(look, datetime.now(UTC), display, None))
        display.console.file.write("\n")
        display.console.file.flush()


def _watch_on_screen(daemon_watch: _DaemonWatch, display: WatchDisplay) -> None:
    with ExitStack() as stack:
        live: Live | None = None
        for look in daemon_watch.looks():
            frame = draw_screen(look, datetime.now(UTC), display, display.console.height)
            if live is None:
                live = Live(frame, console=display.console, screen=True, auto_refresh=False, vertical_overflow="crop")
                stack.enter_context(live)  # which draws it
            else:
                live.update(frame, refresh=True)


class Interruptions:
    """Keys and signals that end a watch, and changes of the terminal's size.

    A signal does not raise: that would interrupt a call or a frame, and gRPC's clean-up would wait for it. It wakes
    `wait` through a pipe instead. The terminal passes each key at once, and is restored at the end.
    """

    def __init__(self) -> None:
        """Prepare; the block takes over signals and keys."""
        self.signal = 0
        """The signal that ended the watch; 0 = none."""
        self._resized = False
        self._stack = ExitStack()
        self._keyboard_fd: int | None = None
        self._wake_fd = -1

    def __enter__(self) -> Interruptions:
        """Take over the signals, and the keys if there is a keyboard."""
        self._wake_fd, waking_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stack.callback(os.close, self._wake_fd)
        self._stack.callback(os.close, waking_fd)
        self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(waking_fd, warn_on_full_buffer=False))
        for signal_number in (*_ENDING_SIGNALS, signal.SIGWINCH):
            self._stack.callback(signal.signal, signal_number, signal.signal(signal_number, self._record_signal))
        if sys.stdin.isatty():
            self._keyboard_fd = sys.stdin.fileno()
            with contextlib.suppress(termios.error):
                self._stack.callback(
                    termios.tcsetattr, self._keyboard_fd, termios.TCSADRAIN, termios.tcgetattr(self._keyboard_fd)
                )
                tty.setcbreak(self._keyboard_fd)
        return self

    def __exit__(self, *exception: object) -> None:
        """Restore signals and terminal."""
        self._stack.close()

    def wait(self, seconds: float) -> bool:
        """Wait for `seconds` or until an event; return whether to end."""
        descriptors = [] if self._keyboard_fd is None else [self._keyboard_fd]
        ready, _, _ = select.select([self._wake_fd, *descriptors], [], [], max(0.0, seconds))
        if self._wake_fd in ready:
            os.read(self._wake_fd, 4096)
        if self._keyboard_fd is not None and self._keyboard_fd in ready:
            typed = os.read(self._keyboard_fd, 64)
            if not typed:  # the keyboard is gone
                self._keyboard_fd = None
            if any(key in typed for key in _QUIT_KEYS):
                return True
        return self.signal != 0

    @property
    def has_keys(self) -> bool:
        """Return whether there is a keyboard."""
        return self._keyboard_fd is not None

    def take_resized(self) -> bool:
        """Return whether the size of the terminal has changed since the last call."""
        resized, self._resized = self._resized, False
        return resized

    def _record_signal(self, signal_number: int, _: FrameType | None) -> None:
        if signal_number == signal.SIGWINCH:
            self._resized = True
        else:
            self.signal = self.signal or signal_number
