"""`edge-agent status --watch`: looks once a second, until Ctrl-C; a daemon that goes away is waited for."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live

from edge_agent.cli.frame import Look, frame
from edge_agent.cli.output import print_trimmed
from edge_agent.cli.rates import Window
from edge_agent.cli.site import Site
from edge_agent.client import AdminClient, CallFailed, Status

INTERVAL_SECONDS = 1.0
LOOK_SECONDS_MAX = 2.0


def watch(site: Site, console: Console) -> None:
    """Show a frame a second: over one another on a terminal, one below the other elsewhere."""
    # Ctrl-C is held back and looked for between frames: it would tear a call, and the terminal is to be left as it was
    # found. Not a handler that sets an event: it would wait for ever for the lock of the wait that it interrupts.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with site.admin() as admin:
            watched = _Watched(admin)
            if console.is_terminal:
                _live(watched, console)
            else:
                _printed(watched, console)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ended() -> bool:
    """Wait until the next look; tell whether Ctrl-C was pressed."""
    return signal.sigtimedwait({signal.SIGINT}, INTERVAL_SECONDS) is not None


class _Watched:
    """One daemon, look by look."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin, self._window = admin, Window()
        self._status: Status | None = None

    def look(self) -> Look:
        """Ask the daemon."""
        problem = ""
        try:
            self._status = self._admin.status(timeout_seconds=LOOK_SECONDS_MAX)
            self._window.add(self._status, time.monotonic())
        except CallFailed as error:
            problem = error.message
        return Look(self._status, self._window.rates(), self._window.seconds, problem)


def _live(watched: _Watched, console: Console) -> None:
    first = frame(watched.look(), datetime.now(UTC))
    with Live(first, console=console, screen=True, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while not _ended():
            live.update(frame(watched.look(), datetime.now(UTC)), refresh=True)


def _printed(watched: _Watched, console: Console) -> None:
    while True:
        print_trimmed(console, frame(watched.look(), datetime.now(UTC)))
        console.file.write("\n")
        console.file.flush()
        if _ended():
            return
