"""A piece of Python run many times, each time by a process of its own that had everything imported beforehand.

with ForkingScript("from tests.support.site_cases import SiteCase", "SiteCase(Path(sys.argv[1]))") as forking:
    done = forking.run([str(folder)], *killed_at("fsync", 3))

A server imports and forks. A child stops itself before it does anything; strace is attached; then it goes on. A point
of a sweep costs what the work costs, and its numbers count the calls of the work, not those of importing Python.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECONDS_MAX = 120
# 0x59616d61 is PR_SET_PTRACER (prctl(2)): where only parents may trace, whoever likes may trace this child.
SERVER = """
import ctypes, json, os, signal, sys, traceback
exec(sys.argv[1])
work = compile(sys.argv[2], "work", "exec")
for line in sys.stdin:
    given = json.loads(line)
    child = os.fork()
    if not child:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(given[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        sys.argv[1:] = given["arguments"]
        ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        code = 0
        try:
            exec(work, {"__name__": "__main__"})
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        try:
            sys.stdout.flush()
        finally:
            os._exit(code)
    os.waitpid(child, os.WUNTRACED)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class ForkingScript:
    """See the module. `imports` and `work` are source; the work reads its arguments from sys.argv[1:]."""

    def __init__(self, imports: str, work: str, folder: Path) -> None:
        """Start the server; what its children print goes through files in a folder."""
        self._texts = {name: folder / f"forked.{name}" for name in ("stdout", "stderr")}
        command = [sys.executable, "-B", "-c", SERVER, imports, work]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def run(self, arguments: Sequence[str], *tracer: str) -> subprocess.CompletedProcess[str]:
        """Run the work once, under a strace command or under none."""
        given = {"arguments": list(arguments), **{name: str(path) for name, path in self._texts.items()}}
        print(json.dumps(given), file=self._server.stdin, flush=True)
        child = self._number()
        # strace says on its standard error that it is attached, unless it is told to be quiet.
        strace = self._attached([word for word in tracer if word != "-qq"], child) if tracer else None
        os.kill(child, signal.SIGCONT)
        try:
            code = self._number()
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            if strace:
                strace.communicate(timeout=SECONDS_MAX)
        texts = {name: path.read_text(errors="replace") for name, path in self._texts.items()}
        return subprocess.CompletedProcess(list(arguments), code, **texts)

    def close(self) -> None:
        """End the server."""
        self._server.communicate(timeout=SECONDS_MAX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attached(self, tracer: list[str], child: int) -> subprocess.Popen[str]:
        process = subprocess.Popen([*tracer, "-p", str(child)], stderr=subprocess.PIPE, text=True)
        said: Any = process.stderr
        line = said.readline()
        assert "attached" in line, line
        return process

    def _number(self) -> int:
        """Read the next number from the server."""
        said: Any = self._server.stdout
        if not select.select([said], [], [], SECONDS_MAX)[0]:
            raise TimeoutError("the work takes too long")
        return int(said.readline())
