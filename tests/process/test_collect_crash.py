"""`edge-convert collect` killed, or failed by its disk, at every system call of the sweep: no example is lost or
duplicated.

The second run of a central team is killed: it takes in new segments, deletes the predictions that a tombstone names,
joins again and writes receipts. Then the site accepts the receipts that exist and deletes those segments, as it is
allowed to, and the same command runs again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convert.publish import central_keys
from edge_agent.formats import segment
from edge_agent.formats.signed_document import public_key_hex
from tests.support.examples import feedback, prediction, tombstone
from tests.support.segments import CentralTeam, SealingSite
from tests.support.strace import WRITING, Point, failed_at, killed_at, needs_strace, points, sample

SECONDS_MAX = 120
# A Parquet file is written in some hundred and fifty pieces under a name that nobody reads: not each is worth a run.
WRITES_AT_ONCE = 20
EXPECTED = [("p-1", None, 0), ("p-2", "price", 1), ("p-4", None, 0), ("p-5", "stock", 1)]
COLLECT = """
import sys
from convert.cli import main
sys.argv[1:1] = ["collect"]
main()
"""


class Fleet:
    """A central team that has collected once, to be copied for each point, and the segments that arrived since."""

    def __init__(self, root: Path) -> None:
        self.root = root
        public = central_keys.create(root / "keys")
        self.keys = central_keys.unlock(root / "keys", lambda: "")
        self.site = SealingSite(root / "ready" / "store")
        self.recipients = (public.recipient,)
        self.seal([prediction(1), prediction(2), prediction(3, input="zebra")])
        assert 0 == self.collect(root / "ready").returncode
        self.seal([feedback(2), prediction(4)])
        self.seal([tombstone(3), prediction(5), feedback(5, value="stock")])
        self.site.say()

    def seal(self, records: list[Any]) -> None:
        self.site.seal(records, recipients=self.recipients)

    def fresh(self) -> Path:
        """Return a new copy of store and central team."""
        shutil.rmtree(self.root / "now", ignore_errors=True)
        return shutil.copytree(self.root / "ready", self.root / "now")

    def collect(self, place: Path, *tracer: str) -> subprocess.CompletedProcess[str]:
        """Run the command in a separate process."""
        command = [*tracer, sys.executable, "-B", "-c", COLLECT, str(place / "store")]
        options = ["--keys", str(self.root / "keys"), "--out", str(place / "collected")]
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=SECONDS_MAX)

    def points(self) -> list[Point]:
        """Return each call of one undisturbed run as (call, number), and a sample of the writes."""
        every = points(lambda *tracer: self.collect(self.fresh(), *tracer), self.root / "log")
        return [point for point in every if point[0] != "write" or point[1] % WRITES_AT_ONCE == 1]

    def check(self, place: Path) -> None:
        """Let the site delete the segments that receipts name, collect again, and compare the result with what was
        sent."""
        site = SealingSite(place / "store")
        raw = (site.folder / "receipts.json").read_bytes()
        body = segment.verify_receipts(raw, [public_key_hex(self.keys.receipts)]).body
        for each in body.epochs[0].received:
            for number in range(each.first, each.last + 1):
                site.remove(f"{site.epoch}-{number:010d}")
        central = CentralTeam(place, keys=self.keys)
        report = central.collect(place / "store")
        assert ([], [], True) == (report.gaps, report.breaks, report.clean)
        rows = central.query("SELECT prediction_id, truth, len(reviews) FROM examples ORDER BY prediction_id")
        assert EXPECTED == rows
        assert (7, 7) == central.query("SELECT count(*), count(DISTINCT record_id) FROM records")[0]
        files = central.files()
        assert not any(b"zebra" in content for content in files.values())
        assert [] == [name for name in files if name.endswith(".partial")]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Return a fleet with new segments to collect."""
    return Fleet(tmp_path_factory.mktemp("fleet"))


def sweep(fleet: Fleet, chosen: list[Point]) -> None:
    """Kill one run at each point."""
    for call, number in chosen:
        place = fleet.fresh()
        assert fleet.collect(place, *killed_at(call, number)).returncode != 0, (call, number)
        fleet.check(place)


@pytest.mark.slow
@needs_strace
def test_kill_at_sampled_points_loses_no_example(fleet: Fleet):
    """After a kill at a sampled system call, the next run has each example and each correction once and has erased the
    predictions of tombstones."""
    sweep(fleet, sample(fleet.points())[::2])


@needs_strace
@pytest.mark.release
def test_kill_at_every_point_loses_no_example(fleet: Fleet):
    """After a kill at any system call of the sweep, the next run has each example and each correction once."""
    sweep(fleet, fleet.points())


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_failing_disk_loses_no_example(fleet: Fleet, error: str):
    """If one write or sync fails, the command reports it or recovers, and the next run has each example and each
    correction once."""
    for call, number in fleet.points():
        if call in WRITING:
            place = fleet.fresh()
            fleet.collect(place, *failed_at(call, number, error))
            fleet.check(place)
