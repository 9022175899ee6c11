"""One site as numbers: what the rooms know now, read on the event loop; files, the kernel and the text beside it.

Part of the composition root, like daemon.py. The event loop only copies what it has in memory.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from edge_agent import __version__
from edge_agent.capture.collection import Collection, CollectionStatus
from edge_agent.config import Config
from edge_agent.engine.pool import EnginePool, EngineStatus
from edge_agent.engine.state import EngineState
from edge_agent.formats.signed_document import seconds
from edge_agent.formats.uplink_state import FILE_NAME
from edge_agent.metrics import field, processes
from edge_agent.metrics.catalogue import CATALOGUE
from edge_agent.metrics.counting import Counts, TaskCounts
from edge_agent.metrics.text import Sample, page
from edge_agent.monitoring.figures import Standing
from edge_agent.server import messages
from edge_agent.server.admission import Admission
from edge_agent.server.uplink import listen
from edge_agent.server.upstream import Link
from edge_agent.store.state_database import InstalledBundle
from edge_agent.update.activation import Activation
from edge_agent.update.updater import Overview
from edge_agent.v1.admin_pb2 import EscalationStatus

LOOK_SECONDS_MAX = 4.0
"""For the event loop to turn to a scrape."""
SAMPLES_AT_ONCE = 20
"""Written before another thread gets its turn."""


@dataclass(frozen=True)
class Watched:
    """What a site's figures come from."""

    config: Config
    activation: Activation
    engines: EnginePool
    collection: Collection
    admission: Admission
    counts: Counts
    link: Link
    alarms: Callable[[str], list[tuple[Standing, bool]]]
    denied: Callable[[], Mapping[str, int]]
    overview: Callable[[], Overview]
    serving: Callable[[], bool]
    up: Callable[[], Mapping[str, bool]]
    """Whether each component in the background runs."""
    deaths: Callable[[], Mapping[str, int]]
    """How often each has died."""


@dataclass(frozen=True)
class Seen:
    """The site at one moment."""

    delay: float
    engines: list[EngineStatus]
    tasks: dict[str, InstalledBundle]
    ready: frozenset[str]
    overview: Overview
    examples: CollectionStatus | None
    alarms: dict[str, list[tuple[Standing, bool]]]
    denied: dict[str, int]
    large_model: EscalationStatus | None
    calls: int
    serving: bool
    store_bytes: int
    up: dict[str, bool]
    deaths: dict[str, int]


class SiteMetrics:
    """See the module."""

    def __init__(self, watched: Watched) -> None:
        """Watch a site; make it on the event loop that owns the rooms."""
        self._watched = watched
        self._loop = asyncio.get_running_loop()
        self._seconds = 0.0

    async def page(self) -> bytes:
        """Return what Prometheus reads; called on another event loop. Raises TimeoutError."""
        began = time.perf_counter()
        looking = asyncio.run_coroutine_threadsafe(self._look(began), self._loop)
        async with asyncio.timeout(LOOK_SECONDS_MAX):
            seen = await asyncio.wrap_future(looking)
        written = _written([*self._samples(seen)])
        self._seconds = time.perf_counter() - began
        return written

    async def _look(self, began: float) -> Seen:
        delay, watched = time.perf_counter() - began, self._watched
        watched.engines.ask()
        examples = await watched.collection.status()
        tasks = dict(sorted(watched.activation.serving.items()))
        return Seen(
            delay=delay,
            engines=watched.engines.statuses(),
            tasks=tasks,
            ready=frozenset(name for name, bundle in tasks.items() if watched.engines.ready(bundle.digest)),
            overview=watched.overview(),
            examples=examples,
            alarms={name: watched.alarms(name) for name in tasks},
            denied=dict(watched.denied()),
            large_model=messages.large_model_message(watched.link.message(), examples),
            calls=watched.admission.calls,
            serving=watched.serving(),
            store_bytes=watched.activation.inventory.store_bytes,
            up=dict(watched.up()),
            deaths=dict(watched.deaths()),
        )

    def _samples(self, seen: Seen) -> Iterator[Sample]:
        config, counts = self._watched.config, self._watched.counts
        yield Sample("build_info", 1, (__version__, platform.python_version()))
        yield Sample("serving", seen.serving)
        yield Sample("calls_in_progress", seen.calls)
        yield Sample("calls_max", config.service.calls_max)
        yield Sample("loop_delay_seconds", seen.delay)
        yield Sample("scrape_seconds", self._seconds)
        yield Sample("store_bytes", seen.store_bytes)
        yield Sample("disk_free_bytes", shutil.disk_usage(config.state_dir).free)
        for component, up in seen.up.items():
            yield Sample("component_up", up, (component,))
        for component, number in seen.deaths.items():
            yield Sample("component_deaths_total", number, (component,))
        for task, counted in list(counts.tasks.items()):
            yield from _answers(task, counted)
        for lost, number in list(counts.errors.items()):
            yield Sample("errors_total", number, (lost.task, lost.reason))
        yield from _tasks(seen)
        for engine in seen.engines:
            yield from _engine(engine)
            yield from processes.samples(engine.name, engine.pid)
        yield from processes.samples("serve", os.getpid())
        if seen.examples:
            yield Sample("examples_problems", len(seen.examples.problems))
            yield Sample("examples_stalled_seconds", seen.examples.stalled_seconds)
        if seen.examples and not seen.examples.stalled_seconds:
            yield from _examples(seen.examples, config)
            serving = {name: bundle.digest for name, bundle in seen.tasks.items()}
            yield from field.samples(seen.examples.field, serving, seen.alarms)
        yield from _uplink(config)
        yield from _updates(seen.overview, configured=bool(config.update.root_file))
        for reason, number in seen.denied.items():
            yield Sample("denied_total", number, (reason,))
        if seen.large_model:
            yield from _large_model(seen.large_model)


def _written(samples: list[Sample]) -> bytes:
    """Write the page, and give the event loop its turn again and again."""
    parts = []
    for number, part in enumerate(page(samples, CATALOGUE)):
        parts.append(part)
        if number % SAMPLES_AT_ONCE == 0:
            time.sleep(0)
    return "".join(parts).encode()


def _answers(task: str, counted: TaskCounts) -> Iterator[Sample]:
    yield Sample("queue_seconds", counted.queue, (task,))
    yield Sample("compute_seconds", counted.compute, (task,))
    yield Sample("answer_seconds", counted.total, (task,))
    if counted.tokens[1]:
        yield Sample("first_token_seconds", counted.first, (task,))
        yield Sample("token_seconds", counted.token, (task,))
    if any(counted.confidence.counts):
        yield Sample("confidence_ratio", counted.confidence, (task,))
        yield Sample("answers_below_threshold_total", sum(counted.held_up.values()), (task,))
        for reason, number in list(counted.held_up.items()):
            yield Sample("answers_not_confident_total", number, (task, reason))
    yield Sample("input_tokens_total", counted.tokens[0], (task,))
    yield Sample("output_tokens_total", counted.tokens[1], (task,))
    for route, number in list(counted.answers.items()):
        yield Sample("answers_total", number, (task, route))
    for reason, number in list(counted.degraded.items()):
        yield Sample("degraded_total", number, (task, reason))


def _tasks(seen: Seen) -> Iterator[Sample]:
    engines = {digest: engine.name for engine in seen.engines for digest in engine.digests}
    for task, bundle in seen.tasks.items():
        manifest = bundle.manifest
        labels = (task, manifest.task.kind, manifest.version, engines.get(bundle.digest, ""))
        yield Sample("task_info", 1, labels)
        yield Sample("task_ready", task in seen.ready, (task,))
        yield Sample("task_signed", bundle.signed, (task,))
        yield Sample("task_gated", manifest.confidence.gate is not None, (task,))
        yield Sample("task_revoked", task in seen.overview.revoked, (task,))


def _engine(engine: EngineStatus) -> Iterator[Sample]:
    name = (engine.name,)
    yield Sample("engine_info", 1, (engine.name, engine.runtime, engine.device))
    yield Sample("engine_state", 1, (engine.name, engine.state.value))
    for reason in engine.shortfalls:
        yield Sample("engine_device_shortfall", 1, (engine.name, reason))
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
    # What a child says of itself may be anything.
    told = {"memory_estimated_bytes", "memory_limit_bytes", "context_cells"} & engine.details.keys()
    numbers |= {key: int(engine.details[key]) for key in sorted(told) if engine.details[key].isdecimal()}
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
        yield Sample(f"engine_{key}", number, name)


def _examples(examples: CollectionStatus, config: Config) -> Iterator[Sample]:
    for event, number in sorted(examples.counters.items()):
        yield Sample("examples_total", number, (event,))
    for class_, number in sorted(examples.retained.items()):
        yield Sample("spool_examples", number, (class_,))
    yield Sample("spool_bytes", examples.spool_bytes)
    yield Sample("spool_bytes_max", config.examples.spool_bytes_max)
    yield Sample("spool_oldest_unsealed_seconds", examples.unsealed_seconds)
    yield Sample("outbox_segments", examples.outbox_segments)
    yield Sample("outbox_bytes", examples.outbox_bytes)
    yield Sample("outbox_bytes_max", config.examples.outbox_bytes_max)
    yield Sample("outbox_oldest_segment_seconds", examples.outbox_seconds)


def _uplink(config: Config) -> Iterator[Sample]:
    path = config.uplink_notes / FILE_NAME
    heard = listen(path, time.clock_gettime(time.CLOCK_BOOTTIME))
    state = heard.state
    if state is None and not (config.uplink.url or config.uplink.updates_url or path.exists()):
        return
    name = "silent" if heard.silence or state is None else state.state
    yield Sample("uplink_state", 1, (name,))
    yield Sample("uplink_online", name == "online")
    if state is None:
        return
    yield Sample("uplink_age_seconds", heard.age_seconds)
    if state.last_contact:
        yield Sample("uplink_last_contact_timestamp_seconds", seconds(state.last_contact))
    yield Sample("uplink_waiting_segments", state.waiting_segments)
    yield Sample("uplink_waiting_bytes", state.waiting_bytes)
    yield Sample("uplink_problems", len(state.problems))
    if state.downloads:
        yield Sample("updates_waiting_bytes", state.downloads.waiting_bytes)


def _updates(overview: Overview, *, configured: bool) -> Iterator[Sample]:
    for task, row in sorted(overview.rows.items()):
        yield Sample("update_state", 1, (task, row.state))
        yield Sample("update_attempts", row.attempts, (task,))
    if configured:
        yield Sample("plan_version", overview.plan_version)
        yield Sample("updates_believed", overview.problem is None)
    if overview.expires:
        yield Sample("trust_expiry_timestamp_seconds", overview.expires)


def _large_model(said: EscalationStatus) -> Iterator[Sample]:
    yield Sample("large_model_online", said.online)
    yield Sample("large_model_affordable", said.affordable)
    if said.usual_ms:
        yield Sample("large_model_usual_seconds", said.usual_ms / 1000)
    yield Sample("large_model_spent", said.day_micros / 1e6, ("day",))
    yield Sample("large_model_spent", said.month_micros / 1e6, ("month",))
    for why, number in sorted(said.waiting.items()):
        yield Sample("large_model_questions", number, (why,))
    for why, number in sorted(said.given_up.items()):
        yield Sample("large_model_questions_given_up_total", number, (why,))
    if said.waiting:
        yield Sample("large_model_oldest_question_seconds", said.waiting_seconds)
        yield Sample("large_model_opinions_total", said.opinions)
