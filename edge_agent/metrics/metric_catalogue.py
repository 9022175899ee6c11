"""The catalogue of metrics, the counts of answers behind some of them, and the page that Prometheus reads.

The catalogue has the name, type, labels and meaning of each; docs/metrics.md shows it, and a test compares them.

Names follow Prometheus: base units, and `_total` for counters. Labels are names of installed tasks and engines or words
of our own code, never text from a request, so the number of series is bounded.

Counts are updated for every answer, so each update costs well below a microsecond. One thread writes them, the event
loop's, so no lock is needed. Other threads read at any time: a list is copied atomically under the GIL, and the number
of observations is the sum of the buckets, so both always agree.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
TASKS_MAX = 1000
OTHER_TASKS = "other"
"""Counts all tasks beyond TASKS_MAX, so the number of names is bounded."""
UNKNOWN_TASK = ""
"""Label for a task that is not installed: a caller's text must not become a label."""


class Histogram:
    """Counts of values by bucket; a value equal to a bound is in the bucket below it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        """Start empty; values above the last bound have their own count."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; NaN is skipped, because it would make the total NaN."""
        if value == value:  # noqa: PLR0124 - false for NaN alone, at a third of the cost of a call
            self.counts[bisect_left(self.bounds, value)] += 1
            self.total += value

    @property
    def cumulative(self) -> list[int]:
        """The number of observations up to each bound, and the total."""
        return list(accumulate(self.counts.copy()))


class TaskCounters:
    """The results of the inputs of one task."""

    __slots__ = (
        *("answers", "compute", "confidence", "degraded", "first_token", "held_up", "queue", "question_answers"),
        *("question_held_up", "token", "tokens", "total"),
    )

    def __init__(self) -> None:
        """Start at zero."""
        self.queue, self.compute, self.total = Histogram(), Histogram(), Histogram()
        """Seconds of an input in the queue, in computation and in total."""
        self.first_token, self.token = Histogram(), Histogram()
        """Seconds until the first output token, and per further token."""
        self.confidence = Histogram(RATIOS)
        self.answers: Counter[str] = Counter()
        """By route."""
        self.degraded: Counter[str] = Counter()
        """By reason."""
        self.held_up: Counter[str] = Counter()
        """Unconfident answers by reason."""
        self.question_answers: Counter[tuple[str, str]] = Counter()
        """By question and route, for a task with several questions; "" = a question of the call, named by the
        caller."""
        self.question_held_up: Counter[tuple[str, str]] = Counter()
        """Unconfident answers by question and reason."""
        self.tokens = [0, 0]
        """Input tokens and output tokens."""


@dataclass(frozen=True)
class UnansweredInput:
    """An input, or a whole call, that got no answer."""

    task: str
    reason: str


class AnswerCounts:
    """All tasks of one daemon."""

    def __init__(self) -> None:
        """Start at zero."""
        self.tasks: dict[str, TaskCounters] = {}
        self.errors: Counter[UnansweredInput] = Counter()

    def of(self, task: str) -> TaskCounters:
        """Return the counts of an installed task."""
        counters = self.tasks.get(task)
        if counters is None:
            counters = self.tasks.setdefault(task if len(self.tasks) < TASKS_MAX else OTHER_TASKS, TaskCounters())
        return counters

    def count_unanswered(self, task: str, reason: str) -> None:
        """Count an unanswered input or call; `task` is UNKNOWN_TASK if not installed, `reason` an error reason."""
        self.errors[UnansweredInput(task, reason)] += 1


Kind = Literal["counter", "gauge", "histogram"]


class MetricDefinition(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str


def _group(labels: tuple[str, ...], rows: str) -> tuple[MetricDefinition, ...]:
    """Read one group: a line is the name without its prefix, the first letter of the kind, and the meaning."""
    kinds: dict[str, Kind] = {"c": "counter", "g": "gauge", "h": "histogram"}
    parts = [line.strip().split(maxsplit=2) for line in rows.strip().splitlines()]
    return tuple(MetricDefinition(f"edge_agent_{name}", kinds[kind], labels, meaning) for name, kind, meaning in parts)


DAEMON = (
    *_group(("reason",), "denied_total c Denied calls, by reason: CERTIFICATE_EXPIRED, ROLE_MISSING."),
    *_group(
        ("surface", "reason"),
        "refused_total c Refused calls (grpc), by reason (docs/errors.md), and failed TLS handshakes (handshake), by"
        " cause.",
    ),
    *_group(
        ("component",),
        """
        component_up g 1 = this background component of the daemon runs, 0 = it died within the last minute.
        component_deaths_total c Number of times that the component died since the daemon started.
        """,
    ),
    *_group(("version", "python"), "build_info g Always 1; the labels identify the program."),
    *_group(
        (),
        """
        serving g 1 = the daemon accepts calls, 0 = it is draining.
        calls_in_progress g Inference calls in progress.
        calls_max g Most inference calls in progress; further ones are refused (service.calls_max).
        loop_delay_seconds g Time until the event loop began this scrape; above 0.1 the daemon is overloaded.
        scrape_seconds g Time to make the last page.
        store_bytes g Bytes of installed bundles.
        disk_free_bytes g Free bytes on the disk of the state directory; absent if the disk does not answer.
        """,
    ),
)
ANSWERS = (
    *_group(
        ("task",),
        """
        queue_seconds h Time that an input waited for its engine.
        compute_seconds h Time that the model took for an input.
        answer_seconds h Time from the arrival of an input to its answer.
        first_token_seconds h Time from arrival to the first token, for tasks that write text or records.
        token_seconds h Time for each further token, for tasks that write.
        confidence_ratio h Calibrated confidence of answers, 0 to 1, for tasks that classify, decide or extract.
        answers_below_threshold_total c Answers that are not confident, whatever the reason.
        input_tokens_total c Tokens read, including the prompt around the input.
        output_tokens_total c Tokens written.
        """,
    ),
    *_group(
        ("task", "reason"),
        "answers_not_confident_total c The same by reason: BELOW_THRESHOLD, BELOW_FLOOR,"
        " OUT_OF_DISTRIBUTION, SCORES_VARY.",
    ),
    *_group(
        ("task", "route"),
        "answers_total c Answers by route: one for each input, or one for each question about it.",
    ),
    *_group(
        ("task", "question", "route"),
        "question_answers_total c The same by question, for decide tasks; empty = questions that the call defined.",
    ),
    *_group(
        ("task", "question", "reason"),
        "question_answers_not_confident_total c Answers to a question that are not confident, by reason.",
    ),
    *_group(("task", "reason"), "degraded_total c Limited answers, by each reason in their 'degraded'."),
    *_group(
        ("task", "reason"),
        "errors_total c Inputs or whole calls without an answer, by reason (docs/errors.md; INTERNAL = a bug); an empty"
        " task is not installed.",
    ),
)
TASKS = (
    *_group(("task", "kind", "version", "engine"), "task_info g Always 1; the labels show what answers the task."),
    *_group(
        ("task",),
        """
        task_ready g 1 = the task answers now.
        task_signed g 1 = its bundle has a verified signature.
        task_gated g 1 = its bundle has a gate, the test for inputs unlike the training data.
        task_revoked g 1 = the central team has revoked its bundle.
        """,
    ),
)
ENGINES = (
    *_group(("engine", "runtime", "device"), "engine_info g Always 1; the device is empty until the first load."),
    *_group(
        ("engine", "reason"),
        "engine_device_shortfall g 1 = not on the configured device (DEVICE_FALLBACK), or only partly (DEVICE_PARTIAL);"
        " otherwise absent.",
    ),
    *_group(("engine", "state"), "engine_state g 1 for the engine's state: starting, ready, backing off, failed."),
    *_group(
        ("engine",),
        """
        engine_up g 1 = the engine answers now.
        engine_device_short g Deprecated since 0.2: 1 if edge_agent_engine_device_shortfall has a reason.
        engine_sequences_in_use g Inputs that the engine is computing.
        engine_sequences_max g Most inputs that it computes together.
        engine_queue_inputs g Inputs that wait for it.
        engine_queue_inputs_max g Most inputs that can wait; further ones are refused.
        engine_restarts_total c Restarts of its process.
        engine_loads_total c Successful loads of its model.
        engine_load_failures_total c Failed loads of its model.
        engine_threads g Its share of the threads.
        engine_memory_estimated_bytes g Estimated memory of the model.
        engine_memory_limit_bytes g Memory that was available to it when it started.
        engine_context_cells g Tokens that its key-value cache can hold (llama).
        engine_context_cells_in_use g Tokens in its key-value cache (llama).
        engine_prefix_lookups_total c Lookups of a prompt's beginning in the prompt cache (llama).
        engine_prefix_hits_total c Lookups that found one (llama).
        engine_prefix_kept_bytes g Bytes of prompts in the prompt cache (llama).
        engine_prefix_tokens_reused_total c Tokens that the prompt cache saved from being computed again (llama).
        engine_tokens_computed_total c Computed tokens (llama).
        """,
    ),
)
PROCESSES = _group(
    ("process",),
    """
    process_resident_memory_bytes g Resident memory, including mapped weights.
    process_cpu_seconds_total c Processor time, user and system.
    process_threads g Threads.
    process_open_fds g Open file descriptors; absent if the kernel does not show them.
    process_start_time_seconds g Time of its start, in seconds since 1970.
    """,
)
EXAMPLES = (
    *_group(("class",), "spool_examples g Stored examples, by class: routine, unsure, escalated, reviewed, feedback."),
    *_group(
        ("event",),
        "examples_total c Events of examples: captured, feedback, expired, dropped_…, sacrificed_… (evicted), …",
    ),
    *_group(
        (),
        """
        spool_bytes g Bytes of stored examples.
        spool_bytes_max g Most bytes; beyond that, routine examples are evicted first (examples.spool_bytes_max).
        spool_oldest_unsealed_seconds g Age of the oldest example that waits to be sealed, in running time.
        outbox_segments g Sealed segments without a receipt.
        outbox_bytes g Bytes of these segments.
        outbox_bytes_max g Most bytes; beyond that, nothing is sealed (examples.outbox_bytes_max).
        outbox_oldest_segment_seconds g Age of the oldest segment without a receipt, by the machine's clock.
        examples_problems g Problems that block the capture, the sealing or the receipts of examples.
        examples_stalled_seconds g Time that the disk has spent on one write; meanwhile the other figures are absent.
        """,
    ),
)
REDACTION = (
    *_group(
        (),
        """
        redaction_ready g 1 = the redaction model reads texts; absent if none is configured.
        redaction_waiting g Answers that wait in memory for the model, and are not written or sent meanwhile.
        redaction_oldest_waiting_seconds g Age of the oldest of these.
        redaction_audit_waiting g Texts of the random audit that wait for a person.
        redaction_missed_low g Share of the personal values that remain: lower end of an always valid 95% interval.
        redaction_missed_high g Upper end of this interval.
        redaction_missed_alarm g 1 = the whole interval is above the bundle's bound.
        """,
    ),
    *_group(
        ("outcome",),
        "redaction_audit_values g Personal values in audited texts: found_or_missed (all), missed.",
    ),
    *_group(
        ("event",),
        "redaction_total c Texts by outcome: read_by_model, passed_by_rules, dropped_unredacted, erased_unredacted.",
    ),
)
UPLINK = (
    *_group(("state",), "uplink_state g 1 for the uplink's state: online, probing, offline, silent."),
    *_group(
        (),
        """
        uplink_online g 1 = the uplink reported within the last 3 minutes that its object store answers.
        uplink_age_seconds g Time since the last report of the uplink.
        uplink_last_contact_timestamp_seconds g Time of the object store's last answer, in seconds since 1970.
        uplink_waiting_segments g Segments that wait for upload.
        uplink_waiting_bytes g Bytes of these segments.
        uplink_problems g Problems that the uplink reports.
        updates_waiting_bytes g Bytes of updates that are still to be downloaded.
        """,
    ),
)
UPDATES = (
    *_group(("task", "state"), "update_state g 1 for the state of the task's update (docs/updates.md)."),
    *_group(("task",), "update_attempts g Attempts that a problem of this machine stopped."),
    *_group(
        (),
        """
        plan_version g Version of the newest trusted plan; 0 = none.
        updates_believed g 0 = the newest metadata was refused; 'edge-agent status' shows the reason.
        trust_expiry_timestamp_seconds g Time at which the trusted metadata expires, in seconds since 1970.
        """,
    ),
)
LARGE_MODEL = (
    *_group(
        (),
        """
        large_model_online g 1 = by its last report, the uplink can ask the large model.
        large_model_affordable g 1 = the caps leave room for another question.
        large_model_usual_seconds g Median time of its recent answers.
        large_model_oldest_question_seconds g Age of the oldest question that waits, in running time.
        large_model_opinions_total c Teacher labels: questions that it answered after the call.
        """,
    ),
    *_group(("why",), "large_model_questions g Questions that wait: deferred, audit."),
    *_group(("why",), "large_model_questions_given_up_total c Questions given up: failed, lost, expired, crowded."),
    *_group(("period",), "large_model_spent g Cost of this day or month (UTC), in the currency of the prices."),
)
FIELD = (
    *_group(("task", "alarm"), "field_alarm g 1 = this alarm is raised for the active bundle (docs/routing.md)."),
    *_group(
        ("task",),
        """
        field_demoted g 1 = an alarm put the task into shadow, as the plan allows.
        field_pairs_total c Inputs that both models answered, in shadow and in the audit, for the active bundle.
        field_agreed_total c Inputs of these to which both models gave the same answer.
        """,
    ),
    *_group(
        ("task", "judge"),
        """
        field_judged_total c Confident answers of the active bundle that people or the large model have judged.
        field_wrong_total c Answers of these that were judged wrong.
        field_evidence_ratio g Evidence against the bundle's risk guarantee; at 1 it is refuted.
        """,
    ),
)
GROUPS = {
    "The daemon": DAEMON,
    "Answers": ANSWERS,
    "Tasks": TASKS,
    "Engines": ENGINES,
    "Processes": PROCESSES,
    "Examples": EXAMPLES,
    "Redaction": REDACTION,
    "The uplink": UPLINK,
    "Updates": UPDATES,
    "The large model": LARGE_MODEL,
    "Production monitoring": FIELD,
}
CATALOGUE = {metric.name: metric for group in GROUPS.values() for metric in group}


def document() -> str:
    """Return the tables of docs/metrics.md."""
    lines = []
    for title, group in GROUPS.items():
        lines += [f"### {title}", "", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        for metric in group:
            lines.append(f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels) or '-'} | {metric.meaning} |")
        lines.append("")
    return "\n".join(lines)


# The text format is written without a library: with 100 tasks this takes a twentieth of the time, which blocks the
# interpreter (docs/decisions/0025-metrics-without-a-library.md).
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABEL_CHARACTERS_MAX = 100
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class MetricSample(NamedTuple):
    """A number or a histogram; the name is without prefix, and `labels` are in the order of the catalogue."""

    name: str
    value: float | Histogram
    labels: tuple[str, ...] = ()


def page(samples: Iterable[MetricSample], catalogue: Mapping[str, MetricDefinition]) -> Iterator[str]:
    """Yield the page in short pieces: each metric once, in the order of the catalogue.

    Raises:
        KeyError: the catalogue has no metric of a sample's name.
    """
    samples_by_name: dict[str, list[MetricSample]] = {}
    for sample in samples:
        samples_by_name.setdefault(f"edge_agent_{sample.name}", []).append(sample)
    if unknown := samples_by_name.keys() - catalogue.keys():
        raise KeyError(f"not in the catalogue: {', '.join(sorted(unknown))}")
    for name, metric in catalogue.items():
        if name in samples_by_name:
            yield f"# HELP {name} {metric.meaning}\n# TYPE {name} {metric.kind}\n"
            for sample in samples_by_name[name]:
                yield _sample(metric, sample)


def _sample(metric: MetricDefinition, sample: MetricSample) -> str:
    name, value = metric.name, sample.value
    pairs = zip(metric.labels, sample.labels, strict=True)
    labels = ",".join([f'{key}="{text[:LABEL_CHARACTERS_MAX].translate(_ESCAPES)}"' for key, text in pairs])
    label_set = f"{{{labels}}}" if labels else ""
    if not isinstance(value, Histogram):
        return f"{name}{label_set} {_number(value)}\n"
    cumulative, bucket = value.cumulative, f'{name}_bucket{{{labels},le="'
    lines = [f'{bucket}{bound:g}"}} {count}\n' for bound, count in zip(value.bounds, cumulative, strict=False)]
    lines.append(f'{bucket}+Inf"}} {cumulative[-1]}\n')
    lines.append(f"{name}_sum{label_set} {_number(value.total)}\n{name}_count{label_set} {cumulative[-1]}\n")
    return "".join(lines)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
