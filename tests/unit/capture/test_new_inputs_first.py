"""While an alarm `new_inputs` stands, the answers that it is about come first in the stream of new inputs."""

import pytest

from edge_agent.capture.capture_values import ReviewCursor, ReviewFilter
from edge_agent.formats.example_records import parse_stored
from edge_agent.formats.manifest import Manifest
from tests.support.site_cases import ASite, answered, judgement, manifest

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
    """Return an answer whose p-value is that of the place-th strangest of the held-out rows."""
    p_value = place / (ROWS + 1)
    held_up = "OUT_OF_DISTRIBUTION" if p_value <= 0.03 else ""
    reasons = (held_up,) if held_up else ("SURE",)
    plain = {"manifest": gated(), "p_value": p_value, "held_up": held_up, "reasons": reasons, "confidence": 0.95}
    return answered(number, **{**plain, "sure": not held_up, "label_mass": 0.9, **changes})


def walk(site: ASite, wanted: ReviewFilter = NEW_ALONE, page: int = 100) -> list[str]:
    """Return the ids of the whole queue, fetched page by page."""
    found, place = [], ReviewCursor()
    while rows := site.worker.review_page(wanted, place, page):
        place = rows[-1][0]
        found += [parse_stored(kept.record)["prediction_id"] for _, kept in rows]
    return found


def ids(*numbers: int) -> list[str]:
    return [f"p-{number}" for number in numbers]


@pytest.fixture
def site(tmp_path):
    """A site whose audit draws nothing: ordinary answers on the first day, and 40 strange ones on the second."""
    site = ASite(tmp_path)
    site.keep(*(asked(each, 1 + each * 37 % (ROWS + 1)) for each in range(ROWS)))
    site.clock.wall += DAY
    return site


def begin(site: ASite, count: int = 40, **changes) -> None:
    """Let a topic begin: strange answers, the later the stranger, and then an ordinary one and two near the gate."""
    site.keep(*(asked(1000 + each, 1 + (count - each) // 10, **changes) for each in range(count)))
    site.keep(asked(1100, 300, **changes), asked(1101, 40, **changes), asked(1102, 20, **changes))


OLDER = [each for each in range(ROWS) if 1 + each * 37 % (ROWS + 1) <= 12]


def test_without_an_alarm_the_oldest_comes_first(site):
    """Strange answers that chance explains are shown in the order in which they were given."""
    site.keep(asked(900, 1))
    assert ids(*OLDER, 900) == walk(site)


@pytest.mark.parametrize("page", [1, 7, 100])
def test_what_the_alarm_is_about_comes_first_and_the_strangest_of_it(site, page: int):
    """By p-value, then the oldest; answers that passed the gate narrowly follow, and then what was held up before."""
    begin(site)
    first = sorted(range(1000, 1040), key=lambda each: (1 + (1040 - each) // 10, each))
    assert ids(*first, 1102, 1101, *OLDER) == walk(site, page=page)


def test_a_row_has_one_place_in_the_queue(site):
    """What the alarm brings forward is not shown in another stream, too, and is shown as new."""
    begin(site)
    every = walk(site, ReviewFilter(), 10)
    assert len(every) == len(set(every)) == ROWS + 43
    shown = {kept.stream for _, kept in site.worker.review_page(NEW_ALONE, ReviewCursor(), 42)}
    assert {"new"} == shown
    assert not {*ids(1101, 1102)} & {*walk(site, ReviewFilter(stream="uncertain"))}


def test_what_is_judged_leaves_the_queue_and_the_next_walk_begins_with_the_strangest(site):
    """Nothing but a judgement takes a row away: one that was skipped comes first again."""
    begin(site)
    first = walk(site)[0]
    site.judge(judgement(int(first.removeprefix("p-"))))
    assert first not in walk(site)
    assert walk(site)[0] == walk(site)[0] != first
    assert first == walk(site, ReviewFilter(stream="new", include_reviewed=True))[0]


def test_when_the_alarm_has_ended_the_oldest_comes_first_again(site):
    """Answers that had been brought forward are where they would have been."""
    begin(site)
    site.keep(*(asked(2000 + each, 1 + each * 37 % (ROWS + 1)) for each in range(1200)))
    assert () == site.worker.monitoring.shifted_inputs()
    assert ids(*OLDER, *range(1000, 1040)) == walk(site)[: len(OLDER) + 40]


def test_the_alarm_of_a_bundle_that_no_longer_answers_brings_nothing_forward(site):
    """Its standing alarm stays in the figures; the bundle that was trained since has a gate of its own."""
    begin(site)
    site.keep(asked(3000, 300, digest="c" * 64))
    assert ["new_inputs"] == [each.alarm for each in site.worker.monitoring.active_alarms()]
    assert ids(*OLDER) == walk(site)[: len(OLDER)]


def test_another_task_keeps_its_order(site):
    """An alarm is about one task, and a walk through one task sees that of its own alone."""
    talk = gated().model_copy(update={"task": gated().task.model_copy(update={"name": "talk"})})
    site.keep(asked(4000, 2, manifest=talk), asked(4001, 1, manifest=talk))
    begin(site)
    assert ids(4000, 4001) == walk(site, ReviewFilter("talk", stream="new"))
    assert ids(*OLDER, 4000, 4001) == walk(site)[-len(OLDER) - 2 :]


def test_the_audit_is_not_brought_forward(site):
    """What the random audit draws stays in its stream and its order, whatever its p-value."""
    site.clock.draws = 0.0
    begin(site)
    assert ids(*OLDER) == walk(site)
    assert 43 == len(walk(site, ReviewFilter(stream="audit")))


def test_an_index_serves_what_comes_first(site):
    """A page reads as many rows as it shows, and no sorting of the others."""
    begin(site)
    seen: list[str] = []
    site.worker.spool.db._db.set_trace_callback(seen.append)
    site.worker.review_page(NEW_ALONE, ReviewCursor(), 3)
    site.worker.spool.db._db.set_trace_callback(None)
    (query,) = [each for each in seen if "ORDER BY p_value" in each]
    plan = [row[-1] for row in site.worker.spool.db.rows(f"EXPLAIN QUERY PLAN {query}")]
    assert any("USING INDEX review_strange" in step for step in plan)
    assert not any("TEMP B-TREE" in step for step in plan)
