"""While the alarm `new_inputs` is active, the answers that it is about come first in the stream of new inputs."""

import pytest

from edge_agent.capture.capture_values import ReviewCursor, ReviewFilter
from edge_agent.formats.example_records import parse_stored
from edge_agent.formats.manifest import Manifest
from tests.support.site_cases import SiteCase, answered, judgement, manifest

ROWS = 400
DAY = 86_400
NEW_ALONE = ReviewFilter(stream="new")


def gated() -> Manifest:
    """Return the manifest of a bundle with a threshold and a gate of 400 rows."""
    gate = {"score": "label_mass", "held_up_max": 0.03, "scores": [each / 100 for each in range(ROWS)]}
    confidence = {
        **{"policy": "threshold", "temperature": 1.0, "threshold": 0.8, "target_risk": 0.05, "delta": 0.1},
        **{"n": 100, "bound": 0.04, "coverage": 1.0, "gate": gate},
    }
    return Manifest.model_validate(manifest().model_dump(by_alias=True) | {"confidence": confidence})


def asked(number: int, place: int, **changes):
    """Return an answer whose p-value is that of the place-th most unusual held-out row."""
    p_value = place / (ROWS + 1)
    held_up = "OUT_OF_DISTRIBUTION" if p_value <= 0.03 else ""
    reasons = (held_up,) if held_up else ("SURE",)
    plain = {"manifest": gated(), "p_value": p_value, "held_up": held_up, "reasons": reasons, "confidence": 0.95}
    return answered(number, **{**plain, "sure": not held_up, "label_mass": 0.9, **changes})


def walk(site: SiteCase, wanted: ReviewFilter = NEW_ALONE, page: int = 100) -> list[str]:
    """Return the ids of the whole queue, page by page."""
    found, place = [], ReviewCursor()
    while rows := site.worker.review_page(wanted, place, page):
        place = rows[-1][0]
        found += [parse_stored(kept.record)["prediction_id"] for _, kept in rows]
    return found


def ids(*numbers: int) -> list[str]:
    return [f"p-{number}" for number in numbers]


@pytest.fixture
def site(tmp_path):
    """A site without an audit, with ordinary answers on the first day and 40 unusual ones on the second."""
    site = SiteCase(tmp_path)
    site.keep(*(asked(each, 1 + each * 37 % (ROWS + 1)) for each in range(ROWS)))
    site.clock.wall += DAY
    return site


def begin(site: SiteCase, count: int = 40, **changes) -> None:
    """Start a new topic: increasingly unusual answers, then an ordinary one and two close to the gate."""
    site.keep(*(asked(1000 + each, 1 + (count - each) // 10, **changes) for each in range(count)))
    site.keep(asked(1100, 300, **changes), asked(1101, 40, **changes), asked(1102, 20, **changes))


OLDER = [each for each in range(ROWS) if 1 + each * 37 % (ROWS + 1) <= 12]


def test_without_an_alarm_the_oldest_answer_comes_first(site):
    """Without an alarm, unusual answers are listed in the order in which they were given."""
    site.keep(asked(900, 1))
    assert ids(*OLDER, 900) == walk(site)


@pytest.mark.parametrize("page", [1, 7, 100])
def test_most_unusual_answers_of_an_alarm_come_first(site, page: int):
    """Answers of the alarm come first, by p-value and then age, then those that passed the gate narrowly, then older
    ones."""
    begin(site)
    first = sorted(range(1000, 1040), key=lambda each: (1 + (1040 - each) // 10, each))
    assert ids(*first, 1102, 1101, *OLDER) == walk(site, page=page)


def test_a_row_has_one_place_in_the_queue(site):
    """An answer that the alarm brings forward is not listed in another stream as well, and is marked as new."""
    begin(site)
    every = walk(site, ReviewFilter(), 10)
    assert len(every) == len(set(every)) == ROWS + 43
    shown = {kept.stream for _, kept in site.worker.review_page(NEW_ALONE, ReviewCursor(), 42)}
    assert {"new"} == shown
    assert not {*ids(1101, 1102)} & {*walk(site, ReviewFilter(stream="uncertain"))}


def test_reviewed_answer_leaves_the_queue(site):
    """Only a review removes an answer; a skipped one is the first of the next pass."""
    begin(site)
    first = walk(site)[0]
    site.judge(judgement(int(first.removeprefix("p-"))))
    assert first not in walk(site)
    assert walk(site)[0] == walk(site)[0] != first
    assert first == walk(site, ReviewFilter(stream="new", include_reviewed=True))[0]


def test_after_the_alarm_the_oldest_answer_comes_first(site):
    """After the alarm, answers that were brought forward return to their place."""
    begin(site)
    site.keep(*(asked(2000 + each, 1 + each * 37 % (ROWS + 1)) for each in range(1200)))
    assert () == site.worker.monitoring.shifted_inputs()
    assert ids(*OLDER, *range(1000, 1040)) == walk(site)[: len(OLDER) + 40]


def test_alarm_of_a_replaced_bundle_brings_nothing_forward(site):
    """The alarm of a replaced bundle stays in the figures and does not change the order, because the new bundle has its
    own gate."""
    begin(site)
    site.keep(asked(3000, 300, digest="c" * 64))
    assert ["new_inputs"] == [each.alarm for each in site.worker.monitoring.active_alarms()]
    assert ids(*OLDER) == walk(site)[: len(OLDER)]


def test_another_task_keeps_its_order(site):
    """An alarm changes the order of its own task only."""
    talk = gated().model_copy(update={"task": gated().task.model_copy(update={"name": "talk"})})
    site.keep(asked(4000, 2, manifest=talk), asked(4001, 1, manifest=talk))
    begin(site)
    assert ids(4000, 4001) == walk(site, ReviewFilter("talk", stream="new"))
    assert ids(*OLDER, 4000, 4001) == walk(site)[-len(OLDER) - 2 :]


def test_audit_stream_keeps_its_order(site):
    """Answers of the random audit stay in their stream and order, whatever their p-value."""
    site.clock.draws = 0.0
    begin(site)
    assert ids(*OLDER) == walk(site)
    assert 43 == len(walk(site, ReviewFilter(stream="audit")))


def test_order_by_p_value_uses_an_index(site):
    """A page reads as many rows as it shows and sorts no others."""
    begin(site)
    seen: list[str] = []
    site.worker.spool.db._db.set_trace_callback(seen.append)
    site.worker.review_page(NEW_ALONE, ReviewCursor(), 3)
    site.worker.spool.db._db.set_trace_callback(None)
    (query,) = [each for each in seen if "ORDER BY p_value" in each]
    plan = [row[-1] for row in site.worker.spool.db.rows(f"EXPLAIN QUERY PLAN {query}")]
    assert any("USING INDEX review_strange" in step for step in plan)
    assert not any("TEMP B-TREE" in step for step in plan)
