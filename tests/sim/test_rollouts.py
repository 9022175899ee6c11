"""Simulated fleets under the shipped rules: waves hold, halts stop, everybody who can be reached gets there."""

from __future__ import annotations

import pytest

from benchmarks.fleet.simulation import AT_ONCE, NEW, ONE_DAY, SIX_DAYS, Outcome, Scenario, Simulation, Waves
from benchmarks.fleet.sites import DAY, HOUR, LOOK_SECONDS, Site, population
from edge_agent.formats.plan import SwitchWindow, rollout_position

SITES = population(400, seed=3)
NIGHT = SwitchWindow(start="22:00", end="05:00")


def happens(waves: Waves = SIX_DAYS, sites: list[Site] = SITES, **more: object) -> Outcome:
    return Simulation(Scenario("", waves, **more), sites).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("waves", [SIX_DAYS, ONE_DAY], ids=lambda waves: waves.name)
def test_no_wave_takes_more_sites_than_it_may(waves: Waves):
    """Until a wave begins, at most the sites of the waves before have switched; in the end all that can be reached."""
    found, places = happens(waves), [rollout_position(site.name, NEW) for site in SITES]
    allowed = [0, *(sum(place < share * 100 for place in places) for _, share in waves.steps)]
    for (day, _), most in zip(waves.steps, allowed, strict=False):
        assert sum(at < day * DAY for at in found.switched) <= most
    assert sum(site.kind != "away" for site in SITES) == len(found.switched)


@pytest.mark.slow
def test_a_halt_stops_a_rollout_within_one_look():
    """Sites that are online read of it at their next look; after that none switches, and few ever had."""
    online = [site for site in population(1200, seed=3) if site.kind == "always on"]
    found = happens(sites=online, harm="errors in probation", reaction_hours=1.0)
    assert found.halted_at is not None
    assert not [at for at in found.switched if at > found.halted_at + LOOK_SECONDS]
    assert 0 < len(found.harmed) < 0.03 * len(online)


def test_without_waves_everybody_is_hit_and_everybody_recovers():
    """Probation sends each site back by itself: 20 calls, and no site tries it twice."""
    found = happens(AT_ONCE, harm="errors in probation")
    reachable = sum(site.kind != "away" for site in SITES)
    assert reachable == len(found.harmed) == len(found.switched)
    assert found.bad_seconds < reachable * 16 * HOUR


def test_a_bundle_is_taken_back_when_people_phone():
    """What probation does not see answers until the central team names the old bundle again; then the sites return."""
    left, taken_back = (
        happens(AT_ONCE, harm="seen by people only", days=4, reaction_hours=hours) for hours in (None, 2.0)
    )
    assert taken_back.halted_at is not None
    assert taken_back.bad_seconds < 0.5 * left.bad_seconds


def test_a_window_is_kept():
    """By local time at each site; machines that are off at night never switch in a window by night."""
    one = [site for site in SITES if site.zone_hours == 1 and site.kind != "off at night"]
    hours = {int((at / HOUR + 1) % 24) for at in happens(sites=one, window=NIGHT).switched}
    assert hours <= {22, 23, 0, 1, 2, 3, 4}
    assert [] == happens(sites=[site for site in SITES if site.kind == "off at night"], window=NIGHT).switched


def test_the_same_seed_gives_the_same_days():
    """So that a figure in the documents can be made again."""
    assert happens(days=3) == happens(days=3)
    assert population(50, seed=1) == population(50, seed=1) != population(50, seed=2)
