"""An uplink killed, or failed by its disks, at every system call of the sweep: nothing is lost, and no incomplete
upload is recorded.

strace counts the calls of each thread separately, and the distribution of work among threads varies: a point can miss.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.formats import uplink_state
from tests.support.forking_script import ForkingScript
from tests.support.object_stores import s3
from tests.support.strace import WRITING, Point, failed_at, killed_at, needs_strace, points, sample, strace
from tests.support.uplink_cases import UplinkCase, signed_receipts

SENDING = ("sendto", "writev", "sendmsg")
IMPORTS = """
import sys
from pathlib import Path
import structlog
from edge_agent.errors import EdgeAgentError
from tests.support.uplink_cases import UplinkCase
"""
ONCE = f"""{IMPORTS}
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))  # its writes are not the subject
case = UplinkCase(Path(sys.argv[1]), sys.argv[2], dict(zip(sys.argv[3::2], sys.argv[4::2])))
try:
    case.once()
except EdgeAgentError:
    sys.exit(3)
"""


class Site:
    """A site with two segments, and receipts that wait in the object store; set up again for each point."""

    def __init__(self, root: Path, url: str = "", options: dict[str, str] | None = None) -> None:
        self.root, self.url, self.options = root, url, options or {}
        self.number = 0
        self.working = ForkingScript(IMPORTS, ONCE, root)

    def fresh(self) -> UplinkCase:
        """Return a new copy of the site with a separate object store."""
        shutil.rmtree(self.root / "site", ignore_errors=True)
        (self.root / "site" / "upstream").mkdir(parents=True)
        self.number += 1
        url = f"{self.url}/{self.number}" if self.url else str(self.root / "site" / "upstream")
        case = UplinkCase(self.root / "site", url, self.options)
        case.seal(2)
        case.put("site=site-1/receipts.json", signed_receipts())
        return case

    def run(self, case: UplinkCase, *tracer: str) -> subprocess.CompletedProcess[str]:
        """Run the uplink once in a separate process."""
        options = [part for pair in self.options.items() for part in pair]
        return self.working.run([str(case.folder), case.config.url, *options], *tracer)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Yield a site whose object store is a folder."""
    laid_out = Site(tmp_path)
    with laid_out.working:
        yield laid_out


@pytest.fixture
def bucket_site(tmp_path: Path) -> Iterator[Site]:
    """Yield a site whose object store is S3."""
    with s3() as served:
        laid_out = Site(tmp_path, "s3://fleet/swept", served.options)
        with laid_out.working:
            yield laid_out


def hold(case: UplinkCase, before: dict[str, bytes]) -> None:
    """Check the files that remain, finish the pass, and check them again."""
    assert before == case.outbox_files()
    whole = {key for key, content in case.uploaded().items() if before.get(key) == content}
    if (case.notes / "uploaded.jsonl").exists():
        assert case.noted_keys() <= whole
    manifests = {key for key in whole if key.endswith(".json") and "segments" in key}
    assert {key.replace(".json", ".age") for key in manifests} <= whole
    if (case.notes / "uplink.json").exists():
        uplink_state.parse((case.notes / "uplink.json").read_bytes())
    assert all(signed_receipts() == path.read_bytes() for path in case.receipts.glob("receipts.json"))
    case.once()
    assert before == case.uploaded() == case.outbox_files()
    assert ["receipts.json"] == [path.name for path in case.receipts.iterdir()]
    assert [] == list(case.notes.glob(".*"))


def sweep(site: Site, every: list[Point], tracer: Callable[..., list[str]]) -> Counter[int]:
    """Disturb one pass at each point; return how often each exit code occurred."""
    codes: Counter[int] = Counter()
    for point in every:
        case = site.fresh()
        before = case.outbox_files()
        done = site.run(case, *tracer(*point))
        assert "Traceback" not in done.stderr, (point, done.stderr)
        codes[done.returncode] += 1
        hold(case, before)
    return codes


def every_point(site: Site) -> list[Point]:
    """Return the points of one undisturbed pass."""
    case = site.fresh()
    return points(lambda *tracer: site.run(case, *tracer), site.root / "log")


@pytest.mark.slow
@needs_strace
def test_kill_at_sampled_points_loses_no_segment(site: Site):
    """After a kill at a sampled call the outbox is unchanged, recorded uploads are complete, and the next pass uploads
    the rest."""
    assert 0 < sum(count for code, count in sweep(site, sample(every_point(site)), killed_at).items() if code)


@needs_strace
@pytest.mark.release
def test_kill_at_every_point_loses_no_segment(site: Site):
    """After a kill at any call that writes, syncs, renames or removes, in any thread, no segment is lost."""
    codes = sweep(site, every_point(site), killed_at)
    assert codes.total() - codes[0] > 20


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_failing_disk_loses_no_segment(site: Site, error: str):
    """If one write or sync fails, on the site or in the object store, the pass recovers or exits with 3, and no segment
    is lost."""
    wanted = [point for point in every_point(site) if point[0] in WRITING]
    assert {0, 3} == sweep(site, wanted, lambda call, number: failed_at(call, number, error)).keys()


@needs_strace
@pytest.mark.release
def test_kill_while_sending_to_s3_loses_no_segment(bucket_site: Site):
    """After a kill at a call that sends, S3 has each recorded object completely, and the next pass uploads the rest."""
    case = bucket_site.fresh()
    log = bucket_site.root / "log"
    bucket_site.run(case, *strace(f"trace={','.join(SENDING)}"), "-o", str(log))
    counts = {call: log.read_text().count(f"{call}(") for call in SENDING}
    wanted = [(call, number) for call in SENDING for number in range(1, min(counts[call], 40) + 1)]
    assert 10 <= len(wanted)
    codes = sweep(bucket_site, wanted, killed_at)
    assert codes.total() - codes[0] > 3
