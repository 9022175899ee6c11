"""Where the site stands with signed updates: what is believed, and how far each task has come. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_agent.client import TaskUpdate
from edge_agent.doctor.findings import Case, Check, Finding, first, lasting, otherwise

METADATA = Check("metadata", "updates")
BELIEVED = Check("updates-believed", "updates")
UPDATE = Check("update", "updates")

WARNED_SECONDS = 3 * 86_400.0
STUCK_SECONDS = 6 * 3600.0
_SHOW = "edge-agent status"
_TELL = "Tell the central team; what answered before goes on. It is tried again when the plan wants something else."
_TOLD = "sudo edge-agent support-bundle"


@dataclass(frozen=True)
class MetadataFacts:
    """The repository's copy at this site, unverified."""

    path: str
    there: bool
    """Some has come."""
    problem: str = ""
    """Why it cannot be read; empty = it can."""
    version: int = 0
    expires_in: float = 0.0
    """Seconds; negative = it has expired."""
    by_itself: bool = False
    """An uplink should bring it."""
    expected: bool = False
    """This site takes updates."""

    @property
    def fetch(self) -> str:
        """The command that brings a newer one."""
        return "sudo systemctl restart edge-uplink" if self.by_itself else "sudo edge-agent media import /media/stick"

    @property
    def left(self) -> str:
        """How long it is valid, or since when not, for people."""
        return lasting(abs(self.expires_in))


_METADATA: tuple[Case[MetadataFacts], ...] = (
    Case(
        "warning",
        lambda f: not f.there and f.by_itself,
        "nothing has come into {f.path} yet",
        "Is the uplink running and online? Its checks are below.",
        "{f.fetch}",
    ),
    Case(
        "note", lambda f: not f.there, "no update has come yet", "Have a stick made: 'edge-convert stick'.", "{f.fetch}"
    ),
    Case(
        "fault",
        lambda f: f.problem,
        "{f.path}/timestamp.json is damaged: {f.problem}",
        "Remove it; it comes again.",
        "sudo rm {f.path}/timestamp.json; {f.fetch}",
    ),
    Case(
        "fault",
        lambda f: f.expires_in < 0,
        "version {f.version} expired {f.left} ago: nothing new is installed",
        "What is installed goes on. If the clock is right, have the centre renew it: 'edge-convert renew'.",
        "date; {f.fetch}",
    ),
    Case(
        "warning",
        lambda f: f.expires_in < WARNED_SECONDS,
        "version {f.version} expires in {f.left}",
        "A newer one should have come: is the uplink online? Otherwise a new stick.",
        "{f.fetch}",
    ),
    Case("ok", otherwise, "version {f.version}, valid for {f.left}"),
)


def metadata(facts: MetadataFacts) -> Iterator[Finding]:
    """Judge how fresh the metadata are."""
    if facts.expected:
        yield from first(METADATA, _METADATA, facts)


@dataclass(frozen=True)
class UpdatesFacts:
    """What the daemon says, or what its journal said last."""

    plan_version: int
    channel: str
    problem: str
    """Why what came last is not believed; empty = it is."""
    tasks: tuple[TaskUpdate, ...]
    now: float
    live: bool
    """The daemon says it; otherwise it is the journal of one that does not run."""


@dataclass(frozen=True)
class _Moving:
    """One task on its way."""

    update: TaskUpdate
    now: float

    @property
    def version(self) -> str:
        return self.update.candidate.version if self.update.candidate else ""

    @property
    def age(self) -> float:
        return self.now - self.update.since.timestamp() if self.update.since else 0.0

    @property
    def said(self) -> str:
        why = self.update.message or self.update.reason
        state = self.update.state.lower().replace("_", " ")
        return f"{self.version} is {state} since {lasting(self.age)}{f': {why}' if why else ''}"


def _is(state: str, *reasons: str) -> Callable[[_Moving], bool]:
    """Return the condition of a state, for any of these reasons; without reasons for all."""
    return lambda moving: moving.update.state == state and (not reasons or moving.update.reason in reasons)


_UPDATE: tuple[Case[_Moving], ...] = (
    Case("fault", _is("FAILED"), "{f.said}", _TELL, _TOLD),
    Case("fault", _is("ROLLED_BACK"), "{f.said}", "The version before answers again. " + _TELL, _TOLD),
    Case(
        "note",
        _is("HELD"),
        "{f.said}",
        "Somebody here chose another version, and it stays so. To take the planned one:",
        "edge-agent activate {f.update.task} {f.version}",
    ),
    Case("ok", _is("STAGED", "WINDOW_CLOSED", "STOPPING", ""), "{f.said}"),
    Case(
        "warning",
        _is("STAGED"),
        "{f.said}",
        "Something here is in its way ({f.update.attempts} tries); mend it, and it goes on by itself.",
        "edge-agent doctor; df -h; free -h",
    ),
    Case(
        "warning",
        lambda f: _is("FETCHING")(f) and f.age > STUCK_SECONDS,
        "{f.said}",
        "Its files do not come: is the uplink online? A whole stick does it too.",
        "sudo edge-agent media import /media/stick",
    ),
    Case(
        "note", _is("WAITING", "HARDWARE_UNMET", "HALTED"), "{f.said}", "The central team decided so: ask them.", _SHOW
    ),
    Case("ok", lambda f: f.update.state and f.update.candidate, "{f.said}"),
)


def updates(facts: UpdatesFacts) -> Iterator[Finding]:
    """Judge what is believed, and each task."""
    yield from first(BELIEVED, _BELIEVED, facts)
    for task in facts.tasks:
        yield from first(UPDATE, _UPDATE, _Moving(task, facts.now), about=task.task)


_BELIEVED: tuple[Case[UpdatesFacts], ...] = (
    Case(
        "warning",
        lambda f: f.problem,
        "{f.problem}",
        "What was believed before holds until it expires. Mend what it names, or have a new stick made.",
        "sudo edge-agent media import /media/stick; edge-agent status",
    ),
    Case("ok", lambda f: f.live and f.plan_version, "plan {f.plan_version} of channel {f.channel}"),
)
