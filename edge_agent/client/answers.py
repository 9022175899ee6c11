"""What a client gets back: frozen values, free of gRPC.

Words of an enumeration are the API's without their prefix: a route is "LOCAL", a kind is "CLASSIFY". A number that this
client does not know, from a newer daemon, is kept as its digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from edge_agent.client.large_model import LargeModel


@dataclass(frozen=True)
class BundleRef:
    """The exact version of a task."""

    task: str
    version: str
    digest: str
    """Lower-case hexadecimal sha256 of the stored manifest.json."""


@dataclass(frozen=True)
class Timings:
    """Where the time of one input went, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    upstream_ms: float = 0.0
    """Waiting for the large model."""

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.queue_ms + self.prefill_ms + self.decode_ms + self.upstream_ms


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What every answer carries."""

    prediction_id: str
    """Name it in feedback."""
    bundle: BundleRef
    route: str
    """LOCAL, UPSTREAM, ABSTAINED or DEFERRED."""
    timings: Timings
    device: str
    degraded: tuple[str, ...]
    """Why the answer is less than it could be; empty when it is not."""
    input_tokens: int
    output_tokens: int
    route_reason: str = ""
    """Why it took that route; docs/routing.md lists the words."""
    model: str = ""
    """The large model that answered; empty when the route is not UPSTREAM."""
    p_value: float | None = None
    """How well the input resembles the training data, over 0 to 1; None when the bundle has no gate."""


@dataclass(frozen=True, kw_only=True)
class Classification(Answer):
    """The label of one input."""

    label: str
    """Empty when the route is ABSTAINED."""
    confidence: float
    """Calibrated probability that the label is right, 0 to 1."""
    threshold: float | None
    """The least confidence of a confident answer; None when the bundle has none, or none holds on this machine."""
    below_threshold: bool
    """The answer is not confident; also when there is no threshold, or the input is out of distribution."""
    scores: tuple[tuple[str, float], ...]
    """Labels with their probability, best first."""
    label_mass: float
    """Probability left on the label set before renormalising, 0 to 1."""


@dataclass(frozen=True)
class Entity:
    """One value found in a text; `start` and `end` count code points."""

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Extraction(Answer):
    """The record found in one input."""

    json: str
    """A JSON object."""
    entities: tuple[Entity, ...]
    fields: tuple[tuple[str, float], ...]
    """Of a record that was written: each field in it, and how sure the model is of its value, 0 to 1."""
    confidence: float
    """Calibrated probability that the whole record is right, 0 to 1."""
    threshold: float | None
    below_threshold: bool


@dataclass(frozen=True, kw_only=True)
class Embedding(Answer):
    """The vector of one input."""

    values: tuple[float, ...]


class TokenLogprob(NamedTuple):
    """One token that was written, and what the model thought of it before temperature and seed chose."""

    token: bytes
    """UTF-8, but one character may be spread over several tokens."""
    logprob: float
    """Natural logarithm of its probability."""
    alternatives: tuple[tuple[bytes, float], ...] = ()
    """The likeliest in its place, it may be among them, each with its own."""


@dataclass(frozen=True, kw_only=True)
class Finish(Answer):
    """The end of a generation."""

    reason: str
    """STOP or LENGTH."""
    tokens: tuple[TokenLogprob, ...] = ()
    """What was written, a stop string too, if the option `logprobs` was given; from a large model nothing."""


@dataclass(frozen=True)
class Failure:
    """Why one input of a batch has no answer."""

    reason: str
    message: str
    metadata: dict[str, str]
    remedy: str = ""
    """What the reader can do next; may be empty."""


@dataclass(frozen=True)
class Task:
    """An installed task."""

    name: str
    kind: str
    """CLASSIFY, EXTRACT, GENERATE or EMBED."""
    bundle: BundleRef
    labels: tuple[str, ...]
    input_tokens_max: int
    output_tokens_max: int
    inputs_max: int
    ready: bool
    signed: bool
    threshold: float | None
    mode: str = "LOCAL"
    """BOOTSTRAP, SHADOW, HYBRID or LOCAL: who answers."""
    mode_by: str = ""
    """operator, plan, configuration, bundle or alarm: who put it into that mode; empty from a daemon that says not."""
    record_schema: str = ""
    """Only from `task`: the JSON Schema that its records keep to; empty where it writes none."""
    confidence_blocker: str = ""
    """Why no answer of it is confident on this machine; empty = nothing prevents it."""
    gate: str = ""
    """What holds up inputs unlike the training data: "ood_score", "label_mass" or "none"; empty from a daemon that
    does not say."""


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


@dataclass(frozen=True)
class Feedback:
    """What was said of an answer."""

    feedback_id: str
    reviewer: str
    feedback_time: datetime
    """UTC."""
    verdict: str
    """accept, corrected or reject."""
    value: str
    """The right label, JSON object or text; or why it was rejected."""


@dataclass(frozen=True)
class Prediction:
    """A kept answer."""

    prediction_id: str
    bundle: BundleRef
    kind: str
    """CLASSIFY, EXTRACT or GENERATE."""
    input: str
    """Redacted."""
    output: str
    """The answer that was given, which is what a reviewer judges."""
    confidence: float | None
    """Of `local_answer`, as `threshold`, `below_threshold` and `scores`; None where the kind has none."""
    threshold: float | None
    """None where the bundle is not calibrated."""
    below_threshold: bool
    route: str
    answer_time: datetime
    """UTC."""
    labels: tuple[str, ...]
    """What a correction may name; empty when the task is not installed any more."""
    scores: tuple[tuple[str, float], ...]
    feedback: tuple[Feedback, ...]
    """Only from `prediction`, the oldest first."""
    reviewed: bool
    p_value: float | None = None
    """As in `Answer`."""
    local_answer: str | None = None
    """What the local model answered, given or not; None = it was not asked, or its answer was not kept."""
    teacher_answer: str | None = None
    """What the large model answered when the input came; where it is set, it is `output`."""
    teacher_model: str = ""
    review_stream: str = ""
    """AUDIT (drawn at random), UNCERTAIN, DIVERSE or NEW; empty = the daemon is older than these."""
    sampling_probability: float | None = None
    """With which the audit drew it; None = it did not."""


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
    """Of the newest plan that the site believes; 0 = none."""
    problem: str
    """Why what came last was not believed; empty = it was."""
    tasks: tuple[TaskUpdate, ...]


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
class ImportProgress:
    """How far an import has come."""

    copying: str
    """Task and version of the bundle that is being copied; empty = none is."""
    copied_bytes: int
    total_bytes: int


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
