"""Notifications to systemd: one datagram each to $NOTIFY_SOCKET (sd_notify(3)); none outside systemd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping

PINGS = 4
"""Per WatchdogSec=."""


def is_managed(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether systemd runs this process as a service of Type=notify."""
    return bool(environ.get("NOTIFY_SOCKET"))


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send a state such as "READY=1"; tell whether it was sent."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), address)
        return True
    return False


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """Return the unit's WatchdogSec=; 0 = no watchdog for this process (sd_watchdog_enabled(3))."""
    meant = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    given = environ.get("WATCHDOG_USEC", "")
    return int(given) / 1e6 if meant and given.isdecimal() else 0.0


async def keep_alive(works: Callable[[float], bool], environ: Mapping[str, str] = os.environ) -> None:
    """Ping systemd while `works(pause_seconds)` returns true, until cancelled; return at once without a watchdog."""
    pause = watchdog_seconds(environ) / PINGS
    while pause:
        if works(pause):
            notify("WATCHDOG=1", environ)
        await asyncio.sleep(pause)


def stopping(seconds: float, environ: Mapping[str, str] = os.environ) -> None:
    """Announce the stop, and that it may take `seconds`."""
    notify("STOPPING=1", environ)
    notify(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}", environ)
