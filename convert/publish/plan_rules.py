"""Rules for a plan that need the repository: signed bundles, halts, and the effect of a change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from convert.publish.repository_reader import BundleTarget, of_task
from edge_agent.errors import InvalidRequest, PlanInvalid
from edge_agent.formats.plan import BundleOffer, RolloutPlan, TaskPlan


def same_plan(one: RolloutPlan, other: RolloutPlan) -> bool:
    """Return whether two plans are equal, apart from version and time."""
    apart = {"version": 1, "issued_at": one.issued_at}
    return one.model_copy(update=apart) == other.model_copy(update=apart)


def require_signed(plan: RolloutPlan, bundles: Mapping[str, BundleTarget]) -> None:
    """Check that a plan names only signed bundles, under their own task and version.

    Raises:
        PlanInvalid: it does not; the message names the entry.
    """
    for where, task, wanted in every_task(plan):
        for offer in wanted.offers:
            _require_signed(where, task, offer, bundles)


def _require_signed(where: str, task: str, offer: BundleOffer, bundles: Mapping[str, BundleTarget]) -> None:
    signed = bundles.get(offer.bundle)
    if signed is None:
        said = f"{where} names {offer.bundle[:12]}, which is not signed; signed for {task}: {names(bundles, task)}"
        raise PlanInvalid(said, remedy="Publish the bundle first: edge-convert publish BUNDLE --to …")
    if (signed.task, signed.version) != (task, offer.version):
        said = f"{where} offers {offer.bundle[:12]} as {task} {offer.version}; it is {signed.name}"
        raise PlanInvalid(said, remedy="Correct 'bundle' or 'version' in that entry.")


def names(bundles: Mapping[str, BundleTarget], task: str) -> str:
    """Return the bundles of a task, for a message."""
    return ", ".join(each.name for each in of_task(bundles, task)) or "none"


def every_task(plan: RolloutPlan) -> Iterator[tuple[str, str, TaskPlan]]:
    """Yield each entry of a plan: its place, the task, and the rollout."""
    for kind, fleets in (("channels", plan.channels), ("sites", plan.sites)):
        for name, fleet in fleets.items():
            for task, wanted in fleet.tasks.items():
                yield f"{kind}.{name}.tasks.{task}", task, wanted


@dataclass(frozen=True)
class HaltOrder:
    """The rollout to halt or continue; without channel and site every entry of the task."""

    task: str
    channel: str = ""
    site: str = ""
    resume: bool = False

    def __str__(self) -> str:
        """Say where."""
        return f"channel '{self.channel}'" if self.channel else f"site '{self.site}'" if self.site else "the plan"


def halt(plan: RolloutPlan, order: HaltOrder) -> RolloutPlan:
    """Return the plan with a rollout halted or continued.

    Raises:
        InvalidRequest: the plan has no such entry.
    """
    plain = plan.model_dump(mode="json", by_alias=True)
    chosen = [fleet["tasks"][order.task] for fleet in _fleets(plain, order) if order.task in fleet["tasks"]]
    if not chosen:
        known = ", ".join(sorted({task for _, task, _ in every_task(plan)})) or "none"
        raise InvalidRequest(f"{order} has no entry for the task '{order.task}'", remedy=f"The plan's tasks: {known}.")
    for each in chosen:
        each["halted"] = not order.resume
    return RolloutPlan.model_validate(plain)


def _fleets(plain: Mapping[str, Any], order: HaltOrder) -> list[dict[str, Any]]:
    if order.channel or order.site:
        named = (plain["channels"].get(order.channel), plain["sites"].get(order.site))
        return [fleet for fleet in named if fleet]
    return [*plain["channels"].values(), *plain["sites"].values()]


def consequences(old: RolloutPlan, new: RolloutPlan) -> list[str]:
    """Return what a new plan changes for sites, one sentence for each changed entry."""
    before, after = ({where: wanted for where, _, wanted in every_task(plan)} for plan in (old, new))
    places = [where for where in {**before, **after} if before.get(where) != after.get(where)]
    return [f"{where}: {_change(before.get(where), after.get(where))}" for where in places]


def _change(old: TaskPlan | None, new: TaskPlan | None) -> str:
    if new is None:
        return "sites keep their current bundle"
    if new.halted:
        return "halted: no more sites switch; sites that have switched keep the bundle"
    start = " → ".join(dict.fromkeys(map(_versions, filter(None, (old, new)))))
    return ", ".join([start, *_terms(new), _waves(new)])


def _terms(wanted: TaskPlan) -> Iterator[str]:
    if wanted.window:
        yield f"switching between {wanted.window.start} and {wanted.window.end} by the site's clock"
    if wanted.mode:
        yield f"mode {wanted.mode}"
    if wanted.demote_on:
        yield f"shadow mode on the alarms {', '.join(wanted.demote_on)}"


def _waves(wanted: TaskPlan) -> str:
    if not wanted.waves:
        return "all sites at once"
    waves = ", ".join(f"{wave.percent}% from {wave.start}" for wave in wanted.waves)
    return waves if wanted.waves[-1].percent == 100 else f"{waves}; the other sites never"


def _versions(wanted: TaskPlan) -> str:
    return " or ".join(dict.fromkeys(offer.version for offer in wanted.offers))
