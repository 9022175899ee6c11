"""Starts `edge-convert`, also as `python -m convert`. Ctrl-C exits with code 130 even while the libraries load."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import NoReturn

_INTERRUPTED = 130  # 128 + SIGINT, the convention of shells
_STDERR = 2


def main() -> None:
    """Run the console script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell ignores SIGINT for its background jobs
        signal.signal(signal.SIGINT, _stop)  # until `listen` replaces it
    from convert import cli  # noqa: PLC0415 - takes a second, or several from a cold disk

    cli.main()


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(_STDERR, b"error: stopped\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
