"""A disk that takes no writes for a while, and callers who do not wait for it: the daemon goes on, and says so."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.client import AdminClient, CallFailed, Classification, ReviewClient
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

IMPATIENT_SECONDS = 0.3
PATIENT_SECONDS = 30.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that keeps the answers of one task."""
    folder = tmp_path_factory.mktemp("slow")
    with RunningDaemon(folder, examples={"collect": {"till": "local"}, "commit_seconds": 0.05}) as running:
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


def captured(admin: AdminClient) -> int:
    """Return how many answers are on the disk; 0 = there are no figures."""
    examples = admin.status(timeout_seconds=PATIENT_SECONDS).examples
    return examples.counters.get("captured", 0) if examples else 0


def test_callers_who_give_up_while_the_disk_is_slow_end_nothing(daemon):
    """Feedback, review, status: whoever stops waiting is dropped; the next caller is answered, and answers are kept."""
    kept = ask(daemon)
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as client, daemon.admin() as admin:
        assert kept == client.prediction(kept, timeout_seconds=PATIENT_SECONDS).prediction_id
        with stalled(daemon.state_dir):
            ask(daemon)
            for _ in range(3):
                with pytest.raises(CallFailed, match="DEADLINE_EXPIRED"):
                    client.prediction(kept, timeout_seconds=IMPATIENT_SECONDS)
                with pytest.raises(CallFailed, match="DEADLINE_EXPIRED"):
                    client.correct(kept, "price", reviewer="anna", timeout_seconds=IMPATIENT_SECONDS)
                with contextlib.suppress(CallFailed):
                    admin.status(timeout_seconds=IMPATIENT_SECONDS)
        eventually_sync(lambda: captured(admin) >= 1, PATIENT_SECONDS)
        last = ask(daemon)
        assert last == client.prediction(last, timeout_seconds=PATIENT_SECONDS).prediction_id
        client.correct(last, "price", reviewer="anna", timeout_seconds=PATIENT_SECONDS)


def test_doctor_names_the_disk_and_advises_no_kill(daemon):
    """While writes wait it finds the daemon well, the examples at fault, and tells to look at the disk."""
    with stalled(daemon.state_dir):
        ask(daemon)
        done = subprocess.run([*daemon.command(), "doctor", "--json"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["findings"]
    faults = [each for each in found if each["check"] in ("examples-stalled", "examples-kept")]
    assert ["fault"] == [each["verdict"] for each in faults]
    assert ["ok"] == [each["verdict"] for each in found if each["check"] == "daemon"]
    assert [] == [each["check"] for each in found if "kill" in each["command"]]
