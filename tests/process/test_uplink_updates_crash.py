"""A mirror killed, or with a disk error, at every relevant system call: its files are valid, and it continues.

strace counts the calls of each thread separately, and the distribution of work among threads varies: a point can miss.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.formats import uplink_state
from tests.support.power_cut import TRACER, TRACES_MAX, PowerCut, is_ordered
from tests.support.strace import Point, failed_at, killed_at, needs_strace, points, sample
from tests.support.update_cases import ADAPTER, WEIGHTS, Repository, UpdateCase, everything, published, rubbish, sha256

WRITING = ("write", "pwrite64", "fsync", "fdatasync", "fallocate", "rename", "ftruncate", "mkdir")
OLD = rubbish(700, 4)
ONCE = """
import sys
from pathlib import Path
import structlog
from edge_agent.errors import EdgeAgentError
from tests.support.update_cases import UpdateCase

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))  # its writes are not the subject
case = UpdateCase(Path(sys.argv[1]), sys.argv[2])
try:
    case.once()
except EdgeAgentError as error:
    print(error.reason)
    sys.exit(3)
"""


class Site:
    """A site that has one release and half of a blob of the next one; set up again for each point."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.before, self.after = Repository(), published()
        self.before.blob(OLD)
        self.before.publish()
        self.before.objects.update(self.after.objects)
        self.after.objects.update(self.before.objects)
        self.after.version = 1
        self.after.publish()

    def fresh(self) -> UpdateCase:
        """Return a new copy of the site."""
        shutil.rmtree(self.root / "site", ignore_errors=True)
        (self.root / "site").mkdir()
        case = UpdateCase(self.root / "site", self.before.lay(self.root / "site" / "repository"))
        case.want(OLD)
        case.once()
        case.want(ADAPTER, WEIGHTS)
        (case.incoming / "blobs" / f".{sha256(WEIGHTS)}.partial").write_bytes(WEIGHTS[: len(WEIGHTS) // 2])
        self.after.lay(self.root / "site" / "repository")
        return case

    def run(self, case: UpdateCase, *tracer: str) -> subprocess.CompletedProcess[str]:
        """Run the uplink once in a separate process."""
        command = [*tracer, sys.executable, "-B", "-c", ONCE, str(case.folder), case.config.updates_url]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def hold(self, case: UpdateCase, point: object) -> None:
        """Check the files that remain, finish the pass, and check them again."""
        here = case.arrived()
        timestamp = here["metadata/timestamp.json"]
        of_set = self.before if timestamp == self.before.objects["metadata/timestamp.json"] else self.after
        assert of_set.release().items() <= here.items(), point
        blobs = {key: raw for key, raw in here.items() if key.startswith("blobs/") and "partial" not in key}
        assert {f"blobs/{sha256(raw)}" for raw in blobs.values()} == blobs.keys(), point
        if (case.notes / "uplink.json").exists():
            uplink_state.parse((case.notes / "uplink.json").read_bytes())
        case.once()
        left = {key for key in case.arrived() if key not in everything(self.after)}
        assert everything(self.after).items() <= case.arrived().items(), point
        assert not [key for key in left if key.startswith("blobs/") and key not in self.before.release()], point


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site whose repository is a folder."""
    return Site(tmp_path)


def sweep(site: Site, every: list[Point], tracer: Callable[..., list[str]]) -> Counter[int]:
    """Disturb one pass at each point; return how often each exit code occurred."""
    codes: Counter[int] = Counter()
    for point in every:
        case = site.fresh()
        done = site.run(case, *tracer(*point))
        assert "Traceback" not in done.stderr, (point, done.stderr)
        codes[done.returncode] += 1
        site.hold(case, point)
    return codes


def every_point(site: Site) -> list[Point]:
    """Return the points of one undisturbed pass."""
    case = site.fresh()
    return points(lambda *tracer: site.run(case, *tracer), site.root / "log")


@pytest.mark.slow
@needs_strace
def test_kill_at_sampled_points_leaves_consistent_metadata(site: Site):
    """After a kill at a sampled call the metadata is one consistent set, blobs match their names, and the next pass
    downloads the rest."""
    assert 0 < sum(count for code, count in sweep(site, sample(every_point(site), 6), killed_at).items() if code)


@needs_strace
@pytest.mark.release
def test_kill_at_every_point_leaves_consistent_metadata(site: Site):
    """After a kill at any call that writes, syncs, allocates, renames or removes, in any thread, the metadata is one
    consistent set."""
    codes = sweep(site, every_point(site), killed_at)
    assert codes.total() - codes[0] > 40


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_failing_disk_leaves_consistent_metadata(site: Site, error: str):
    """If one write, sync, rename or allocation fails, the pass recovers or exits with 3, and the metadata is one
    consistent set."""
    wanted = [point for point in every_point(site) if point[0] in WRITING]
    assert {0, 3} == sweep(site, wanted, lambda call, number: failed_at(call, number, error)).keys()


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("names_first", [False, True])
def test_power_cut_leaves_consistent_metadata(site: Site, names_first: bool):
    """After a power cut at any call the metadata is the old or the new set, and the next pass downloads the rest."""
    log, calls = site.root / "log", 0
    for _ in range(TRACES_MAX):
        case = site.fresh()
        cut = PowerCut(case.folder)
        assert 0 == site.run(case, *TRACER, "-o", str(log)).returncode
        if is_ordered(log):
            break
    for call in cut.replay(log):
        shutil.rmtree(case.folder)
        cut.lay(case.folder, names_first=names_first)
        site.hold(UpdateCase(case.folder, case.config.updates_url), call)
        calls += 1
    assert calls > 40
