"""The daemon killed while reviewers correct its answers: each acknowledged correction is stored once."""

from __future__ import annotations

import random
import threading
import uuid
from pathlib import Path

import pytest

from edge_agent.client import CallFailed, ReviewClient
from edge_agent.formats.signed_document import public_key_hex
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.examples import CENTRAL_KEY, RECIPIENT
from tests.support.site_cases import read_outbox

SEED = 5
SITE = {"id": "site-1", "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]}
KILLS = 4
WAIT_SECONDS = 60.0


class Reviewers(threading.Thread):
    """Asks and corrects without end, and retries each failure with the same request_id."""

    def __init__(self, daemon: RunningDaemon) -> None:
        super().__init__(daemon=True)
        self.daemon_under_test, self.acknowledged, self.ended = daemon, {}, threading.Event()
        self.progress = threading.Semaphore(0)

    def run(self) -> None:
        target = f"unix:{self.daemon_under_test.run_dir}/review.sock"
        with self.daemon_under_test.client() as client, ReviewClient(target) as reviews:
            while not self.ended.is_set():
                try:
                    self._one(client, reviews)
                except CallFailed:
                    self.ended.wait(0.02)

    def _one(self, client, reviews) -> None:
        (answer,) = client.classify("pos", [f"text {len(self.acknowledged)}"], timeout_seconds=5)
        request_id = str(uuid.uuid4())
        for _ in range(200):
            try:
                reviews.correct(
                    answer.prediction_id, "price", reviewer="anna", request_id=request_id, timeout_seconds=5
                )
                break
            except CallFailed as error:
                if error.reason == "PREDICTION_UNKNOWN":
                    return  # the answer was not on the disk yet when the daemon was killed, and nothing was promised
                self.ended.wait(0.02)
        else:
            return
        self.acknowledged[answer.prediction_id] = request_id
        self.progress.release()


@pytest.mark.release
def test_kills_lose_and_duplicate_no_correction(tmp_path: Path):
    """Despite SIGKILL during commits and seals, every acknowledged correction reaches the outbox exactly once."""
    rng = random.Random(SEED)
    examples = {"collect": {"pos": "upstream"}, "commit_seconds": 0.01, "seal_seconds": 0.2, "window_seconds": 86_400}
    with RunningDaemon(tmp_path, examples=examples, site=SITE) as daemon:
        daemon.install(echo_bundle(tmp_path / "pos", "pos", labels=("refund", "price")))
        reviewers = Reviewers(daemon)
        reviewers.start()
        for _ in range(KILLS):
            for _ in range(rng.randint(3, 25)):
                assert reviewers.progress.acquire(timeout=WAIT_SECONDS)
            daemon.kill()
            daemon.start()
        for _ in range(5):
            assert reviewers.progress.acquire(timeout=WAIT_SECONDS)
        reviewers.ended.set()
        reviewers.join()
        with daemon.admin() as admin:
            admin.seal_examples()
            epoch = admin.status().examples.epoch
        records = [record for part in read_outbox(daemon.state_dir / "outbox", epoch).values() for record in part]
    judged = [record.prediction_id for record in records if record.type == "feedback"]
    assert len(set(judged)) == len(judged)
    assert set(reviewers.acknowledged) <= set(judged)
    assert len({record.record_id for record in records}) == len(records)


@pytest.mark.slow
def test_damaged_spool_does_not_stop_inference(tmp_path: Path):
    """With a damaged spool, inference continues, status shows the problem and the remedy, and the damaged file is
    unchanged."""
    with RunningDaemon(tmp_path, examples={"collect": {"pos": "local"}}) as daemon:
        daemon.install(echo_bundle(tmp_path / "pos", "pos", labels=("refund", "price")))
    damaged = b"no database at all" * 500
    (daemon.state_dir / "spool.db").write_bytes(damaged)
    for name in ("spool.db-wal", "spool.db-shm"):
        (daemon.state_dir / name).unlink(missing_ok=True)
    with daemon, daemon.client() as client:
        eventually_sync(lambda: client.serving("pos"), WAIT_SECONDS)
        (answer,) = client.classify("pos", ["hello"])
        with daemon.admin() as admin:
            warnings = admin.status().warnings
        with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviews, pytest.raises(CallFailed) as caught:
            reviews.prediction(answer.prediction_id)
    assert "STORE_DAMAGED" == caught.value.reason
    assert any("No examples are kept" in warning and "move" in warning for warning in warnings)
    assert damaged == (daemon.state_dir / "spool.db").read_bytes()
