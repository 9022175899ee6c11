"""What a plan means for a site: deterministic, only ever more sites, and never an unsuitable bundle."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.formats.plan import (
    ROLLOUT_STEPS,
    BundleOffer,
    DesiredState,
    FleetPlan,
    HardwareRequirements,
    MachineCapabilities,
    RolloutWave,
    SwitchWindow,
    TaskPlan,
    desired_states,
    is_within_window,
    rollout_position,
)
from edge_agent.formats.signed_document import format_timestamp, parse_timestamp
from tests.support.plans import NEW, OLD, TASK, task

TILL = MachineCapabilities(4 * 2**30, cpu_features=frozenset({"avx2"}))
SERVER = MachineCapabilities(64 * 2**30, frozenset({"cpu", "cuda"}), frozenset({"avx2", "avx512_vnni"}))
MONDAY, TUESDAY, FRIDAY = "2026-11-02T08:00:00Z", "2026-11-03T08:00:00Z", "2026-11-06T08:00:00Z"
WAVES = [(MONDAY, 1), (TUESDAY, 10), (FRIDAY, 100)]
SITES = [f"shop-{number}" for number in range(10_000)]

sites = st.integers(0, 10**6).map("shop-{}".format)
digests = st.integers(0, 2**256 - 1).map("{:064x}".format)
times = st.integers(0, 2**32)


def wish(one: TaskPlan, site: str = "shop-1", machine: MachineCapabilities = TILL, at: float = 0.0) -> DesiredState:
    """Return the desired state of the one task."""
    return desired_states(FleetPlan(tasks={TASK: one}), site, machine, at)[TASK]


@st.composite
def wave_lists(draw: st.DrawFn) -> tuple[RolloutWave, ...]:
    shares = sorted(draw(st.sets(st.integers(1, 100), min_size=1, max_size=6)))
    starts = sorted(draw(st.lists(times, min_size=len(shares), max_size=len(shares))))
    return tuple(
        RolloutWave(start=format_timestamp(at), percent=share) for at, share in zip(starts, shares, strict=True)
    )


def in_it(one: TaskPlan, at: float) -> set[str]:
    """Return the sites that should run the bundle at a time."""
    return {site for site in SITES if wish(one, site, at=at).bundle}


def test_task_without_waves_applies_at_once():
    """A task without waves applies to every suitable machine at any time."""
    assert DesiredState("WANTED", task(), task().offers[0]) == wish(task())
    assert NEW == wish(task()).bundle


def test_plan_without_tasks_requires_nothing():
    """The site's active bundles stay."""
    assert {} == desired_states(FleetPlan(), "shop-1", TILL, 0.0)


@settings(max_examples=300)
@given(wave_lists(), sites, times, times)
def test_site_stays_in_a_rollout(waves, site, one, other):
    """Once a wave has reached a site, no later time removes it."""
    each = TaskPlan(offers=task().offers, waves=waves)
    early, late = sorted((one, other))
    if wish(each, site, at=early).bundle:
        assert NEW == wish(each, site, at=late).bundle


@settings(max_examples=300)
@given(wave_lists(), sites, times)
def test_verdict_follows_from_the_rollout_position(waves, site, now):
    """A site is WANTED from the start of the first wave that reaches its position; if none does, NO_WAVE."""
    mine = rollout_position(site, NEW)
    starts = [parse_timestamp(wave.start) for wave in waves if mine < wave.percent * 100]
    found = wish(TaskPlan(offers=task().offers, waves=waves), site, at=now)
    expected = "NO_WAVE" if not starts else "WANTED" if now >= min(starts) else "WAVE_LATER"
    assert (expected, min(starts, default=0.0)) == (found.verdict, found.opens_at)
    assert (found.verdict == "WANTED") == (found.bundle is not None)


@settings(max_examples=200)
@given(wave_lists(), st.integers(1, 100), sites, times)
def test_larger_wave_removes_no_site(waves, share, site, now):
    """The central team may enlarge the last wave during a rollout; sites that switched stay."""
    wider = (*waves[:-1], waves[-1].model_copy(update={"percent": max(share, waves[-1].percent)}))
    if wish(TaskPlan(offers=task().offers, waves=waves), site, at=now).bundle:
        assert NEW == wish(TaskPlan(offers=task().offers, waves=wider), site, at=now).bundle


def test_waves_reach_about_their_share_of_sites():
    """Of 10,000 sites each wave reaches its share within four standard deviations, and the last wave all."""
    each = task(waves=WAVES)
    for (start, share), tolerance in zip(WAVES, (40, 120, 0), strict=True):
        assert 100 * share == pytest.approx(len(in_it(each, parse_timestamp(start))), abs=tolerance)
    assert set() == in_it(each, parse_timestamp(MONDAY) - 1)


def test_first_sites_differ_between_bundles():
    """The first 1% of two bundles share about 1% of their sites, so the risk does not stay with the same ones."""
    first = {site for site in SITES if rollout_position(site, NEW) < 1000}
    second = {site for site in SITES if rollout_position(site, OLD) < 1000}
    assert 60 <= len(first & second) <= 140


def test_rollout_positions_are_stable():
    """A site computes the same position as the central team, in any version of the program."""
    assert [8205, 5959] == [rollout_position("shop-1", NEW), rollout_position("shop-1", OLD)]


@given(sites, digests)
def test_rollout_position_is_below_10000(site, bundle):
    """A wave of 100 percent therefore reaches every site."""
    assert 0 <= rollout_position(site, bundle) < ROLLOUT_STEPS


def test_halt_takes_precedence_over_waves():
    """HALTED names the bundle that does not apply at present."""
    halted = wish(task(waves=WAVES, halted=True), at=parse_timestamp(FRIDAY))
    assert ("HALTED", None, NEW) == (halted.verdict, halted.bundle, halted.offer and halted.offer.bundle)


GPU = BundleOffer(bundle="aa" * 32, version="1.0.0", requires=HardwareRequirements(devices=("cuda", "vulkan")))
VNNI = BundleOffer(
    bundle="bb" * 32, version="1.0.0", requires=HardwareRequirements(cpu_features=("avx2", "avx512_vnni"))
)
ROOMY = BundleOffer(bundle="cc" * 32, version="1.0.0", requires=HardwareRequirements(memory_bytes_min=4 * 2**30))
SMALL = BundleOffer(bundle="dd" * 32, version="1.0.0")


@pytest.mark.parametrize(
    ("machine", "meant"),
    [
        (SERVER, GPU),
        (replace(SERVER, devices=frozenset({"cpu"})), VNNI),
        (TILL, ROOMY),
        (replace(TILL, memory_bytes=4 * 2**30 - 1), SMALL),
    ],
    ids=["a gpu", "all features", "just enough memory", "a byte too little"],
)
def test_first_suitable_offer_is_chosen(machine: MachineCapabilities, meant: BundleOffer):
    """Offers are tried in the order of the plan."""
    assert meant == wish(task(offers=(GPU, VNNI, ROOMY, SMALL)), machine=machine).offer


def test_machine_without_a_suitable_offer_is_hardware_unmet():
    """The verdict is HARDWARE_UNMET even during a halt."""
    for halted in (False, True):
        found = wish(task(offers=(GPU, VNNI), halted=halted))
        assert ("HARDWARE_UNMET", None, None) == (found.verdict, found.offer, found.bundle)


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439))
def test_a_window_and_its_complement_make_the_day(start, end, minute):
    """Every minute is in exactly one of 'a to b' and 'b to a'; the start is included, the end is not."""
    if start == end:
        return
    one = SwitchWindow(start=f"{start // 60:02d}:{start % 60:02d}", end=f"{end // 60:02d}:{end % 60:02d}")
    other = SwitchWindow(start=one.end, end=one.start)
    assert is_within_window(one, minute) != is_within_window(other, minute)
    assert (True, False) == (is_within_window(one, start), is_within_window(one, end))


def test_window_may_span_midnight():
    """22:00 to 06:00 includes midnight and not noon; without a window every minute is included."""
    night = SwitchWindow(start="22:00", end="06:00")
    assert [True, True, True, False, False] == [is_within_window(night, 60 * hour) for hour in (22, 0, 5, 6, 12)]
    assert is_within_window(None, 720)
