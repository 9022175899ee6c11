"""scripts/flywheel --small: the run from a large model to a small one, and its results."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually_sync

ROOT = Path(__file__).parents[2]


def command(work: Path, *more: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.flywheel", "--small", "--work", str(work), *map(str, more)]


def running(work: Path) -> list[str]:
    """Return the command lines of processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(work) in line]


@pytest.mark.release
def test_flywheel_run_reaches_hybrid_mode(tmp_path: Path):
    """`scripts/flywheel --small` goes from bootstrap through shadow to hybrid, where more than 30% is answered locally
    at similar accuracy and lower cost. It leaves no process running."""
    work, chart = tmp_path / "work", tmp_path / "chart.svg"
    done = subprocess.run(
        command(work, "--json", "--draw", chart), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    figures = json.loads(done.stdout)
    bootstrap, shadow, hybrid = figures["modes"].values()
    assert ["bootstrap", "shadow", "hybrid"] == [*figures["modes"]]
    assert [0, 0, 0, 0, 0] == [
        bootstrap["local"],
        shadow["local"],
        *(mode["abstained"] for mode in figures["modes"].values()),
    ]
    assert figures["rounds"][-1]["ready"]
    assert bootstrap["calls"] == sum(each["accepted"] + each["corrected"] for each in figures["rounds"])
    assert bootstrap["right"] == sum(each["accepted"] for each in figures["rounds"])
    assert shadow["agreed"] > 0.5 * shadow["calls"]
    assert 0.3 < hybrid["local_share"] < 1
    assert hybrid["accuracy"] > hybrid["large_accuracy"] - 0.05
    # The site counts what the devices saw.
    counted = figures["counted"]["hybrid"]
    assert (shadow["agreed"], shadow["calls"]) == (counted["agreed"], counted["compared"])
    assert counted["answers"] == shadow["calls"] + hybrid["calls"]
    # What is answered here costs nothing.
    assert hybrid["cost"] / hybrid["calls"] < 0.8 * bootstrap["cost"] / bootstrap["calls"]
    # The report reckons with the same answers.
    assert (figures["report"]["mode"], figures["report"]["why"]) == ("hybrid", "STILL_ASKS")
    assert figures["report"]["answered_here"] == hybrid["local"]
    assert "</html>" in (work / "report.html").read_text()
    assert json.loads((work / "flywheel.json").read_text()) == figures
    assert chart.stat().st_size > 10_000
    assert [] == running(work)


@pytest.mark.release
def test_terminated_flywheel_run_leaves_no_process(tmp_path: Path):
    """After SIGTERM to `scripts/flywheel`, its daemons and its large model end with it."""
    work = tmp_path / "work"
    with subprocess.Popen(command(work), cwd=ROOT, stderr=subprocess.PIPE, text=True) as walk:
        eventually_sync(lambda: any(line.rstrip().endswith(" uplink") for line in running(work)), seconds=300)
        walk.send_signal(signal.SIGTERM)
        walk.communicate(timeout=60)
    assert 128 + signal.SIGTERM == walk.returncode
    assert [] == running(work)
