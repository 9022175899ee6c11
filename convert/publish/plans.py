"""What a plan may say here: rules that need more than the plan itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from convert.publish.reading import Signed
from edge_agent.errors import PlanInvalid
from edge_agent.formats.plan import Plan, TaskPlan


def same_plan(one: Plan, other: Plan) -> bool:
    """Tell whether two plans say the same; version and time apart."""
    apart = {"version": 1, "issued_at": one.issued_at}
    return one.model_copy(update=apart) == other.model_copy(update=apart)


def require_signed(plan: Plan, bundles: Mapping[str, Signed]) -> None:
    """Check that a plan names signed bundles only, by their own task and version.

    Raises:
        PlanInvalid: it does not; the message names the place.
    """
    for where, task, wanted in every_task(plan):
        for offer in wanted.offers:
            signed = bundles.get(offer.bundle)
            if signed is None:
                known = ", ".join(each.name for each in bundles.values() if each.task == task) or "none"
                said = f"{where} names {offer.bundle[:12]}, which is not signed; signed for {task}: {known}"
                raise PlanInvalid(said, remedy="Publish the bundle first: edge-convert publish BUNDLE --to …")
            if (signed.task, signed.version) != (task, offer.version):
                said = f"{where} offers {offer.bundle[:12]} as {task} {offer.version}; it is {signed.name}"
                raise PlanInvalid(said, remedy="Correct 'bundle' or 'version' there.")


def every_task(plan: Plan) -> Iterator[tuple[str, str, TaskPlan]]:
    """Yield where it stands, the task, and what is wanted of it."""
    for kind, fleets in (("channels", plan.channels), ("sites", plan.sites)):
        for name, fleet in fleets.items():
            for task, wanted in fleet.tasks.items():
                yield f"{kind}.{name}.tasks.{task}", task, wanted
