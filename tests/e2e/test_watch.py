"""`edge-agent watch` with a daemon that stops and restarts: on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.fake_daemon import FakeDaemon

WAIT_SECONDS_MAX = 60.0
SCREEN, SCREEN_LEFT = "\x1b[?1049h", "\x1b[?1049l"
HOME = "\x1b[H"


def environment(**changes: str) -> dict[str, str]:
    locale = ("LANG", "LC_ALL", "LC_CTYPE", "COLUMNS", "LINES", "NO_COLOR")
    plain = {name: value for name, value in os.environ.items() if name not in locale}
    return {**plain, "TERM": "xterm-256color", "LANG": "C.UTF-8", **changes}


def until(read: Callable[[], bytes], wanted: str, text: str = "") -> str:
    """Read until a pattern appears; return everything read."""
    got = text.encode()
    while not re.search(wanted, got.decode(errors="replace")):
        piece = read()
        assert piece, f"ended without {wanted!r}: {got!r}"
        got += piece
    return got.decode(errors="replace")


def from_pipe(file: IO[bytes] | None) -> Callable[[], bytes]:
    assert file is not None
    return lambda: os.read(file.fileno(), 65536)


def last_frame(seen: str) -> list[str]:
    """Return the lines of the last complete frame, without colours."""
    frames = re.sub(r"\x1b\[[0-9;]*m", "", seen).split(HOME)
    return [each.rstrip() for each in frames[-1].splitlines()]


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class OnTerminal:
    """A command on a pseudo-terminal of a given size."""

    def __init__(self, command: list[str], columns: int = 80, lines: int = 24, **changes: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._ours)
        # The terminal of its session, so that the kernel sends it Ctrl-C and changes of the size.
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(**changes),
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - one system call
        )
        os.close(theirs)
        self.seen = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def read_until(self, wanted: str) -> str:
        """Read until a pattern appears in the output from now on."""
        new = until(self._read, wanted)
        self.seen += new
        return new

    def _read(self) -> bytes:
        ready, _, _ = select.select([self._ours], [], [], WAIT_SECONDS_MAX)
        assert ready, f"nothing more within {WAIT_SECONDS_MAX} s"
        return os.read(self._ours, 65536)

    def ended(self) -> int:
        """Wait for the end and return the exit code; check that terminal settings and screen are restored."""
        self.read_until(re.escape(SCREEN_LEFT))
        code = self.process.wait(WAIT_SECONDS_MAX)
        assert self.before == termios.tcgetattr(self._ours)
        assert "Traceback" not in self.seen
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@contextmanager
def on_terminal(command: list[str], *arguments: object, **changes: str) -> Iterator[OnTerminal]:
    running = OnTerminal(command, *arguments, **changes)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
    """A daemon that answers at once and counts calls."""
    with FakeDaemon(f"unix:{tmp_path}/admin.sock") as daemon:
        yield daemon


def command_of(folder: Path, *arguments: str) -> list[str]:
    daemon = RunningDaemon(folder / "site")
    daemon.run_dir = folder
    return [*daemon.command(), *arguments]


@pytest.mark.slow
def test_watch_waits_for_stopped_daemon(tmp_path: Path) -> None:
    """In a pipe, `status --watch` prints frames with rates and without control characters, reports a stopped daemon,
    and counts its restart."""
    daemon = RunningDaemon(tmp_path)
    with daemon:
        daemon.install(echo_bundle(tmp_path / "a", "till"))
        watching = subprocess.Popen(
            [*daemon.command(), "status", "--watch", "--count", "3600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
        read = from_pipe(watching.stdout)
        until(read, r"till +1\.0\.0 +ready")
        with daemon.client() as client:
            for _ in range(20):
                client.classify("till", ["a refund"])
        text = until(read, r"till +1\.0\.0 +ready +[0-9.]*[1-9]")
        assert "\x1b" not in text
        daemon.stop()
        until(read, "no answer +no daemon answers at unix:(.|\n)*the figures below are from before")
        daemon.start("till")
        until(read, r"serving, up \d+ s;(.|\n)*restarted once since you watch")
        watching.send_signal(signal.SIGINT)
        assert 0 == watching.wait(WAIT_SECONDS_MAX)
        watching.communicate()


@pytest.mark.slow
def test_watch_json_figures_match_calls(tmp_path: Path) -> None:
    """The rates, refusals and confident share of `watch --json` match the calls made meanwhile, and the stream has no
    texts."""
    with RunningDaemon(tmp_path, site={"id": "shop-12"}) as daemon:
        daemon.install(echo_bundle(tmp_path / "a", "till"))
        command = [*daemon.command(), "watch", "--json", "--interval", "0.5"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as watching:
            assert watching.stdout is not None
            first = json.loads(watching.stdout.readline())
            with daemon.client() as client:
                answered = client.classify("till", [f"secret {number}" for number in range(30)])
                for _ in range(5):
                    with pytest.raises(Exception, match="no task"):
                        client.classify("secret-task", ["x"])
            raw, look = b"", first
            while not look["refusals"]:
                raw = watching.stdout.readline()
                look = json.loads(raw)
            watching.send_signal(signal.SIGINT)
            assert 0 == watching.wait(WAIT_SECONDS_MAX)
    assert ("edge-agent/watch/v1", "shop-12", None) == (first["schema"], first["site"], first["answers_per_second"])
    assert 30 == round(look["answers_per_second"] * look["window_seconds"])
    assert [("", "TASK_UNKNOWN", 5, 5)] == [
        (one["task"], one["reason"], one["count"], one["recent"]) for one in look["refusals"]
    ]
    (task,) = look["tasks"]
    sure = sum(not answer.below_threshold for answer in answered) / 30
    assert ("till", True, sure) == (task["task"], task["ready"], task["confident"])
    assert task["p50_seconds"] <= task["p95_seconds"]
    assert b"secret" not in raw


@pytest.mark.slow
def test_each_watch_interval_makes_one_status_call(fake: FakeDaemon, tmp_path: Path) -> None:
    """Three intervals of `watch --json` make three GetStatus calls and no other, and print one JSON line each."""
    done = subprocess.run(
        command_of(tmp_path, "watch", "--json", "--count", "3", "--interval", "0.5"), capture_output=True, check=True
    )
    assert 3 == len(done.stdout.splitlines())
    assert (3, [], []) == (fake.admin.status_calls, fake.admin.requests, fake.inference.requests)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("watch",), ("status", "--follow")])
def test_watch_without_terminal_prints_one_screen(fake: FakeDaemon, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Without a terminal, `watch` and `status --follow` print one screen without control characters, and exit."""
    done = subprocess.run(
        command_of(tmp_path, *arguments), capture_output=True, check=True, text=True, env=environment(),
        timeout=WAIT_SECONDS_MAX, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (1, 1, False) == (fake.admin.status_calls, done.stdout.count("serving, up "), "\x1b" in done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "code"), [(b"q", 0), (b"\x03", 0)])
def test_key_ends_watch_and_restores_terminal(fake: FakeDaemon, tmp_path: Path, keys: bytes, code: int) -> None:
    """q and Ctrl-C end `watch` with exit code 0 during a long interval, and restore the terminal and its screen."""
    with on_terminal(command_of(tmp_path, "watch", "--interval", "3600")) as terminal:
        assert SCREEN in terminal.read_until("q or Ctrl-C ends")
        terminal.type(keys)
        assert code == terminal.ended()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_watch_and_restores_terminal(
    fake: FakeDaemon, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """After a signal `watch` restores the terminal, and exits with 0 for SIGINT or 128 plus the signal's number."""
    with on_terminal(command_of(tmp_path, "watch", "--interval", "3600")) as terminal:
        terminal.read_until("q or Ctrl-C ends")
        terminal.process.send_signal(number)
        assert code == terminal.ended()


@pytest.mark.slow
def test_watch_follows_terminal_size(fake: FakeDaemon, tmp_path: Path) -> None:
    """`watch` fits 80 by 24 characters, and redraws for a new terminal size without a call to the daemon."""
    with on_terminal(command_of(tmp_path, "watch", "--interval", "3600")) as terminal:
        wide = last_frame(terminal.read_until("q or Ctrl-C ends"))
        assert (True, True) == (len(wide) <= 24, max(map(len, wide)) <= 80)
        terminal.resize(48, 12)
        # Rows of engines and tasks lose columns: "device" is not drawn at this width.
        small = last_frame(terminal.read_until(r"engine(?:(?!device)[^\x1b]|\x1b\[[0-9;]*m)*Ctrl-C ends; every"))
        assert (True, True) == (len(small) <= 12, max(map(len, small)) <= 48)
        terminal.type(b"q")
        assert 0 == terminal.ended()
    assert 1 == fake.admin.status_calls


@pytest.mark.slow
def test_plain_terminal_gets_ascii_without_colours(fake: FakeDaemon, tmp_path: Path) -> None:
    """With LANG=C and NO_COLOR `watch` writes only ASCII without colours, also for the daemon's texts."""
    fake.admin.status.warnings[:] = ["The task “café” …"]
    fake.admin.status.engines[0].running_max = fake.admin.status.engines[0].running = 2
    with on_terminal(command_of(tmp_path, "watch", "--interval", "3600"), LANG="C", NO_COLOR="1") as terminal:
        shown = terminal.read_until("Ctrl-C ends")
        terminal.type(b"q")
        assert 0 == terminal.ended()
    assert terminal.seen.isascii()
    assert "######## 2/2" in shown
    assert "The task ?caf?? ." in shown
    assert [] == [
        code for code in re.findall(r"\x1b\[([0-9;]*)m", shown) if re.search(r"\b(3|4|9|10)[0-7]\b|38;|48;", code)
    ]


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for raw in process.stdout:
        yield json.loads(raw)


@pytest.mark.slow
def test_status_follow_json_is_watch_stream(fake: FakeDaemon, tmp_path: Path) -> None:
    """`status --follow --json` prints the stream of `watch`, with the daemon's absence and its return."""
    command = command_of(tmp_path, "status", "--follow", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as following:
        looks = lines_of(following)
        assert next(looks)["answers"]
        fake.__exit__(None, None, None)
        away = next(look for look in looks if not look["answers"])
        with FakeDaemon(f"unix:{tmp_path}/admin.sock"):
            back = next(look for look in looks if look["answers"])
        following.send_signal(signal.SIGTERM)
        assert 143 == following.wait(WAIT_SECONDS_MAX)
    assert "no daemon answers at unix:" in away["problem"]
    assert ("", 0.0) == (back["problem"], back["silent_seconds"])
