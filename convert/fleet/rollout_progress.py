"""Rollout progress: the state of each site, the progress of each task, and whether to halt a rollout.

A status object is untrusted input: its size is bounded. With a registry of sites (convert/fleet/site_registry.py) a
status counts only if one of the site's keys signed it. Without a registry no signature is checked. Nothing is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

from convert.collect.sources import SegmentSource, SourceFailed, listings, path_of
from convert.fleet.site_registry import SiteRegistry
from convert.pipeline.stage import Progress
from edge_agent.errors import ExchangeError
from edge_agent.formats import status_object
from edge_agent.formats.plan import (
    ROLLOUT_STEPS,
    BundleOffer,
    FleetPlan,
    MachineCapabilities,
    RolloutPlan,
    RolloutWave,
    TaskPlan,
    desired_states,
    rollout_position,
)
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX, parse_timestamp
from edge_agent.formats.status_object import (
    REMEDIES,
    Alarm,
    RedactionReport,
    SiteStatus,
    TaskStatus,
    UpdateState,
    UpdateStatus,
)

READS_AT_ONCE = 16
AHEAD_SECONDS = 3600.0
"""A site whose clock is further ahead is reported."""
SiteReport = tuple[str, SiteStatus | str]
"""A site, and its status or why that is refused."""


@dataclass
class SiteStatuses:
    """The statuses that were read."""

    statuses: dict[str, SiteStatus] = field(default_factory=dict)
    """By site."""
    refused: dict[str, str] = field(default_factory=dict)
    """Sites without a valid status, and why it was refused."""
    troubles: list[str] = field(default_factory=list)
    """Sources that could not be listed, or only in part."""

    def add(self, site: str, report: SiteStatus | str) -> None:
        """Keep the newest valid status of a site; keep a refusal only while the site has none."""
        newest = self.statuses.get(site)
        if isinstance(report, str):
            if not newest:
                self.refused[site] = report
        elif not newest or parse_timestamp(newest.at) < parse_timestamp(report.at):
            self.statuses[site] = report
            self.refused.pop(site, None)


def read(
    sources: Sequence[SegmentSource], sites: SiteRegistry | None, progress: Progress = lambda *_: None
) -> SiteStatuses:
    """Read the status objects of all sites in all sources; unreadable ones are listed, and the others still count."""
    statuses = SiteStatuses()
    for source in sources:
        site_listings, problem = listings(source)
        statuses.troubles += [problem] if problem else []
        reporting = [listing.site for listing in site_listings if listing.status]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            for done, (site, status) in enumerate(pool.map(_reader(source, sites), reporting), 1):
                statuses.add(site, status)
                progress("status", done, len(reporting))
    return statuses


def _reader(source: SegmentSource, sites: SiteRegistry | None) -> Callable[[str], SiteReport]:
    def read_one(site: str) -> SiteReport:
        try:
            signed = status_object.verify(source.read(path_of(site, status_object.FILE_NAME), DOCUMENT_BYTES_MAX), None)
        except SourceFailed as error:
            return site, str(error)
        except ExchangeError as error:
            return site, error.message
        if signed.body.site != site:
            return site, f"is of site {signed.body.site}, but is in the folder of {site}"
        objection = sites.objection(site, signed.key) if sites else ""
        return site, objection or signed.body

    return read_one


SITES_NAMED_MAX = 5
RolloutState = Literal[UpdateState, "unaware"]
OVERRIDES = "(sites)"
"""Takes the place of a channel's name for tasks that the plan assigns to a site by name."""
_TASK = "task"
ROLLOUT_STATES: tuple[RolloutState, ...] = (*get_args(UpdateState), "unaware")


@dataclass(frozen=True)
class WaveProgress:
    """One wave, without the sites of earlier waves."""

    start: str
    percent: int
    open: bool
    sites: int
    there: int
    failed: int


@dataclass(frozen=True)
class FailureReason:
    """A reason why sites do not run the bundle: one error code in one state."""

    state: RolloutState
    reason: str
    sites: int
    named: tuple[str, ...]
    """Some of these sites."""
    message: str
    """The message of one of them."""


@dataclass(frozen=True)
class TaskProgress:
    """One task of one channel, or of the sites with their own equal entries in the plan."""

    channel: str
    task: str
    bundles: dict[str, str]
    """Version of each bundle that the plan offers, by digest."""
    halted: bool
    sites: int
    due: int
    """Sites that should run it by now; for a halted task, those that would without the halt."""
    there: int
    """Sites that run it, those in probation included."""
    due_there: int
    states: dict[RolloutState, int]
    failed: int
    tried: int
    """Sites on which it failed, and sites that run it."""
    failure_percent: float
    failure_percent_max: int
    waves: tuple[WaveProgress, ...]
    reasons: tuple[FailureReason, ...]

    @property
    def too_many(self) -> bool:
        """Whether a larger share of the sites that tried it failed than the plan allows."""
        return self.failure_percent > self.failure_percent_max

    @property
    def halt_recommended(self) -> bool:
        """Whether the rollout should be halted now."""
        return self.too_many and not self.halted


@dataclass(frozen=True)
class SiteAlarm:
    """An alarm of production monitoring about a bundle at one site."""

    site: str
    task: str
    version: str
    alarm: Alarm
    since: str
    message: str
    demoted: bool
    """The task is in shadow there because of it."""
    remedy: str


@dataclass(frozen=True)
class SiteRedaction:
    """The random audit of redaction at one site."""

    site: str
    report: RedactionReport

    @property
    def is_alarming(self) -> bool:
        """Whether more values remain there than the bound allows, or the bound was proved for other rules."""
        return self.report.is_exceeded or self.report.is_proved_otherwise

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        alarms = {"exceeded": self.report.is_exceeded, "proved_otherwise": self.report.is_proved_otherwise}
        return {"site": self.site, **self.report.model_dump(mode="json"), **alarms}


@dataclass(frozen=True)
class FleetReport:
    """The fleet compared with the plan."""

    plan_version: int
    sites: int
    with_newest_plan: int
    silent: dict[str, str]
    """Sites without a recent status, and the time of their last one."""
    ahead: dict[str, str]
    """Sites whose status has a time in the future: such a clock would hide that they are silent."""
    unheard: tuple[str, ...]
    """Sites in the registry or the plan without any status."""
    refused: dict[str, str]
    problems: dict[str, str]
    """Sites that refuse the latest update, and why."""
    revoked: dict[str, str]
    """Sites that run revoked bundles, and their tasks with versions."""
    alarms: tuple[SiteAlarm, ...]
    redaction: tuple[SiteRedaction, ...]
    """Sites with a redaction model, those with an alarm first."""
    tasks: tuple[TaskProgress, ...]
    troubles: tuple[str, ...]

    @property
    def halts(self) -> list[TaskProgress]:
        """Return the tasks that should be halted."""
        return [task for task in self.tasks if task.halt_recommended]

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        tasks = [asdict(task) | {"halt_recommended": task.halt_recommended} for task in self.tasks]
        return asdict(self) | {"tasks": tasks, "redaction": [each.plain() for each in self.redaction]}


def report(
    plan: RolloutPlan, read: SiteStatuses, now: float, *, silent_seconds: float, known: Iterable[str] = ()
) -> FleetReport:
    """Compare the statuses of the sites with the plan.

    Args:
        plan: the newest status.
        read: the statuses.
        now: in seconds since 1970.
        silent_seconds: a site whose last status is older counts as silent.
        known: sites of the registry, in addition to those that the plan names.
    """
    statuses = sorted(read.statuses.items())
    groups: dict[tuple[str, str, TaskPlan], list[RolloutStatus]] = {}
    for status in read.statuses.values():
        for rollout in rollout_statuses(plan, status, now):
            groups.setdefault((rollout.channel, rollout.task, rollout.plan), []).append(rollout)
    return FleetReport(
        plan_version=plan.version,
        sites=len(statuses),
        with_newest_plan=sum(status.plan_version >= plan.version for _, status in statuses),
        silent={site: status.at for site, status in statuses if parse_timestamp(status.at) + silent_seconds < now},
        ahead=_sites_ahead(statuses, now),
        unheard=tuple(sorted({*known, *plan.sites} - set(read.statuses) - set(read.refused))),
        refused=dict(sorted(read.refused.items())),
        problems={site: status.update_problem for site, status in statuses if status.update_problem},
        revoked={site: tasks for site, status in statuses if (tasks := _revoked_tasks(status))},
        alarms=tuple(_site_alarms(statuses)),
        redaction=tuple(_redaction_audits(statuses)),
        tasks=tuple(_task_progress(*key, groups[key], now) for key in sorted(groups, key=lambda key: key[:2])),
        troubles=tuple(read.troubles),
    )


def _sites_ahead(statuses: Sequence[tuple[str, SiteStatus]], now: float) -> dict[str, str]:
    return {site: status.at for site, status in statuses if parse_timestamp(status.at) > now + AHEAD_SECONDS}


def _site_alarms(statuses: Sequence[tuple[str, SiteStatus]]) -> Iterable[SiteAlarm]:
    for site, status in statuses:
        for task in status.tasks:
            for alarm in task.alarms:
                details = (alarm.alarm, alarm.since, alarm.message, alarm.demoted, REMEDIES[alarm.alarm])
                yield SiteAlarm(site, task.task, task.version, *details)


def _redaction_audits(statuses: Sequence[tuple[str, SiteStatus]]) -> list[SiteRedaction]:
    audits = (SiteRedaction(site, status.redaction) for site, status in statuses if status.redaction)
    return sorted(audits, key=lambda each: not each.is_alarming)


def _revoked_tasks(status: SiteStatus) -> str:
    return ", ".join(f"{task.task} {task.version}" for task in status.tasks if task.revoked)


def _task_progress(channel: str, task: str, plan: TaskPlan, sites: Sequence[RolloutStatus], now: float) -> TaskProgress:
    states = Counter(each.state for each in sites)
    failed, running = sum(each.failed for each in sites), sum(each.is_running for each in sites)
    return TaskProgress(
        channel=channel,
        task=task,
        bundles={offer.bundle: offer.version for offer in plan.offers},
        halted=plan.halted,
        sites=len(sites),
        due=sum(each.due for each in sites),
        there=running,
        due_there=sum(each.due and each.is_running for each in sites),
        states={state: states[state] for state in ROLLOUT_STATES},
        failed=failed,
        tried=failed + running,
        failure_percent=100 * failed / max(failed + running, 1),
        failure_percent_max=plan.failure_percent_max,
        waves=tuple(_wave_progress(plan.waves, sites, now)),
        reasons=_failure_reasons([each for each in sites if each.reason and not each.is_running]),
    )


def _wave_progress(waves: Sequence[RolloutWave], sites: Sequence[RolloutStatus], now: float) -> Iterable[WaveProgress]:
    low = 0
    for wave in waves:
        high = wave.percent * ROLLOUT_STEPS // 100
        wave_sites = [each for each in sites if low <= each.position < high]
        running, failed = sum(each.is_running for each in wave_sites), sum(each.failed for each in wave_sites)
        is_open = parse_timestamp(wave.start) <= now
        yield WaveProgress(wave.start, wave.percent, is_open, len(wave_sites), running, failed)
        low = high


def _failure_reasons(sites: Sequence[RolloutStatus]) -> tuple[FailureReason, ...]:
    groups: dict[tuple[RolloutState, str], list[RolloutStatus]] = {}
    for each in sorted(sites, key=lambda each: (each.state, each.reason, each.site, each.message)):
        groups.setdefault((each.state, each.reason), []).append(each)
    failures = [
        FailureReason(*key, len(group), tuple(each.site for each in group[:SITES_NAMED_MAX]), group[0].message)
        for key, group in groups.items()
    ]
    return tuple(sorted(failures, key=lambda each: (each.state not in ("failed", "rolled_back"), -each.sites)))


@dataclass(frozen=True)
class RolloutStatus:
    """The state of one task at one site."""

    site: str
    channel: str
    """The channel whose entry applies; OVERRIDES = the site's own entry."""
    task: str
    plan: TaskPlan
    offer: BundleOffer
    position: int
    """0 to ROLLOUT_STEPS - 1: the site's position in the waves."""
    due: bool
    """Whether it should run the bundle by now, even if the plan is halted."""
    state: RolloutState
    running: str | None
    """Version that answers now; None = there is none."""
    reason: str = ""
    message: str = ""

    @property
    def is_running(self) -> bool:
        """Whether the planned bundle answers."""
        return self.state in ("done", "probation")

    @property
    def failed(self) -> bool:
        """Whether the bundle was tried there and failed or was rolled back."""
        return self.state in ("failed", "rolled_back")


def rollout_statuses(plan: RolloutPlan, status: SiteStatus, now: float) -> list[RolloutStatus]:
    """Return the state of each task that the plan has for a site; `now` in seconds since 1970."""
    fleet, own_plan = plan.for_site(status.site, status.channel), plan.sites.get(status.site, FleetPlan())
    running = {each.task: each for each in status.tasks}
    return [
        _rollout_status(
            status, OVERRIDES if name in own_plan.tasks else status.channel, name, each, running.get(name), now
        )
        for name, each in fleet.tasks.items()
    ]


def _rollout_status(
    status: SiteStatus, channel: str, task: str, planned: TaskPlan, running: TaskStatus | None, now: float
) -> RolloutStatus:
    update = running.update if running else status.arriving.get(task)
    offer = _chosen_offer(planned, running, update)
    state, cause = _state_of(offer, running, update)
    is_unsuitable = cause is not None and cause.reason == "HARDWARE_UNMET"
    return RolloutStatus(
        status.site,
        channel,
        task,
        planned,
        offer,
        rollout_position(status.site, offer.bundle),
        not is_unsuitable and _is_due(planned, offer, status.site, now),
        state,
        running.version if running else None,
        cause.reason if cause else "",
        cause.message if cause else "",
    )


def _chosen_offer(planned: TaskPlan, running: TaskStatus | None, update: UpdateStatus | None) -> BundleOffer:
    """Return the offer that a site chose for its machine, by its status; if that names none, the first offer."""
    offers = {offer.bundle: offer for offer in planned.offers}
    candidate = offers.get(update.candidate) if update else None
    return candidate or (offers.get(running.digest) if running else None) or planned.offers[0]


def _state_of(
    offer: BundleOffer, running: TaskStatus | None, update: UpdateStatus | None
) -> tuple[RolloutState, UpdateStatus | None]:
    if update and update.candidate == offer.bundle:
        return update.state, update
    return ("done", None) if running and running.digest == offer.bundle else ("unaware", None)


def _is_due(planned: TaskPlan, offer: BundleOffer, site: str, now: float) -> bool:
    fleet = _for_any_machine(planned, offer)
    return desired_states(fleet, site, MachineCapabilities(0), now)[_TASK].bundle is not None


@lru_cache(maxsize=1024)
def _for_any_machine(planned: TaskPlan, offer: BundleOffer) -> FleetPlan:
    bare = BundleOffer(bundle=offer.bundle, version=offer.version)
    return FleetPlan(tasks={_TASK: planned.model_copy(update={"offers": (bare,), "halted": False})})
