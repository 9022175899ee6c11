"""Runs the tools of the build. When the build ends, for whatever reason, none of its processes is left."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import selectors
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from installer.build.build_steps import StepConsole, failure

GRACE_SECONDS = 10.0
"""Time for a tool to end after SIGTERM: ninja ends its compilers and removes their unfinished files."""
_TICK_SECONDS = 1.0
_READ_BYTES = 1 << 16
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)


class BuildInterrupted(KeyboardInterrupt):
    """A signal ended the build."""

    def __init__(self, number: int) -> None:
        """Name the signal."""
        super().__init__(signal.Signals(number).name)
        self.number = number


class ToolRunner:
    """Runs one tool after another, writes their output into a log, and shows the progress."""

    def __init__(self, log: Path, console: StepConsole, grace_seconds: float = GRACE_SECONDS) -> None:
        """Begin a new log."""
        self.log, self.console, self._grace_seconds = log, console, grace_seconds
        log.write_text("", encoding="utf-8")

    def run(
        self,
        command: Sequence[object],
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        detail: Callable[[], str] = str,
        folder: Path | None = None,
    ) -> str:
        """Run a tool, in `folder` if one is given; return what it printed.

        `on_line` gets each line, `detail` describes the progress.

        Raises BuildFailed with the cause or the last lines; all lines are in the log while they come.
        """
        words = [str(word) for word in command]
        lines: list[str] = []
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n== {shlex.join(words)}\n")
            log.flush()
            with subprocess.Popen(  # noqa: S603 - our own words
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                process_group=0,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one thread runs here; it calls the kernel and nothing else
            ) as process:
                try:
                    for line in _lines(process, lambda: self.console.tick(detail())):
                        log.write(f"{line}\n")
                        log.flush()
                        lines.append(line)
                        if on_line:
                            on_line(line)
                    status = process.wait()
                except BaseException:
                    _end(process, self._grace_seconds)
                    raise
        output = "\n".join(lines)
        if status != 0:
            raise failure(Path(words[0]).name, status, output, self.log)
        return output


def _lines(process: subprocess.Popen[bytes], tick: Callable[[], None]) -> Iterator[str]:
    """Yield each line once it is complete, and call `tick` at least about every second."""
    assert process.stdout
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            tick()
            if not ready.select(_TICK_SECONDS):
                continue
            block = os.read(process.stdout.fileno(), _READ_BYTES)
            *whole, rest = (rest + decoder.decode(block, not block)).split("\n")
            yield from whole
            if not block:
                break
    if rest:
        yield rest


def _end_with_parent() -> None:
    """Make the kernel end this process if the build is killed; runs between fork and exec."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """End the process group of a tool; ninja ends its compilers, which have groups of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def ending_all_children() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into BuildInterrupted; at the end kill all processes that the block started."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphaned descendants become children of this process
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    earlier = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C does not cut this short
        _kill_children()
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 0)
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise BuildInterrupted(number)


def _kill_children() -> None:
    """Kill children until there are none: the children of a killed one become children of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := children.read_text(encoding="ascii").split():
        for child in map(int, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in map(int, pids):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
