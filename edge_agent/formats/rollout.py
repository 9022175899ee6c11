"""What a plan means for one site now: pure, the same code on the site and in the centre's simulation.

A site draws no number: where it stands in a rollout is the hash of its name and the bundle, so that anybody can tell
beforehand which sites a wave takes, and no site is always among the first. A site that was away when its wave began
takes part when it is back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_agent.formats.document import seconds
from edge_agent.formats.manifest import Sha256
from edge_agent.formats.plan import Fleet, Hardware, Offer, TaskPlan, Window

STEPS = 10_000
Verdict = Literal["WANTED", "HALTED", "WAVE_LATER", "NO_WAVE", "HARDWARE_UNMET"]


@dataclass(frozen=True)
class Machine:
    """What a machine has."""

    memory_bytes: int
    devices: frozenset[str] = frozenset({"cpu"})
    cpu_features: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Wish:
    """What is wanted of one task on one site."""

    verdict: Verdict
    plan: TaskPlan
    offer: Offer | None = None
    """The bundle meant for this machine; None = none of them suits it."""
    opens_at: float = 0.0
    """WAVE_LATER: when the site's wave begins, in seconds since 1970."""

    @property
    def bundle(self) -> Sha256 | None:
        """Digest of the bundle that the site should run now; None = it stays with what it has."""
        return self.offer.bundle if self.offer and self.verdict == "WANTED" else None


def wishes(fleet: Fleet, site: str, machine: Machine, now: float) -> Mapping[str, Wish]:
    """Return what is wanted of each task that the plan names; `now` in seconds since 1970."""
    return {task: _wish(each, site, machine, now) for task, each in fleet.tasks.items()}


def place(site: str, bundle: str) -> int:
    """Return where a site stands in the rollout of a bundle: 0 (among the first) to STEPS - 1."""
    drawn = hashlib.sha256(f"{site}\n{bundle}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") % STEPS


def suits(requires: Hardware, machine: Machine) -> bool:
    """Tell whether a machine has what is required."""
    has_device = not requires.devices or bool(machine.devices & set(requires.devices))
    has_features = set(requires.cpu_features) <= machine.cpu_features
    return has_device and has_features and machine.memory_bytes >= requires.memory_bytes_min


def inside(window: Window | None, minute: int) -> bool:
    """Tell whether a site may switch now; `minute` of its local day, 0 to 1439."""
    if window is None:
        return True
    start, end = (60 * int(text[:2]) + int(text[3:]) for text in (window.start, window.end))
    return start <= minute < end if start < end else minute >= start or minute < end


def _wish(task: TaskPlan, site: str, machine: Machine, now: float) -> Wish:
    offer = next((offer for offer in task.offers if suits(offer.requires, machine)), None)
    if offer is None:
        return Wish("HARDWARE_UNMET", task)
    if task.halted:
        return Wish("HALTED", task, offer)
    if not task.waves:
        return Wish("WANTED", task, offer)
    mine = place(site, offer.bundle)
    opens = [seconds(wave.start) for wave in task.waves if mine < wave.percent * STEPS // 100]
    if not opens:
        return Wish("NO_WAVE", task, offer)
    return Wish("WANTED" if now >= opens[0] else "WAVE_LATER", task, offer, opens[0])
