"""The programs for people who build devices, each against a real daemon: a till in Node, a tablet in Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent.client import ReviewClient
from tests.bundles import echo_bundle
from tests.daemon import RunningDaemon
from tests.fake_daemon import FakeDaemon
from tests.tls_site import TlsSite

EXAMPLES = Path(__file__).parents[2] / "examples"
TILL, TABLET = EXAMPLES / "till-node", EXAMPLES / "tablet-python"
PROGRAMS = {
    "till": ["node", str(TILL / "till.js")],
    "tablet": [sys.executable, "-W", "error", str(TABLET / "tablet.py")],
}
needs_node = pytest.mark.skipif(
    not (TILL / "node_modules").is_dir(),
    reason="no npm when scripts/setup ran: apt-get install npm, and scripts/setup again",
)
programs = pytest.mark.parametrize("program", [pytest.param("till", marks=needs_node), "tablet"])


@dataclass
class Device:
    """A program that answers each line with one."""

    process: subprocess.Popen[str]

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, line: str) -> str:
        self.say(line)
        return self.heard()


@contextmanager
def running(program: str, *arguments: object) -> Iterator[Device]:
    """Run a program; it must end by itself with its input, without a word on standard error."""
    command = [*PROGRAMS[program], *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield Device(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.stderr is not None
            assert ("", 0) == (process.stderr.read(), process.wait(20))
        finally:
            process.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[RunningDaemon, list[tuple[object, ...]]]]:
    """A daemon with a task of each kind, and the two ways to it: the sockets, and TLS."""
    tls = TlsSite(tmp_path / "tls")
    given = tls.client("device", "infer", "feedback")
    folder = tmp_path / "device"
    folder.mkdir()
    for path, name in ((given.ca, "ca.crt"), (given.certificate, "client.crt"), (given.key, "client.key")):
        shutil.copy(path, folder / name)
    examples = {"collect": {"pos-intent": "local"}, "disk_reserve_bytes": 0}
    with RunningDaemon(tmp_path / "site", **tls.settings(), examples=examples) as daemon:
        daemon.install(
            echo_bundle(tmp_path / "pos-intent", "pos-intent", labels=("refund", "price")),
            echo_bundle(tmp_path / "assistant", "assistant", "generate"),
        )
        review = f"unix:{daemon.run_dir}/review.sock"
        yield daemon, [(daemon.inference, "--review", review), (tls.address, "--tls", folder)]


@programs
@pytest.mark.parametrize("way", [0, 1], ids=["sockets", "tls"])
def test_a_device_asks_reads_corrects_and_outlives_a_restart(site, program, way):
    """A label, a text in pieces, a correction that is on the disk, an error in words, and answers after a restart."""
    daemon, ways = site
    with running(program, *ways[way]) as device:
        label, confidence, unsure = device.ask("a refund, please").split()
        assert ("refund", "unsure", 1) == (label, unsure, round(float(confidence)) or 1)
        assert "noted" == device.ask("= price")
        assert "one two three" in device.ask("? one two three")
        assert device.ask("= no-such-label").startswith("REQUEST_INVALID: 'no-such-label' is no label of pos-intent")
        with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
            [kept] = reviewer.queue(include_reviewed=True)
            assert ["price"] == [said.value for said in reviewer.prediction(kept.prediction_id).feedback]
        daemon.kill()
        device.say("what is the price?")  # asked while nobody is there
        daemon.start("pos-intent")
        assert device.heard().startswith("price ")
        assert "noted" == device.ask("= refund")


@programs
def test_a_device_keeps_to_what_a_busy_daemon_says(tmp_path, program):
    """It tries again after its delay, under the same request_id; an error that stays is said with its remedy."""
    with FakeDaemon(f"unix:{tmp_path}/i.sock") as daemon, running(program, *daemon.targets) as device:
        daemon.inference.refusals = 2
        assert "refund 0.75 unsure" == device.ask("I want my money back")
        assert (3, 1) == (len(daemon.inference.requests), len({each.request_id for each in daemon.inference.requests}))
    with (
        FakeDaemon(f"unix:{tmp_path}/i.sock") as daemon,
        running(program, *daemon.targets, "--task", "unknown") as device,
    ):
        said = device.ask("hello")
        assert said.startswith("TASK_UNKNOWN: no task 'unknown'")
        assert said.endswith("the remedy for TASK_UNKNOWN")
        assert 1 == len(daemon.inference.requests)
