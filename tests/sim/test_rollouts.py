"""Simulated fleets under the shipped rollout rules: waves limit switches, halts stop them, and every reachable site is
updated."""

from __future__ import annotations

import pytest

from benchmarks.fleet.simulation import AT_ONCE, NEW, ONE_DAY, SIX_DAYS, Outcome, RolloutWaves, Scenario, Simulation
from benchmarks.fleet.sites import DAY, HOUR, LOOK_SECONDS, Site, population
from edge_agent.formats.plan import SwitchWindow, rollout_position

SITES = population(400, seed=3)
NIGHT = SwitchWindow(start="22:00", end="05:00")


def happens(waves: RolloutWaves = SIX_DAYS, sites: list[Site] = SITES, **more: object) -> Outcome:
    return Simulation(Scenario("", waves, **more), sites).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("waves", [SIX_DAYS, ONE_DAY], ids=lambda waves: waves.name)
def test_waves_limit_number_of_switched_sites(waves: RolloutWaves):
    """Until a wave begins, at most the sites of earlier waves have switched; in the end every reachable site has."""
    found, places = happens(waves), [rollout_position(site.name, NEW) for site in SITES]
    allowed = [0, *(sum(place < share * 100 for place in places) for _, share in waves.steps)]
    for (day, _), most in zip(waves.steps, allowed, strict=False):
        assert sum(at < day * DAY for at in found.switched) <= most
    assert sum(site.kind != "away" for site in SITES) == len(found.switched)


@pytest.mark.slow
def test_halt_stops_rollout_within_one_update_check():
    """Online sites read a halt at their next check for updates: none switches afterwards, and fewer than 3% ran the
    harmful bundle."""
    online = [site for site in population(1200, seed=3) if site.kind == "always on"]
    found = happens(sites=online, harm="errors in probation", reaction_hours=1.0)
    assert found.halted_at is not None
    assert not [at for at in found.switched if at > found.halted_at + LOOK_SECONDS]
    assert 0 < len(found.harmed) < 0.03 * len(online)


def test_probation_rolls_back_every_site_without_waves():
    """Without waves a harmful bundle reaches every reachable site once, and probation (20 calls) rolls each of them
    back without a second attempt."""
    found = happens(AT_ONCE, harm="errors in probation")
    reachable = sum(site.kind != "away" for site in SITES)
    assert reachable == len(found.harmed) == len(found.switched)
    assert found.bad_seconds < reachable * 16 * HOUR


def test_recall_halves_duration_of_undetected_fault():
    """When the central team names the old bundle again, sites return to it; a fault that probation does not detect
    lasts less than half as long as without."""
    left, taken_back = (
        happens(AT_ONCE, harm="seen by people only", days=4, reaction_hours=hours) for hours in (None, 2.0)
    )
    assert taken_back.halted_at is not None
    assert taken_back.bad_seconds < 0.5 * left.bad_seconds


def test_switches_happen_only_in_local_time_window():
    """Sites switch only inside the window in their local time; machines that are off at night never switch in a window
    at night."""
    one = [site for site in SITES if site.zone_hours == 1 and site.kind != "off at night"]
    hours = {int((at / HOUR + 1) % 24) for at in happens(sites=one, window=NIGHT).switched}
    assert hours <= {22, 23, 0, 1, 2, 3, 4}
    assert [] == happens(sites=[site for site in SITES if site.kind == "off at night"], window=NIGHT).switched


def test_simulation_is_reproducible():
    """The same seed gives the same population and outcome, so that figures in the documents can be reproduced."""
    assert happens(days=3) == happens(days=3)
    assert population(50, seed=1) == population(50, seed=1) != population(50, seed=2)
