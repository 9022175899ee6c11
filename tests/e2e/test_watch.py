"""`edge-agent status --watch` beside a real daemon: on a terminal and in a pipe, while the daemon goes and comes."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon

WAIT_SECONDS_MAX = 20.0
SCREEN, SCREEN_LEFT = b"\x1b[?1049h", b"\x1b[?1049l"


def started(daemon: RunningDaemon, out: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"}
    return subprocess.Popen([*daemon.command(), "status", "--watch"], stdout=out, stderr=out, env=environment)


def until(read: Callable[[], bytes], wanted: str) -> str:
    """Read until a pattern has come; return all of it."""
    text = b""
    while not re.search(wanted, text.decode(errors="replace")):
        piece = read()
        assert piece, f"ended without {wanted!r}: {text!r}"
        text += piece
    return text.decode(errors="replace")


def from_pipe(file: IO[bytes] | None) -> Callable[[], bytes]:
    assert file is not None
    return lambda: os.read(file.fileno(), 65536)


@pytest.mark.slow
def test_a_daemon_that_goes_is_waited_for(tmp_path: Path) -> None:
    """In a pipe a frame comes each second, with rates; one that is away is said to be, and seen when it comes back."""
    daemon = RunningDaemon(tmp_path)
    with daemon:
        daemon.install(echo_bundle(tmp_path / "a", "till"))
        watching = started(daemon, subprocess.PIPE)
        read = from_pipe(watching.stdout)
        until(read, r"till +1\.0\.0 +yes")
        with daemon.client() as client:
            for _ in range(20):
                client.classify("till", ["a refund"])
        text = until(read, r"till +1\.0\.0 +yes +[0-9.]*[1-9]")
        assert "\x1b" not in text
        daemon.stop()
        until(read, "no answer")
        daemon.start("till")
        until(read, r"serving, up \d+ s(.|\n)*rates come with the next look|serving, up [0-9] s")
        watching.send_signal(signal.SIGINT)
        assert 0 == watching.wait(WAIT_SECONDS_MAX)
        watching.communicate()


@pytest.mark.slow
def test_a_terminal_is_left_as_it_was(tmp_path: Path) -> None:
    """On a terminal frames go over one another on a screen of their own, which Ctrl-C gives back; nothing is torn."""
    with RunningDaemon(tmp_path) as daemon:
        ours, theirs = pty.openpty()
        watching = started(daemon, theirs)
        os.close(theirs)
        seen = until(lambda: os.read(ours, 65536), r"serving(.|\n)*serving")
        watching.send_signal(signal.SIGINT)
        seen += until(lambda: os.read(ours, 65536), re.escape(SCREEN_LEFT.decode()))
        assert 0 == watching.wait(WAIT_SECONDS_MAX)
        os.close(ours)
    assert SCREEN.decode() in seen
    assert "Traceback" not in seen


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--watch", "--json"]])
def test_watching_is_for_people(tmp_path: Path, options: list[str]) -> None:
    """Frames as JSON are refused: a script asks again by itself, or reads the metrics."""
    command = RunningDaemon(tmp_path).command()
    done = subprocess.run([*command, "status", *options], capture_output=True, text=True, check=False)
    assert 2 == done.returncode
    assert "--json" in done.stderr
