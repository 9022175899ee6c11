"""The daemon while components of it die: the tests throw an exception into each component that runs in the background.

The components are those that the daemon registers, so a new one is tested as well. The daemon is the real one, with an
engine in a child process and clients on its sockets, in this process: the seams are the supervisor and the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from edge_agent.capture.spool_worker import SpoolWorker
from edge_agent.client import AdminClient, CallFailed, Client, ReviewClient
from edge_agent.config import Config
from edge_agent.daemon import Daemon
from edge_agent.refusal_log import CoreLog
from edge_agent.server.grpc_servers import FEEDBACK
from edge_agent.store.bundle_archive import StoreLimits
from edge_agent.store.bundle_store import Store
from edge_agent.supervision import STEADY_SECONDS, DeathPolicy, Supervisor
from tests.support.bundles import echo_bundle
from tests.support.eventually import eventually, eventually_sync
from tests.support.free_ports import free_port
from tests.support.injected_faults import InjectedFault, InjectedFaults
from tests.support.scraped import scrape

TASK = "till"
TABLE = Path(__file__).parents[2] / "docs" / "internals" / "background-tasks.md"
LIMITS = StoreLimits(2**30, 2**30, 10, 0)


def settings_of(folder: Path, run_dir: Path) -> dict[str, Any]:
    """Return a configuration under which every component runs."""
    return {
        "state_dir": str(folder / "state"),
        "run_dir": str(run_dir),
        "store": {"allow_unsigned": True},
        "engine": {"tune": False},
        "metrics": {"address": f"127.0.0.1:{free_port()}"},
        "examples": {"collect": {TASK: "local"}, "commit_seconds": 0.05},
        "escalation": {"url": "http://127.0.0.1:9", "model": "oracle", "tasks": [TASK]},
    }


class Site:
    """A daemon in this process."""

    def __init__(
        self, settings: dict[str, Any], worker: type[SpoolWorker] = SpoolWorker, core_log: CoreLog | None = None
    ) -> None:
        self.config = Config.model_validate(settings)
        self.port = int(self.config.metrics.address.rpartition(":")[2])
        self.faults, self.gave_up = InjectedFaults(), asyncio.Event()
        self.supervisor = Supervisor(
            self.gave_up.set, sleep=self.faults.sleep, monotonic=self.faults.monotonic, wrap=self.faults.around
        )
        self._worker, self._core_log = worker, core_log
        self.daemon: Daemon | None = None

    @contextlib.asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator[None]:
        """Serve one task inside the block."""
        store = Store.open(self.config.state_dir, LIMITS)
        try:
            self.daemon = Daemon(self.config, store, self.supervisor, self._worker, self._core_log)
            async with self.daemon.running():
                await asyncio.to_thread(self._install, echo_bundle(folder / "b", TASK, labels=("refund", "price")))
                yield
        finally:
            store.close()

    def _install(self, bundle: Path) -> None:
        with self.admin() as admin:
            admin.install(str(bundle))

    def admin(self) -> AdminClient:
        return AdminClient(f"unix:{self.config.admin_socket}")

    def ask(self) -> str:
        """Classify one text; return the id of the answer."""
        with Client(f"unix:{self.config.inference_socket}") as client:
            (answer,) = client.classify(TASK, ["a refund"])
            assert client.serving(TASK)
        return answer.prediction_id

    def review(self, prediction_id: str) -> None:
        """Correct an answer, which is on the disk by then: it is unknown until it has been redacted."""
        with ReviewClient(f"unix:{self.config.review_socket}") as client:

            def corrected() -> bool:
                try:
                    client.correct(prediction_id, "price", reviewer="anna")
                except CallFailed as failed:
                    assert "PREDICTION_UNKNOWN" == failed.reason
                    return False
                return True

            eventually_sync(corrected)

    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of status."""
        with self.admin() as admin:
            return admin.status().warnings


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a short folder for sockets, in the environment of a systemd unit with a watchdog."""
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    folder = Path("/tmp") / f"ea-{secrets.token_hex(4)}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def core_log() -> Iterator[CoreLog]:
    """Redirect standard error inside the block and yield the part that a daemon with TLS reads.

    Not a fixture: pytest replaces standard error between a fixture and the test.
    """
    with contextlib.redirect_stderr(sys.stderr):  # CoreLog replaces it: put back afterwards
        log = CoreLog()
        with contextlib.closing(sys.stderr), contextlib.closing(log):
            yield log


@pytest.mark.slow
async def test_dead_component_is_reported_and_restarted(tmp_path, run_dir):
    """The death of each component is logged with its traceback and shown in status and metrics; the component restarts,
    also after two deaths, and everything else answers meanwhile.

    The components are those of the table in docs/internals/background-tasks.md.
    """
    redaction = {"redaction": {"task": "nobody", "without_model": {TASK: "rules"}}}
    with core_log() as log:
        site = Site(settings_of(tmp_path, run_dir) | redaction, core_log=log)
        async with site.running(tmp_path):
            await each_component_dies(site)


async def each_component_dies(site: Site) -> None:
    """Check that the site has the components of the table; let each of them die."""
    again = [each.name for each in site.supervisor.components if each.policy is DeathPolicy.RESTART]
    page = TABLE.read_text(encoding="utf-8")
    restarted = re.findall(r"(?m)^\| serve[^|]*\| `([^`]+)` \|[^|]*\| restart \|", page)
    # The owner of engines is another one: test_engine_unsupervised.py.
    assert sorted(set(restarted) - {"engine NAME"}) == sorted(again)
    assert {"examples", "redaction", "handshakes", "refusals", "metrics", "health"} <= set(again)
    assert {"large-model", "questions", "alarms", "updates", "memory"} <= set(again)
    for name in again:
        await dies_twice(site, name)
    assert not site.gave_up.is_set()


async def dies_twice(site: Site, name: str) -> None:
    """Throw an exception into a component where it waits, and another one at its first step after the restart."""
    faults, starts = site.faults, site.faults.starts[name]
    faults.at_start.add(name)
    faults.pauses.clear()
    with structlog.testing.capture_logs() as logged:
        faults.strike(name)
        await eventually(lambda: len(faults.pauses) == 1)
    (event,) = [each for each in logged if each["event"] == "component_died"]
    assert (name, InjectedFault) == (event["component"], type(event["exc_info"])), logged
    assert event["exc_info"].__traceback__ is not None
    asked = await all_else_answers(site, name)
    faults.release()
    await eventually(lambda: len(faults.pauses) == 2)
    assert faults.pauses[1] == 2 * faults.pauses[0], name
    faults.release()
    await eventually(lambda: faults.starts[name] == starts + 2)
    assert any(f"Component {name} " in said and "it runs again" in said for said in site.supervisor.problems)
    faults.running_seconds += STEADY_SECONDS
    assert [] == site.supervisor.problems
    await asyncio.to_thread(site.review, asked)
    await all_answers(site)


async def all_else_answers(site: Site, name: str) -> str:
    """Check every socket and service while a component is dead; return the id of an answer from that time."""
    asked = await asyncio.to_thread(site.ask)
    if name != "redaction":  # without it answers wait in memory
        await asyncio.to_thread(site.review, asked)
    warnings = await asyncio.to_thread(site.warnings)
    assert [said for said in warnings if said.startswith("Component")] == [
        f"Component {name} stopped with InjectedFault 0 s ago: it is started again after a pause."
        " The daemon's log has the details."
    ]
    assert {name} == {each for each, up in site.supervisor.up.items() if not up}
    if name != "metrics":
        # A page is at most a second old.
        down = lambda: scrape(site.port).value("component_up", component=name) == 0.0  # noqa: E731
        await asyncio.to_thread(eventually_sync, down)
    return asked


async def all_answers(site: Site) -> None:
    """Check every socket and service."""
    await asyncio.to_thread(site.review, await asyncio.to_thread(site.ask))
    assert [] == [said for said in await asyncio.to_thread(site.warnings) if said.startswith("Component")]
    await eventually(lambda: site.supervisor.up["metrics"])
    assert 1.0 == (await asyncio.to_thread(scrape, site.port)).value("serving")


async def test_death_of_the_watchdog_stops_the_daemon(tmp_path, run_dir):
    """When a component with the policy STOP dies (the watchdog is the only one), the daemon stops in order and still
    answers until then."""
    site = Site(settings_of(tmp_path, run_dir))
    names = []
    async with site.running(tmp_path):
        names = [each.name for each in site.supervisor.components if each.policy is DeathPolicy.STOP]
        assert ["watchdog"] == names
        for name in names:
            site.faults.strike(name)
            await eventually(site.gave_up.is_set)
            assert name == site.supervisor.failed_component
            await asyncio.to_thread(site.ask)
            assert "the daemon ends for it" in site.supervisor.problems[0]
    assert site.daemon.closed
    assert not site.config.inference_socket.exists()


ENDING = """
import sys
from edge_agent.config import Config
from edge_agent.daemon import serve

def around(component):
    async def broken():
        raise ZeroDivisionError("thrown in")
    return broken if component.name == "watchdog" else component.run

sys.exit(serve(Config.model_validate_json(sys.argv[1]), around))
"""


def test_daemon_stopped_by_a_component_death_exits_with_1(tmp_path, run_dir):
    """After the death of the watchdog the daemon exits with 1, so systemd restarts it (Restart=on-failure); the log has
    the traceback and names the component."""
    settings = settings_of(tmp_path, run_dir) | {"log": {"format": "json"}}
    command = [sys.executable, "-c", ENDING, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))
    events = {event["event"]: event for event in map(json.loads, done.stderr.splitlines())}
    assert (1, "watchdog") == (done.returncode, events["stopped"]["failed"]), done.stderr
    assert "ZeroDivisionError: thrown in" in events["component_died"]["exception"]
    assert "Traceback" in events["component_died"]["exception"]


STANDING = """
import sys, threading
from edge_agent.config import Config
from edge_agent.daemon import serve
from edge_agent.capture.spool_worker import SpoolWorker
from edge_agent.supervision import run_unwrapped

class StalledWorker(SpoolWorker):
    def do_housekeeping(self):
        print("entered", flush=True)
        threading.Event().wait()

sys.exit(serve(Config.model_validate_json(sys.argv[1]), run_unwrapped, StalledWorker))
"""


@pytest.mark.slow
def test_daemon_with_a_blocked_disk_stops(tmp_path, run_dir):
    """After SIGTERM the daemon waits a limited time for a blocked disk, logs `examples_not_closed` and exits with 1, so
    systemd restarts it."""
    settings = settings_of(tmp_path, run_dir) | {"log": {"format": "json"}}
    command = [sys.executable, "-c", STANDING, json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "entered\n" == process.stdout.readline()
        while "serving" != json.loads(process.stderr.readline())["event"]:
            pass
        process.terminate()
        log = process.communicate(timeout=60)[1]
    assert 1 == process.returncode, log
    assert '"event": "examples_not_closed"' in log


class BlockedSpoolWorker(SpoolWorker):
    """A spool on a disk that completes no write until `works` is set; each test has a subclass with separate events."""

    entered, works = threading.Event(), threading.Event()

    def __init_subclass__(cls) -> None:
        cls.entered, cls.works = threading.Event(), threading.Event()

    def store_predictions(self, kept) -> None:
        if kept:
            self.entered.set()
            assert self.works.wait(120.0)
        super().store_predictions(kept)


@pytest.fixture
def blocked() -> Iterator[type[BlockedSpoolWorker]]:
    """Yield a worker whose disk blocks until the test ends."""
    worker = type("_Blocked", (BlockedSpoolWorker,), {})
    yield worker
    worker.works.set()


async def test_status_metrics_and_answers_continue_while_the_disk_blocks(tmp_path, run_dir, blocked):
    """While a disk write blocks, calls are answered, and status and metrics report its duration instead of figures of
    examples; the waiting answers are stored afterwards."""
    site = Site(settings_of(tmp_path, run_dir), blocked)
    async with site.running(tmp_path):
        asked = await asyncio.to_thread(site.ask)
        await eventually(blocked.entered.is_set)
        for _ in range(3):
            await asyncio.to_thread(site.ask)
        for _ in range(2):  # the first look waits for the disk, the next one knows
            said = [each for each in await asyncio.to_thread(site.warnings) if "no figures of examples" in each]
            assert len(said) == 1
        assert "has worked on one write for" in said[0]
        page = await asyncio.to_thread(scrape, site.port)
        assert page.value("examples_stalled_seconds") >= 2.0
        assert page.value("examples_problems") == 1.0
        assert ("edge_agent_spool_bytes", frozenset()) not in page
        with pytest.raises(CallFailed), ReviewClient(f"unix:{site.config.review_socket}") as client:
            await asyncio.to_thread(client.prediction, asked, timeout_seconds=0.5)
        blocked.works.set()
        await eventually(lambda: site.daemon._capture.calls.is_writable)
        await asyncio.to_thread(site.review, asked)
        assert [] == [each for each in await asyncio.to_thread(site.warnings) if "figures" in each]
    assert site.daemon.closed


@pytest.mark.slow
async def test_feedback_is_not_serving_while_the_disk_blocks(tmp_path, run_dir, blocked):
    """Once a disk write has blocked for ten seconds, FeedbackService is not SERVING until the disk works; the daemon
    and its tasks stay SERVING."""
    site = Site(settings_of(tmp_path, run_dir), blocked)
    async with site.running(tmp_path):
        with Client(f"unix:{site.config.inference_socket}") as client:
            await asyncio.to_thread(eventually_sync, lambda: client.serving(FEEDBACK))
            await asyncio.to_thread(site.ask)
            await eventually(blocked.entered.is_set)
            await asyncio.to_thread(eventually_sync, lambda: not client.serving(FEEDBACK))
            assert site.daemon._capture.calls.is_stalled
            await asyncio.to_thread(site.ask)
            assert [True, True] == [await asyncio.to_thread(client.serving, name) for name in ("", TASK)]
            blocked.works.set()
            await asyncio.to_thread(eventually_sync, lambda: client.serving(FEEDBACK))


async def test_feedback_is_not_serving_if_the_spool_cannot_be_opened(tmp_path, run_dir):
    """If the spool cannot be opened, FeedbackService is not SERVING; the daemon and its tasks are SERVING."""
    site = Site(settings_of(tmp_path, run_dir))
    site.config.state_dir.mkdir()
    (site.config.state_dir / "spool.db").write_bytes(b"garbage" * 1000)
    async with site.running(tmp_path):
        with Client(f"unix:{site.config.inference_socket}") as client:
            await asyncio.to_thread(eventually_sync, lambda: not client.serving(FEEDBACK))
            assert [True, True] == [await asyncio.to_thread(client.serving, name) for name in ("", TASK)]
