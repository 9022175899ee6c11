"""Rollout status: each site is counted once against the plan, and a halt is recommended exactly above the plan's
failure limit."""

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
    """Compare status objects with a plan; sites that are silent for more than two days are listed as silent."""
    return report(wanted, SiteStatuses({each.site: each for each in said}), now, silent_seconds=2 * DAY, known=known)


def one(wanted: RolloutPlan, said: Sequence[SiteStatus], now: float = NOW) -> TaskProgress:
    """Return the only task of the report."""
    [found] = compare(wanted, said, now).tasks
    return found


def fleet_of(**states: int) -> list[SiteStatus]:
    """Return sites in these states; sites in `done` or `probation` report the new bundle."""
    every = [state for state, count in states.items() for _ in range(count)]
    return [
        heartbeat(f"shop-{number}", NEW if state in ("done", "probation") else OLD, update(state, "WHY"))  # type: ignore[arg-type]
        for number, state in enumerate(every)
    ]


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(STATES), st.integers(0, 5)), st.integers(0, 100))
def test_every_site_counts_once(states, allowed):
    """Each site counts once, in the state that it reports, and a halt is recommended exactly if the share of failures
    among sites that tried exceeds the limit."""
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
def test_halt_is_recommended_above_the_failure_limit(failed: int, recommended: bool):
    """With a limit of 10%, one failure in ten sites does not lead to a recommended halt, but two in eleven do."""
    found = compare(plan(task(failure_percent_max=10)), fleet_of(failed=failed, done=9))
    assert recommended == bool(found.halts)


def test_halted_task_gets_no_further_recommendation():
    """For a task that is halted already, failures are counted but no halt is recommended."""
    found = one(plan(task(halted=True)), fleet_of(rolled_back=3, done=1))
    assert (True, False, 75.0) == (found.too_many, found.halt_recommended, found.failure_percent)


def test_sites_are_counted_by_rollout_wave():
    """Each site counts in the first wave that includes its rollout position, and the sites of started waves are due."""
    starts = [format_timestamp(NOW - DAY), format_timestamp(NOW), format_timestamp(NOW + DAY)]
    said = [heartbeat(f"shop-{number}", NEW, update("done")) for number in range(400)]
    found = one(plan(task(waves=list(zip(starts, (5, 20, 60), strict=True)))), said)
    places = [rollout_position(each.site, NEW) // 100 for each in said]
    expected = [sum(low <= place < high for place in places) for low, high in ((0, 5), (5, 20), (20, 60))]
    assert expected == [wave.sites for wave in found.waves] == [wave.there for wave in found.waves]
    assert [True, True, False] == [wave.open for wave in found.waves]
    assert sum(expected[:2]) == found.due == found.due_there


def test_sites_of_a_halted_wave_still_count_as_due():
    """Sites of a wave that started before the halt still count as due, so the report shows how far the rollout came."""
    waves = [(format_timestamp(NOW), 100)]
    assert 2 == one(plan(task(waves=waves, halted=True)), fleet_of(done=1, waiting=1)).due


def test_site_is_judged_by_the_offer_for_its_hardware():
    """A site that runs any of the plan's offers for a task counts as up to date, whichever one suits its hardware."""
    big = BundleOffer(bundle="2f" * 32, version="3.0.0", requires=HardwareRequirements(devices=("cuda",)))
    offers = (big, BundleOffer(bundle=NEW, version="2.0.0"))
    said = [
        heartbeat("till", NEW, update("done")),
        heartbeat("server", big.bundle, update("done", candidate=big.bundle)),
        heartbeat("quiet", NEW),
    ]
    found = one(plan(task(offers=offers)), said)
    assert (3, 3, {NEW: "2.0.0", big.bundle: "3.0.0"}) == (found.there, found.due_there, found.bundles)


def test_site_without_suitable_hardware_is_not_due():
    """A site that reports HARDWARE_UNMET is waiting, and counts neither as due nor as failed."""
    found = one(plan(task()), [heartbeat("shop-1", OLD, update("waiting", "HARDWARE_UNMET"))])
    assert (0, 0, 1) == (found.due, found.failed, found.states["waiting"])


def test_site_that_has_not_read_the_plan_is_unaware():
    """A site with an older plan counts as `unaware` and its failure with another bundle is ignored, but it counts as up
    to date if it runs the new bundle."""
    old = update("failed", "GOLDEN_DISAGREES", candidate=OLD)
    said = [heartbeat("shop-1", OLD, old, plan_version=0), heartbeat("shop-2", NEW, old, plan_version=0)]
    found = compare(plan(task()), said)
    assert (1, 1, 0) == (found.tasks[0].states["unaware"], found.tasks[0].there, found.tasks[0].failed)
    assert (2, 0) == (found.sites, found.with_newest_plan)


def test_first_install_counts_as_fetching():
    """A site that fetches its first bundle of a task counts as `fetching`."""
    found = one(plan(task()), [heartbeat("shop-1", None, update("fetching", "BLOBS_MISSING"))])
    assert (1, 0) == (found.states["fetching"], found.there)


def test_sites_named_in_the_plan_are_counted_separately():
    """Sites that the plan names and treats alike form one group, and the counts of their channel exclude them."""
    pinned = FleetPlan(tasks={TASK: task(OLD, version="1.0.0")})
    wanted = plan(task(), sites={"shop-1": pinned, "shop-2": pinned})
    said = [heartbeat("shop-1", OLD), heartbeat("shop-2", OLD), heartbeat("shop-3", NEW), heartbeat("shop-4", OLD)]
    found = {each.channel: (each.sites, each.there) for each in compare(wanted, said).tasks}
    assert {"(sites)": (2, 2), "stable": (2, 1)} == found


def test_site_of_an_unplanned_channel_counts_in_no_task():
    """A site of a channel without a plan counts as a site of the fleet, but in no task."""
    found = compare(plan(task()), [heartbeat("shop-1", channel="beta")])
    assert (1, ()) == (found.sites, found.tasks)


def test_reasons_list_failures_first_with_five_sites():
    """Reasons are listed with failures first, each code once with its count, five site names and one message."""
    said = [
        heartbeat(f"shop-{number}", OLD, update("failed", "GOLDEN_DISAGREES", message=f"agrees on {number}"))
        for number in range(7)
    ]
    said += [heartbeat(f"till-{number}", OLD, update("waiting", "WINDOW_CLOSED")) for number in range(9)]
    first, second = one(plan(task()), said).reasons
    assert ("failed", "GOLDEN_DISAGREES", 7, "agrees on 0") == (first.state, first.reason, first.sites, first.message)
    assert tuple(f"shop-{number}" for number in range(5)) == first.named
    assert ("waiting", "WINDOW_CLOSED", 9) == (second.state, second.reason, second.sites)


def test_silent_blocked_and_revoked_sites_are_listed():
    """The report lists sites that have been silent for more than two days or have never reported, that refuse updates,
    or that run a revoked bundle."""
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


def test_site_with_a_clock_ahead_is_listed():
    """A site whose status is 900 days in the future is listed as ahead, because it would otherwise look fresh for
    years."""
    said = [
        heartbeat("shop-1", at=format_timestamp(NOW + 900 * DAY)),
        heartbeat("shop-2", at=format_timestamp(NOW + 60)),
    ]
    found = compare(plan(), said)
    assert ({"shop-1": format_timestamp(NOW + 900 * DAY)}, {}) == (found.ahead, found.silent)


def test_newest_valid_status_of_a_site_counts():
    """Of several status objects of a site the newest valid one counts, in any order of reading; a refusal counts only
    without a valid one."""
    old, new = heartbeat("shop-1", at=format_timestamp(NOW)), heartbeat("shop-1", NEW, at=format_timestamp(NOW + 1))
    for order in ([old, new, "damaged"], ["damaged", new, old], [new, "damaged", old]):
        heard = SiteStatuses()
        for said in order:
            heard.add("shop-1", said)
        assert ({"shop-1": new}, {}) == (heard.statuses, heard.refused)
        assert parse_timestamp(new.at) == parse_timestamp(heard.statuses["shop-1"].at)


def test_fleet_without_status_objects_gives_an_empty_report():
    """Without status objects the report has no sites, no tasks and no recommended halt."""
    found = compare(plan(task()), [])
    assert (0, (), []) == (found.sites, found.tasks, found.halts)


def test_redaction_audits_list_sites_with_alarms_first():
    """Sites that exceed the redaction target or use other rules than proved are listed first; a site without a
    redaction model is left out."""
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
