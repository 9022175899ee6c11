"""The spool: what is stored and for how long, the eviction order, and what survives a restart."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from edge_agent.capture.capture_values import ReviewCursor, ReviewFilter, parse_review_item
from edge_agent.capture.spool import Spool
from edge_agent.errors import InvalidRequest, PredictionUnknown, StoreDamaged
from tests.support.mounts import tmpfs
from tests.support.site_cases import SiteCase, answered, config_of, judgement, manifest

DAY = 86_400.0
SURE = {"confidence": 0.95, "sure": True}
ALL = ReviewFilter(stream="uncertain")
FIRST = ReviewCursor()


@pytest.fixture
def site(tmp_path) -> SiteCase:
    return SiteCase(tmp_path)


def kept(site: SiteCase, *numbers: int) -> list[int]:
    """Return which of these predictions are still stored."""
    found = []
    for number in numbers:
        try:
            site.worker.spool.find_prediction(f"p-{number}")
            found.append(number)
        except PredictionUnknown:
            pass
    return found


def test_slightly_full_disk_evicts_few_examples(tmp_path):
    """Evicted rows free disk space late, and deleting needs space at first; neither may evict again at each commit
    until nothing is left."""
    with tmpfs(tmp_path / "disk", "size=16m") as disk:
        site = SiteCase(disk)
        site.keep(*(answered(number, text="refund " * 100) for number in range(1000)))
        site.worker.spool.shrink()
        free = shutil.disk_usage(disk).free
        site.config = config_of(disk / "state", disk_reserve_bytes=free + 100_000)
        site.reopen()
        for number in range(1000, 1020):
            site.keep(answered(number))
        evicted = site.worker.spool.counters["sacrificed_unsure"]
        site.worker.close()
    assert 40 < evicted < 200


def test_a_prediction_is_found_until_its_window_ends(tmp_path):
    """The window is counted in seconds of running, so a jump of the clock ends nothing."""
    site = SiteCase(tmp_path, collect={"pos-intent": "local"})
    site.keep(answered(1))
    site.clock.wall += 3650 * DAY
    site.clock.running += DAY - 1
    site.worker.do_housekeeping()
    assert [1] == kept(site, 1)
    site.clock.running += 20
    site.worker.do_housekeeping()
    assert [] == kept(site, 1)
    assert 0 == site.worker.spool.used_bytes


def test_clock_of_the_spool_continues_after_a_restart(tmp_path):
    """Ages continue after a restart, although the monotonic clock starts at zero."""
    site = SiteCase(tmp_path, collect={"pos-intent": "local"})
    site.clock.running = DAY / 2
    site.keep(answered(1))
    site.clock.running += DAY / 2
    site.worker.do_housekeeping()
    site.worker.close()
    site.clock.running, site.clock.wall = 0.0, 0.0
    site.open()
    assert DAY == site.worker.spool.clock
    site.clock.running += DAY / 2 + 1
    site.worker.do_housekeeping()
    assert [] == kept(site, 1)


def test_unsealed_prediction_outlives_its_window(site):
    """A prediction that is to be sent stays until it is sealed."""
    site.keep(answered(1))
    site.clock.running += 2 * DAY
    with site.worker.spool.transaction():
        assert 0 == site.worker.spool.expire(DAY, 100)
    assert [1] == kept(site, 1)


def test_corrections_stay_until_the_central_team_has_them(site):
    """A prediction with feedback stays until receipts cover it and all its feedback."""
    site.keep(answered(1))
    site.worker.seal_all()
    site.judge(judgement(1))
    site.worker.seal_all()
    site.receipt(1)
    site.worker.read_receipts()
    site.clock.running += 2 * DAY
    site.worker.do_housekeeping()
    assert [1] == kept(site, 1)
    site.receipt(2)
    site.worker.read_receipts()
    site.clock.running += 20
    site.worker.do_housekeeping()
    assert [] == kept(site, 1)
    assert 0 == site.worker.spool.used_bytes


def test_eviction_order(site):
    """Spare rows are evicted first, then routine, unsure and escalated ones; rows with feedback never."""
    site.keep(*(answered(n, **SURE) for n in (1, 2)), answered(3), answered(4, route="upstream"), answered(5, **SURE))
    site.judge(judgement(5))
    spool, order = site.worker.spool, []
    while True:
        left = kept(site, 1, 2, 3, 4, 5)
        with spool.transaction():
            if spool.evict(0, 1):
                break
        gone = set(left) - set(kept(site, 1, 2, 3, 4, 5))
        if not gone:
            break
        order += sorted(gone)
    assert [1, 2, 3, 4] == order
    assert [5] == kept(site, 5)
    counted = {name: spool.counters[f"sacrificed_{name}"] for name in ("routine", "unsure", "escalated")}
    assert {"routine": 2, "unsure": 1, "escalated": 1} == counted


@pytest.mark.slow
def test_new_answers_evict_older_routine_ones(tmp_path):
    """The spool stays within its limit in bytes at all times."""
    site = SiteCase(tmp_path, spool_bytes_max=2**20)
    text = "refund " * 2000
    for number in range(200):
        site.keep(answered(number, text=text, **SURE))
        assert site.worker.spool.used_bytes <= 2**20
    site.keep(answered(500))
    assert [199, 500] == kept(site, 0, 199, 500)
    assert site.worker.spool.counters["sacrificed_routine"] > 100


def test_time_of_the_last_loss_is_stored(tmp_path):
    """The time since the last loss is kept by kind, in seconds of running, over restarts; other counters are not
    losses."""
    site = SiteCase(tmp_path, collect={"pos-intent": "local"})
    site.keep(answered(1))
    assert {} == site.worker.spool.loss_seconds()
    for counter, running in (("dropped_disk", 100.0), ("sacrificed_routine", 30.0), ("captured", 5.0)):
        with site.worker.spool.transaction():
            site.worker.spool.counters[counter] += 1
        site.clock.running += running
    assert {"lost": 135.0, "evicted": 35.0} == site.worker.spool.loss_seconds()
    with site.worker.spool.transaction():
        pass
    assert {"lost": 135.0, "evicted": 35.0} == site.worker.spool.loss_seconds()


def test_feedback_without_its_prediction_is_refused(site):
    """Feedback on a prediction that is not stored raises PredictionUnknown."""
    with pytest.raises(PredictionUnknown):
        site.judge(judgement(1))
    assert {"feedback": 0} == site.worker.spool.count_retained()


def test_repeated_feedback_request_changes_nothing(site):
    """The same request_id with the same content is one piece of feedback, also after a restart; with other content it
    is refused."""
    site.keep(answered(1))
    site.judge(judgement(1))
    site.judge(judgement(1, feedback_id="another"))
    site.reopen()
    site.judge(judgement(1, feedback_id="third"))
    assert 1 == len(site.worker.spool.find_prediction("p-1").feedback)
    with pytest.raises(InvalidRequest, match="used for another request"):
        site.judge(judgement(1, value="refund"))
    assert 1 == site.worker.spool.counters["feedback"]


def test_feedback_of_two_reviewers_is_stored(site):
    """Two requests make two pieces of feedback."""
    site.keep(answered(1))
    site.judge(judgement(1), judgement(2, prediction_id="p-1", reviewer="ben", value="refund"))
    assert 2 == len(site.worker.spool.find_prediction("p-1").feedback)


def test_review_queue_is_sorted_and_paged(site):
    """The uncertain stream lists the least confident first and kinds without a confidence last; reviewed rows only on
    request."""
    site.keep(
        *(answered(n, confidence=n / 10) for n in (5, 1, 3)), answered(9, manifest=manifest("talk"), confidence=None)
    )
    site.judge(judgement(3))
    spool = site.worker.spool
    with spool.transaction():
        spool.db.execute("UPDATE predictions SET stream = 0")

    def ids(rows) -> list[str]:
        return [found.record.split(b'"prediction_id":"')[1].split(b'"')[0].decode() for _, found in rows]

    page = spool.review_page(ALL, FIRST, 2)
    assert ["p-1", "p-5"] == ids(page)
    assert ["p-9"] == ids(spool.review_page(ALL, page[-1][0], 2))
    assert ["p-1", "p-3", "p-5", "p-9"] == ids(spool.review_page(replace(ALL, include_reviewed=True), FIRST, 9))
    assert ["p-9"] == ids(spool.review_page(replace(ALL, task="talk"), FIRST, 9))
    assert ["p-1"] == ids(spool.review_page(replace(ALL, confidence_max=0.2), FIRST, 9))


def test_erasing_leaves_no_byte_of_the_input(site):
    """An erased text is in neither the database nor its log, and a local prediction gets no tombstone."""
    site.keep(answered(1, text="SECRETWORD in a text"))
    with site.worker.spool.transaction():
        assert (True, False) == site.worker.spool.erase("p-1", b"{}")
    site.worker.spool.shrink()
    files = list(site.config.state_dir.glob("spool.db*"))
    assert [] == [path.name for path in files if b"SECRETWORD" in path.read_bytes()]
    assert 0 == site.worker.spool.used_bytes


def test_a_failed_transaction_changes_no_counter(site):
    """Counters change only with a committed transaction."""
    spool = site.worker.spool
    record = site.worker.recorder.build_prediction(answered(1), 0)
    with pytest.raises(AttributeError), spool.transaction():
        site.worker.store_predictions([record, None])
    assert (0, 0) == (spool.counters["captured"], spool.used_bytes)


def test_counters_and_bytes_survive_a_restart(site):
    """Counters, bytes and incarnation are the same after a restart."""
    site.keep(answered(1), answered(2))
    before = (dict(site.worker.spool.counters), site.worker.spool.used_bytes, site.worker.spool.incarnation)
    site.reopen()
    assert before == (dict(site.worker.spool.counters), site.worker.spool.used_bytes, site.worker.spool.incarnation)


def test_prediction_is_stored_once(site):
    """A second prediction with the same id, as after a crash, does not change the first."""
    site.keep(answered(1), answered(1, text="other"))
    assert 1 == site.worker.spool.counters["captured"]


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_damaged_spool_is_reported_and_not_changed(tmp_path, content):
    """The remedy says that unsealed feedback is in the file."""
    (tmp_path / "spool.db").write_bytes(content)
    with pytest.raises(StoreDamaged) as caught:
        Spool(tmp_path / "spool.db", lambda: 0.0)
    assert "not sealed yet" in caught.value.remedy
    assert content == (tmp_path / "spool.db").read_bytes()


@pytest.mark.parametrize("spoilt", [b"{", b"[]", b"\xff", b'{"type": "prediction"}', b"[" * 100_000])
def test_damaged_record_raises_store_damaged(site, spoilt):
    """A record whose bytes the disk has changed raises StoreDamaged."""
    site.keep(answered(1))
    with site.worker.spool.transaction():
        site.worker.spool.db.execute("UPDATE predictions SET record = ?", (spoilt,))
    with pytest.raises(StoreDamaged, match=r"spool\.db is damaged"):
        parse_review_item(site.worker.spool.find_prediction("p-1"))


def test_unsure_answers_are_not_evicted_for_routine_ones(site):
    """New routine answers do not evict unsure ones."""
    site.keep(answered(1), answered(2, **SURE))
    with site.worker.spool.transaction():
        site.worker.spool.evict(site.worker.spool.used_bytes - 1, 100)
    assert [1] == kept(site, 1, 2)
