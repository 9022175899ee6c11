"""The sites of the simulation: when they reach the network, when they are switched on, how busy they are.

Shops in three time zones. Most are always on and online; the rest is what makes rollouts long: routers that are off at
night, machines that are, vans that come home once a week, sites that a fault keeps away for the whole rollout. Time is
in seconds since the plan was published, at midnight UTC.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import ceil
from typing import Literal

from edge_agent.config import UplinkConfig

HOUR, DAY = 3600.0, 86_400.0
OPENS, CLOSES = 8, 20
LOOK_SECONDS = UplinkConfig().updates_seconds
"""Time between two looks of an uplink for updates."""
ZONES = (-5, 0, 1)
Kind = Literal["always on", "network by day", "off at night", "weekly", "away"]
SHARES: dict[Kind, float] = {
    "always on": 0.80,
    "network by day": 0.10,
    "off at night": 0.05,
    "weekly": 0.04,
    "away": 0.01,
}
NEVER = float("inf")


@dataclass(frozen=True)
class Site:
    """One shop."""

    name: str
    kind: Kind
    zone_hours: int
    phase_seconds: float
    """When in its period it looks."""
    weekday: int
    """weekly: on which day it comes home, at 18:00 for an hour."""
    bytes_per_second: float
    calls_per_hour: float
    """While it is open."""

    def local(self, t: float) -> float:
        """Return the local time of day in seconds."""
        return (t + self.zone_hours * HOUR) % DAY

    def next_contact(self, t: float) -> float:
        """Return when the uplink looks next, at `t` or later; NEVER for a site that is away."""
        if self.kind == "away":
            return NEVER
        at = self.phase_seconds + LOOK_SECONDS * ceil((t - self.phase_seconds) / LOOK_SECONDS)
        while not self._online(at):
            at += LOOK_SECONDS
        return at

    def is_on(self, t: float) -> bool:
        """Tell whether the machine is switched on."""
        return self.kind != "off at night" or _open(self.local(t))

    def answered(self, t: float, calls: float) -> float:
        """Return the time at which it will have answered that many calls since `t`."""
        left = calls / self.calls_per_hour * HOUR
        while left > 0:
            now = self.local(t)
            if not _open(now):
                t += (OPENS * HOUR - now) % DAY
                continue
            worked = min(left, CLOSES * HOUR - now)
            t, left = t + worked, left - worked
        return t

    def contacts_per_day(self) -> float:
        """Return how often its uplink looks, on average."""
        hours = {"always on": 24, "network by day": CLOSES - OPENS, "off at night": CLOSES - OPENS, "weekly": 1 / 7}
        return hours.get(self.kind, 0) * HOUR / LOOK_SECONDS

    def _online(self, t: float) -> bool:
        if self.kind == "weekly":
            day, now = divmod(t + self.zone_hours * HOUR, DAY)
            return int(day) % 7 == self.weekday and 18 * HOUR <= now < 19 * HOUR
        return self.kind == "always on" or _open(self.local(t))


def population(count: int, seed: int) -> list[Site]:
    """Return that many sites."""
    rng = random.Random(seed)  # noqa: S311 - who they are is no secret
    kinds = rng.choices(list(SHARES), list(SHARES.values()), k=count)
    return [
        Site(
            name=f"shop-{number:05d}",
            kind=kind,
            zone_hours=rng.choice(ZONES),
            phase_seconds=rng.uniform(0, LOOK_SECONDS),
            weekday=rng.randrange(7),
            bytes_per_second=rng.lognormvariate(13.4, 1.0),  # median 660 kB/s, a twentieth below 130 kB/s
            calls_per_hour=rng.lognormvariate(3.7, 0.8),  # median 40
        )
        for number, kind in enumerate(kinds)
    ]


def _open(second_of_day: float) -> bool:
    return OPENS * HOUR <= second_of_day < CLOSES * HOUR
