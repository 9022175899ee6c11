"""A disk that temporarily accepts no writes: the daemon continues to answer, and reports the problem."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.client import CallFailed, Classification, ReviewClient
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.free_ports import free_port
from tests.support.mounts import tmpfs
from tests.support.scraped import scrape

IMPATIENT_SECONDS, SCRAPER_SECONDS = 0.3, 0.1
ROUNDS = 2
"""In all well below the 5 s that SQLite waits for a lock: a write that fails is another matter."""
PATIENT_SECONDS = 30.0


@pytest.fixture(scope="module")
def port() -> int:
    """The port of the daemon's metrics."""
    return free_port()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[RunningDaemon]:
    """A daemon that stores the answers of one task."""
    folder = tmp_path_factory.mktemp("slow")
    examples = {"collect": {"till": "local"}, "commit_seconds": 0.05}
    with RunningDaemon(folder, examples=examples, metrics={"address": f"127.0.0.1:{port}"}) as running:
        running.install(echo_bundle(folder / "a", "till", "classify", ("refund", "price")))
        yield running


@contextlib.contextmanager
def stalled(state_dir: Path) -> Iterator[None]:
    """Hold the lock of the examples' database: the daemon's writes wait for it, as they would for a disk."""
    with contextlib.closing(sqlite3.connect(state_dir / "spool.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def ask(daemon: RunningDaemon) -> str:
    """Classify one text; return the id of the answer."""
    with daemon.client() as client:
        (answer,) = client.classify("till", ["a refund"])
    assert isinstance(answer, Classification)
    return answer.prediction_id


def scrape_and_give_up(port: int) -> None:
    """Request the metrics page, and close the connection after a short time, with or without a response."""
    with socket.create_connection(("127.0.0.1", port), PATIENT_SECONDS) as sock, contextlib.suppress(OSError):
        sock.settimeout(SCRAPER_SECONDS)
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: till\r\n\r\n")
        sock.recv(1)


def test_timeouts_on_slow_disk_do_not_break_later_calls(daemon, port):
    """Calls that time out while the disk stalls, for feedback, review, status and metrics, do not break later ones, and
    all answers are stored."""
    kept = ask(daemon)
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as client, daemon.admin() as admin:
        assert kept == client.prediction(kept, timeout_seconds=PATIENT_SECONDS).prediction_id
        with stalled(daemon.state_dir):
            meanwhile = ask(daemon)
            for _ in range(ROUNDS):
                scrape_and_give_up(port)
                with pytest.raises(CallFailed, match="DEADLINE_EXPIRED"):
                    client.prediction(kept, timeout_seconds=IMPATIENT_SECONDS)
                with pytest.raises(CallFailed, match="DEADLINE_EXPIRED"):
                    client.correct(kept, "price", reviewer="anna", timeout_seconds=IMPATIENT_SECONDS)
                with contextlib.suppress(CallFailed):
                    admin.status(timeout_seconds=IMPATIENT_SECONDS)
                scrape_and_give_up(port)
        last = ask(daemon)
        for asked in (meanwhile, last):
            assert asked == client.prediction(asked, timeout_seconds=PATIENT_SECONDS).prediction_id
        client.correct(last, "price", reviewer="anna", timeout_seconds=PATIENT_SECONDS)
        examples = admin.status(timeout_seconds=PATIENT_SECONDS).examples
        assert examples is not None
        assert 3 <= examples.counters["captured"]  # those of this test
        # A page is at most a second old: the first may be from the stall, and has no figures of examples then.
        eventually_sync(lambda: scrape(port).get(("edge_agent_spool_bytes", frozenset()), 0.0) > 0)


@pytest.mark.slow
def test_doctor_reports_stalled_disk_without_advising_kill(daemon):
    """While writes stall, doctor reports the daemon as ok and the examples as a fault, and no remedy kills the
    daemon."""
    with stalled(daemon.state_dir):
        ask(daemon)
        done = subprocess.run([*daemon.command(), "doctor", "--json"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["findings"]
    faults = [each for each in found if each["check"] in ("examples-stalled", "examples-kept")]
    assert ["fault"] == [each["verdict"] for each in faults]
    assert ["ok"] == [each["verdict"] for each in found if each["check"] == "daemon"]
    assert [] == [each["check"] for each in found if "kill" in each["command"]]


@pytest.mark.slow
def test_daemon_starts_on_full_disk(tmp_path: Path) -> None:
    """A daemon starts on a full disk and answers, even for a task whose examples are stored."""
    with tmpfs(tmp_path / "disk", "size=8m") as disk:
        daemon = RunningDaemon(tmp_path, examples={"collect": {"till": "local"}})
        daemon.state_dir = disk / "state"
        with daemon:
            daemon.install(echo_bundle(tmp_path / "a", "till", "classify", ("refund", "price")))
        with (disk / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        with daemon, daemon.client() as client:
            eventually_sync(lambda: client.serving("till"))
            (answer,) = client.classify("till", ["hello"])
        assert isinstance(answer, Classification)
