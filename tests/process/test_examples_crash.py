"""The spool and its sealing killed, or failed by the disk, at every system call of the sweep: nothing acknowledged is
lost.

A process stores answers, takes feedback, asks the large model about deferred inputs, seals twice, accepts receipts and
writes its status. It prints when each piece of feedback and each teacher label is on the disk. Afterwards another
process opens what remains and continues, and a central team reads everything.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.formats import example_records, segment
from tests.support.segment_sites import SegmentSites, acknowledged, asked, visible
from tests.support.site_cases import SiteCase, answered, judgement, read_outbox
from tests.support.strace import WRITING, Point, failed_at, killed_at, needs_strace, sample


@pytest.fixture
def field(tmp_path: Path) -> Iterator[SegmentSites]:
    with SegmentSites(tmp_path) as laid_out:
        yield laid_out


def check(field: SegmentSites, folder: Path, output: str) -> None:
    """Start again, continue, and let the central team count."""
    before = visible(folder)
    site = SiteCase(folder)
    site.worker.outbox.find_lost_segments(thoroughly=True)
    site.keep(answered(99))
    site.judge(judgement(99))
    # Whatever was asked is not asked again.
    while question := site.worker.next_question(("pos-intent",)):
        assert question.prediction_id not in asked(output)
    site.worker.seal_all()
    after = visible(folder)
    kept = before.keys() & after.keys()
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}
    records = collected(field, site, {name.partition("-")[0] for name in after} | {field.epoch})
    assert acknowledged(output) | {"feedback:f-99"} <= records.keys()
    judged = {record.prediction_id for record in records.values() if record.type in ("feedback", "opinion")}
    assert judged <= {record.prediction_id for record in records.values() if record.type == "prediction"}
    site.worker.close()


def collected(field: SegmentSites, site: SiteCase, epochs: set[str]) -> dict[str, Any]:
    """Add the outbox to the central team's records; a duplicate must be equal."""
    records = dict(field.central)
    for epoch in epochs:
        segments = read_outbox(site.config.outbox, epoch)
        for record in (record for part in segments.values() for record in part):
            assert same(records.setdefault(record.record_id, record), record)
    return records


def same(one, other) -> bool:
    """Return whether two copies of a record are equal; the reason for which it was kept can change when it is sealed
    again."""
    ones, others = (json.loads(example_records.encode(record)) for record in (one, other))
    ones.pop("kept", None)
    others.pop("kept", None)
    return ones == others


def kill_sweep(field: SegmentSites, every: list[Point]) -> Counter[int]:
    """Kill at each point; return how often each number of pieces of feedback had been acknowledged."""
    outcomes: Counter[int] = Counter()
    for call, number in every:
        folder = field.fresh()
        killed = field.work(folder, *killed_at(call, number))
        assert killed.returncode != 0, (call, number)
        outcomes[killed.stdout.count("acknowledged")] += 1
        check(field, folder, killed.stdout)
    return outcomes


def error_sweep(field: SegmentSites, every: list[Point], error: str) -> Counter[str]:
    """Fail one call at each point; return the reasons with which the work ended ("" = it recovered)."""
    reasons: Counter[str] = Counter()
    for call, number in every:
        folder = field.fresh()
        done = field.work(folder, *failed_at(call, number, error))
        assert done.returncode in (0, 3, 4), (call, number, done.stderr)
        reasons[done.stdout.partition("refused")[2].strip()] += 1
        check(field, folder, done.stdout)
    return reasons


def test_undisturbed_work_acknowledges_everything(field):
    """Without a disturbance all feedback is acknowledged and reaches the central team."""
    folder = field.fresh()
    done = field.work(folder)
    assert (0, 4) == (done.returncode, done.stdout.count("acknowledged")), done.stderr
    check(field, folder, done.stdout)


@needs_strace
def test_kill_at_sampled_points_loses_nothing_acknowledged(field):
    """After a kill all acknowledged feedback is in the spool or in a segment, once by its id, with its prediction."""
    kill_sweep(field, sample(field.points()))


@needs_strace
@pytest.mark.release
def test_kill_at_every_point_loses_nothing_acknowledged(field):
    """After a kill at any call of the sweep, including before the first and after the last acknowledgement, no
    acknowledged feedback is lost."""
    outcomes = kill_sweep(field, field.points())
    assert {0, 4} <= outcomes.keys()


@needs_strace
@pytest.mark.release
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_failing_disk_loses_nothing_acknowledged(field, error):
    """If one write or sync fails, the work recovers or ends with an error of the disk; nothing that was acknowledged is
    lost."""
    every = [point for point in field.points() if point[0] in WRITING]
    reasons = error_sweep(field, every, error)
    assert {"", "STATE_DIR_UNWRITABLE", "STORE_DAMAGED", "DISK_FULL"} >= reasons.keys()
    assert len(reasons) > 1


@pytest.mark.parametrize("cut", [1, *(pytest.param(cut, marks=pytest.mark.slow) for cut in (10, 100, 40_000)), 5000])
def test_spool_with_a_truncated_wal_opens_and_continues(field, cut):
    """A spool whose SQLite log was truncated, as after a power loss on a disk without barriers, opens, and sealed
    segments stay sealed."""
    folder = field.fresh()
    site = SiteCase(folder)
    site.keep(*(answered(n) for n in range(30, 60)))
    site.worker.seal_all()
    wal = folder / "state" / "spool.db-wal"
    copy = wal.read_bytes()
    shutil.copytree(folder, field.root / "torn")
    site.worker.close()
    torn = field.root / "torn"
    (torn / "state" / "spool.db-wal").write_bytes(copy[: max(0, len(copy) - cut)])
    check(field, torn, "")


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 7)), 7])
def test_damaged_segment_is_sealed_again(field, part):
    """If a sealed segment is damaged before its receipt arrives, the site detects it and seals the examples again."""
    folder = field.fresh()
    site = SiteCase(folder)
    site.judge(judgement(2))
    site.worker.seal_all()
    site.worker.close()
    path = folder / "state" / "outbox" / "segments" / f"{segment.name_of(field.epoch, 2)}.age"
    raw = bytearray(path.read_bytes())
    raw[len(raw) * part // 8] ^= 1 << part
    path.write_bytes(raw)
    check(field, folder, "acknowledged 2")
    assert not path.exists()


@pytest.mark.parametrize("years", [-1, pytest.param(10, marks=pytest.mark.slow)])
def test_clock_jump_loses_nothing(field, years):
    """After the clock jumps a year back or ten years forward, windows, sealing and receipts continue; only the times in
    the records are wrong."""
    folder = field.fresh()
    site = SiteCase(folder)
    site.keep(answered(70))
    site.clock.wall += years * 365 * 86_400
    site.clock.running += 5
    site.worker.do_housekeeping()
    site.judge(judgement(70))
    site.clock.running += 3600
    site.worker.do_housekeeping()
    records = site.records()
    assert {"prediction:p-70", "feedback:f-70"} <= records.keys()
    assert (records["feedback:f-70"].at > records["prediction:p-70"].at) == (years > 0)
    site.worker.close()
    check(field, folder, "acknowledged 70")
