"""The judge of one case: how reading it ended, and whether that is a defect.

It has to be read, or refused with a reason of the API and a sentence; in bounded time of the processor and memory; with
nothing written outside the folder, and no descriptor or thread left behind.
"""

from __future__ import annotations

import builtins
import functools
import gc
import os
import re
import resource
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.errors import BY_REASON
from tests.support.fuzz.targets import Target
from tests.support.hostile_files import ReaderHung, outcome

SENTENCE_CHARACTERS_MAX = 4000
AGAIN = 3
# Of Python, but for the plain one, which is a word: what a library of C++ says of its own is its reason.
_BUILTIN = (each for each in vars(builtins).values() if isinstance(each, type) and each is not Exception)
_EXCEPTIONS = "|".join(each.__name__ for each in _BUILTIN if issubclass(each, Exception))
_NAMES_AN_EXCEPTION = re.compile(rf"\braised [A-Z]|\b({_EXCEPTIONS})\b")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of CPython that change the file system, and which of their arguments are paths.
_CHANGES = {
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "sqlite3.connect": (0,),
}
_STARTS = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind")


@dataclass(frozen=True)
class Verdict:
    """The result of a case."""

    how: str
    """"read", the reason of the refusal, or the name of an exception."""
    kind: str = ""
    """Of the defect: "unexplained", "hang", "memory", "crash", "left"; empty = there is none."""
    defect: str = ""


class Judge:
    """Judges the cases of one target, in a process of its own."""

    def __init__(self, target: Target, folder: Path) -> None:
        """Make the reader, and learn what it holds when it has read something."""
        self._target, self._outside = target, list[str]()
        self._inside = str(folder.resolve())
        self._read = target.make(folder)
        self._threads = set(threading.enumerate())
        """Those of the process itself; a test of the judge shares it with other tests."""
        _watch()

    def judge(self, case: bytes) -> Verdict:
        """Read a case."""
        peak, held = _peak_bytes(), _descriptors()
        self._outside.clear()
        reason: list[type[BaseException]] = []
        _WATCHING.append(self)
        try:
            how, defect = outcome(self._noting(reason), case, self._target.seconds_max, processor=True)
        finally:
            _WATCHING.clear()
        if how == ReaderHung.__name__:
            return Verdict(how, "hang", f"not read within {self._target.seconds_max:g} s of the processor")
        if how == "PanicException":  # of a library in Rust: no error that anybody catches
            return Verdict(how, "crash", defect)
        grown = _peak_bytes() - peak
        if how == "MemoryError" or grown > self._target.memory_bytes_max:
            most = self._target.memory_bytes_max / 1e6
            return Verdict(how, "memory", f"took {grown / 1e6:.0f} MB more; the limit is {most:.0f} MB")
        if defect := defect or _unexplained(how, reason):
            return Verdict(how, "unexplained", defect)
        left = self._left(held, case)
        return Verdict(how, "left" if left else "", left)

    def _noting(self, raised: list[Any]) -> Any:
        """Return the reader; what it raises is noted."""

        def read(case: bytes) -> None:
            try:
                self._read(case)
            except BaseException as error:
                raised.append(error)
                raise

        return read

    def _left(self, held: set[str], case: bytes) -> str:
        """Return the reader's leftovers; only descriptors that each run leaves count, as libraries open some once."""
        if self._outside:
            return f"touched {self._outside[0]}"
        for _ in range(AGAIN):
            if not _descriptors() - held:
                break
            gc.collect()  # what an exception holds is let go with it
            held = _descriptors()
            outcome(self._read, case, self._target.seconds_max, processor=True)
        else:
            return f"leaves descriptors open: {sorted(_descriptors() - held)[:3]}"
        threads = [each.name for each in threading.enumerate() if each not in self._threads]
        return f"left threads: {threads[:3]}" if threads else ""

    def audited(self, event: str, args: tuple[Any, ...]) -> None:
        """Check an action of the reader, by an audit event of CPython."""
        if self._target.child:  # an engine is started by the daemon's own code
            return
        if event == "open" and isinstance(args[2], int) and args[2] & _WRITES:
            self._check(event, args[0])
        elif event in _CHANGES:
            for place in _CHANGES[event]:
                self._check(event, args[place])
        elif event in _STARTS:
            self._outside.append(f"{event} {args!r}"[:200])

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        text = os.fsdecode(path)
        # Of a name relative to an open folder only its own parts can be judged.
        inside = (
            ".." not in Path(text).parts
            if not text.startswith("/")
            else os.path.realpath(text).startswith(self._inside)
        )
        if not inside and text not in (":memory:", "/dev/null"):
            self._outside.append(f"{event} {text!r}"[:200])


_WATCHING: list[Judge] = []
"""Whose reader is at work; at most one."""


@functools.cache
def _watch() -> None:
    """Watch this process for the rest of its life: a hook cannot be taken out."""

    def audited(event: str, args: tuple[Any, ...]) -> None:
        for judge in _WATCHING:
            judge.audited(event, args)

    sys.addaudithook(audited)


def _unexplained(how: str, raised: list[Any]) -> str:
    """Return the fault in the reason or the message of a refusal."""
    if how == "read":
        return ""
    [error] = raised
    if how not in BY_REASON or how == "INTERNAL":
        return f"the reason {how} is none of the API"
    if len(error.message) > SENTENCE_CHARACTERS_MAX:
        return f"the sentence of {how} has {len(error.message)} characters"
    if _NAMES_AN_EXCEPTION.search(error.message):
        return f"the sentence of {how} names an exception: {error.message[:300]}"
    if not error.remedy:
        return f"{how} has no remedy"
    return ""


def _peak_bytes() -> int:
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024


def _descriptors() -> set[str]:
    """Return the open descriptors, without the folder that is read for this."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no object for each of them
        try:
            found.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")  # noqa: PTH115
        except OSError:
            continue
    return found
