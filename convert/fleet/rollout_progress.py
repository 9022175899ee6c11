"""Rollout progress: the state of each site, the progress of each task, and whether to halt a rollout.

A status object is untrusted input: its size is bounded. With a registry of sites (convert/fleet/site_registry.py) a
status counts only if one of the site's keys signed it. Without a registry no signature is checked. Nothing is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
"""A site's clock that is further ahead is named."""
Said = tuple[str, SiteStatus | str]
"""A site, and its status or what is wrong with it."""


@dataclass
class SiteStatuses:
    """What was read."""

    statuses: dict[str, SiteStatus] = field(default_factory=dict)
    """By site."""
    refused: dict[str, str] = field(default_factory=dict)
    """Sites whose status does not count, and why."""
    troubles: list[str] = field(default_factory=list)
    """Sources that could not be listed, or only in part."""

    def take(self, site: str, said: SiteStatus | str) -> None:
        """Keep the newest status; a refusal counts only for a site of which nothing better came."""
        known = self.statuses.get(site)
        if isinstance(said, str):
            if not known:
                self.refused[site] = said
        elif not known or parse_timestamp(known.at) < parse_timestamp(said.at):
            self.statuses[site] = said
            self.refused.pop(site, None)


def read(
    sources: Sequence[SegmentSource], sites: SiteRegistry | None, progress: Progress = lambda *_: None
) -> SiteStatuses:
    """Read the status objects of all sites in all sources; what cannot be read is named, and stops nothing."""
    heard = SiteStatuses()
    for source in sources:
        listed, trouble = listings(source)
        heard.troubles += [trouble] if trouble else []
        found = [listing.site for listing in listed if listing.status]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            for done, said in enumerate(pool.map(_reader(source, sites), found), 1):
                heard.take(*said)
                progress("status", done, len(found))
    return heard


def _reader(source: SegmentSource, sites: SiteRegistry | None) -> Callable[[str], Said]:
    def one(site: str) -> Said:
        try:
            signed = status_object.verify(source.read(path_of(site, status_object.FILE_NAME), DOCUMENT_BYTES_MAX), None)
        except SourceFailed as error:
            return site, str(error)
        except ExchangeError as error:
            return site, error.message
        if signed.body.site != site:
            return site, f"is of site {signed.body.site}, but lies with {site}"
        objection = sites.objection(site, signed.key) if sites else ""
        return site, objection or signed.body

    return one


SITES_NAMED_MAX = 5
Stand = Literal[UpdateState, "unaware"]
OVERRIDES = "(sites)"
"""Stands where a channel's name does, for tasks that the plan says of a site by name."""
_TASK = "task"
STANDS: tuple[Stand, ...] = (*get_args(UpdateState), "unaware")


@dataclass(frozen=True)
class WaveProgress:
    """One wave; sites of earlier waves are not counted again."""

    start: str
    percent: int
    open: bool
    sites: int
    there: int
    failed: int


@dataclass(frozen=True)
class FailureReason:
    """Why sites are not there: one code in one state."""

    state: Stand
    reason: str
    sites: int
    named: tuple[str, ...]
    """Some of them."""
    message: str
    """What one of them says."""


@dataclass(frozen=True)
class TaskProgress:
    """One task of one channel, or of sites that the plan treats alike by name."""

    channel: str
    task: str
    bundles: dict[str, str]
    """Version of each bundle that the plan offers, by digest."""
    halted: bool
    sites: int
    due: int
    """Sites that should run it by now; of a halted task those that would, were it not."""
    there: int
    """Sites that run it, in probation too."""
    due_there: int
    states: dict[Stand, int]
    failed: int
    tried: int
    """Sites that it failed on and sites that run it."""
    failure_percent: float
    failure_percent_max: int
    waves: tuple[WaveProgress, ...]
    reasons: tuple[FailureReason, ...]

    @property
    def too_many(self) -> bool:
        """Tell whether more of those that tried failed than the plan allows."""
        return self.failure_percent > self.failure_percent_max

    @property
    def halt_recommended(self) -> bool:
        """Tell whether somebody should halt it now."""
        return self.too_many and not self.halted


@dataclass(frozen=True)
class SiteAlarm:
    """Something that stands against a bundle in the field of one site."""

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
    """What the random audit of redaction found at one site."""

    site: str
    report: RedactionReport

    @property
    def is_alarming(self) -> bool:
        """Whether the promise of the bundle does not hold there, or is not proved for the rules there."""
        return self.report.is_exceeded or self.report.is_proved_otherwise

    def plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        alarms = {"exceeded": self.report.is_exceeded, "proved_otherwise": self.report.is_proved_otherwise}
        return {"site": self.site, **self.report.model_dump(mode="json"), **alarms}


@dataclass(frozen=True)
class FleetReport:
    """The fleet against the plan."""

    plan_version: int
    sites: int
    with_newest_plan: int
    silent: dict[str, str]
    """Sites that said nothing for long, and when they did last."""
    ahead: dict[str, str]
    """Sites whose status has a time that is not yet: their clock is wrong, and would hide that they are silent."""
    unheard: tuple[str, ...]
    """Sites that the registry or the plan names, and that never said anything."""
    refused: dict[str, str]
    problems: dict[str, str]
    """Sites that do not trust what came last, and why."""
    revoked: dict[str, str]
    """Sites that run what was revoked: which tasks, with their versions."""
    alarms: tuple[SiteAlarm, ...]
    redaction: tuple[SiteRedaction, ...]
    """Sites with a redaction model; those whose promise does not hold come first."""
    tasks: tuple[TaskProgress, ...]
    troubles: tuple[str, ...]

    @property
    def halts(self) -> list[TaskProgress]:
        """Return the tasks that should be halted."""
        return [task for task in self.tasks if task.halt_recommended]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        tasks = [asdict(task) | {"halt_recommended": task.halt_recommended} for task in self.tasks]
        return asdict(self) | {"tasks": tasks, "redaction": [each.plain() for each in self.redaction]}


def report(
    plan: RolloutPlan, heard: SiteStatuses, now: float, *, silent_seconds: float, known: Iterable[str] = ()
) -> FleetReport:
    """Compare what the sites say with what the plan wants.

    Args:
        plan: the newest one.
        heard: what the sites say.
        now: in seconds since 1970.
        silent_seconds: a site that said nothing for longer is named.
        known: sites that there should be, beside those that the plan names.
    """
    said = heard.statuses
    groups: dict[tuple[str, str, TaskPlan], list[RolloutStatus]] = {}
    for one in said.values():
        for standing in rollout_statuses(plan, one, now):
            groups.setdefault((standing.channel, standing.task, standing.plan), []).append(standing)
    return FleetReport(
        plan_version=plan.version,
        sites=len(said),
        with_newest_plan=sum(one.plan_version >= plan.version for one in said.values()),
        silent={site: one.at for site, one in sorted(said.items()) if parse_timestamp(one.at) + silent_seconds < now},
        ahead=_ahead(said, now),
        unheard=tuple(sorted({*known, *plan.sites} - set(said) - set(heard.refused))),
        refused=dict(sorted(heard.refused.items())),
        problems={site: one.update_problem for site, one in sorted(said.items()) if one.update_problem},
        revoked={site: named for site, one in sorted(said.items()) if (named := _revoked(one))},
        alarms=tuple(_alarms(said)),
        redaction=tuple(_redaction(said)),
        tasks=tuple(_task(*key, groups[key], now) for key in sorted(groups, key=lambda key: key[:2])),
        troubles=tuple(heard.troubles),
    )


def _ahead(said: Mapping[str, SiteStatus], now: float) -> dict[str, str]:
    return {site: one.at for site, one in sorted(said.items()) if parse_timestamp(one.at) > now + AHEAD_SECONDS}


def _alarms(said: Mapping[str, SiteStatus]) -> Iterable[SiteAlarm]:
    for site, one in sorted(said.items()):
        for task in one.tasks:
            for each in task.alarms:
                remedy, which = REMEDIES[each.alarm], each.alarm
                yield SiteAlarm(site, task.task, task.version, which, each.since, each.message, each.demoted, remedy)


def _redaction(said: Mapping[str, SiteStatus]) -> list[SiteRedaction]:
    found = (SiteRedaction(site, one.redaction) for site, one in sorted(said.items()) if one.redaction)
    return sorted(found, key=lambda each: not each.is_alarming)


def _revoked(said: SiteStatus) -> str:
    return ", ".join(f"{task.task} {task.version}" for task in said.tasks if task.revoked)


def _task(channel: str, task: str, plan: TaskPlan, sites: Sequence[RolloutStatus], now: float) -> TaskProgress:
    states = Counter(each.stand for each in sites)
    failed, there = sum(each.failed for each in sites), sum(each.there for each in sites)
    return TaskProgress(
        channel=channel,
        task=task,
        bundles={offer.bundle: offer.version for offer in plan.offers},
        halted=plan.halted,
        sites=len(sites),
        due=sum(each.due for each in sites),
        there=there,
        due_there=sum(each.due and each.there for each in sites),
        states={stand: states[stand] for stand in STANDS},
        failed=failed,
        tried=failed + there,
        failure_percent=100 * failed / max(failed + there, 1),
        failure_percent_max=plan.failure_percent_max,
        waves=tuple(_waves(plan.waves, sites, now)),
        reasons=_reasons(
            [(each.stand, each.reason, each.site, each.message) for each in sites if each.reason and not each.there]
        ),
    )


def _waves(waves: Sequence[RolloutWave], sites: Sequence[RolloutStatus], now: float) -> Iterable[WaveProgress]:
    low = 0
    for wave in waves:
        high = wave.percent * ROLLOUT_STEPS // 100
        mine = [each for each in sites if low <= each.place < high]
        there, failed = sum(each.there for each in mine), sum(each.failed for each in mine)
        yield WaveProgress(wave.start, wave.percent, parse_timestamp(wave.start) <= now, len(mine), there, failed)
        low = high


def _reasons(said: Sequence[tuple[Stand, str, str, str]]) -> tuple[FailureReason, ...]:
    groups: dict[tuple[Stand, str], list[tuple[str, str]]] = {}
    for stand, reason, site, message in sorted(said):
        groups.setdefault((stand, reason), []).append((site, message))
    found = [
        FailureReason(stand, reason, len(each), tuple(site for site, _ in each[:SITES_NAMED_MAX]), each[0][1])
        for (stand, reason), each in groups.items()
    ]
    return tuple(sorted(found, key=lambda each: (each.state not in ("failed", "rolled_back"), -each.sites)))


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


def rollout_statuses(plan: RolloutPlan, said: SiteStatus, now: float) -> list[RolloutStatus]:
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
