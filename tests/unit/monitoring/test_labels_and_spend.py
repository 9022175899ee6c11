"""What a report reads from the monitoring tables: training examples by label, and the cost of the large model."""

import pytest

from edge_agent.capture.spool_writer import PENDING_CHARGES_MAX, PendingCharges
from edge_agent.formats.manifest import Manifest
from edge_agent.monitoring.answer_observations import DailySpend, LabelCount
from edge_agent.monitoring.monitoring_store import Charge
from edge_agent.monitoring.monitoring_tables import DAYS_MAX
from tests.support.site_cases import SiteCase, answered, judgement

DAY = 86_400
UPSTREAM = {"route": "upstream", "model": "large-1", "reasons": ("MODE_BOOTSTRAP",), "scores": (), "confidence": None}


@pytest.fixture
def site(tmp_path) -> SiteCase:
    return SiteCase(tmp_path)


def only(site):
    """Return the series of the only bundle."""
    (series,) = site.worker.monitoring.report("pos-intent")
    return series


def examples(site):
    """Return the number of training examples."""
    return sum(day.get("examples", 0) for day in only(site).days.values())


def test_answer_of_the_large_model_counts_as_an_example(site):
    """Each answer of the large model is a training example; a local answer is not, though its label is counted."""
    site.keep(
        answered(1, teacher_answer="price", **UPSTREAM), answered(2), answered(3, teacher_answer="price", **UPSTREAM)
    )
    assert 2 == examples(site)
    assert (LabelCount("price", 2, 2), LabelCount("refund", 1, 0)) == only(site).labels


def test_feedback_counts_as_an_example_once(site):
    """The first feedback on a local answer counts, under the correct label; an answer of the large model is counted
    already."""
    site.keep(answered(1), answered(2, teacher_answer="price", **UPSTREAM))
    local = {"prediction_id": "p-1", "task": "pos-intent", "kind": "classify", "bundle": {"digest": only(site).digest}}
    rest = {"output": "refund", "input": "", "scores": [["refund", 0.75]], "confidence": 0.75, "sure": False}
    kept = {**local, **rest, "route": "local", "reason": "BELOW_THRESHOLD"}
    site.judge(judgement(1), prediction=kept)
    site.judge(judgement(3, prediction_id="p-1", value="refund"), prediction=kept)
    site.judge(judgement(2), prediction={**kept, "prediction_id": "p-2", "route": "upstream", "output": "price"})
    assert 2 == examples(site)
    assert (LabelCount("price", 1, 2), LabelCount("refund", 1, 0)) == only(site).labels


def test_spend_is_summed_by_task_and_day(site):
    """Questions and their price are summed for each task and day."""
    at = 20_000 * DAY
    site.worker.store_charges(
        [Charge("pos-intent", at, 300), Charge("pos-intent", at + 5, 200), Charge("other", at, 7)]
    )
    site.worker.store_charges([Charge("pos-intent", at + DAY, 100), Charge("pos-intent", at, 100)])
    assert (
        DailySpend("pos-intent", 20_000, 3, 600),
        DailySpend("pos-intent", 20_001, 1, 100),
    ) == site.worker.monitoring.daily_spend("pos-intent")
    assert 3 == len(site.reopen().monitoring.daily_spend())


def test_days_of_spend_are_limited(site):
    """The oldest days of a task are deleted; those of another task stay."""
    site.worker.store_charges([Charge("other", 0.0, 1)])
    for day in range(DAYS_MAX + 3):
        site.worker.store_charges([Charge("pos-intent", day * DAY, 1)])
    days = [spent.day for spent in site.worker.monitoring.daily_spend("pos-intent")]
    assert (DAYS_MAX, 3) == (len(days), days[0])
    assert 1 == len(site.worker.monitoring.daily_spend("other"))


def test_pending_charges_are_retried_in_order():
    """Charges that could not be stored are retried in order; without any nothing is written."""
    bills, written = PendingCharges(), []

    def refuse(paid):
        raise OSError("the disk is full")

    bills.settle(refuse)
    bills.add("pos-intent", 1)
    bills.add("pos-intent", 2)
    with pytest.raises(OSError, match="full"):
        bills.settle(refuse)
    bills.settle(written.extend)
    bills.settle(refuse)
    assert [1, 2] == [paid.micros for paid in written]


def test_pending_charges_are_limited():
    """While charges cannot be stored, the oldest beyond the limit are dropped."""
    bills, written = PendingCharges(), []
    for number in range(PENDING_CHARGES_MAX + 1):
        bills.add("pos-intent", number)
    bills.settle(written.extend)
    assert (PENDING_CHARGES_MAX, 1) == (len(written), written[0].micros)


def test_open_questions_are_counted_without_their_options(site):
    """Answers to an open question are counted, and not by option, so that they neither raise an alarm nor fill the
    table."""
    task = {
        "name": "pos-intent",
        "kind": "decide",
        "open_questions": True,
        "prompt": {"template": "{input} {question}"},
    }
    bundle = Manifest.model_validate({"task": task, "version": "1.0.0", "runtime": "echo"})
    for option in ("red", "blue"):
        asked = {"manifest": bundle, "question": "which", "local_answer": option, "scores": [(option, 0.75)]}
        site.keep(*(answered(1000 * (option == "blue") + number, threshold=None, **asked) for number in range(1000)))
    (series,) = site.worker.monitoring.report("pos-intent")
    assert 2000 == sum(day["answers"] for day in series.days.values())
    assert ((), ()) == (site.worker.monitoring.active_alarms(), series.labels)
