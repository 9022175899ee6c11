"""From what the daemon counts to the figures of a report."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from edge_agent.client import Bundle, BundleRef, LargeModel, Task
from edge_agent.client.operator_reports import (
    FieldAgreement,
    FieldConfidence,
    FieldDay,
    FieldLabel,
    FieldMoney,
    FieldReport,
    FieldSeries,
    FieldTest,
    Share,
)
from edge_agent.client.site_state import FieldAlarm
from edge_agent.report.task_figures import (
    DAYS_MAX,
    ComparisonCount,
    ConfidenceBand,
    DaemonReports,
    ReportRequest,
    collect_figures,
)

NOW = datetime(2026, 11, 25, tzinfo=UTC)
REF = BundleRef("pos-intent", "1.2.0", "ab" * 32)
TASK = Task("pos-intent", "CLASSIFY", REF, ("refund", "price"), 512, 0, 8, True, True, 0.9, "SHADOW")
LARGE = LargeModel(True, True, "large-1", "", "", 840.0, 0, 0, 0, 0, ("pos-intent",), {}, 0.0, 0, {})
NOTHING = Share(0, 0, None, 0.0, 1.0)


def share(hits, rows):
    """Return a share as the client gives it."""
    return Share(hits, rows, hits / rows, 0.0, 1.0)


def series(**said):
    """Return what is known of a bundle, nothing unless it is said."""
    plain = {"bundle": REF, "active": True, "first_time": NOW, "last_time": NOW, "days": (), "totals": {}}
    rest = dict.fromkeys(("agreement", "tests", "streams", "alarms", "confidences", "disagreements"), ())
    return FieldSeries(**{**plain, **rest, "threshold": 0.9, **said})


def alarm(name, ended=None):
    """Return an alarm."""
    return FieldAlarm("pos-intent", REF.digest, name, NOW, ended, "said", "do this", False)


def told(*known, money=(), large=LARGE, tasks=(TASK,), runtime="echo"):
    """Return what the daemon says."""
    bundle = Bundle(REF, "CLASSIFY", runtime, True, False, True, 1, NOW)
    return DaemonReports(FieldReport(known, tasks, large, {}, money), (bundle,), {"pos-intent": 29.0})


def only(*known, wanted=ReportRequest(), **said):  # noqa: B008 - a frozen value
    """Return the figures of the only task."""
    (found,) = collect_figures(told(*known, **said), wanted)
    return found


def test_a_day_has_what_held_its_answers_up():
    """By reason, and added up over the days that a report is about; the task has its gate."""
    counts = {"answers": 9, "graded": 9, "sure": 4, "held_up:BELOW_THRESHOLD": 2, "held_up:OUT_OF_DISTRIBUTION": 3}
    days = (FieldDay("2026-11-24", counts, NOTHING), FieldDay("2026-11-25", counts, NOTHING))
    found = only(series(days=days), tasks=(replace(TASK, gate="ood_score"),))
    assert {"BELOW_THRESHOLD": 2, "OUT_OF_DISTRIBUTION": 3} == found.days[0].held_up
    assert ({"BELOW_THRESHOLD": 4, "OUT_OF_DISTRIBUTION": 6}, "ood_score") == (found.held_up, found.gate)


def test_a_day_has_its_routes_its_sure_ones_and_what_was_in_the_way():
    """Counts by name become what a report tells of a day."""
    counts = {
        **{"answers": 20, "route:local": 12, "route:upstream": 8, "reason:SURE": 10, "reason:BELOW_THRESHOLD": 7},
        **{"reason:UPSTREAM_OFFLINE": 2, "reason:DEADLINE_TOO_SHORT": 1, "graded": 20, "sure": 10},
        **{"examples": 9, "reviewed": 3},
    }
    (day,) = only(series(days=(FieldDay("2026-11-25", counts, share(7, 8)),))).days
    assert ("2026-11-25", {"local": 12, "upstream": 8}) == (day.date, day.answers)
    assert 0 == day.unusual
    assert (10, 10, 3, 9, 3) == (day.sure, day.unsure, day.blocked, day.examples, day.reviewed)
    assert ComparisonCount(8, 7) == day.compared


def test_a_confident_answer_to_an_unusual_input_is_not_counted_as_doubtful():
    """A day has it among the confident ones, and names how many of these the risk guarantee does not cover."""
    counts = {"answers": 20, "graded": 20, "confident": 15, "sure": 11, "held_up:OUT_OF_DISTRIBUTION": 5}
    (day,) = only(series(days=(FieldDay("2026-11-25", counts, NOTHING),))).days
    assert (15, 4, 5) == (day.sure, day.unusual, day.unsure)


def test_days_without_answers_count():
    """A day on which nobody asked lies between the others, since it makes a month as long as it is."""
    days = (FieldDay("2026-11-20", {"answers": 1}, NOTHING), FieldDay("2026-11-23", {"answers": 1}, NOTHING))
    assert ["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23"] == [
        day.date for day in only(series(days=days)).days
    ]


def test_a_clock_that_jumped_makes_no_endless_report():
    """A day of 1970 among those of today: only as many days are looked at as a daemon remembers."""
    days = (FieldDay("1970-01-02", {}, NOTHING), FieldDay("2026-11-23", {"examples": 1}, NOTHING))
    found = only(series(days=days))
    assert (DAYS_MAX, 1) == (len(found.days), found.examples)


def test_a_clock_that_stood_in_the_future_hides_no_days():
    """Once answers come with the right time again, a day of 2038 is left out; a late review still counts."""
    named = ("2026-11-23", "2026-12-20", "2038-01-19")
    days = tuple(FieldDay(name, {"route:local": 7, "graded": 7}, NOTHING) for name in named)
    money = tuple(FieldMoney("pos-intent", name, 1, 1_000) for name in named)
    found = only(series(days=days), money=money)
    assert (14, "2026-11-23", "2026-12-20") == (found.calls, found.days[0].date, found.days[-1].date)
    assert 2_000 == sum(each.cost_micros for each in found.days)
    begun_anew = only(
        series(days=days, last_time=datetime(1970, 1, 1, tzinfo=UTC))
    )  # its clock stands at its beginning
    assert "2038-01-19" == begun_anew.days[-1].date


def test_earlier_bundles_count_for_money_and_examples_only():
    """What the model before said is no word on the one that answers now; what was asked and learnt stays."""
    before = series(
        active=False,
        days=(FieldDay("2026-11-24", {"route:upstream": 5, "examples": 5}, share(1, 5)),),
        labels=(FieldLabel("refund", 5, 5),),
        agreement=(FieldAgreement("shadow", "refund", share(1, 5)),),
        alarms=(alarm("errors"),),
    )
    now = series(
        days=(FieldDay("2026-11-24", {"route:upstream": 2, "examples": 2}, share(2, 2)),),
        labels=(FieldLabel("refund", 2, 2),),
        agreement=(
            FieldAgreement("shadow", "", share(2, 2)),
            FieldAgreement("shadow", "refund", share(2, 2), share(1, 1)),
            FieldAgreement("escalated", "refund", share(0, 9), share(0, 9)),
        ),
    )
    found = only(now, before)
    (day,), (refund, price) = found.days, found.labels
    assert (7, {"upstream": 7}, ComparisonCount(2, 2)) == (found.examples, day.answers, day.compared)
    assert (7, 7, ComparisonCount(2, 2), ComparisonCount(1, 1)) == (
        refund.answers,
        refund.examples,
        refund.compared,
        refund.recent,
    )
    assert ("price", 0) == (price.name, price.examples)
    assert ((), ComparisonCount(2, 2)) == (found.alarms, found.shadow)


def test_confidences_are_taken_apart():
    """What is told from each confidence on becomes what is there between one and the next."""
    told_of = (
        FieldConfidence(0.95, share(10, 40), share(8, 8)),
        FieldConfidence(0.9, share(25, 40), share(18, 20)),
        FieldConfidence(0.3, share(40, 40), NOTHING),
    )
    told_of = (*told_of[:2], FieldConfidence(0.3, share(40, 40), share(20, 24)))
    assert (
        ConfidenceBand(0.3, 15, ComparisonCount(4, 2)),
        ConfidenceBand(0.9, 15, ComparisonCount(12, 10)),
        ConfidenceBand(0.95, 10, ComparisonCount(8, 8)),
    ) == only(series(confidences=told_of)).confident


def test_the_word_of_people_is_taken_apart_too():
    """Between one confidence and the next: what people judged, found right, and on how much both had agreed."""
    told_of = (
        FieldConfidence(0.9, share(10, 40), share(6, 10), share(3, 3), 1),
        FieldConfidence(0.3, share(40, 40), share(20, 24), share(4, 6), 3),
    )
    low, high = only(series(confidences=told_of)).confident
    assert (ComparisonCount(3, 1), 2, ComparisonCount(14, 13)) == (low.people, low.people_agreed, low.right)
    assert (ComparisonCount(3, 3), 1, ComparisonCount(10, 8)) == (high.people, high.people_agreed, high.right)


def test_tests_say_who_found_what():
    """The promise and what people and the large model found of the confident answers come from its tests."""
    tests = (
        FieldTest("people", share(1, 30), 0.02, 0.05, 0.0, 3.0, False),
        FieldTest("large-model", share(3, 60), 0.02, 0.05, 0.0, 3.0, False),
    )
    found = only(series(tests=tests))
    assert (0.02, ComparisonCount(30, 29), ComparisonCount(60, 57)) == (found.target, found.checked, found.judged)
    assert 0.1 == only(series(tests=tests), wanted=ReportRequest(target=0.1)).target


def test_only_alarms_that_stand_are_told():
    """What went away by itself is no alarm any more."""
    assert ["labels"] == [each.name for each in only(series(alarms=(alarm("labels"), alarm("length", NOW)))).alarms]


def test_what_was_spent_is_of_its_day():
    """A question is paid for on a day, whether anything is counted of its answer or not."""
    money = (FieldMoney("pos-intent", "2026-11-25", 3, 900), FieldMoney("other", "2026-11-25", 1, 5))
    (day,) = only(money=money).days
    assert (3, 900) == (day.priced, day.cost_micros)


@pytest.mark.parametrize(("runtime", "has_model"), [("echo", True), ("upstream", False)])
def test_a_definition_alone_is_no_model(runtime, has_model):
    """A bundle of runtime upstream has nothing that could answer here."""
    assert has_model is only(runtime=runtime).has_model


def test_without_a_large_model_nothing_may_leave():
    """No large model, or one that may not be asked about the task, is the same to a report."""
    assert (False, 0.0) == (only(large=None).may_leave, only(large=None).large_ms)
    assert (True, 840.0, 29.0) == (only().may_leave, only().large_ms, only().local_ms)


def test_only_what_is_wanted_is_told():
    """Named tasks only; a task that nobody has asked has figures, too: none."""
    assert [] == collect_figures(told(), ReportRequest(("other",)))
    assert ("pos-intent", "classify", "shadow", 0) == (only().task, only().kind, only().mode, only().calls)
