"""One run of the learning loop: corrections at a site become training rows, and a threshold that keeps its
guarantee."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import learning_loop
from benchmarks.learning_loop import REVIEW_SHARE
from tests.support.eventually import eventually_sync


@pytest.mark.slow
def test_console_correction_becomes_row_with_probability(tmp_path: Path):
    """A correction in the console becomes a redacted row with its sampling probability. Only randomly drawn, reviewed
    rows are in the calibration and test splits; teacher labels are in training."""
    found = learning_loop.gather(tmp_path, 120)
    assert ("refund", "audit", REVIEW_SHARE) == tuple(
        found.corrected[key] for key in ("label", "review_stream", "sampling_probability")
    )
    measured = [row for split in ("calibration", "test") for row in found.rows[split]]
    assert ("corrected", "anna") == (found.corrected["label_source"], found.corrected["labeled_by"])
    assert "[CARD_1]" not in found.corrected["text"]  # a card number made up in its place
    assert learning_loop.CARD not in found.corrected["text"]
    assert {"reviewed", "corrected"} == {row["label_source"] for row in measured}
    assert "teacher" in {row["label_source"] for row in found.rows["train"]}
    assert {("audit", REVIEW_SHARE)} == {(row["review_stream"], row["sampling_probability"]) for row in measured}
    audit = found.sheet["audit"]
    assert (0, len(measured)) == (audit["unreviewed"], sum(audit["used"].values()))
    assert {row["prediction_id"] for row in measured}.isdisjoint(row["prediction_id"] for row in found.rows["train"])


@pytest.mark.slow
def test_terminated_run_leaves_no_process(tmp_path: Path):
    """After SIGTERM while the site's daemon starts, no process of the learning loop is left."""
    command = [sys.executable, "-m", "benchmarks.learning_loop", "--work", str(tmp_path / "walk")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as walk:
        eventually_sync(lambda: any((tmp_path / "walk").rglob("state.db")))
        walk.terminate()
        assert 128 + signal.SIGTERM == walk.wait(60)
    assert [] == processes_of(tmp_path)


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of the processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(folder) in line]


@pytest.mark.release
def test_bundle_from_learning_loop_keeps_risk_guarantee(tmp_path: Path):
    """The threshold calibrated on the audit keeps its risk guarantee on more than 100 confident answers to new
    messages."""
    walked = learning_loop.walk(tmp_path)
    assert (REVIEW_SHARE, 0) == (walked.sampling["probability"], walked.sampling["unknown"])
    assert walked.threshold is not None
    assert walked.sure > 100
    assert walked.promise_holds
