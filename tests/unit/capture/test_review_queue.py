"""The streams of the review queue: who is drawn, in which order they come, and what becomes of the random sample."""

import random
import sqlite3
from collections import Counter

import pytest

from edge_agent.capture.capture_values import ReviewCursor, ReviewFilter
from edge_agent.capture.review_queue import NAMES, TURNS
from edge_agent.capture.spool import _INSERT
from edge_agent.formats.manifest import Manifest
from tests.support.site_cases import ASite, answered, judgement, manifest

WIDE = Manifest.model_validate(
    {**manifest().model_dump(by_alias=True), "task": {"name": "pos-intent", "kind": "classify", "labels": [*"abcdef"]}}
)


def drawing(tmp_path, *draws: float, **settings) -> ASite:
    """Return a site whose audit draws these numbers, one for each answer, the last one again and again."""
    site = ASite(tmp_path, **settings)
    left = list(draws)
    site.worker.spool.streams._draw = lambda: left.pop(0) if len(left) > 1 else left[0]
    return site


def labelled(number: int, label: str = "a", **changes):
    return answered(number, manifest=WIDE, local_answer=label, scores=[(label, 0.75)], **changes)


def streams(site: ASite) -> dict[str, str]:
    rows = site.worker.spool.db.rows("SELECT prediction_id, stream FROM predictions ORDER BY row")
    return {name: NAMES[code] for name, code in rows}


def queue(site: ASite, wanted: ReviewFilter = ReviewFilter(), page: int = 100) -> list[tuple[str, str]]:  # noqa: B008
    """Return stream and id of the whole queue, fetched page by page."""
    found, place = [], ReviewCursor()
    while rows := site.worker.spool.review_page(wanted, place, page):
        place = rows[-1][0]
        found += [(kept.stream, kept.record.split(b'"prediction_id":"')[1].split(b'"')[0].decode()) for _, kept in rows]
    return found


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_the_audit_draws_whatever_the_answer_is(tmp_path, seed: int):
    """Of sure and unsure, local and escalated answers about the same share is drawn: the one of agent.yaml."""
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


def test_what_is_outside_the_gate_is_new_unless_the_audit_draws_it(tmp_path):
    """An answer that the gate holds up goes to people as new; the audit draws before anything else is asked."""
    site = drawing(tmp_path, 0.9, 0.1, 0.9)
    outside = {"held_up": "OUT_OF_DISTRIBUTION", "p_value": 0.001, "reasons": ("OUT_OF_DISTRIBUTION",)}
    with_share = drawing(tmp_path / "all", 0.1, review_share=0.5)
    with_share.keep(labelled(1, **outside))
    site.keep(labelled(1, **outside), labelled(2), labelled(3, held_up="BELOW_THRESHOLD"))
    assert {"p-1": "audit"} == streams(with_share)
    assert "new" == streams(site)["p-1"]
    assert "new" not in {streams(site)["p-2"], streams(site)["p-3"]}
    assert [("new", "p-1")] == queue(site, ReviewFilter(stream="new"))


def test_a_task_has_its_own_share(tmp_path):
    """`review_shares` goes before `review_share`; the probability is kept with the row."""
    site = drawing(tmp_path, 0.3, review_share=0.1, review_shares={"talk": 0.5})
    site.keep(answered(1), answered(2, manifest=manifest("talk"), scores=(), confidence=None))
    assert ["uncertain", "audit"] == [stream.replace("diverse", "uncertain") for stream in streams(site).values()]
    assert (None, 0.5) == (
        site.worker.spool.find_prediction("p-1").probability,
        site.worker.spool.find_prediction("p-2").probability,
    )


def test_a_share_of_nothing_draws_nothing_and_one_of_all_draws_all(tmp_path):
    """0 and 1 are shares, too."""
    site = drawing(tmp_path, 0.0, review_share=0.0, review_shares={"talk": 1.0})
    site.keep(answered(1), answered(2, manifest=manifest("talk"), scores=(), confidence=None))
    assert "audit" not in streams(site)["p-1"]
    assert "audit" == streams(site)["p-2"]


def test_the_diverse_stream_has_the_first_second_fourth_and_eighth_of_each_label(tmp_path):
    """A rare label is not drowned by a frequent one, and each bundle begins anew."""
    site = drawing(tmp_path, 1.0)
    site.keep(*(labelled(number) for number in range(1, 10)), labelled(10, "b"), labelled(11, "b"))
    site.keep(labelled(12, digest="c" * 64))
    found = [name for name, stream in streams(site).items() if stream == "diverse"]
    assert ["p-1", "p-2", "p-4", "p-8", "p-10", "p-11", "p-12"] == found


def test_answers_without_labels_are_diverse_by_length(tmp_path):
    """A text twice as long is another stratum."""
    site = drawing(tmp_path, 1.0)
    talk = {"manifest": manifest("talk"), "scores": (), "confidence": None}
    site.keep(*(answered(number, text="x" * (number % 2 * 90 + 10), **talk) for number in range(6)))
    assert ["p-0", "p-1", "p-2", "p-3"] == [name for name, stream in streams(site).items() if stream == "diverse"]


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_every_second_row_of_the_queue_is_of_the_audit(tmp_path, page: int):
    """Streams take turns: audit and diverse the oldest first, uncertain the least confident first; each row once."""
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


def test_what_was_skipped_comes_first_again(tmp_path):
    """Judged rows leave the audit; a skipped one stays the oldest, so that what is hard is not left out."""
    site = drawing(tmp_path, 0.0)
    site.keep(*map(labelled, range(4)))
    site.judge(judgement(1), judgement(2))
    assert [("audit", "p-0"), ("audit", "p-3")] == queue(site)
    seen = ReviewFilter(include_reviewed=True)
    assert ["p-0", "p-1", "p-2", "p-3"] == [name for _, name in queue(site, seen)]


def test_a_filter_by_confidence_leaves_the_audit_out(tmp_path):
    """Who chooses among its rows by confidence makes them no random sample any more."""
    site = drawing(tmp_path, 0.0, 1.0)
    site.keep(*(labelled(number, confidence=0.1) for number in range(4)))
    assert {"uncertain", "diverse"} == {stream for stream, _ in queue(site, ReviewFilter(confidence_max=0.5))}
    assert [] == queue(site, ReviewFilter(confidence_max=0.05))


@pytest.mark.parametrize("stream", ["audit", "uncertain", "diverse", "new"])
def test_one_stream_can_be_asked_for(tmp_path, stream: str):
    """Also the one of new inputs, which nothing is put into yet."""
    site = drawing(tmp_path, 0.0, 1.0)
    site.keep(*map(labelled, range(4)))
    with site.worker.spool.transaction():
        site.worker.spool.db.execute("UPDATE predictions SET stream = 3 WHERE prediction_id = 'p-3'")
    found = queue(site, ReviewFilter(stream=stream))
    assert [stream] == [name for name, _ in found]


def test_rows_of_the_audit_are_always_sealed_with_their_probability(tmp_path):
    """The share of routine answers thins out the others: a record says with which chance it is here, and as what."""
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


def test_the_audit_is_given_up_last_and_by_age(tmp_path):
    """Without room unsure and escalated answers go before it, and of it the oldest, whatever they are."""
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


def test_what_becomes_of_the_audit_is_known(tmp_path):
    """Drawn, judged, waiting: what is missing was lost, by age or erased, and leaves its id nowhere."""
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
    """Make of a spool what version 0.1 had left there."""
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
    """Its answers are of no audit, and wait for a review as before; new ones are drawn."""
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


def test_an_agent_of_version_0_1_goes_on_with_the_spool(tmp_path):
    """After a return to it its answers are of no audit; one that it lets go, or judges, is not waited for."""
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
