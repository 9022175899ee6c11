"""Inference calls that are cancelled at each turn of the event loop leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from edge_agent.capture.redact.redactor import Redactor
from edge_agent.config import ServiceConfig
from edge_agent.engine.job_dispatch import EngineAnswer
from edge_agent.engine.job_queue import JobQueue, Reservation
from edge_agent.engine.protocol import JobResult, TextChunk
from edge_agent.metrics.metric_catalogue import AnswerCounts
from edge_agent.routing.policy import LargeModelAvailability
from edge_agent.server.admission_control import AdmissionControl
from edge_agent.server.inference import InferenceDependencies, InferenceServicer
from edge_agent.server.model_router import ModelRouter
from edge_agent.server.request_deduplication import DeduplicationLimits, RequestDeduplicator
from edge_agent.server.uplink_client import LargeModelFinish
from edge_agent.v1 import inference_pb2 as pb
from tests.support.eventually import turns
from tests.unit.server.test_finished_answers import finished

STEPS = 3
"""Of the event loop, for each thing that an engine or a large model waits for."""
QUEUE_MAX = 16
END = LargeModelFinish("big-1", 10, 5, 0, complete=True)
GOOD = LargeModelAvailability(configured=True, allowed=True, online=True, affordable=True, free=True)


async def steps() -> None:
    """Wait for some turns of the event loop, and one more to clean up when cancelled."""
    try:
        await turns(STEPS)
    except asyncio.CancelledError:
        await turns()
        raise


class WorkCounter:
    """Counts the work in progress."""

    def __init__(self) -> None:
        self.now = self.ever = 0

    def __enter__(self) -> None:
        self.now += 1
        self.ever += 1

    def __exit__(self, *_: object) -> None:
        self.now -= 1


class Engines:
    """Engines that answer in steps and raise KeyError for the input "bug"."""

    def __init__(self) -> None:
        self.open, self.queue = WorkCounter(), JobQueue(QUEUE_MAX)

    def ready(self, digest: str) -> bool:
        return True

    def reserve(self, digest: str, jobs: int, client: str) -> Reservation:
        return self.queue.reserve(jobs, client)

    async def answer(
        self, run: Any, deadline: float, priority: int, client: str, reservation: Reservation | None = None
    ) -> EngineAnswer:
        if reservation:
            assert reservation.take_place(self.queue)
        with self.open:
            if run.text == "bug":
                raise KeyError("a bug")
            await steps()
            return EngineAnswer(JobResult(job_id=run.job_id, scores=(0.2, 0.6, 0.2)), queue_ms=1.0)

    async def events(
        self, run: Any, deadline: float, priority: int, client: str
    ) -> AsyncGenerator[TextChunk | EngineAnswer, None]:
        with self.open:
            for text in ("a", "b"):
                await steps()
                yield TextChunk(job_id=run.job_id, text=text)
            yield EngineAnswer(JobResult(job_id=run.job_id, finish="stop"), queue_ms=1.0)


class SteppedLargeModel:
    """A large model that answers in steps."""

    def __init__(self) -> None:
        self.open = WorkCounter()

    def availability(self, task: str) -> LargeModelAvailability:
        return GOOD

    async def ask(self, question: Any, seconds: float) -> AsyncGenerator[str | LargeModelFinish, None]:
        with self.open:
            for piece in ('{"label": ', '"stock"}'):
                await steps()
                yield piece
            await steps()
            yield END


class ServingActivation:
    """An activation that serves one bundle of a kind."""

    problems: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def __init__(self, kind: str) -> None:
        self.serving = {"till": finished(kind).bundle}

    def bundle_of(self, task: str) -> Any:
        return self.serving[task]


class NoCapture:
    """A site that captures nothing."""

    collected: frozenset[str] = frozenset()

    @property
    def text_redaction(self) -> NoCapture:
        return self

    @property
    def questions(self) -> NoCapture:
        return self

    async def start(self, task: str, text: str, seconds: float) -> Any:
        return Redactor().start()

    def can_defer(self, task: str) -> bool:
        return False


class Modes:
    """Every task is in one mode."""

    def __init__(self, mode: Any) -> None:
        self.mode = mode

    def mode_of(self, task: str) -> Any:
        return self.mode


class Context:
    """A caller who reads slowly and has no deadline."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def time_remaining(self) -> float | None:
        return 60.0

    async def write(self, message: pb.GenerateResponse) -> None:
        await steps()
        self.written.append(message.text)


class Site:
    """A servicer over these fakes, and the work of its calls that is still in progress."""

    def __init__(self, kind: str, mode: Any) -> None:
        self.engines, self.large, self.admission = Engines(), SteppedLargeModel(), AdmissionControl(256)
        self.remembered = RequestDeduplicator(DeduplicationLimits(16, 300.0, 2**20))
        router = ModelRouter(self.large, Modes(mode), NoCapture())  # type: ignore[arg-type]
        rooms: Any = InferenceDependencies(
            ServingActivation(kind),
            self.engines,
            self.admission,
            NoCapture(),
            AnswerCounts(),
            router,  # type: ignore[arg-type]
        )
        self.servicer = InferenceServicer(rooms, ServiceConfig(), 0, self.remembered)

    @property
    def under_way(self) -> tuple[int, int, int, int]:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if not self.admission.calls:
            with self.engines.queue.reserve(QUEUE_MAX):
                pass  # no place is kept for anybody
        return self.admission.calls, self.engines.open.now, self.large.open.now, len(tasks)


Call = Callable[[Site], Awaitable[Any]]


def classify(texts: int, request_id: str = "") -> Call:
    request = pb.ClassifyRequest(task="till", texts=["hi"] * texts, request_id=request_id)
    return lambda site: site.servicer.Classify(request, Context())  # type: ignore[arg-type]


def generate(*, escalate: bool) -> Call:
    async def call(site: Site) -> None:
        context: Any = Context()
        await site.servicer.generate(
            pb.GenerateRequest(task="till", text="hi", escalate=escalate), context, context.write
        )

    return call


async def cancelled_after(call: Awaitable[Any], count: int) -> bool:
    """Cancel a call after `count` turns of the event loop; return whether it had ended before."""
    task = asyncio.ensure_future(call)
    await turns(count)
    if task.done():
        await task
        return True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return False


@pytest.mark.parametrize("mode", ["local", "hybrid", "shadow", "bootstrap"])
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("classify", classify(1)),
        ("classify", classify(5)),
        ("generate", generate(escalate=False)),
        ("generate", generate(escalate=True)),
    ],
    ids=["one", "batch", "generate", "escalated"],
)
async def test_cancelled_call_leaves_nothing_behind(kind: str, call: Call, mode: str) -> None:
    """In whichever turn a call is cancelled, no place is taken, no engine or model computes for it, and no task is
    left."""
    count = 0
    while not await cancelled_after(call(site := Site(kind, mode)), count):
        assert (0, 0, 0, 0) == site.under_way, f"cancelled after {count} turns"
        count += 1
    assert count > STEPS
    assert (0, 0, 0, 0) == site.under_way
    assert site.engines.open.ever + site.large.open.ever > 0


async def test_call_with_a_request_id_continues_after_its_caller_left() -> None:
    """Whenever its caller leaves, a retry gets the one answer that was computed, and nothing is left; stopping the
    daemon cancels all."""
    call, count = classify(2, "r-1"), 0
    while not await cancelled_after(call(site := Site("classify", "local")), count):
        again = await call(site)
        assert 2 == len(again.results)
        assert 2 == site.engines.open.ever, f"cancelled after {count} turns"
        assert (0, 0, 0, 0) == site.under_way
        count += 1
    assert count > STEPS
    site = Site("classify", "local")
    assert not await cancelled_after(call(site), 3)
    assert (1, 2) == site.under_way[:2]
    await site.remembered.stop()
    assert (0, 0, 0, 0) == site.under_way


async def test_exception_on_one_input_ends_the_others() -> None:
    """The call fails with the exception after the other inputs have ended."""
    site = Site("classify", "local")
    request = pb.ClassifyRequest(task="till", texts=["hi", "bug", "hi"])
    with pytest.raises(KeyError):
        await site.servicer.Classify(request, Context())  # type: ignore[arg-type]
    assert (0, 0, 0, 0) == site.under_way
