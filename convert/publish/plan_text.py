"""The plan for people: YAML, with bundles by version if that is unique; and its rules that need the repository.

    channels:
      stable:
        tasks:
          pos-intent:
            offers:
            - version: 1.1.0            # or bundle: 9f86d081, its digest or the start of it
            waves:
            - {start: 2026-12-01T02:00:00Z, percent: 5}
            - {start: 2026-12-03T02:00:00Z, percent: 100}
            window: {start: 02:00, end: 04:00}

It does not contain version and time of the plan, which publishing sets. A file that `plan show` printed, in either
form, reads back as the same plan.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from convert.publish.repository_reader import BundleTarget, count_of, of_task
from edge_agent.errors import InvalidRequest, PlanInvalid
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import RolloutPlan, TaskPlan
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formats.strict_json import first_problem
from edge_agent.formats.strict_yaml import load_yaml


def same_plan(one: RolloutPlan, other: RolloutPlan) -> bool:
    """Return whether two plans are equal apart from version and time."""
    same_header = {"version": 1, "issued_at": one.issued_at}
    return one.model_copy(update=same_header) == other.model_copy(update=same_header)


def require_signed(plan: RolloutPlan, bundles: Mapping[str, BundleTarget]) -> None:
    """Check that a plan names only signed bundles, under their own task and version.

    Raises:
        PlanInvalid: it does not; the message names the entry.
    """
    for entry, task, task_plan in every_task(plan):
        for offer in task_plan.offers:
            digest, target = offer.bundle[:12], bundles.get(offer.bundle)
            if target is None:
                message = f"{entry} names {digest}, which is not signed; signed for {task}: {names(bundles, task)}"
                raise PlanInvalid(message, remedy="Publish the bundle first: edge-convert publish BUNDLE --to …")
            if (target.task, target.version) != (task, offer.version):
                message = f"{entry} offers {digest} as {task} {offer.version}; it is {target.name}"
                raise PlanInvalid(message, remedy="Correct 'bundle' or 'version' in that entry.")


def names(bundles: Mapping[str, BundleTarget], task: str) -> str:
    """Return the bundles of a task, for a message."""
    return ", ".join(each.name for each in of_task(bundles, task)) or "none"


def every_task(plan: RolloutPlan) -> Iterator[tuple[str, str, TaskPlan]]:
    """Yield each entry of a plan: its place, the task, and the rollout."""
    for kind, fleets in (("channels", plan.channels), ("sites", plan.sites)):
        for name, fleet in fleets.items():
            for task, task_plan in fleet.tasks.items():
                yield f"{kind}.{name}.tasks.{task}", task, task_plan


@dataclass(frozen=True)
class HaltOrder:
    """The rollout to halt or continue; without channel and site every entry of the task."""

    task: str
    channel: str = ""
    site: str = ""
    resume: bool = False

    def __str__(self) -> str:
        """Name the channel, the site, or the plan."""
        return f"channel '{self.channel}'" if self.channel else f"site '{self.site}'" if self.site else "the plan"


def halt(plan: RolloutPlan, order: HaltOrder) -> RolloutPlan:
    """Return the plan with a rollout halted or continued.

    Raises:
        InvalidRequest: the plan has no such entry.
    """
    plain = plan.model_dump(mode="json", by_alias=True)
    fleets = [*plain["channels"].values(), *plain["sites"].values()]
    if order.channel or order.site:
        fleets = list(filter(None, (plain["channels"].get(order.channel), plain["sites"].get(order.site))))
    task_plans = [fleet["tasks"][order.task] for fleet in fleets if order.task in fleet["tasks"]]
    if not task_plans:
        known = ", ".join(sorted({task for _, task, _ in every_task(plan)})) or "none"
        raise InvalidRequest(f"{order} has no entry for the task '{order.task}'", remedy=f"The plan's tasks: {known}.")
    for task_plan in task_plans:
        task_plan["halted"] = not order.resume
    return RolloutPlan.model_validate(plain)


def consequences(old: RolloutPlan, new: RolloutPlan) -> list[str]:
    """Return what a new plan changes for sites, one sentence for each changed entry."""
    before, after = ({entry: task_plan for entry, _, task_plan in every_task(plan)} for plan in (old, new))
    changed = [entry for entry in {**before, **after} if before.get(entry) != after.get(entry)]
    return [f"{entry}: {_change_text(before.get(entry), after.get(entry))}" for entry in changed]


def _change_text(old: TaskPlan | None, new: TaskPlan | None) -> str:
    if new is None:
        return "sites keep their current bundle"
    if new.halted:
        return "halted: no more sites switch; sites that have switched keep the bundle"
    start = " → ".join(dict.fromkeys(map(_version_text, filter(None, (old, new)))))
    return ", ".join([start, *_condition_texts(new), _wave_text(new)])


def _condition_texts(task_plan: TaskPlan) -> Iterator[str]:
    if task_plan.window:
        yield f"switching between {task_plan.window.start} and {task_plan.window.end} by the site's clock"
    if task_plan.mode:
        yield f"mode {task_plan.mode}"
    if task_plan.demote_on:
        yield f"shadow mode on the alarms {', '.join(task_plan.demote_on)}"


def _wave_text(task_plan: TaskPlan) -> str:
    if not task_plan.waves:
        return "all sites at once"
    waves = ", ".join(f"{wave.percent}% from {wave.start}" for wave in task_plan.waves)
    return waves if task_plan.waves[-1].percent == 100 else f"{waves}; the other sites never"


def _version_text(task_plan: TaskPlan) -> str:
    return " or ".join(dict.fromkeys(offer.version for offer in task_plan.offers))


_HEADER_KEYS = ("schema", "version", "issued_at")
_KEYS_BY_NAME = ("channels", "sites", "tasks")
"""Keys whose values are mappings by name."""
_DIGEST_CHARACTERS, _PREFIX_CHARACTERS_MIN = 64, 6
_OFFER_REMEDY = (
    f"Name one of these by version, or by the first {_PREFIX_CHARACTERS_MIN} digits of its digest; or publish it first."
)
_HELP = "docs/publishing.md has every key of a plan."


def write(plan: RolloutPlan) -> str:
    """Return the plan as YAML, without version and time."""
    plain = _sort_keys(_body(json.loads(plans.encode(plan))), RolloutPlan)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120) if plain else ""


def read(text: str, bundles: Mapping[str, BundleTarget]) -> RolloutPlan:
    """Read a plan from a person; `bundles` are those that an offer can name by version.

    Raises:
        PlanInvalid: invalid YAML, an unknown key, a broken rule, or an offer that matches no bundle or several.
    """
    plain = _body(_parse_yaml(text))
    _check_keys(plain, RolloutPlan, "")
    for entry, task, offer in _offers(plain):
        _resolve(entry, task, offer, bundles)
    try:
        return RolloutPlan.model_validate({**_without_empty(plain), "version": 1, "issued_at": format_timestamp(0)})
    except ValidationError as error:
        raise PlanInvalid(f"the plan: {_problem(error)}", remedy=_HELP) from None


def _parse_yaml(text: str) -> dict[str, Any]:
    try:
        plain = load_yaml(text, strings=True)
    except (yaml.YAMLError, RecursionError) as error:
        raise PlanInvalid(f"the plan is not valid YAML: {error}", remedy="Correct that line.") from None
    if plain and not isinstance(plain, dict):
        raise PlanInvalid("the plan must contain keys and values", remedy=_HELP)
    return plain or {}


def _body(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Remove version and time, which publishing sets."""
    return {key: value for key, value in plain.items() if key not in _HEADER_KEYS}


def differences(old: RolloutPlan, new: RolloutPlan) -> list[str]:
    """Return the lines of a unified diff between two plans."""
    before, after = (write(each).splitlines() for each in (old, new))
    return list(difflib.unified_diff(before, after, f"plan {old.version}", "new", lineterm="", n=6))


def _problem(error: ValidationError) -> str:
    """Return a pattern error in words; other errors as in every format."""
    problem = error.errors(include_url=False)[0]
    names = [str(part) for part in problem["loc"]]
    if problem["type"] != "string_pattern_mismatch":
        return first_problem(error)
    words = "a name of lower-case letters, digits and inner hyphens"
    if "waves" in names:
        words = "a time such as 2026-12-01T02:00:00Z"
    elif "window" in names:
        words = "a time of day such as 02:00"
    return f"{'.'.join(names)}: {ascii(problem['input'])[:80]} is not {words}"


def _offers(plain: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for kind in ("channels", "sites"):
        for name, fleet in _items(plain.get(kind)):
            for task, task_plan in _items(_value(fleet, "tasks")):
                for offer in _list(_value(task_plan, "offers")):
                    if isinstance(offer, dict):
                        yield f"{kind}.{name}.tasks.{task}", str(task), offer


def _value(plain: Any, key: str) -> Any:
    return plain.get(key) if isinstance(plain, dict) else None


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _resolve(entry: str, task: str, offer: dict[str, Any], bundles: Mapping[str, BundleTarget]) -> None:
    """Fill in the digest from the version, or the version from the start of the digest."""
    bundle, version = str(offer.get("bundle", "")), str(offer.get("version", ""))
    if len(bundle) == _DIGEST_CHARACTERS and version:
        return
    matches = [each for each in of_task(bundles, task) if _fits(each, bundle, version)]
    if len(matches) != 1:
        offered = f"{task} {version} {bundle}".strip()
        message = (
            f"{entry} offers '{offered}', which is {count_of(matches)} signed bundle;"
            f" signed for {task}: {names(bundles, task)}"
        )
        raise PlanInvalid(message, remedy=_OFFER_REMEDY)
    offer.update(bundle=matches[0].digest, version=matches[0].version)


def _fits(target: BundleTarget, bundle: str, version: str) -> bool:
    by_digest = len(bundle) >= _PREFIX_CHARACTERS_MIN and target.digest.startswith(bundle)
    return (by_digest and version in ("", target.version)) or (not bundle and version == target.version)


def _check_keys(plain: Any, model: type[BaseModel], prefix: str) -> None:
    """Refuse unknown keys and name the nearest one; the model checks the types."""
    for each in _list(plain):
        _check_keys(each, model, prefix)
    for key, value in _items(plain):
        if str(key) not in model.model_fields:
            close_matches = difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0.5)
            known = ", ".join(name for name in model.model_fields if name not in (*_HEADER_KEYS, "schema_"))
            remedy = f"Did you mean '{close_matches[0]}'?" if close_matches else f"Known keys there: {known}."
            raise PlanInvalid(f"the plan: unknown key '{prefix}{key}'", remedy=remedy)
        for inner in _models(model.model_fields[key].annotation):
            if key in _KEYS_BY_NAME:
                for name, each in _items(value):
                    _check_keys(each, inner, f"{prefix}{key}.{name}.")
            else:
                _check_keys(value, inner, f"{prefix}{key}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models(each)


def _without_empty(plain: Any) -> Any:
    """Drop keys without a value, which remain after a person empties a list."""
    if isinstance(plain, dict):
        return {key: _without_empty(value) for key, value in plain.items() if value not in ("", "null", "~")}
    return [_without_empty(each) for each in plain] if isinstance(plain, list) else plain


def _sort_keys(plain: Any, model: type[BaseModel]) -> Any:
    """Sort keys in the order of the model's fields."""
    if isinstance(plain, list):
        return [_sort_keys(each, model) for each in plain]
    if not isinstance(plain, dict):
        return plain
    fields = {key: field for key, field in model.model_fields.items() if key in plain}
    return {key: _sort_field(key, plain[key], next(_models(field.annotation), model)) for key, field in fields.items()}


def _sort_field(key: str, value: Any, inner: type[BaseModel]) -> Any:
    if key in _KEYS_BY_NAME:
        return {name: _sort_keys(each, inner) for name, each in sorted(_items(value))}
    return _sort_keys(value, inner)
