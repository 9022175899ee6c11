"""The streams of the review queue: which answers are drawn, in which order they are listed, and the outcome of the
random sample."""

import random
import sqlite3
from collections import Counter

import pytest

from edge_agent.capture.capture_values import ReviewCursor, ReviewFilter
from edge_agent.capture.review_queue import NAMES, TURNS
from edge_agent.capture.spool import _INSERT
from edge_agent.formats.manifest import Manifest
from tests.support.site_cases import SiteCase, answered, judgement, manifest

WIDE = Manifest.model_validate(
    {**manifest().model_dump(by_alias=True), "task": {"name": "pos-intent", "kind": "classify", "labels": [*"abcdef"]}}
)


def drawing(tmp_path, *draws: float, **settings) -> SiteCase:
    """Return a site whose audit draws these numbers, one for each answer; the last one repeats."""
    site = SiteCase(tmp_path, **settings)
    left = list(draws)
    site.worker.spool.streams._draw = lambda: left.pop(0) if len(left) > 1 else left[0]
    return site


def labelled(number: int, label: str = "a", **changes):
    return answered(number, manifest=WIDE, local_answer=label, scores=[(label, 0.75)], **changes)


def streams(site: SiteCase) -> dict[str, str]:
    rows = site.worker.spool.db.rows("SELECT prediction_id, stream FROM predictions ORDER BY row")
    return {name: NAMES[code] for name, code in rows}


def queue(site: SiteCase, wanted: ReviewFilter = ReviewFilter(), page: int = 100) -> list[tuple[str, str]]:  # noqa: B008
    """Return stream and id of the whole queue, page by page."""
    found, place = [], ReviewCursor()
    while rows := site.worker.spool.review_page(wanted, place, page):
        place = rows[-1][0]
        found += [(kept.stream, kept.record.split(b'"prediction_id":"')[1].split(b'"')[0].decode()) for _, kept in rows]
    return found


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_audit_draws_every_kind_of_answer_equally(tmp_path, seed: int):
    """Confident, unsure and escalated answers are drawn with the configured share."""
    site = drawing(tmp_path, 0.0, review_shares={"pos-intent": 0.2})
    site.worker.spool.streams._draw = random.Random(seed).random
    kinds = {
        "sure": {"sure": True, "confidence": 0.99},
        "unsure": {},
        "upstream": {"route": "upstream", "model": "m", "teacher_answer": "price"},
    }
    drawn = Counter()
    for batch, (kind, changes) in enumerate(kinds.items()):
        site.keep(*(answered(1000 * batch + number, **changes) for number in range(1000)))
        found = [name for name, stream in streams(site).items() if stream == "audit"]
        drawn[kind] = len(found) - drawn.total()
    # Five standard deviations of 1,000 draws at 0.2.
    assert {} == {kind: number for kind, number in drawn.items() if abs(number - 200) > 64}
    assert drawn.total() == site.worker.spool.counters["audit_drawn"]


def test_out_of_distribution_answer_is_in_the_new_stream(tmp_path):
    """An answer that the gate holds up is in the stream of new inputs unless the audit draws it."""
    site = drawing(tmp_path, 0.9, 0.1, 0.9)
    outside = {"held_up": "OUT_OF_DISTRIBUTION", "p_value": 0.001, "reasons": ("OUT_OF_DISTRIBUTION",)}
    with_share = drawing(tmp_path / "all", 0.1, review_share=0.5)
    with_share.keep(labelled(1, **outside))
    site.keep(labelled(1, **outside), labelled(2), labelled(3, held_up="BELOW_THRESHOLD"))
    assert {"p-1": "audit"} == streams(with_share)
    assert "new" == streams(site)["p-1"]
    assert "new" not in {streams(site)["p-2"], streams(site)["p-3"]}
    assert [("new", "p-1")] == queue(site, ReviewFilter(stream="new"))


def test_audit_share_of_a_task(tmp_path):
    """`review_shares` takes precedence over `review_share`, and the probability is stored with the row."""
    site = drawing(tmp_path, 0.3, review_share=0.1, review_shares={"talk": 0.5})
    site.keep(answered(1), answered(2, manifest=manifest("talk"), scores=(), confidence=None))
    assert ["uncertain", "audit"] == [stream.replace("diverse", "uncertain") for stream in streams(site).values()]
    assert (None, 0.5) == (
        site.worker.spool.find_prediction("p-1").probability,
        site.worker.spool.find_prediction("p-2").probability,
    )


def test_audit_shares_of_zero_and_one(tmp_path):
    """A share of 0 draws nothing, a share of 1 everything."""
    site = drawing(tmp_path, 0.0, review_share=0.0, review_shares={"talk": 1.0})
    site.keep(answered(1), answered(2, manifest=manifest("talk"), scores=(), confidence=None))
    assert "audit" not in streams(site)["p-1"]
    assert "audit" == streams(site)["p-2"]


def test_the_diverse_stream_has_the_first_second_fourth_and_eighth_of_each_label(tmp_path):
    """The diverse stream gets the 1st, 2nd, 4th and 8th answer of each label, so rare labels are included; each bundle
    starts anew."""
    site = drawing(tmp_path, 1.0)
    site.keep(*(labelled(number) for number in range(1, 10)), labelled(10, "b"), labelled(11, "b"))
    site.keep(labelled(12, digest="c" * 64))
    found = [name for name, stream in streams(site).items() if stream == "diverse"]
    assert ["p-1", "p-2", "p-4", "p-8", "p-10", "p-11", "p-12"] == found


def test_answers_without_labels_are_diverse_by_length(tmp_path):
    """Without labels, texts are grouped by length."""
    site = drawing(tmp_path, 1.0)
    talk = {"manifest": manifest("talk"), "scores": (), "confidence": None}
    site.keep(*(answered(number, text="x" * (number % 2 * 90 + 10), **talk) for number in range(6)))
    assert ["p-0", "p-1", "p-2", "p-3"] == [name for name, stream in streams(site).items() if stream == "diverse"]


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_every_second_row_of_the_queue_is_of_the_audit(tmp_path, page: int):
    """Streams alternate: audit and diverse oldest first, uncertain least confident first; each row is listed once."""
    draws = [1.0] * 4 + [0.0] * 3 + [1.0] * 3
    site = drawing(tmp_path, *draws)
    site.keep(*(labelled(number, confidence=0.9 - number / 20) for number in range(10)))
    assert [
        ("audit", "p-4"),
        ("uncertain", "p-9"),
        ("audit", "p-5"),
        ("diverse", "p-0"),
        ("audit", "p-6"),
        ("uncertain", "p-8"),
        ("diverse", "p-1"),
        ("uncertain", "p-2"),
        ("diverse", "p-3"),
    ] == [each for each in queue(site, page=page) if each[1] != "p-7"]
    assert 10 == len(queue(site, page=page))
    assert 2 * TURNS.count("audit") == len(TURNS)


def test_skipped_row_comes_first_again(tmp_path):
    """Reviewed rows leave the audit; a skipped one stays first, so difficult ones are not left out."""
    site = drawing(tmp_path, 0.0)
    site.keep(*map(labelled, range(4)))
    site.judge(judgement(1), judgement(2))
    assert [("audit", "p-0"), ("audit", "p-3")] == queue(site)
    seen = ReviewFilter(include_reviewed=True)
    assert ["p-0", "p-1", "p-2", "p-3"] == [name for _, name in queue(site, seen)]


def test_filter_by_confidence_excludes_the_audit(tmp_path):
    """Rows of the audit are not filtered by confidence, because the result would not be a random sample."""
    site = drawing(tmp_path, 0.0, 1.0)
    site.keep(*(labelled(number, confidence=0.1) for number in range(4)))
    assert {"uncertain", "diverse"} == {stream for stream, _ in queue(site, ReviewFilter(confidence_max=0.5))}
    assert [] == queue(site, ReviewFilter(confidence_max=0.05))


@pytest.mark.parametrize("stream", ["audit", "uncertain", "diverse", "new"])
def test_one_stream_can_be_requested(tmp_path, stream: str):
    """Each stream, including that of new inputs, can be requested alone."""
    site = drawing(tmp_path, 0.0, 1.0)
    site.keep(*map(labelled, range(4)))
    with site.worker.spool.transaction():
        site.worker.spool.db.execute("UPDATE predictions SET stream = 3 WHERE prediction_id = 'p-3'")
    found = queue(site, ReviewFilter(stream=stream))
    assert [stream] == [name for name, _ in found]


def test_audit_rows_are_always_sealed(tmp_path):
    """The share of routine answers does not apply to the audit; a record has its stream and sampling probability."""
    site = drawing(tmp_path, 0.0, 1.0, routine_share=0.0, review_share=0.125)
    sure = {"sure": True, "confidence": 0.99}
    site.keep(labelled(1, **sure), labelled(2, **sure), labelled(3))
    site.worker.seal_all()
    records = {name.split(":")[1]: record for name, record in site.records().items()}
    assert {"p-1", "p-3"} == set(records)
    drawn, other = records["p-1"], records["p-3"]
    assert ("audit", 0.125, 1.0) == (drawn.review_stream, drawn.sampling_probability, drawn.kept.share)
    assert (None, "routine") == (other.sampling_probability, drawn.kept.because)
    assert other.review_stream in ("uncertain", "diverse")


def test_audit_rows_are_evicted_last_and_oldest_first(tmp_path):
    """Without space unsure and escalated answers are evicted before the audit, and of the audit the oldest."""
    site = drawing(tmp_path, 0.0, 0.0, 1.0)
    site.keep(labelled(1, route="upstream"), labelled(2, sure=True), labelled(3), labelled(4, route="upstream"))
    spool = site.worker.spool
    size = spool.used_bytes // 4
    with spool.transaction():
        spool.evict(2 * size + size // 2, 2)
    assert ["p-1", "p-2"] == list(streams(site))
    with spool.transaction():
        spool.evict(size + size // 2, 1)
    assert (["p-2"], 1) == (list(streams(site)), spool.counters["sacrificed_audit"])


def test_outcome_of_every_audit_row_is_recorded(tmp_path):
    """Rows of the audit are counted as drawn, reviewed or waiting; a lost or erased one keeps no id."""
    site = drawing(tmp_path, 0.0)
    site.keep(*map(labelled, range(4)))
    site.judge(judgement(3))
    with site.worker.spool.transaction():
        site.worker.erasure.erase_answer("p-1")
    counters, waiting = site.worker.spool.counters, site.worker.spool.streams.count_waiting()
    assert (4, 1, 2) == (counters["audit_drawn"], counters["audit_reviewed"], waiting["audit"])
    rows = site.worker.spool.db.rows("SELECT prediction_id, outcome FROM review_audit ORDER BY row")
    assert [("p-0", "open"), ("gone:2", "lost"), ("p-2", "open"), ("p-3", "wrong")] == rows


OLD = (
    "CREATE TABLE predictions (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL UNIQUE,"
    " task TEXT NOT NULL, rank REAL NOT NULL, class INTEGER NOT NULL, consent INTEGER NOT NULL,"
    " reviewed INTEGER NOT NULL DEFAULT 0, spare INTEGER NOT NULL, kept_at REAL NOT NULL, size INTEGER NOT NULL,"
    " segment INTEGER, record BLOB NOT NULL) STRICT"
)


def as_version_0_1(path) -> None:
    """Turn a spool into one of version 0.1."""
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "SELECT row, prediction_id, task, rank, class, consent, reviewed, spare, kept_at, size, segment, record"
            " FROM predictions"
        ).fetchall()
        database.execute("DROP TABLE predictions")
        database.execute("DROP TABLE review_audit")
        database.execute("DROP TABLE review_strata")
        database.execute(OLD)
        database.execute("CREATE INDEX review ON predictions (reviewed, rank, row)")
        database.executemany("INSERT INTO predictions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    database.close()


def test_a_spool_of_version_0_1_is_read(tmp_path):
    """Answers in a spool of version 0.1 are not part of the audit and wait for a review; new ones are drawn."""
    site = drawing(tmp_path, 1.0)
    site.keep(labelled(1), labelled(2))
    site.worker.close()
    as_version_0_1(site.config.state_dir / "spool.db")
    site.clock.draws = 0.0
    site.open()
    site.keep(labelled(3))
    assert {"p-1": "uncertain", "p-2": "uncertain", "p-3": "audit"} == streams(site)
    site.worker.seal_all()
    assert {None, 0.02} == {record.sampling_probability for record in site.records().values()}


def test_agent_of_version_0_1_can_use_the_spool(tmp_path):
    """After a downgrade new answers are not part of the audit, and rows that it deletes or reviews do not stay open."""
    site = drawing(tmp_path, 0.0)
    site.keep(labelled(1), labelled(2))
    spool = site.worker.spool
    with spool.transaction():
        spool.db.execute(_INSERT, ("p-9", "pos-intent", 0.5, 1, 2, 0, 0.0, 100, b"{}"))
        spool.db.execute("DELETE FROM predictions WHERE prediction_id = 'p-1'")
        spool.db.execute("UPDATE predictions SET reviewed = 1 WHERE prediction_id = 'p-2'")
    assert {"p-2": "audit", "p-9": "uncertain"} == streams(site)
    assert ["lost", "unknown"] == [row[0] for row in spool.db.rows("SELECT outcome FROM review_audit ORDER BY row")]
    assert spool.streams.can_settle()
