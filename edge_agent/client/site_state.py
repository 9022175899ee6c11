"""Results of the operator's calls: state of the daemon, engines, bundles, examples, updates, uplink, large model."""

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
    """Inputs that are being computed."""
    running_max: int = 0
    """Most inputs computed together; 0 from an older daemon."""
    fallback: str = ""
    """Why `device` is not the preferred one; empty = it is."""
    partial: str = ""
    """Why the device computes only some of the layers; empty = it computes all that were configured."""

    @property
    def shortfall(self) -> str:
        """How `device` falls short of the configuration; empty = it does not."""
        return self.fallback or self.partial


@dataclass(frozen=True)
class Durations:
    """A histogram of durations."""

    bounds_seconds: tuple[float, ...]
    counts: tuple[int, ...]
    """Number of durations in each bucket, whose upper bound is `bounds_seconds`; the last bucket has none."""
    total_seconds: float


@dataclass(frozen=True)
class TaskCounts:
    """Outcomes of a task's inputs since the daemon started."""

    task: str
    """Empty = tasks that are not installed."""
    answers: dict[str, int]
    """By route: local, abstained."""
    errors: dict[str, int]
    """By reason."""
    graded: int
    """Number of answers with a confidence."""
    below_threshold: int
    output_tokens: int
    queue: Durations
    total: Durations
    held_up: dict[str, int] = field(default_factory=dict)
    """Answers below the threshold, by reason; empty from an older daemon."""


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
    """Answers drawn at random for review by people since the spool was created."""

    drawn: int = 0
    reviewed: int = 0
    waiting: int = 0
    lost: int = 0
    """Answers deleted before a review; if they are many, the reviewed answers are not a random sample."""


@dataclass(frozen=True)
class ExamplesStatus:
    """Stored inputs and answers."""

    counters: dict[str, int]
    """Totals since the spool was created."""
    retained: dict[str, int]
    """Number stored now, by class."""
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
    """Seconds that the daemon has run since the last loss or eviction of examples; no key = there was none."""


@dataclass(frozen=True)
class SealedExamples:
    """Result of sealing examples to carry them away."""

    segments: int
    """Segments sealed by this call."""
    site: str
    outbox_path: str
    receipts_path: str


@dataclass(frozen=True)
class TaskUpdate:
    """The bundles of one task, and the progress of its update."""

    task: str
    active: BundleRef | None
    previous: BundleRef | None
    """The target of a rollback."""
    candidate: BundleRef | None
    """The bundle that the plan assigns; None = none."""
    state: str
    """WAITING, FETCHING, STAGED, TESTING, SWITCHING, PROBATION, DONE, FAILED, ROLLED_BACK or HELD; else empty."""
    since: datetime | None
    """UTC, by a clock that may be wrong."""
    reason: str
    """Why it is in that state, as a code; empty = nothing blocks the update."""
    message: str
    attempts: int
    """Attempts that failed for a cause on this machine."""


@dataclass(frozen=True)
class UpdatesStatus:
    """State of the site's updates."""

    channel: str
    plan_version: int
    """Version of the newest trusted plan; 0 = none."""
    problem: str
    """Why the last metadata was not trusted; empty = it was."""
    tasks: tuple[TaskUpdate, ...]
    copying: str = ""
    """Task and version of the bundle that is being copied into the store; empty = none."""
    copied_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True)
class ImportProgress:
    """Progress of an import."""

    copying: str
    """Task and version of the bundle that is being copied; empty = none."""
    copied_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class UplinkProblem:
    """A problem that blocks the uplink."""

    reason: str
    message: str
    remedy: str
    about: str
    """The segment or file; empty = all."""


@dataclass(frozen=True)
class UplinkDownloads:
    """State of the uplink's downloads."""

    state: str
    """ONLINE, PROBING or OFFLINE."""
    repository: str
    since: datetime | None
    """This and the other times: UTC, by a clock that may be wrong."""
    retry_at: datetime | None
    refreshed_at: datetime | None
    """When all metadata was last complete on this site; None = not since the uplink started."""
    waiting_blobs: int
    waiting_bytes: int
    fetched_blobs: int = 0
    """This and the next: since the uplink started; 0 from an older daemon."""
    fetched_bytes: int = 0


@dataclass(frozen=True)
class UplinkStatus:
    """State of the uplink, as the uplink itself reports it; the daemon does not verify it."""

    state: str
    """ONLINE, PROBING, OFFLINE, or SILENT: no report for too long; the first problem explains it."""
    upstream: str
    since: datetime | None
    """This and the other times: UTC, by a clock that may be wrong."""
    last_contact: datetime | None
    """None = never since it started."""
    retry_at: datetime | None
    """None = at once."""
    failures: int
    """Failures in a row."""
    waiting_segments: int
    waiting_bytes: int
    sent_segments: int
    """This and the next: since it started."""
    sent_bytes: int
    age_seconds: float
    """Age of the report, by a monotonic clock."""
    problems: tuple[UplinkProblem, ...]
    downloads: UplinkDownloads | None
    """None = it downloads no updates."""


@dataclass(frozen=True)
class FieldAlarm:
    """An alarm about a bundle, active or ended."""

    task: str
    digest: str
    alarm: str
    since: datetime
    """UTC."""
    ended: datetime | None
    """None = it is active."""
    message: str
    remedy: str
    demoted: bool
    """The task is in shadow because of it."""
    question: str = ""
    """Of a decide task: the question concerned."""


@dataclass(frozen=True)
class LargeModel:
    """State of the large model. Amounts are millionths of the currency of its prices."""

    online: bool
    affordable: bool
    """The caps leave room for another question."""
    model: str
    problem_reason: str
    """Why it cannot be used, as a code; empty = it can."""
    problem: str
    usual_ms: float
    """Median time of its last answers; 0 = none yet."""
    day_micros: int
    month_micros: int
    day_micros_max: int
    """0 = no cap."""
    month_micros_max: int
    tasks: tuple[str, ...]
    """Tasks whose inputs may be sent to it."""
    waiting: dict[str, int]
    """Questions queued for later, by cause: deferred or audit."""
    waiting_seconds: float
    """Age of the oldest queued question."""
    opinions: int
    """Queued questions that it has answered."""
    given_up: dict[str, int]
    """Queued questions that were given up, by cause: failed, lost, expired or crowded."""


@dataclass(frozen=True)
class RedactionAuditState:
    """Result of the random audit of redaction, for the active redaction bundle."""

    waiting: int
    """Texts that wait for a person."""
    texts: int
    """Texts that people have judged."""
    values: int
    """Personal values in these."""
    missed: int
    """Of these, values that remained."""
    share: float | None
    """Share of values that remain, 0 to 1; None without values."""
    low: float
    """Lower end of the anytime-valid 95% interval of the share; `high` is its upper end."""
    high: float
    target: float | None
    """The bundle's guaranteed upper bound of the share; None = it guarantees nothing."""
    exceeded: bool
    """`low` is above `target`."""


@dataclass(frozen=True)
class RedactionState:
    """The redaction model of a site."""

    task: str
    """The task that the configuration names."""
    model: str
    """The active redaction bundle, task@version; empty = none."""
    waiting: int
    """Answers that wait in memory for redaction; until then nothing of them is written or sent."""
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
    """Version of the rules with which the bundle's bound was proved; empty = it guarantees nothing."""

    @property
    def is_proved_otherwise(self) -> bool:
        """Whether the bundle's bound was proved with other rules than the daemon's."""
        return bool(self.proved_rules) and self.proved_rules != self.rules


@dataclass(frozen=True)
class OperatorWarning:
    """A warning of the daemon."""

    kind: str
    """ENGINE, TASK_SILENT, COMPONENT or another WarningKind of admin.proto."""
    about: str
    """The name of the task, engine, bundle or component; empty if there is only one."""
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
    """None from a daemon without updates."""
    uplink: UplinkStatus | None = None
    """None where none is configured."""
    large_model: LargeModel | None = None
    """None where none is configured."""
    counts: tuple[TaskCounts, ...] = ()
    alarms: tuple[FieldAlarm, ...] = ()
    """Active alarms about active bundles."""
    warning_details: tuple[OperatorWarning, ...] = ()
    """The same warnings for programs; empty from a daemon of version 0.1."""
    draining_seconds: float | None = None
    """Time since it began to drain; None = it serves, or is of version 0.1."""
    site: str = ""
    """Id of the site; empty without one, or from an older daemon."""
    denied: dict[str, int] = field(default_factory=dict)
    """Calls that were denied since the daemon started, by reason."""
    redaction: RedactionState | None = None
    """None where no redaction model is configured."""
