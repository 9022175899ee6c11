"""Where one site stands with one task of the plan: pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from edge_agent.formats.plan import (
    BundleOffer,
    FleetPlan,
    MachineCapabilities,
    RolloutPlan,
    TaskPlan,
    desired_states,
    rollout_position,
)
from edge_agent.formats.status_object import SiteStatus, TaskStatus, UpdateState, UpdateStatus

Stand = Literal[UpdateState, "unaware"]
OVERRIDES = "(sites)"
"""Stands where a channel's name does, for tasks that the plan says of a site by name."""
_TASK = "task"


@dataclass(frozen=True)
class RolloutStatus:
    """One site, one task."""

    site: str
    channel: str
    """Which part of the plan speaks of it; OVERRIDES = the site's own."""
    task: str
    plan: TaskPlan
    meant: BundleOffer
    place: int
    """0 to rollout.STEPS - 1."""
    due: bool
    """By its waves it should run the bundle now; also when the plan is halted."""
    stand: Stand
    running: str | None
    """Version that answers now; None = nothing does."""
    reason: str = ""
    message: str = ""

    @property
    def there(self) -> bool:
        """Tell whether the wanted bundle answers."""
        return self.stand in ("done", "probation")

    @property
    def failed(self) -> bool:
        """Tell whether the bundle was tried here and sent back."""
        return self.stand in ("failed", "rolled_back")


def standings(plan: RolloutPlan, said: SiteStatus, now: float) -> list[RolloutStatus]:
    """Return where a site stands with each task that the plan names for it; `now` in seconds since 1970."""
    fleet, own = plan.for_site(said.site, said.channel), plan.sites.get(said.site, FleetPlan())
    running = {each.task: each for each in said.tasks}
    return [
        _standing(said, OVERRIDES if name in own.tasks else said.channel, name, (each, running.get(name)), now)
        for name, each in fleet.tasks.items()
    ]


def _standing(
    said: SiteStatus, channel: str, task: str, pair: tuple[TaskPlan, TaskStatus | None], now: float
) -> RolloutStatus:
    wanted, running = pair
    update = running.update if running else said.arriving.get(task)
    meant = _meant(wanted, running, update)
    stand, why = _stand(meant, running, update)
    unsuitable = why is not None and why.reason == "HARDWARE_UNMET"
    return RolloutStatus(
        said.site,
        channel,
        task,
        wanted,
        meant,
        rollout_position(said.site, meant.bundle),
        not unsuitable and _open(wanted, meant, said.site, now),
        stand,
        running.version if running else None,
        why.reason if why else "",
        why.message if why else "",
    )


def _meant(wanted: TaskPlan, running: TaskStatus | None, update: UpdateStatus | None) -> BundleOffer:
    """Return the offer for a machine: the site alone knows what it has, so by what it says; else the first."""
    offers = {offer.bundle: offer for offer in wanted.offers}
    candidate = offers.get(update.candidate) if update else None
    return candidate or (offers.get(running.digest) if running else None) or wanted.offers[0]


def _stand(
    meant: BundleOffer, running: TaskStatus | None, update: UpdateStatus | None
) -> tuple[Stand, UpdateStatus | None]:
    if update and update.candidate == meant.bundle:
        return update.state, update
    return ("done", None) if running and running.digest == meant.bundle else ("unaware", None)


def _open(wanted: TaskPlan, meant: BundleOffer, site: str, now: float) -> bool:
    fleet = _for_any_machine(wanted, meant)
    return desired_states(fleet, site, MachineCapabilities(0), now)[_TASK].bundle is not None


@lru_cache(maxsize=1024)
def _for_any_machine(wanted: TaskPlan, meant: BundleOffer) -> FleetPlan:
    bare = BundleOffer(bundle=meant.bundle, version=meant.version)
    return FleetPlan(tasks={_TASK: wanted.model_copy(update={"offers": (bare,), "halted": False})})
