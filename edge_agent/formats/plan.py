"""The plan: which bundle each site should run, from when, and under which conditions; and what that means for one site.

One file for the whole fleet. It is the one target of the delegated TUF role `plan`, whose key is easier to reach than
the offline ones. So it may only name bundles that the top-level role `targets` has signed: with its key alone one can
halt a rollout or return to an earlier bundle, but not introduce a new one. `version` only increases, which keeps a site
from returning to an old plan.

A task that a plan does not name does not change. `parse` is the only way to read a plan.

A site draws no random number: its position in a rollout is the hash of its name and the bundle. So the sites of a wave
are known beforehand, and no site is always among the first. A site that was offline when its wave began takes part when
it is back. The same code runs on the site and in the central team's simulation.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from edge_agent.errors import PlanInvalid
from edge_agent.formats import strict_json
from edge_agent.formats.manifest import Sha256, TaskName, Version
from edge_agent.formats.signed_document import At, SiteId, parse_timestamp
from edge_agent.formats.status_object import Alarm
from edge_agent.formats.strict_json import StrictModel

SCHEMA = "edge-agent/plan/v1"
FILE_NAME = "plan.json"
PLAN_BYTES_MAX = 4 * 1024 * 1024

Channel = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Mode = Literal["bootstrap", "shadow", "hybrid", "local"]


class HardwareRequirements(StrictModel):
    """What a machine must have; by default any machine will do."""

    memory_bytes_min: int = Field(default=0, ge=0, le=2**62)
    """Of the machine's total memory, used or not."""
    devices: tuple[Literal["cpu", "cuda", "vulkan"], ...] = Field(default=(), max_length=3)
    """One of them; empty = any."""
    cpu_features: tuple[Annotated[str, Field(pattern=r"^[a-z0-9_.]{1,32}$")], ...] = Field(default=(), max_length=32)
    """All of them, as /proc/cpuinfo spells them."""


class BundleOffer(StrictModel):
    """A bundle for the machines that meet its requirements."""

    bundle: Sha256
    """Its digest."""
    version: Version
    """For people; only the digest counts."""
    requires: HardwareRequirements = HardwareRequirements()


class RolloutWave(StrictModel):
    """From `start` on, `percent` of the sites, including those of earlier waves."""

    start: At
    percent: int = Field(ge=1, le=100)


class SwitchWindow(StrictModel):
    """When a site may switch, by its local time; `end` before `start` = over midnight."""

    start: Clock
    end: Clock

    @model_validator(mode="after")
    def _check_not_empty(self) -> SwitchWindow:
        if self.start == self.end:
            raise ValueError("a window begins and ends at the same minute; leave it out for 'at any time'")
        return self


class ProbationRules(StrictModel):
    """How long a newly activated bundle is watched, and when it is rolled back.

    Probation ends after `calls` calls or `hours` hours, whichever comes first.
    """

    calls: int = Field(default=200, ge=0, le=1_000_000)
    hours: int = Field(default=24, ge=0, le=24 * 30)
    error_percent_max: int = Field(default=5, ge=0, le=100)
    """Calls on which the model failed; counted from the 20th call on."""
    latency_percent_max: int = Field(default=200, ge=100, le=10_000)
    """Median latency in percent of the earlier bundle's."""


class TaskPlan(StrictModel):
    """The plan of one task."""

    offers: tuple[BundleOffer, ...] = Field(min_length=1, max_length=16)
    """The first one whose requirements a machine meets is for that machine."""
    waves: tuple[RolloutWave, ...] = Field(default=(), max_length=32)
    """Empty = all sites at once."""
    window: SwitchWindow | None = None
    mode: Mode | None = None
    """None = as set at the site."""
    demote_on: tuple[Alarm, ...] = Field(default=(), max_length=len(get_args(Alarm)))
    """Alarms that may put the task into shadow at a site, until its operator sets a mode, or the plan's mode or the
    bundle changes; empty = none may. Older agents refuse a plan with this field."""
    halted: bool = False
    """No more sites switch to it; sites that have switched keep it."""
    probation: ProbationRules = ProbationRules()
    failure_percent_max: int = Field(default=10, ge=0, le=100)
    """If it failed at more than this share of the sites that tried it, 'edge-convert fleet' recommends a halt."""

    @model_validator(mode="after")
    def _check_waves(self) -> TaskPlan:
        pairs = list(itertools.pairwise(self.waves))
        grow = all(earlier.percent < later.percent for earlier, later in pairs)
        if not grow or any(parse_timestamp(earlier.start) > parse_timestamp(later.start) for earlier, later in pairs):
            raise ValueError("waves must follow each other in time, each with a larger percentage")
        return self


class FleetPlan(StrictModel):
    """The tasks of a channel, or of one site."""

    tasks: dict[TaskName, TaskPlan] = Field(default_factory=dict, max_length=1000)
    bytes_per_second_max: int | None = Field(default=None, ge=1000, le=10**10)
    """For downloads; None = as set at the site. The smaller of the two applies."""


class RolloutPlan(StrictModel):
    """`plan.json`."""

    schema_: Literal["edge-agent/plan/v1"] = Field(default="edge-agent/plan/v1", alias="schema")
    version: int = Field(ge=1, le=2**31)
    issued_at: At
    channels: dict[Channel, FleetPlan] = Field(default_factory=dict, max_length=100)
    sites: dict[SiteId, FleetPlan] = Field(default_factory=dict, max_length=20_000)
    """By site: its tasks override those of its channel."""

    def for_site(self, site: str, channel: str) -> FleetPlan:
        """Return the tasks of one site: those of its channel, overridden by the site's own."""
        common, own = self.channels.get(channel, FleetPlan()), self.sites.get(site, FleetPlan())
        cap = own.bytes_per_second_max or common.bytes_per_second_max
        return FleetPlan(tasks={**common.tasks, **own.tasks}, bytes_per_second_max=cap)

    def bundles(self) -> frozenset[str]:
        """Return the digests of all bundles that it names."""
        fleets = [*self.channels.values(), *self.sites.values()]
        tasks = [task for fleet in fleets for task in fleet.tasks.values()]
        return frozenset(offer.bundle for task in tasks for offer in task.offers)


def encode(plan: RolloutPlan) -> bytes:
    """Encode a plan: JSON with sorted keys and without default values, UTF-8, final newline."""
    plain = plan.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"schema": SCHEMA}
    return (json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def parse(raw: bytes) -> RolloutPlan:
    """Read and check a plan.

    Raises:
        PlanInvalid: too large, not JSON, or a rule is broken; the message names the field.
    """
    if len(raw) > PLAN_BYTES_MAX:
        raise PlanInvalid(f"{FILE_NAME} has {len(raw)} bytes; the limit is {PLAN_BYTES_MAX}")
    try:
        return strict_json.validate(RolloutPlan, strict_json.decode(raw))
    except ValueError as error:
        raise PlanInvalid(f"{FILE_NAME}: {strict_json.first_problem(error, show=True)}") from None


ROLLOUT_STEPS = 10_000
Verdict = Literal["WANTED", "HALTED", "WAVE_LATER", "NO_WAVE", "HARDWARE_UNMET"]


@dataclass(frozen=True)
class MachineCapabilities:
    """What a machine has."""

    memory_bytes: int
    devices: frozenset[str] = frozenset({"cpu"})
    cpu_features: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DesiredState:
    """The state that the plan wants of one task on one site."""

    verdict: Verdict
    plan: TaskPlan
    offer: BundleOffer | None = None
    """The bundle for this machine; None = it meets the requirements of none."""
    opens_at: float = 0.0
    """WAVE_LATER: when the site's wave begins, in seconds since 1970."""

    @property
    def bundle(self) -> Sha256 | None:
        """Digest of the bundle that the site should run now; None = it keeps the present one."""
        return self.offer.bundle if self.offer and self.verdict == "WANTED" else None


def desired_states(fleet: FleetPlan, site: str, machine: MachineCapabilities, now: float) -> Mapping[str, DesiredState]:
    """Return the desired state of each task that the plan names; `now` in seconds since 1970."""
    return {task: _desired_state(task_plan, site, machine, now) for task, task_plan in fleet.tasks.items()}


def rollout_position(site: str, bundle: str) -> int:
    """Return the position of a site in the rollout of a bundle: 0 (among the first) to ROLLOUT_STEPS - 1."""
    sha256 = hashlib.sha256(f"{site}\n{bundle}".encode()).digest()
    return int.from_bytes(sha256[:8], "big") % ROLLOUT_STEPS


def meets_requirements(requires: HardwareRequirements, machine: MachineCapabilities) -> bool:
    """Tell whether a machine meets the requirements."""
    has_device = not requires.devices or bool(machine.devices & set(requires.devices))
    has_features = set(requires.cpu_features) <= machine.cpu_features
    return has_device and has_features and machine.memory_bytes >= requires.memory_bytes_min


def is_within_window(window: SwitchWindow | None, minute: int) -> bool:
    """Tell whether a site may switch now; `minute` of its local day, 0 to 1439."""
    if window is None:
        return True
    start, end = (60 * int(text[:2]) + int(text[3:]) for text in (window.start, window.end))
    return start <= minute < end if start < end else minute >= start or minute < end


def _desired_state(task: TaskPlan, site: str, machine: MachineCapabilities, now: float) -> DesiredState:
    offer = next((offer for offer in task.offers if meets_requirements(offer.requires, machine)), None)
    if offer is None:
        return DesiredState("HARDWARE_UNMET", task)
    if task.halted:
        return DesiredState("HALTED", task, offer)
    if not task.waves:
        return DesiredState("WANTED", task, offer)
    position = rollout_position(site, offer.bundle)
    starts = [parse_timestamp(wave.start) for wave in task.waves if position < wave.percent * ROLLOUT_STEPS // 100]
    if not starts:
        return DesiredState("NO_WAVE", task, offer)
    return DesiredState("WANTED" if now >= starts[0] else "WAVE_LATER", task, offer, starts[0])
