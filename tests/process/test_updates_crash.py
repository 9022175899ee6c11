"""The daemon's part of an update, cut off at every write: the site answers with the old or the new bundle and completes
the change.

One process verifies the files in `incoming/`, ingests version 2, tests it, switches and commits (forward); finds during
the probation that it is bad (back); or is told by the operator to roll back (back by hand). It is killed at each of its
disk calls, or the call fails, or the power fails and everything that was not synced is lost. Then the site starts with
the remaining files.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fleet_cases import CentralTeam
from tests.support.forking_script import ForkingScript
from tests.support.mirrored_site import MirroredSite, carry_on
from tests.support.power_cut import TRACER, TRACES_MAX, PowerCut, is_ordered
from tests.support.store_cases import bundle, require_whole
from tests.support.strace import Point, failed_at, killed_at, needs_strace, points, sample
from tests.support.updating_site import GOLDEN, TASK

CHANGES = ("forward", "back", "back by hand")
WORK = """
import contextlib, os, sys
from pathlib import Path
import structlog
from edge_agent.errors import EdgeAgentError
from tests.support.mirrored_site import carry_on

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))  # its writes are not the subject

def arrived():
    with contextlib.suppress(OSError):  # of the tracer
        os.write(1, b"arrived")

try:
    carry_on(Path(sys.argv[1]), sys.argv[2], sys.argv[3], arrived)
except EdgeAgentError as error:
    sys.exit(3)
"""
SOME = 4


class CrashSites:
    """A site at version 1 to which version 2 has been delivered, and the same site with version 2 in probation, to be
    copied."""

    def __init__(self, root: Path) -> None:
        self.root, self.site = root, root / "site"
        central, first = CentralTeam(root / "central"), root / "forward"
        (first / "state").mkdir(parents=True)
        (first / "root.json").write_bytes(central.root_bytes)
        self.old = self._bring(central, "1.0.0", weights=b"base")
        carry_on(first, "forward", self.old)
        self.new = self._bring(central, "2.0.0", weights=b"base", tokenizer=b"t" * 70_000)
        for change in CHANGES[1:]:
            carry_on(Path(shutil.copytree(first, root / change)), "watch", self.new)
        self.ends = {
            "forward": (self.new, "done"),
            "back": (self.old, "rolled_back"),
            "back by hand": (self.old, "held"),
        }
        self.working = ForkingScript("import tests.support.mirrored_site", WORK, root)

    def _bring(self, central: CentralTeam, version: str, **files: bytes) -> str:
        digest = central.publish(bundle(self.root / version, version, TASK, golden=GOLDEN, **files))
        central.plan(central.offering(digest))
        incoming = self.root / "forward" / "state" / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        central.copy(incoming)
        return digest

    def fresh(self, change: str) -> None:
        """Set up the site as it is before a change."""
        shutil.rmtree(self.site, ignore_errors=True)
        shutil.copytree(self.root / change, self.site)

    def work(self, change: str, *tracer: str) -> subprocess.CompletedProcess[str]:
        """Let the site make a change in a separate process."""
        return self.working.run([str(self.site), change, self.new], *tracer)

    def points(self, change: str) -> list[Point]:
        """Count the calls of an undisturbed change."""
        self.fresh(change)
        return points(lambda *tracer: self.work(change, *tracer), self.root / "log")

    def hold(self, change: str) -> str:
        """Start the site with the remaining files, check it and let it complete the change; return the digest that
        answered."""
        answered, _ = asyncio.run(self._found())
        assert answered in (self.old, self.new)
        carry_on(self.site, change, self.new)
        assert self.ends[change] == asyncio.run(self._found())
        return answered

    async def _found(self) -> tuple[str, str]:
        """Start the site; return the bundle that answers and the state of its update."""
        site = MirroredSite(self.site)
        await site.activation.resume()
        await site.loaded()
        require_whole(site.store, self.site / "state")
        assert site.active() in site.engines.attached
        found = site.active(), site.store.journal.rows()[TASK].state
        await site.activation.stop()
        site.store.close()
        return found


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashSites]:
    """Yield the prepared sites."""
    made = CrashSites(tmp_path_factory.mktemp("field"))
    yield made
    made.working.close()


def held(field: CrashSites, change: str, point: object) -> str:
    """Check a site after a disturbance at a point."""
    try:
        return field.hold(change)
    except BaseException as error:
        error.add_note(f"{change}, {point}")
        raise


def sweep(field: CrashSites, change: str, every: list[Point], tracer: Callable[..., list[str]]) -> set[tuple[int, str]]:
    """Disturb one change at each point; return the exit codes, each with the bundle that answered afterwards."""
    ends = set()
    for point in every:
        field.fresh(change)
        done = field.work(change, *tracer(*point))
        assert "Traceback" not in done.stderr, (change, point, done.stderr)
        ends.add((done.returncode, held(field, change, point)))
    return ends


def cut_off(field: CrashSites, change: str, *, names_first: bool, steps: int = 1) -> set[str]:
    """Cut the power at every `steps`-th point; return which bundles answered afterwards."""
    log, answered, arrived = field.root / "log", set(), False
    for _ in range(TRACES_MAX):
        field.fresh(change)
        cut = PowerCut(field.site)
        assert 0 == field.work(change, *TRACER, "-o", str(log)).returncode
        if is_ordered(log):
            break
    for number, call in enumerate(cut.replay(log)):
        arrived = arrived or '"arrived"' in call
        if number % steps and '"arrived"' not in call:
            continue
        shutil.rmtree(field.site)
        cut.lay(field.site, names_first=names_first)
        found = held(field, change, call)
        assert found == field.ends[change][0] or not arrived, "what was done is not on the disk"
        answered.add(found)
    assert arrived
    return answered


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("change", CHANGES)
def test_change_disturbed_at_sampled_points_is_completed(field: CrashSites, change: str):
    """After a kill, a disk error or a power cut at sampled points of a change, the site answers and completes the
    change."""
    every = field.points(change)
    assert {-9} == {code for code, _ in sweep(field, change, sample(every, SOME), killed_at)}
    refused = sweep(field, change, sample(every, 2), lambda *point: failed_at(*point, "EIO"))
    assert {0, 3} >= {code for code, _ in refused}
    cut_off(field, change, names_first=True, steps=16)


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("change", CHANGES)
def test_kill_at_every_point_leaves_the_old_or_the_new_bundle(field: CrashSites, change: str):
    """After a kill at any call that writes, syncs or changes a name, the old or the new bundle answers; both occur."""
    assert {(-9, field.old), (-9, field.new)} == sweep(field, change, field.points(change), killed_at)


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("change", CHANGES)
def test_single_disk_error_only_delays_a_change(field: CrashSites, change: str, error: str):
    """After a single disk error the change completes without a restart (0), unless the daemon could not start or the
    operator's call was refused (3)."""
    ends = sweep(field, change, field.points(change), lambda *point: failed_at(*point, error))
    end, _ = field.ends[change]
    assert (0, end) in ends
    assert {end} == {answered for code, answered in ends if code == 0}
    assert {0, 3} == {code for code, _ in ends}


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("names_first", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_power_cut_loses_nothing_that_was_relied_on(field: CrashSites, change: str, names_first: bool):
    """After a power cut at any call the old or the new bundle answers: the daemon relies only on data that it has
    synced."""
    assert {field.old, field.new} == cut_off(field, change, names_first=names_first)
