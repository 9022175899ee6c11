"""`edge-agent watch`: one live screen of a daemon, or a stream of JSON; `status --follow` and `--watch` are the same.

The daemon gets one GetStatus per look, never two at a time, and no look before the interval has passed since the last
one began. A look that fails or hangs is shown and repeated: a daemon that restarts is seen again when it is back.
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
from typing import Annotated

import typer
from rich.console import ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment

from edge_agent.cli.daemon_target import DaemonTarget, target_of
from edge_agent.cli.output import AsJson, off_terminal_width, out, print_json, print_trimmed
from edge_agent.cli.terminal import Terminal
from edge_agent.cli.watch_history import WatchHistory, WatchSnapshot
from edge_agent.cli.watch_json import watch_document
from edge_agent.cli.watch_screen import ASCII, WatchDisplay, draw_screen, glyphs_for
from edge_agent.client import AdminClient, CallFailed

STATUS_SECONDS_MAX = 2.0
INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX = 0.5, 3600.0
_QUIT_KEYS = (b"q", b"Q", b"\x03", b"\x04")
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TERMINATED = 128

Interval = Annotated[
    float,
    typer.Option(
        "--interval",
        metavar="SECONDS",
        min=INTERVAL_SECONDS_MIN,
        max=INTERVAL_SECONDS_MAX,
        help="Time between two looks at the daemon; each is one call.",
    ),
]
Count = Annotated[int, typer.Option("--count", metavar="N", min=0, help="End after so many looks; 0 = go on.")]


def run(ctx: typer.Context, as_json: AsJson = False, interval: Interval = 1.0, count: Count = 0) -> None:
    """Watch tasks, engines, calls, transfers and refusals on one live screen, until q or Ctrl-C.

    It shows no inputs and no answers. Without a terminal it prints one screen and ends; --count asks for more. With
    --json it prints one object per look on a line of its own.

    Example: [bold]edge-agent watch --json --count 2 | jq .answers_per_second[/bold]
    """
    watch(target_of(ctx), WatchPlan(interval, count, as_json))


@dataclass(frozen=True)
class WatchPlan:
    """How often to look, and in which form to show it."""

    interval_seconds: float = 1.0
    count: int = 0
    """Looks; 0 = until somebody ends it, or without a terminal a single one."""
    as_json: bool = False


def watch(site: DaemonTarget, plan: WatchPlan) -> None:
    """Look at a daemon again and again: frames over one another on a terminal, one below the other elsewhere.

    Raises:
        typer.Exit: a signal other than Ctrl-C ended it.
    """
    glyphs = glyphs_for(os.environ)
    console = _AsciiTerminal(width=off_terminal_width()) if glyphs is ASCII else out()
    if not (plan.count or plan.as_json or console.is_terminal):
        plan = replace(plan, count=1)  # in a file or a pipe nobody ends it
    with Interruptions() as interruptions, site.admin() as admin:
        watched = _DaemonWatch(admin, plan, interruptions)
        if plan.as_json:
            _watch_as_json(watched)
        else:
            display = WatchDisplay(console, glyphs, plan.interval_seconds, interruptions.has_keys)
            (_watch_on_screen if console.is_terminal else _watch_in_lines)(watched, display)
    if interruptions.signal not in (0, signal.SIGINT):
        raise typer.Exit(_TERMINATED + interruptions.signal)


class _AsciiTerminal(Terminal):
    """A terminal whose locale has no other characters: what comes from elsewhere is written with question marks."""

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
        """Yield looks until somebody ends it; after a change of the terminal's size the last one again."""
        made, due = 0, time.monotonic()
        while True:
            if time.monotonic() >= due:
                # Not from the planned time: after a long look or a suspended machine there is nothing to catch up.
                due = time.monotonic() + self._plan.interval_seconds
                self._look()
                made += 1
                yield self._history.snapshot(time.monotonic())
            if made == self._plan.count or self._interruptions.wait(due - time.monotonic()):
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


def _watch_as_json(watched: _DaemonWatch) -> None:
    for look in watched.looks():
        print_json(watch_document(look, datetime.now(UTC)))
        sys.stdout.flush()


def _watch_in_lines(watched: _DaemonWatch, display: WatchDisplay) -> None:
    for look in watched.looks():
        print_trimmed(display.console, draw_screen(look, datetime.now(UTC), display, None))
        display.console.file.write("\n")
        display.console.file.flush()


def _watch_on_screen(watched: _DaemonWatch, display: WatchDisplay) -> None:
    with ExitStack() as stack:
        live: Live | None = None
        for look in watched.looks():
            frame = draw_screen(look, datetime.now(UTC), display, display.console.height)
            if live is None:
                live = Live(frame, console=display.console, screen=True, auto_refresh=False, vertical_overflow="crop")
                stack.enter_context(live)  # which draws it
            else:
                live.update(frame, refresh=True)


class Interruptions:
    """Keys and signals that end a watch, and changes of the terminal's size.

    A signal does not raise: it would tear a call or a frame, and gRPC's clean-up would wait for it. It wakes `wait`
    through a pipe instead. The terminal gives each key at once, and is left as it was found.
    """

    def __init__(self) -> None:
        """Note nothing yet."""
        self.signal = 0
        """The one that ended it; 0 = none did."""
        self._resized = False
        self._stack = ExitStack()
        self._keys: int | None = None
        self._woken = -1

    def __enter__(self) -> Interruptions:
        """Take over the signals, and the keys if there is a keyboard."""
        self._woken, waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stack.callback(os.close, self._woken)
        self._stack.callback(os.close, waking)
        self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(waking, warn_on_full_buffer=False))
        for number in (*_ENDING_SIGNALS, signal.SIGWINCH):
            self._stack.callback(signal.signal, number, signal.signal(number, self._note))
        if sys.stdin.isatty():
            self._keys = sys.stdin.fileno()
            with contextlib.suppress(termios.error):
                self._stack.callback(termios.tcsetattr, self._keys, termios.TCSADRAIN, termios.tcgetattr(self._keys))
                tty.setcbreak(self._keys)
        return self

    def __exit__(self, *raised: object) -> None:
        """Give them back."""
        self._stack.close()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until something happens; tell whether to end."""
        keys = [] if self._keys is None else [self._keys]
        ready, _, _ = select.select([self._woken, *keys], [], [], max(0.0, seconds))
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._keys is not None and self._keys in ready:
            typed = os.read(self._keys, 64)
            if not typed:  # the keyboard is gone
                self._keys = None
            if any(key in typed for key in _QUIT_KEYS):
                return True
        return self.signal != 0

    @property
    def has_keys(self) -> bool:
        """Tell whether there is a keyboard."""
        return self._keys is not None

    def take_resized(self) -> bool:
        """Tell whether the terminal has another size than before."""
        resized, self._resized = self._resized, False
        return resized

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGWINCH:
            self._resized = True
        else:
            self.signal = self.signal or number
