"""The sample programs for device developers against a real daemon: a till in Node and a tablet in Python."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent import certificate_authority
from edge_agent.client import ReviewClient, Tls
from tests.support.bundles import QUESTIONS, echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.fake_daemon import FakeDaemon
from tests.support.tls_site import TlsSite

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
    """A program that answers each input line with one output line."""

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
    """Run a program; it must exit with 0 at the end of its input and write nothing to standard error."""
    command = [*PROGRAMS[program], *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield Device(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.stderr is not None
            assert ("", 0) == (process.stderr.read(), process.wait(60))
        finally:
            process.kill()


@dataclass
class Site:
    """A daemon with a task of each kind, reachable over its sockets and over TLS."""

    daemon: RunningDaemon
    tls: TlsSite
    ways: tuple[tuple[object, ...], tuple[object, ...]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tmp_path = tmp_path_factory.mktemp("site")
    tls = TlsSite(tmp_path / "tls")
    folder = files(tmp_path / "device", tls.client("device", "infer", "feedback"))
    examples = {"collect": {"pos-intent": "local"}, "disk_reserve_bytes": 0}
    with RunningDaemon(tmp_path / "site", **tls.settings(), examples=examples) as daemon:
        daemon.install(
            echo_bundle(tmp_path / "pos-intent", "pos-intent", labels=("refund", "price")),
            echo_bundle(tmp_path / "assistant", "assistant", "generate"),
            echo_bundle(tmp_path / "desk", "front-desk", "decide"),
        )
        review = f"unix:{daemon.run_dir}/review.sock"
        yield Site(daemon, tls, ((daemon.inference, "--review", review), (tls.address, "--tls", folder)))


@pytest.mark.slow
@programs
@pytest.mark.parametrize("way", [0, 1], ids=["sockets", "tls"])
def test_device_program_works_across_daemon_restart(site, program, way):
    """Each program shows a label, streamed text, a stored correction and an error message, and gets an answer to a
    question sent while the daemon restarts."""
    daemon, text = site.daemon, f"a refund, please, by {program} {way}"
    with running(program, *site.ways[way]) as device:
        label, confidence, unsure = device.ask(text).split()
        assert ("refund", "unsure", 1) == (label, unsure, round(float(confidence)) or 1)
        assert "noted" == device.ask("= price")
        assert "one two three" in device.ask("? one two three")
        assert device.ask("= no-such-label").startswith("REQUEST_INVALID: 'no-such-label' is not a label of pos-intent")
        with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
            [kept] = [each for each in reviewer.queue(include_reviewed=True) if each.input == text]
            assert ["price"] == [said.value for said in reviewer.prediction(kept.prediction_id).feedback]
        daemon.kill()
        device.say("what is the price?")  # asked while nobody is there
        daemon.start("pos-intent")
        assert device.heard().startswith("price ")
        assert "noted" == device.ask("= refund")


@pytest.mark.slow
@programs
def test_device_program_shows_every_question(site, program):
    """In one call each program shows every question of a decide task with its answer and confidence."""
    with running(program, *site.ways[0]) as device:
        answers = [each.split(": ", 1) for each in device.ask("# an urgent refund").split(", ")]
    assert [each["name"] for each in QUESTIONS] == [name for name, _ in answers]
    assert ["refund", "yes"] == [said.split()[0] for _, said in answers[:2]]
    assert all(said.endswith(" unsure") for _, said in answers)


@pytest.mark.slow
@programs
def test_device_program_follows_retry_delay(tmp_path, program):
    """Each program retries a refused call with the same request_id, and does not retry a permanent error but shows it
    with its remedy."""
    with FakeDaemon(f"unix:{tmp_path}/i.sock") as daemon, running(program, *daemon.targets) as device:
        daemon.inference.refusals = 2
        assert "refund 0.75 unsure (degraded: CPU_SHARED)" == device.ask("I want my money back")
        assert "Hello there (degraded: CPU_SHARED)" == device.ask("? greet")
        asked = [each.request_id for each in daemon.inference.requests[:3]]
        assert (3, 1) == (len(asked), len(set(asked)))
    with (
        FakeDaemon(f"unix:{tmp_path}/i.sock") as daemon,
        running(program, *daemon.targets, "--task", "unknown") as device,
    ):
        said = device.ask("hello")
        assert said.startswith("TASK_UNKNOWN: no task 'unknown'")
        assert said.endswith("the remedy for TASK_UNKNOWN")
        assert 1 == len(daemon.inference.requests)


REFUSED = """
import {{ CallFailed }} from '{till}/daemon.js'
const error = Object.assign(new Error(), {{ code: 14, details: 'Stream refused by server' }})
const {{ reason, remedy, retryAfterMs, retryable }} = new CallFailed(error, {{ address: 'unix:x' }})
console.log([reason, remedy, retryAfterMs, retryable].join(' | '))
"""


@needs_node
def test_http2_refused_call_is_reported_as_full_queue():
    """The Node program treats the UNAVAILABLE error of gRPC for a connection with too many calls as a retryable
    QUEUE_FULL."""
    command = ["node", "--input-type=module", "-e", REFUSED.format(till=TILL)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "QUEUE_FULL | Try again in 1 s. | 1000 | true\n" == said


@programs
def test_device_program_handles_missing_answer_parts(tmp_path, program):
    """Each program continues after a correction without an answer, an answer without a confidence, and one without a
    label."""
    with FakeDaemon(f"unix:{tmp_path}/i.sock") as daemon:
        with running(program, *daemon.targets, "--task", "bootstrapped") as device:
            assert device.ask("= refund").startswith("There is no answer to correct yet")
            assert "refund (degraded: CPU_SHARED)" == device.ask("I want my money back")
        with running(program, *daemon.targets, "--task", "abstaining") as device:
            assert "no answer 0.75 unsure (degraded: CPU_SHARED)" == device.ask("I want my money back")


def files(folder: Path, given: Tls, ca: Path | None = None) -> Path:
    """Write a client's files in the layout of `edge-agent certs issue`."""
    folder.mkdir()
    for path, name in ((ca or given.ca, "ca.crt"), (given.certificate, "client.crt"), (given.key, "client.key")):
        shutil.copy(path, folder / name)
    return folder


@programs
def test_device_program_reports_certificate_error_at_once(site, tmp_path, program):
    """Each program reports a certificate error with a remedy at the first attempt and does not retry, although the call
    has 30 s."""
    tls = site.tls
    elsewhere = tmp_path / "elsewhere.crt"
    certificate_authority.write_pair(tls.foreign, elsewhere, tmp_path / "elsewhere.key")
    own = tls.client("till", "infer")
    foreign = files(tmp_path / "foreign", tls.client("other", "infer", issuer=tls.foreign))
    cases = (
        (("--tls", files(tmp_path / "ca", own, elsewhere)), "was not issued by the authority in", "Take the ca.crt"),
        (("--tls", foreign), "it does not accept this client's certificate", "edge-agent certs show FILE"),
        ((), "something answers there and hangs up", "edge-agent certs issue"),
    )
    for arguments, message, remedy in cases:
        with running(program, tls.address, *arguments) as device:
            said = device.ask("hello")
        assert said.startswith(f"TLS_FAILED: {tls.address}: "), said
        assert (True, True, False) == (message in said, remedy in said, "given up after" in said), said


@programs
def test_device_program_without_certificate_does_not_start(tmp_path, program):
    """Each program exits with an error that names the missing certificate file and the command that creates it."""
    command = [*PROGRAMS[program], "localhost:1", "--tls", str(tmp_path)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ended.returncode in (1, 2)
    assert ("ca.crt" in ended.stderr, "edge-agent certs issue" in ended.stderr) == (True, True), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@needs_node
def test_till_program_finds_proto_files_outside_checkout(tmp_path):
    """Outside the checkout the till finds the proto files in a copy next to it or in a given folder; without them it
    exits with 1 and names the missing file."""
    till, proto = tmp_path / "till", EXAMPLES.parent / "proto"
    till.mkdir()
    for name in ("till.js", "daemon.js", "status.proto", "package.json"):
        shutil.copy(TILL / name, till / name)
    (till / "node_modules").symlink_to(TILL / "node_modules")
    program = ["node", str(till / "till.js")]

    def end(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*program, f"unix:{tmp_path}/i.sock", *arguments]
        return subprocess.run(
            command, input="hello\n", env=os.environ | environment, capture_output=True, text=True, check=False
        )

    missing = end({"EDGE_AGENT_PROTO": str(tmp_path)})
    assert (1, "") == (missing.returncode, missing.stdout)
    assert f"error: edge_agent/v1/inference.proto is not in {tmp_path}\nwhat to do: Copy the folder" in missing.stderr
    with FakeDaemon(f"unix:{tmp_path}/i.sock"):
        shutil.copytree(proto / "edge_agent", till / "proto/edge_agent")
        told = ({"EDGE_AGENT_PROTO": str(proto)}, ()), ({}, ("--proto", str(proto))), ({}, ())
        assert ["refund 0.75 unsure (degraded: CPU_SHARED)\n"] * 3 == [end(*each[:1], *each[1]).stdout for each in told]


@pytest.mark.slow
def test_ctrl_c_ends_tablet_program_at_prompt(tmp_path: Path):
    """Ctrl+C ends the tablet program at its prompt; Python would otherwise wait for the thread that reads the line."""
    command = [*PROGRAMS["tablet"], f"unix:{tmp_path / 'none.sock'}"]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert "There is no answer to correct yet" in Device(process).ask("= refund")
            process.send_signal(signal.SIGINT)
            assert -signal.SIGINT == process.wait(60)
        finally:
            process.kill()
