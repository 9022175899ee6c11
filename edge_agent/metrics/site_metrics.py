"""The figures of one site: copied from memory on the event loop, then completed and rendered on another thread.

Part of the composition root, like daemon.py. Files and the kernel are read on the other thread only.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edge_agent import __version__
from edge_agent.engine.child_supervisor import EngineState
from edge_agent.errors import AccessError
from edge_agent.formats.example_records import task_of_key
from edge_agent.formats.signed_document import parse_timestamp
from edge_agent.formats.status_object import Alarm
from edge_agent.formats.uplink_state import FILE_NAME
from edge_agent.metrics.metric_catalogue import CATALOGUE, MetricSample, page
from edge_agent.server import messages
from edge_agent.server.uplink_client import read_uplink_report

if TYPE_CHECKING:
    from edge_agent.capture.example_capture import CaptureStatus, ExampleCapture
    from edge_agent.capture.text_redaction import RedactionQueue
    from edge_agent.config import Config
    from edge_agent.engine.engine import EngineStatus
    from edge_agent.engine.pool import EnginePool
    from edge_agent.metrics.metric_catalogue import AnswerCounts, TaskCounters
    from edge_agent.monitoring.answer_observations import AlarmState, BundleSummary
    from edge_agent.server.client_call_limits import AdmissionControl
    from edge_agent.server.grpc_servers import GrpcServers
    from edge_agent.server.task_modes import MonitoringAlarms
    from edge_agent.server.uplink_client import UplinkClient
    from edge_agent.store.state_database import InstalledBundle
    from edge_agent.supervision import Supervisor
    from edge_agent.update.activation import Activation
    from edge_agent.update.updater import UpdateOverview, Updater
    from edge_agent.v1.admin_pb2 import EscalationStatus

SNAPSHOT_SECONDS_MAX = 4.0
"""Time limit for the event loop to take a snapshot."""
SAMPLES_AT_ONCE = 20
"""Samples rendered before other threads get a turn."""
_DIGITS_MAX = 18
"""Limit on a number that a child process reports about itself."""
LOSS_EVENTS = (
    *("dropped_disk", "dropped_failed", "dropped_queue_full", "dropped_too_long", "dropped_unredacted"),
    *("sacrificed_audit", "sacrificed_escalated", "sacrificed_routine", "sacrificed_unsure", "segments_lost"),
)
"""Events of `examples_total` that are shown from 0 on: `increase()` does not see the first value of a new series."""
DENIAL_REASONS = tuple(each.reason for each in AccessError.__subclasses__())
"""Of `denied_total`, shown from 0 on for the same reason."""


@dataclass(frozen=True)
class SiteMetricsDependencies:
    """The components whose figures are shown."""

    config: Config
    activation: Activation
    engines: EnginePool
    admission: AdmissionControl
    capture: ExampleCapture
    counts: AnswerCounts
    updater: Updater
    uplink: UplinkClient
    alarms: MonitoringAlarms
    servers: GrpcServers
    supervisor: Supervisor


@dataclass(frozen=True)
class SiteSnapshot:
    """The site at one moment."""

    delay: float
    engines: list[EngineStatus]
    tasks: dict[str, InstalledBundle]
    ready: frozenset[str]
    overview: UpdateOverview
    examples: CaptureStatus | None
    alarms: dict[str, list[tuple[AlarmState, bool]]]
    denied: dict[str, int]
    refused: Mapping[tuple[str, str], int]
    large_model: EscalationStatus | None
    calls: int
    serving: bool
    store_bytes: int
    up: dict[str, bool]
    deaths: dict[str, int]


class SiteMetrics:
    """Makes the page of one site (see the module docstring)."""

    def __init__(self, components: SiteMetricsDependencies) -> None:
        """Show these components; call it on the event loop that owns them."""
        self._components = components
        self._loop = asyncio.get_running_loop()
        self._last_seconds = 0.0

    async def page(self) -> bytes:
        """Return the page for Prometheus; call it on another event loop. Raises TimeoutError."""
        start = time.perf_counter()
        future = asyncio.run_coroutine_threadsafe(self._snapshot(start), self._loop)
        async with asyncio.timeout(SNAPSHOT_SECONDS_MAX):
            snapshot = await asyncio.wrap_future(future)
        page = _render([*self._samples(snapshot)])
        self._last_seconds = time.perf_counter() - start
        return page

    async def _snapshot(self, start: float) -> SiteSnapshot:
        delay, components = time.perf_counter() - start, self._components
        engines, owners = components.engines, (components.supervisor, components.engines.owner)
        engines.request_figures()
        examples = await components.capture.status()
        tasks = dict(sorted(components.activation.serving.items()))
        return SiteSnapshot(
            delay=delay,
            engines=engines.statuses(),
            tasks=tasks,
            ready=frozenset(name for name, bundle in tasks.items() if engines.ready(bundle.digest)),
            overview=components.updater.overview,
            examples=examples,
            alarms={name: components.alarms.alarms_of(name) for name in tasks},
            denied=dict(components.servers.denied),
            refused=components.servers.refusals.counts,
            large_model=messages.large_model_message(components.uplink.message(), examples),
            calls=components.admission.calls,
            serving=not components.admission.draining,
            store_bytes=components.activation.inventory.store_bytes,
            up={name: up for owner in owners for name, up in owner.up.items()},
            deaths=dict(sum((owner.deaths for owner in owners), Counter[str]())),
        )

    def _samples(self, snapshot: SiteSnapshot) -> Iterator[MetricSample]:
        config, counts = self._components.config, self._components.counts
        yield MetricSample("build_info", 1, (__version__, platform.python_version()))
        yield MetricSample("serving", snapshot.serving)
        yield MetricSample("calls_in_progress", snapshot.calls)
        yield MetricSample("calls_max", config.service.calls_max)
        yield MetricSample("loop_delay_seconds", snapshot.delay)
        yield MetricSample("scrape_seconds", self._last_seconds)
        yield MetricSample("store_bytes", snapshot.store_bytes)
        yield from disk_samples(config.state_dir)
        for component, up in snapshot.up.items():
            yield MetricSample("component_up", up, (component,))
        for component, number in snapshot.deaths.items():
            yield MetricSample("component_deaths_total", number, (component,))
        for task, counters in list(counts.tasks.items()):
            yield from _answer_samples(task, counters)
        for unanswered, number in list(counts.errors.items()):
            yield MetricSample("errors_total", number, (unanswered.task, unanswered.reason))
        yield from _task_samples(snapshot)
        for engine in snapshot.engines:
            yield from engine_samples(engine)
            yield from process_samples(engine.name, engine.pid)
        yield from process_samples("serve", os.getpid())
        if snapshot.examples:
            yield from _capture_samples(snapshot, snapshot.examples, config)
        yield from _redaction_samples(self._components.capture.redaction)
        yield from _uplink_samples(config)
        yield from _update_samples(snapshot.overview, configured=bool(config.update.root_file))
        for reason, number in sorted((dict.fromkeys(DENIAL_REASONS, 0) | snapshot.denied).items()):
            yield MetricSample("denied_total", number, (reason,))
        for labels, number in snapshot.refused.items():
            yield MetricSample("refused_total", number, labels)
        if snapshot.large_model:
            yield from _large_model_samples(snapshot.large_model)


def _capture_samples(snapshot: SiteSnapshot, examples: CaptureStatus, config: Config) -> Iterator[MetricSample]:
    yield MetricSample("examples_problems", len(examples.problems))
    yield MetricSample("examples_stalled_seconds", examples.stalled_seconds)
    if not examples.stalled_seconds:
        yield from _example_samples(examples, config)
        serving = {name: bundle.digest for name, bundle in snapshot.tasks.items()}
        yield from monitoring_samples(examples.field, serving, snapshot.alarms)
    if audit := examples.redaction_audit:
        yield MetricSample("redaction_audit_waiting", audit.waiting)
        yield MetricSample("redaction_audit_values", audit.values, ("found_or_missed",))
        yield MetricSample("redaction_audit_values", audit.missed, ("missed",))
        yield MetricSample("redaction_missed_low", audit.share.low)
        yield MetricSample("redaction_missed_high", audit.share.high)
        yield MetricSample("redaction_missed_alarm", audit.is_exceeded)


def _render(samples: list[MetricSample]) -> bytes:
    """Render the page, and yield to the event loop's thread after every few samples."""
    parts = []
    for number, part in enumerate(page(samples, CATALOGUE)):
        parts.append(part)
        if number % SAMPLES_AT_ONCE == 0:
            time.sleep(0)
    return "".join(parts).encode()


def _answer_samples(task: str, counters: TaskCounters) -> Iterator[MetricSample]:
    yield MetricSample("queue_seconds", counters.queue, (task,))
    yield MetricSample("compute_seconds", counters.compute, (task,))
    yield MetricSample("answer_seconds", counters.total, (task,))
    if counters.tokens[1]:
        yield MetricSample("first_token_seconds", counters.first_token, (task,))
        yield MetricSample("token_seconds", counters.token, (task,))
    if any(counters.confidence.counts):
        yield MetricSample("confidence_ratio", counters.confidence, (task,))
        yield MetricSample("answers_below_threshold_total", sum(counters.held_up.values()), (task,))
        for reason, number in list(counters.held_up.items()):
            yield MetricSample("answers_not_confident_total", number, (task, reason))
    yield MetricSample("input_tokens_total", counters.tokens[0], (task,))
    yield MetricSample("output_tokens_total", counters.tokens[1], (task,))
    for route, number in list(counters.answers.items()):
        yield MetricSample("answers_total", number, (task, route))
    for (question, route), number in list(counters.question_answers.items()):
        yield MetricSample("question_answers_total", number, (task, question, route))
    for (question, reason), number in list(counters.question_held_up.items()):
        yield MetricSample("question_answers_not_confident_total", number, (task, question, reason))
    for reason, number in list(counters.degraded.items()):
        yield MetricSample("degraded_total", number, (task, reason))


def _task_samples(snapshot: SiteSnapshot) -> Iterator[MetricSample]:
    engines = {digest: engine.name for engine in snapshot.engines for digest in engine.digests}
    for task, bundle in snapshot.tasks.items():
        manifest = bundle.manifest
        labels = (task, manifest.task.kind, manifest.version, engines.get(bundle.digest, ""))
        yield MetricSample("task_info", 1, labels)
        yield MetricSample("task_ready", task in snapshot.ready, (task,))
        yield MetricSample("task_signed", bundle.signed, (task,))
        yield MetricSample("task_gated", manifest.confidence.gate is not None, (task,))
        yield MetricSample("task_revoked", snapshot.overview.is_revoked(bundle), (task,))


def engine_samples(engine: EngineStatus) -> Iterator[MetricSample]:
    """Yield the samples of one engine."""
    name = (engine.name,)
    yield MetricSample("engine_info", 1, (engine.name, engine.runtime, engine.device))
    yield MetricSample("engine_state", 1, (engine.name, engine.state.value))
    for reason in engine.shortfalls:
        yield MetricSample("engine_device_shortfall", 1, (engine.name, reason))
    numbers = {
        "up": engine.state is EngineState.READY,
        "device_short": bool(engine.shortfalls),
        "sequences_in_use": engine.running,
        "sequences_max": engine.running_max,
        "queue_inputs": engine.waiting,
        "queue_inputs_max": engine.waiting_max,
        "restarts_total": engine.restarts,
        "loads_total": engine.loads,
        "load_failures_total": engine.load_failures,
        "threads": engine.threads,
    }
    # A child process is untrusted: it may report anything, even a number with more digits than Python converts.
    for key in ("context_cells", "memory_estimated_bytes", "memory_limit_bytes"):
        text = engine.details.get(key, "")
        if text.isdecimal() and len(text) <= _DIGITS_MAX:
            numbers[key] = int(text)
    if cache := engine.cache:
        numbers |= {
            "context_cells_in_use": cache.cells_in_use,
            "prefix_lookups_total": cache.lookups,
            "prefix_hits_total": cache.hits,
            "prefix_kept_bytes": cache.kept_bytes,
            "prefix_tokens_reused_total": cache.reused,
            "tokens_computed_total": cache.computed,
        }
    for key, number in numbers.items():
        yield MetricSample(f"engine_{key}", number, name)


def _example_samples(examples: CaptureStatus, config: Config) -> Iterator[MetricSample]:
    # No figures for an unreadable spool, rather than 0.
    initial = {} if examples.is_off else dict.fromkeys(LOSS_EVENTS, 0)
    for event, number in sorted((initial | examples.counters).items()):
        yield MetricSample("examples_total", number, (event,))
    for class_, number in sorted(examples.retained.items()):
        yield MetricSample("spool_examples", number, (class_,))
    yield MetricSample("spool_bytes", examples.spool_bytes)
    yield MetricSample("spool_bytes_max", config.examples.spool_bytes_max)
    yield MetricSample("spool_oldest_unsealed_seconds", examples.unsealed_seconds)
    yield MetricSample("outbox_segments", examples.outbox_segments)
    yield MetricSample("outbox_bytes", examples.outbox_bytes)
    yield MetricSample("outbox_bytes_max", config.examples.outbox_bytes_max)
    yield MetricSample("outbox_oldest_segment_seconds", examples.outbox_seconds)


def _redaction_samples(queue: RedactionQueue | None) -> Iterator[MetricSample]:
    if queue is None:
        return
    yield MetricSample("redaction_ready", bool(queue.model))
    yield MetricSample("redaction_waiting", queue.waiting)
    yield MetricSample("redaction_oldest_waiting_seconds", queue.waiting_seconds)
    for event, number in sorted(queue.counts.items()):
        yield MetricSample("redaction_total", number, (event,))


def _uplink_samples(config: Config) -> Iterator[MetricSample]:
    path = config.uplink_notes / FILE_NAME
    report = read_uplink_report(path, time.clock_gettime(time.CLOCK_BOOTTIME))
    state = report.state
    if state is None and not (config.uplink.url or config.uplink.updates_url or path.exists()):
        return
    state_name = "silent" if report.silence or state is None else state.state
    yield MetricSample("uplink_state", 1, (state_name,))
    yield MetricSample("uplink_online", state_name == "online")
    if state is None:
        return
    yield MetricSample("uplink_age_seconds", report.age_seconds)
    if state.last_contact:
        yield MetricSample("uplink_last_contact_timestamp_seconds", parse_timestamp(state.last_contact))
    yield MetricSample("uplink_waiting_segments", state.waiting_segments)
    yield MetricSample("uplink_waiting_bytes", state.waiting_bytes)
    yield MetricSample("uplink_problems", len(state.problems))
    if state.downloads:
        yield MetricSample("updates_waiting_bytes", state.downloads.waiting_bytes)


def _update_samples(overview: UpdateOverview, *, configured: bool) -> Iterator[MetricSample]:
    for task, row in sorted(overview.rows.items()):
        yield MetricSample("update_state", 1, (task, row.state))
        yield MetricSample("update_attempts", row.attempts, (task,))
    if configured:
        yield MetricSample("plan_version", overview.plan_version)
        yield MetricSample("updates_believed", overview.problem is None)
    if overview.expires:
        yield MetricSample("trust_expiry_timestamp_seconds", overview.expires)


def _large_model_samples(status: EscalationStatus) -> Iterator[MetricSample]:
    yield MetricSample("large_model_online", status.online)
    yield MetricSample("large_model_affordable", status.affordable)
    if status.usual_ms:
        yield MetricSample("large_model_usual_seconds", status.usual_ms / 1000)
    yield MetricSample("large_model_spent", status.day_micros / 1e6, ("day",))
    yield MetricSample("large_model_spent", status.month_micros / 1e6, ("month",))
    for why, number in sorted(status.waiting.items()):
        yield MetricSample("large_model_questions", number, (why,))
    if status.waiting:
        for why in messages.GIVEN_UP:  # from 0 on, like LOSS_EVENTS
            yield MetricSample("large_model_questions_given_up_total", status.given_up.get(why, 0), (why,))
        yield MetricSample("large_model_oldest_question_seconds", status.waiting_seconds)
        yield MetricSample("large_model_opinions_total", status.opinions)


JUDGES = ("people", "large-model")


def monitoring_samples(
    headlines: Iterable[BundleSummary], serving: Mapping[str, str], alarms: Mapping[str, list[tuple[AlarmState, bool]]]
) -> Iterator[MetricSample]:
    """Return the figures of the active bundles.

    Args:
        headlines: the main figures of all counted bundles.
        serving: the digest of the active bundle, by task.
        alarms: its active alarms, by task, and whether each put the task into shadow.
    """
    for summary in headlines:
        task = task_of_key(summary.task)
        if serving.get(task) == summary.digest:
            yield from _bundle_samples(summary, [each for each in alarms.get(task, []) if each[0].task == summary.task])


def _bundle_samples(summary: BundleSummary, alarms: list[tuple[AlarmState, bool]]) -> Iterator[MetricSample]:
    task, active = summary.task, {alarm.alarm for alarm, _ in alarms}
    for name in get_args(Alarm):
        yield MetricSample("field_alarm", name in active, (task, name))
    yield MetricSample("field_demoted", any(demoted for _, demoted in alarms), (task,))
    yield MetricSample("field_pairs_total", summary.pairs, (task,))
    yield MetricSample("field_agreed_total", summary.agreed, (task,))
    if summary.guarantee:
        for judge in JUDGES:
            evidence = summary.evidence[judge]
            yield MetricSample("field_judged_total", evidence.judged, (task, judge))
            yield MetricSample("field_wrong_total", evidence.wrong, (task, judge))
            yield MetricSample("field_evidence_ratio", evidence.peak / summary.guarantee.limit, (task, judge))


def disk_samples(folder: Path) -> Iterator[MetricSample]:
    """Yield the free space on the disk of a folder; nothing if the disk is gone, so that other figures remain."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    yield MetricSample("disk_free_bytes", free)


# Fields of /proc/PID/stat after the name, which may contain any characters.
_USER, _SYSTEM, _THREADS, _START_TIME, _PAGES = 11, 12, 17, 19, 21


def process_samples(name: str, pid: int, root: Path = Path("/")) -> Iterator[MetricSample]:
    """Yield the figures of one process; none if it has ended. `root`: the folder that contains `proc`."""
    folder = root / "proc" / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = (int(fields[_USER]) + int(fields[_SYSTEM])) / ticks
    yield MetricSample("process_cpu_seconds_total", cpu, (name,))
    yield MetricSample("process_threads", int(fields[_THREADS]), (name,))
    yield MetricSample("process_resident_memory_bytes", int(fields[_PAGES]) * os.sysconf("SC_PAGE_SIZE"), (name,))
    boot_time = re.search(r"^btime (\d+)$", (root / "proc/stat").read_text(), re.MULTILINE)
    started_at = (int(boot_time[1]) if boot_time else 0) + int(fields[_START_TIME]) / ticks
    yield MetricSample("process_start_time_seconds", started_at, (name,))
    try:
        yield MetricSample("process_open_fds", len(os.listdir(folder / "fd")), (name,))  # noqa: PTH208 - counted, not walked
    except OSError:
        return  # hidden for a confined child
