"""The fleet against the plan: every site counts once, and a halt is recommended exactly when the plan says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.fleet.rollout_progress import FleetReport, SiteStatuses, TaskProgress, report
from edge_agent.formats.plan import BundleOffer, FleetPlan, HardwareRequirements, RolloutPlan, rollout_position
from edge_agent.formats.signed_document import format_timestamp, parse_timestamp
from edge_agent.formats.status_object import RedactionReport, SiteStatus, UpdateState
from tests.support.examples import NOW
from tests.support.heartbeats import heartbeat, update
from tests.support.plans import NEW, OLD, TASK, plan, task

DAY = 86_400.0
STATES: tuple[UpdateState, ...] = get_args(UpdateState)


def compare(
    wanted: RolloutPlan, said: Sequence[SiteStatus], now: float = NOW, known: Sequence[str] = ()
) -> FleetReport:
    """Compare what sites say with a plan; two days of silence are too many."""
    return report(wanted, SiteStatuses({each.site: each for each in said}), now, silent_seconds=2 * DAY, known=known)


def one(wanted: RolloutPlan, said: Sequence[SiteStatus], now: float = NOW) -> TaskProgress:
    """Return the only task of the comparison."""
    [found] = compare(wanted, said, now).tasks
    return found


def fleet_of(**states: int) -> list[SiteStatus]:
    """Return sites in these states; those that run the new bundle say so."""
    every = [state for state, count in states.items() for _ in range(count)]
    return [
        heartbeat(f"shop-{number}", NEW if state in ("done", "probation") else OLD, update(state, "WHY"))  # type: ignore[arg-type]
        for number, state in enumerate(every)
    ]


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(STATES), st.integers(0, 5)), st.integers(0, 100))
def test_every_site_counts_once(states, allowed):
    """In the one state that it says, and a halt is recommended exactly when more failed of those that tried."""
    said = fleet_of(**states)
    if not said:
        return
    found = one(plan(task(failure_percent_max=allowed)), said)
    assert {state: states.get(state, 0) for state in STATES} | {"unaware": 0} == found.states
    failed = states.get("failed", 0) + states.get("rolled_back", 0)
    there = states.get("done", 0) + states.get("probation", 0)
    assert (failed, there, failed + there) == (found.failed, found.there, found.tried)
    assert (100 * failed > allowed * (failed + there)) == found.halt_recommended


@pytest.mark.parametrize(("failed", "recommended"), [(0, False), (1, False), (2, True)])
def test_a_halt_is_recommended_above_the_threshold(failed: int, recommended: bool):
    """The plan allows 10%: one of ten is at it, two of eleven are above."""
    found = compare(plan(task(failure_percent_max=10)), fleet_of(failed=failed, done=9))
    assert recommended == bool(found.halts)


def test_what_is_halted_needs_no_other_halt():
    """It is counted all the same."""
    found = one(plan(task(halted=True)), fleet_of(rolled_back=3, done=1))
    assert (True, False, 75.0) == (found.too_many, found.halt_recommended, found.failure_percent)


def test_waves_are_counted_by_place():
    """Each site in the wave that takes it first, open or not; due are those of open waves."""
    starts = [format_timestamp(NOW - DAY), format_timestamp(NOW), format_timestamp(NOW + DAY)]
    said = [heartbeat(f"shop-{number}", NEW, update("done")) for number in range(400)]
    found = one(plan(task(waves=list(zip(starts, (5, 20, 60), strict=True)))), said)
    places = [rollout_position(each.site, NEW) // 100 for each in said]
    expected = [sum(low <= place < high for place in places) for low, high in ((0, 5), (5, 20), (20, 60))]
    assert expected == [wave.sites for wave in found.waves] == [wave.there for wave in found.waves]
    assert [True, True, False] == [wave.open for wave in found.waves]
    assert sum(expected[:2]) == found.due == found.due_there


def test_a_halted_wave_was_due_all_the_same():
    """So that what is seen is how far it had come, not zero of zero."""
    waves = [(format_timestamp(NOW), 100)]
    assert 2 == one(plan(task(waves=waves, halted=True)), fleet_of(done=1, waiting=1)).due


def test_a_site_is_judged_by_the_offer_for_its_machine():
    """It says itself which one that is; running either is being there."""
    big = BundleOffer(bundle="2f" * 32, version="3.0.0", requires=HardwareRequirements(devices=("cuda",)))
    offers = (big, BundleOffer(bundle=NEW, version="2.0.0"))
    said = [
        heartbeat("till", NEW, update("done")),
        heartbeat("server", big.bundle, update("done", candidate=big.bundle)),
        heartbeat("quiet", NEW),
    ]
    found = one(plan(task(offers=offers)), said)
    assert (3, 3, {NEW: "2.0.0", big.bundle: "3.0.0"}) == (found.there, found.due_there, found.bundles)


def test_a_machine_that_nothing_suits_is_not_due():
    """It says so, and that is no failure."""
    found = one(plan(task()), [heartbeat("shop-1", OLD, update("waiting", "HARDWARE_UNMET"))])
    assert (0, 0, 1) == (found.due, found.failed, found.states["waiting"])


def test_a_site_that_has_not_read_the_plan_is_unaware():
    """What it says of another bundle is not taken for this one; what it runs already, it runs."""
    old = update("failed", "GOLDEN_DISAGREES", candidate=OLD)
    said = [heartbeat("shop-1", OLD, old, plan_version=0), heartbeat("shop-2", NEW, old, plan_version=0)]
    found = compare(plan(task()), said)
    assert (1, 1, 0) == (found.tasks[0].states["unaware"], found.tasks[0].there, found.tasks[0].failed)
    assert (2, 0) == (found.sites, found.with_newest_plan)


def test_a_task_that_nothing_answers_yet_is_on_its_way():
    """A first install stands in 'arriving' until it answers."""
    found = one(plan(task()), [heartbeat("shop-1", None, update("fetching", "BLOBS_MISSING"))])
    assert (1, 0) == (found.states["fetching"], found.there)


def test_what_is_said_of_a_site_by_name_counts_apart():
    """Sites treated alike by name make one group; their channel's counts are without them."""
    pinned = FleetPlan(tasks={TASK: task(OLD, version="1.0.0")})
    wanted = plan(task(), sites={"shop-1": pinned, "shop-2": pinned})
    said = [heartbeat("shop-1", OLD), heartbeat("shop-2", OLD), heartbeat("shop-3", NEW), heartbeat("shop-4", OLD)]
    found = {each.channel: (each.sites, each.there) for each in compare(wanted, said).tasks}
    assert {"(sites)": (2, 2), "stable": (2, 1)} == found


def test_a_site_of_another_channel_is_asked_for_nothing():
    """It counts as heard, and in no task."""
    found = compare(plan(task()), [heartbeat("shop-1", channel="beta")])
    assert (1, ()) == (found.sites, found.tasks)


def test_reasons_name_some_sites():
    """Failures first, each code once with its count, five names and what one of them says."""
    said = [
        heartbeat(f"shop-{number}", OLD, update("failed", "GOLDEN_DISAGREES", message=f"agrees on {number}"))
        for number in range(7)
    ]
    said += [heartbeat(f"till-{number}", OLD, update("waiting", "WINDOW_CLOSED")) for number in range(9)]
    first, second = one(plan(task()), said).reasons
    assert ("failed", "GOLDEN_DISAGREES", 7, "agrees on 0") == (first.state, first.reason, first.sites, first.message)
    assert tuple(f"shop-{number}" for number in range(5)) == first.named
    assert ("waiting", "WINDOW_CLOSED", 9) == (second.state, second.reason, second.sites)


def test_silence_is_named():
    """Sites that were silent for two days or always, refuse updates with a reason, or run a revoked bundle."""
    said = [
        heartbeat("shop-1", at=format_timestamp(NOW - 3 * DAY)),
        heartbeat("shop-2", update_problem="the metadata expired"),
    ]
    said[1] = said[1].model_copy(update={"tasks": (said[1].tasks[0].model_copy(update={"revoked": True}),)})
    found = compare(plan(sites={"shop-9": FleetPlan()}), said, known=["shop-1", "shop-8"])
    assert {"shop-1": format_timestamp(NOW - 3 * DAY)} == found.silent
    assert ("shop-8", "shop-9") == found.unheard
    assert {"shop-2": "the metadata expired"} == found.problems
    assert {"shop-2": f"{TASK} {said[1].tasks[0].version}"} == found.revoked


def test_a_clock_that_is_ahead_is_named():
    """Its status would look fresh for years after the site's last word."""
    said = [
        heartbeat("shop-1", at=format_timestamp(NOW + 900 * DAY)),
        heartbeat("shop-2", at=format_timestamp(NOW + 60)),
    ]
    found = compare(plan(), said)
    assert ({"shop-1": format_timestamp(NOW + 900 * DAY)}, {}) == (found.ahead, found.silent)


def test_the_newest_word_of_a_site_counts():
    """Whatever the order; a refusal counts only where nothing better came."""
    old, new = heartbeat("shop-1", at=format_timestamp(NOW)), heartbeat("shop-1", NEW, at=format_timestamp(NOW + 1))
    for order in ([old, new, "damaged"], ["damaged", new, old], [new, "damaged", old]):
        heard = SiteStatuses()
        for said in order:
            heard.add("shop-1", said)
        assert ({"shop-1": new}, {}) == (heard.statuses, heard.refused)
        assert parse_timestamp(new.at) == parse_timestamp(heard.statuses["shop-1"].at)


def test_nothing_heard_is_no_progress_and_no_alarm():
    """An empty store gives an empty report."""
    found = compare(plan(task()), [])
    assert (0, (), []) == (found.sites, found.tasks, found.halts)


def test_what_the_audits_of_redaction_found_is_told_alarming_sites_first():
    """More than promised, and proved with other rules, are alarms; a site without a redaction model is not listed."""
    good = RedactionReport(model="pii@1.0.0", rules="2", proved_rules="2", target=50_000, texts=9, values=20, missed=1)
    bad = good.model_copy(update={"missed": 12, "low": 200_000, "high": 800_000})
    other = good.model_copy(update={"proved_rules": "1"})
    said = [
        heartbeat(name, NEW).model_copy(update={"redaction": told})
        for name, told in {"shop-1": good, "shop-2": None, "shop-3": bad, "shop-4": other}.items()
    ]
    found = compare(plan(task()), said)
    assert ["shop-3", "shop-4", "shop-1"] == [each.site for each in found.redaction]
    plain = found.plain()["redaction"]
    assert [(True, False), (False, True), (False, False)] == [
        (each["exceeded"], each["proved_otherwise"]) for each in plain
    ]
