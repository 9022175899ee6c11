"""What the operator's calls return: the daemon, its engines, bundles, examples, updates, uplink and large model."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from edge_agent.client.task_description import BundleRef, Task


@dataclass(frozen=True)
class Engine:
    """One loaded model in one child process."""

    name: str
    runtime: str
    state: str
    """STARTING, READY, BACKING_OFF, FAILED or STOPPING."""
    pid: int
    resident_bytes: int
    pending: int
    restarts: int
    problem: str
    tasks: tuple[str, ...]
    device: str
    details: dict[str, str]
    """The model, its threads, how the child is confined."""
    running: int = 0
    """Inputs that it computes now."""
    running_max: int = 0
    """Inputs that it computes together at most; 0 from a daemon that does not say."""
    fallback: str = ""
    """Why it is not the device that is wanted; empty = it is."""
    partial: str = ""
    """That the device computes fewer layers than were wanted; empty = all of them."""

    @property
    def shortfall(self) -> str:
        """What is wanting of the device; empty = nothing."""
        return self.fallback or self.partial


@dataclass(frozen=True)
class Durations:
    """How long something took, how often."""

    bounds_seconds: tuple[float, ...]
    counts: tuple[int, ...]
    """Of each bound how often it was the next above; the last one, above all of them."""
    total_seconds: float


@dataclass(frozen=True)
class TaskCounts:
    """What came of the inputs of a task since the daemon started."""

    task: str
    """Empty = tasks that are not installed."""
    answers: dict[str, int]
    """By route: local, abstained."""
    errors: dict[str, int]
    """By reason."""
    graded: int
    """Answers with a confidence."""
    below_threshold: int
    output_tokens: int
    queue: Durations
    total: Durations
    held_up: dict[str, int] = field(default_factory=dict)
    """Of those below the threshold, by reason; empty from a daemon that does not say."""


@dataclass(frozen=True)
class Bundle:
    """An installed bundle."""

    ref: BundleRef
    kind: str
    runtime: str
    active: bool
    previous: bool
    signed: bool
    size_bytes: int
    install_time: datetime
    """UTC."""
    confidence_blocker: str = ""
    """As in `Task`; known only while the bundle is loaded."""
    gate: str = ""
    """As in `Task`."""
    revoked: bool = False
    """It was signed, and the central team has revoked it."""


@dataclass(frozen=True)
class ReviewAudit:
    """Answers that were drawn at random for people to review, since the spool was made."""

    drawn: int = 0
    reviewed: int = 0
    waiting: int = 0
    lost: int = 0
    """Gone before anybody judged them: what was judged is a random sample only as far as these are few."""


@dataclass(frozen=True)
class ExamplesStatus:
    """What is kept of inputs and answers."""

    counters: dict[str, int]
    """Totals since the spool was made."""
    retained: dict[str, int]
    """What is here now, by class."""
    spool_bytes: int
    outbox_bytes: int
    outbox_segments: int
    epoch: str
    collect: dict[str, str]
    """local or upstream, by task."""
    review_waiting: dict[str, int] = field(default_factory=dict)
    """Answers that wait for a review, by stream."""
    audit: ReviewAudit = ReviewAudit()
    loss_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that the daemon has run since examples were lost or evicted the last time; no key = none were."""


@dataclass(frozen=True)
class SealedExamples:
    """What there is to take away."""

    segments: int
    """Made just now."""
    site: str
    outbox_path: str
    receipts_path: str


@dataclass(frozen=True)
class TaskUpdate:
    """One task: what answers, what answered before, what the plan wants and how far that has come."""

    task: str
    active: BundleRef | None
    previous: BundleRef | None
    """What a rollback goes back to."""
    candidate: BundleRef | None
    """What the plan wants; None = nothing."""
    state: str
    """WAITING, FETCHING, STAGED, TESTING, SWITCHING, PROBATION, DONE, FAILED, ROLLED_BACK or HELD; else empty."""
    since: datetime | None
    """UTC, by a clock that may be wrong."""
    reason: str
    """Why it is in that state, as a code; empty = nothing is in the way."""
    message: str
    attempts: int
    """Tries that something on this machine stopped."""


@dataclass(frozen=True)
class UpdatesStatus:
    """Where the site stands with updates."""

    channel: str
    plan_version: int
    """Of the newest plan that the site trusts; 0 = none."""
    problem: str
    """Why what came last was not trusted; empty = it was."""
    tasks: tuple[TaskUpdate, ...]
    copying: str = ""
    """Task and version of the bundle that is being copied into the store; empty = none is."""
    copied_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True)
class ImportProgress:
    """How far an import has come."""

    copying: str
    """Task and version of the bundle that is being copied; empty = none is."""
    copied_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class UplinkProblem:
    """Something that keeps the uplink from its work."""

    reason: str
    message: str
    remedy: str
    about: str
    """The segment or file; empty = all."""


@dataclass(frozen=True)
class UplinkDownloads:
    """What the uplink brings in."""

    state: str
    """ONLINE, PROBING or OFFLINE."""
    repository: str
    since: datetime | None
    """This and the other times: UTC, by a clock that may be wrong."""
    retry_at: datetime | None
    refreshed_at: datetime | None
    """When all metadata was last seen to be here; None = not since the uplink started."""
    waiting_blobs: int
    waiting_bytes: int
    fetched_blobs: int = 0
    """This and the next: since the uplink started; 0 from a daemon that does not say."""
    fetched_bytes: int = 0


@dataclass(frozen=True)
class UplinkStatus:
    """What the uplink, the daemon with a way out, says of itself. Nothing of it is proved."""

    state: str
    """ONLINE, PROBING, OFFLINE, or SILENT: nothing was heard of it for too long; the first problem says more."""
    upstream: str
    since: datetime | None
    """This and the other times: UTC, by a clock that may be wrong."""
    last_contact: datetime | None
    """None = never since it started."""
    retry_at: datetime | None
    """None = at once."""
    failures: int
    """In a row."""
    waiting_segments: int
    waiting_bytes: int
    sent_segments: int
    """Since it started."""
    sent_bytes: int
    age_seconds: float
    """How long ago it said so, by a clock that nobody sets."""
    problems: tuple[UplinkProblem, ...]
    downloads: UplinkDownloads | None
    """None = it brings no updates."""


@dataclass(frozen=True)
class FieldAlarm:
    """Something that stands, or stood, against a bundle."""

    task: str
    digest: str
    alarm: str
    since: datetime
    """UTC."""
    ended: datetime | None
    """None = it stands."""
    message: str
    remedy: str
    demoted: bool
    """The task is in shadow because of it."""
    question: str = ""
    """Of a decide task: the question that it is about."""


@dataclass(frozen=True)
class LargeModel:
    """The large model that a site may ask. Amounts are millionths of the currency that its prices are in."""

    online: bool
    affordable: bool
    """The caps leave room for another question."""
    model: str
    problem_reason: str
    """What is in the way; empty = nothing."""
    problem: str
    usual_ms: float
    """Median time of its last answers; 0 = none yet."""
    day_micros: int
    month_micros: int
    day_micros_max: int
    """0 = no cap."""
    month_micros_max: int
    tasks: tuple[str, ...]
    """Whose inputs may go there."""
    waiting: dict[str, int]
    """Questions for later, by why: deferred or audit."""
    waiting_seconds: float
    """Age of the oldest of them."""
    opinions: int
    """Questions of that kind that it has answered."""
    given_up: dict[str, int]
    """Those that were given up, by why: failed, lost, expired or crowded."""


@dataclass(frozen=True)
class RedactionAuditState:
    """What the random audit of redaction has found of the bundle that reads."""

    waiting: int
    """Texts that wait for a person."""
    texts: int
    """Texts that people have judged."""
    values: int
    """Personal values in these."""
    missed: int
    """Of these, values that remained."""
    share: float | None
    """Of the values that remain, 0 to 1; None without values."""
    low: float
    """Least share, by an interval of 95% that holds at every moment."""
    high: float
    target: float | None
    """Largest share that the bundle promises; None = it promises nothing."""
    exceeded: bool
    """`low` is above `target`."""


@dataclass(frozen=True)
class RedactionState:
    """The redaction model of a site."""

    task: str
    """The task that the configuration names."""
    model: str
    """The bundle that reads, task@version; empty = none does now."""
    waiting: int
    """Answers that wait in memory to be read; nothing of them is written or sent."""
    waiting_seconds: float
    held_because: str
    """Why the model did not read the last text; empty = it did."""
    counts: dict[str, int]
    """Since the daemon started: read_by_model, passed_by_rules, dropped_unredacted."""
    audit: RedactionAuditState | None = None
    """None while the spool cannot be read."""
    rules: str = ""
    """Version of the daemon's built-in rules."""
    proved_rules: str = ""
    """Version of the rules with which the bundle's bound was proved; empty = it promises nothing."""

    @property
    def is_proved_otherwise(self) -> bool:
        """Whether the bundle's bound was proved with other rules than the daemon's."""
        return bool(self.proved_rules) and self.proved_rules != self.rules


@dataclass(frozen=True)
class OperatorWarning:
    """A warning of the daemon."""

    kind: str
    """What it is about: ENGINE, TASK_SILENT, COMPONENT and others of WarningKind in admin.proto."""
    about: str
    """The name of the task, engine, bundle or component; empty where there is only one."""
    message: str


@dataclass(frozen=True)
class Status:
    """The state of the daemon."""

    agent_version: str
    start_time: datetime
    """UTC."""
    serving: bool
    resident_bytes: int
    tasks: tuple[Task, ...]
    engines: tuple[Engine, ...]
    warnings: tuple[str, ...]
    store_bytes: int
    disk_free_bytes: int
    examples: ExamplesStatus | None = None
    """None where nothing is collected."""
    updates: UpdatesStatus | None = None
    """None from a daemon that knows no updates."""
    uplink: UplinkStatus | None = None
    """None where none is configured."""
    large_model: LargeModel | None = None
    """None where none is configured."""
    counts: tuple[TaskCounts, ...] = ()
    alarms: tuple[FieldAlarm, ...] = ()
    """What stands against the bundles that answer."""
    warning_details: tuple[OperatorWarning, ...] = ()
    """The warnings again, for programs; empty from a daemon of 0.1."""
    draining_seconds: float | None = None
    """Since when it drains; None = it serves, or is of 0.1."""
    site: str = ""
    """Id of the site; empty where there is none, or from a daemon that does not say."""
    denied: dict[str, int] = field(default_factory=dict)
    """Calls that were denied since the daemon started, by reason."""
    redaction: RedactionState | None = None
    """None where no redaction model is configured."""
