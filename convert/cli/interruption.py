"""Handles Ctrl-C even while a library computes.

Python raises KeyboardInterrupt between two of its own steps, and one step of training, quantizing or exporting can take
half a minute. So a thread listens as well: it reports the first Ctrl-C, and the second one ends the process at once.
That is safe: an unfinished stage leaves only temporary files, which the next run removes.

A library that checks for signals during its work can raise an error of its own instead of KeyboardInterrupt (DuckDB:
RuntimeError, "Query interrupted"): `is_asked` tells the two apart.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_STDERR = 2
_STOPS = (signal.SIGINT, signal.SIGTERM)
_asked = threading.Event()


def listen() -> None:
    """Listen for SIGINT and SIGTERM from now on. Call once, from the main thread."""
    for stop in _STOPS:
        if signal.getsignal(stop) != signal.SIG_IGN:  # a shell has its background jobs ignore Ctrl-C
            signal.signal(stop, _interrupt)
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(ours, pythons), daemon=True).start()


def is_asked() -> bool:
    """Tell whether a signal has asked this process to stop."""
    return _asked.is_set()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    _asked.set()
    raise KeyboardInterrupt


def _watch(ours: socket.socket, pythons: socket.socket) -> None:
    _wait(ours)
    os.write(_STDERR, b"\nstopping after this step; Ctrl-C again stops at once\n")
    _wait(ours)
    pythons.close()
    os._exit(INTERRUPTED)


def _wait(ours: socket.socket) -> None:
    while ours.recv(1)[0] not in _STOPS:
        pass  # another signal, such as that of a child's end
