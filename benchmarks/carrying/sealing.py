"""Faults of the spool and of sealing: a site works in a process of its own and is harmed; then it starts again.

Afterwards its outbox goes to the central team the way a USB drive carries it, `collect` reads it, and the receipts go
back.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.carrying.tally import Tally
from convert.collect.receipts import NOT_ARRIVED
from edge_agent.cli.media import copy_out
from tests.support.delivery_path import Outcome
from tests.support.segment_sites import SegmentSites, acknowledged
from tests.support.segments import CentralTeam
from tests.support.site_cases import SiteCase, answered, judgement
from tests.support.strace import WRITING, Point, failed_at, killed_at

SEED = 4
FLIPS = 8
Fault = Callable[[Path], str]
"""Does its harm to a site's directory; returns what the work said."""


def measure(root: Path, points: int, tally: Tally) -> None:
    """Inject a seeded choice of each kind of fault, each into a fresh site."""
    with SegmentSites(root) as field:
        base = CentralTeam(root / "base")
        copy_out(root / "ready" / "state" / "outbox", root / "base" / "store" / "site=site-1")
        base.collect(root / "base" / "store")
        for kind, fault in _faults(field, points):
            tally.add(kind, 1, _injected(field, fault))


def _injected(field: SegmentSites, fault: Fault) -> Outcome:
    folder = field.fresh()
    said = acknowledged(fault(folder))
    site = SiteCase(folder)  # reads every byte of its outbox
    site.keep(answered(99))
    site.judge(judgement(99))
    site.worker.seal_all()
    outcome = _collected(field.root, site, said | {"feedback:f-99"})
    site.worker.close()
    return outcome


def _collected(root: Path, site: SiteCase, said: set[str]) -> Outcome:
    """Carry everything to the central team and back, and count."""
    shutil.rmtree(root / "central", ignore_errors=True)
    shutil.copytree(root / "base", root / "central")
    store = root / "central" / "store"
    copying = copy_out(site.config.outbox, store / "site=site-1")
    central = CentralTeam(root / "central")
    report = central.collect(store)
    rows = central.query("SELECT record_id FROM records")
    joined = central.query("SELECT prediction_id FROM examples")
    lost = len(said - {name for (name,) in rows}) + (copying.failure is not None)
    # Everything was carried there, so a segment that only "has not come" is one that nobody accounts for.
    unnamed = sum(gap.why == NOT_ARRIVED for gap in report.gaps) + len(report.breaks)
    shutil.copy(store / "site=site-1" / "receipts.json", site.config.receipts / "receipts.json")
    site.worker.read_receipts()
    lost += bool(site.files()) and report.clean
    return Outcome(lost, len(joined) - len(set(joined)), unnamed)


def _faults(field: SegmentSites, points: int) -> Iterator[tuple[str, Fault]]:
    rng, every = random.Random(SEED), field.points()  # noqa: S311 - which fault comes next is no secret
    writes = [point for point in every if point[0] in WRITING]
    for point in rng.sample(every, min(points, len(every))):
        yield "kill -9 in spool and sealing", _killed(field, point)
    for error in ("EIO", "ENOSPC"):
        for point in rng.sample(writes, min(points, len(writes))):
            yield f"{error} in spool and sealing", _failed(field, point, error)
    yield from (("torn tail of the spool", _torn(field, cut)) for cut in (1, 100, 5000))
    yield from (("bit flip in a sealed segment", _flipped(number)) for number in range(FLIPS))
    yield from (("segment or manifest deleted", _deleted(suffix)) for suffix in (".age", ".json"))
    yield from ((f"clock {years:+} years", _jumped(years)) for years in (-1, 10))


def _killed(field: SegmentSites, point: Point) -> Fault:
    return lambda folder: field.work(folder, *killed_at(*point)).stdout


def _failed(field: SegmentSites, point: Point, error: str) -> Fault:
    return lambda folder: field.work(folder, *failed_at(*point, error)).stdout


def _sealed(folder: Path) -> list[Path]:
    """Let a site judge and seal, and close; return the new segment's files, the sealed one first."""
    site = SiteCase(folder)
    before = set(site.files())
    site.judge(judgement(2))
    site.worker.seal_all()
    new = sorted(set(site.files()) - before)
    site.worker.close()
    return [site.config.outbox / "segments" / name for name in new]


def _flipped(number: int) -> Fault:
    def fault(folder: Path) -> str:
        path = _sealed(folder)[0]
        raw = bytearray(path.read_bytes())
        raw[len(raw) * number // FLIPS] ^= 1 << number
        path.write_bytes(raw)
        return "acknowledged 2\n"

    return fault


def _torn(field: SegmentSites, cut: int) -> Fault:
    """Truncate the database's log after a kill; only records that are not yet in the outbox can be lost."""

    def fault(folder: Path) -> str:
        point = field.points()[-1]
        field.work(folder, *killed_at(*point))
        for log in (folder / "state").glob("spool.db-wal"):
            log.write_bytes(log.read_bytes()[: max(0, log.stat().st_size - cut)])
        return ""

    return fault


def _deleted(suffix: str) -> Fault:
    def fault(folder: Path) -> str:
        for path in _sealed(folder):
            if path.suffix == suffix:
                path.unlink()
        return "acknowledged 2\n"

    return fault


def _jumped(years: int) -> Fault:
    def fault(folder: Path) -> str:
        site = SiteCase(folder)
        site.clock.wall += years * 365 * 86_400
        site.judge(judgement(2))
        site.clock.running += 100_000
        site.worker.do_housekeeping()
        site.worker.close()
        return "acknowledged 2\n"

    return fault
