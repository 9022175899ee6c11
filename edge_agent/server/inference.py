"""InferenceService: checks a request, gives each input to its engine, writes the answers.

A request with one input fails as a call; in a request with several, each input has its own answer or error. What stops
the whole request (unknown task, full queue, model not ready) always fails the call, before anything is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.capture.record_builder import CapturedAnswer
from edge_agent.config import ServiceConfig
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import Chunk, Run
from edge_agent.engine.waiting import Reservation
from edge_agent.errors import (
    DeadlineExpired,
    EdgeAgentError,
    EmptyInput,
    InvalidRequest,
    StreamBroken,
    TooManyInputs,
    WrongTaskKind,
)
from edge_agent.metrics.answer_counts import UNKNOWN_TASK, AnswerCounts
from edge_agent.routing import policy
from edge_agent.routing.policy import LowConfidencePolicy
from edge_agent.server import callers, finished_answers, messages
from edge_agent.server.admission_control import AdmissionControl
from edge_agent.server.detached_calls import RequestDeduplicator
from edge_agent.server.error_status import to_input_error
from edge_agent.server.finished_answers import FinishedAnswer
from edge_agent.server.interceptor import CallContext
from edge_agent.server.model_router import ModelRouter, RoutedInput
from edge_agent.store.state import InstalledBundle
from edge_agent.update.activation import Activation
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import inference_pb2_grpc, task_pb2

STOPS_MAX = 4
STOP_CHARS_MAX = 64
LOGPROBS_MAX = 5
TEMPERATURE_MAX = 2.0

Result = TypeVar("Result")
Response = TypeVar("Response", pb.ClassifyResponse, pb.ExtractResponse, pb.EmbedResponse)
BatchRequest = pb.ClassifyRequest | pb.ExtractRequest | pb.EmbedRequest
Write = Callable[[pb.GenerateResponse], Awaitable[None]]


@dataclass(frozen=True)
class _BatchMethod(Generic[Response]):
    """How one kind of batch is answered."""

    kind: str
    response: type[Response]
    write: Callable[[Any, FinishedAnswer], float | None]
    """Writes an answer into a result of the response; returns its confidence, if it has one."""
    captured: Callable[[FinishedAnswer, Any], CapturedAnswer] | None = None
    """Says what is kept of an answer, where its task is collected."""
    low_confidence: LowConfidencePolicy | None = None
    """What the caller wants of an unsure answer; None = the answers of this kind have no confidence."""


@dataclass(frozen=True)
class InferenceDependencies:
    """What the servicers of all roles share."""

    activation: Activation
    engines: EnginePool
    admission: AdmissionControl
    collection: ExampleCapture
    counts: AnswerCounts
    escalation: ModelRouter


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """See the module."""

    def __init__(
        self, rooms: InferenceDependencies, config: ServiceConfig, priority: int, remembered: RequestDeduplicator
    ) -> None:
        """Serve callers of one role, whose priority is 0 for the first; `remembered` is of all roles."""
        self._activation = rooms.activation
        self._engines = rooms.engines
        self._admission = rooms.admission
        self._collection = rooms.collection
        self._counts = rooms.counts
        self._escalation = rooms.escalation
        self._priority = priority
        self._config = config
        self._remembered = remembered

    async def Classify(self, request: pb.ClassifyRequest, context: CallContext) -> pb.ClassifyResponse:
        """Choose one label for each input."""
        return await self.classify(request, context)

    async def classify(self, request: pb.ClassifyRequest, context: CallContext) -> pb.ClassifyResponse:
        """Likewise, with errors of our own tree."""
        low_confidence = _low_confidence_policy(request.on_low_confidence)

        def write(result: pb.ClassifyResult, finished: FinishedAnswer) -> float | None:
            return finished_answers.fill_classification(result.classification, finished, request.top_k)

        return await self._deduplicated(
            request,
            context,
            _BatchMethod(
                "classify", pb.ClassifyResponse, write, finished_answers.captured_classification, low_confidence
            ),
        )

    async def Extract(self, request: pb.ExtractRequest, context: CallContext) -> pb.ExtractResponse:
        """Find typed values in each input."""
        return await self.extract(request, context)

    async def extract(self, request: pb.ExtractRequest, context: CallContext) -> pb.ExtractResponse:
        """Likewise, with errors of our own tree."""
        low_confidence = _low_confidence_policy(request.on_low_confidence)

        def write(result: pb.ExtractResult, finished: FinishedAnswer) -> float | None:
            return finished_answers.fill_extraction(result.extraction, finished)

        return await self._deduplicated(
            request,
            context,
            _BatchMethod("extract", pb.ExtractResponse, write, finished_answers.captured_extraction, low_confidence),
        )

    async def Embed(self, request: pb.EmbedRequest, context: CallContext) -> pb.EmbedResponse:
        """Turn each input into a vector."""
        return await self.embed(request, context)

    async def embed(self, request: pb.EmbedRequest, context: CallContext) -> pb.EmbedResponse:
        """Likewise, with errors of our own tree."""

        def write(result: pb.EmbedResult, finished: FinishedAnswer) -> None:
            finished_answers.fill_embedding(result.embedding, finished)

        return await self._deduplicated(request, context, _BatchMethod("embed", pb.EmbedResponse, write))

    async def Generate(self, request: pb.GenerateRequest, context: CallContext) -> None:
        """Write text for one input, piece by piece."""
        await self.generate(request, context, context.write)

    async def generate(self, request: pb.GenerateRequest, context: CallContext, write: Write) -> None:
        """Likewise, to whatever takes the pieces."""
        with self._counting(request.task):
            await self._write_text(request, context, write)

    async def _write_text(self, request: pb.GenerateRequest, context: CallContext, write: Write) -> None:
        began = time.perf_counter()
        bundle = self._bundle(request.task, "generate")
        run, deadline = _generation(request, bundle), self._deadline(context)
        client = callers.current_caller.get().account
        item = RoutedInput(request.text, bundle, deadline)
        written = contextlib.aclosing(self._written(item, run, request.escalate, client))
        pieces: list[str] = []
        with self._admission.call(client):
            async with _expires(deadline), written as events:
                async for event in events:
                    message = pb.GenerateResponse()
                    if isinstance(event, str):
                        message.text = event
                        pieces.append(event)
                    else:
                        finished = event._replace(seconds=time.perf_counter() - began)
                        finished_answers.fill_finish(message.finish, finished)
                        finished_answers.record_answer(self._counts, finished)
                        if self._collection.consent(request.task) != "off":
                            self._collection.queue_answer(finished_answers.captured_generation(event, "".join(pieces)))
                    await write(message)

    async def _written(
        self, item: RoutedInput, run: Run, escalate: bool, client: str
    ) -> AsyncGenerator[str | FinishedAnswer, None]:
        """Yield a text piece by piece, and its end; the large model's, if it is to write and can."""
        asked = self._escalation.asked(item.bundle.manifest, "escalate" if escalate else "as_mode", item.deadline)
        decision, begun = policy.decide_ungraded(asked), False
        if decision.route == "upstream":
            try:
                async with contextlib.aclosing(self._escalation.writing(item)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield (
                            piece
                            if isinstance(piece, str)
                            else finished_answers.without_local_answer(*item[:2], decision, piece)
                        )
            except EdgeAgentError as error:
                if begun:
                    raise StreamBroken(f"the large model's answer broke off: {error.message}") from None
                decision = policy.decide_ungraded(policy.with_blocker(asked))
            else:
                return
        if decision.route == "abstained":
            yield finished_answers.without_local_answer(*item[:2], decision, None)
            return
        async with contextlib.aclosing(self._engines.events(run, item.deadline, self._priority, client)) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    yield event.text
                else:
                    yield FinishedAnswer(item.text, event, item.bundle, run.job_id, decision=decision)

    async def ListTasks(self, request: pb.ListTasksRequest, context: CallContext) -> pb.ListTasksResponse:
        """List the installed tasks, by name."""
        names = sorted(self._activation.serving)
        shown, token = messages.page_slice(request.page_size, request.page_token, len(names))
        return pb.ListTasksResponse(tasks=[self._describe(name) for name in names[shown]], next_page_token=token)

    async def GetTask(self, request: pb.GetTaskRequest, context: CallContext) -> pb.GetTaskResponse:
        """Show one installed task."""
        described = self._describe(request.task)
        return pb.GetTaskResponse(
            task=described, record_schema=messages.record_schema(self._activation.bundle_of(request.task))
        )

    def _describe(self, task: str) -> task_pb2.Task:
        bundle = self._activation.bundle_of(task)
        mode = self._escalation.mode(bundle.manifest)
        ready, variance = self._engines.ready(bundle.digest), self._engines.score_variance(bundle.digest)
        return messages.task_message(bundle, mode, ready=ready, score_variance=variance)

    def _bundle(self, task: str, kind: str) -> InstalledBundle:
        bundle = self._activation.bundle_of(task)
        problem = self._activation.problems.get(task)
        if problem is not None and not self._engines.ready(bundle.digest):
            raise problem
        is_kind = bundle.manifest.task.kind
        if is_kind != kind:
            raise WrongTaskKind(
                f"task {task!r} is of kind {is_kind}; this call needs {kind}",
                remedy=f"Use the call for {is_kind}, or a task of kind {kind}.",
                task=task,
                kind=is_kind,
            )
        return bundle

    def seconds_left(self, context: CallContext) -> float:
        """Return how much time a caller gives, or the site where the caller says nothing."""
        remaining = context.time_remaining()
        return self._config.deadline_seconds_default if remaining is None else remaining

    def _deadline(self, context: CallContext) -> float:
        seconds = self.seconds_left(context)
        if seconds <= 0:
            raise DeadlineExpired("the deadline had passed when the request arrived")
        return asyncio.get_running_loop().time() + seconds

    def _deduplicated(
        self, request: BatchRequest, context: CallContext, batch: _BatchMethod[Response]
    ) -> Awaitable[Response]:
        if not request.request_id:
            return self._answer(request, context, batch)
        content = request.SerializeToString(deterministic=True)
        call = (callers.current_caller.get().name, batch.kind, request.request_id)
        return self._remembered.run(call, content, functools.partial(self._answer, request, context, batch))

    def _counting(self, task: str) -> finished_answers.UnansweredCallCounter:
        return finished_answers.UnansweredCallCounter(
            self._counts, task if task in self._activation.serving else UNKNOWN_TASK
        )

    async def _answer(self, request: BatchRequest, context: CallContext, batch: _BatchMethod[Response]) -> Response:
        """Compute every input of a request together."""
        with self._counting(request.task):
            return await self._computed(request, context, batch)

    async def _computed(self, request: BatchRequest, context: CallContext, batch: _BatchMethod[Response]) -> Response:
        bundle = self._bundle(request.task, batch.kind)
        _check_count(len(request.texts), bundle.manifest.task.limits.inputs_max)
        deadline = self._deadline(context)
        client = callers.current_caller.get().account
        with self._admission.call(client):
            outcomes: list[FinishedAnswer | EdgeAgentError]
            if len(request.texts) == 1:
                outcomes = [await self._one(request.texts[0], bundle, deadline, batch.low_confidence)]
            else:
                with self._reserved(bundle, batch.low_confidence, len(request.texts), client) as places:
                    computing = (
                        self._one_or_error(text, bundle, deadline, batch.low_confidence, places)
                        for text in request.texts
                    )
                    outcomes = await _together(computing)
        response = batch.response()
        collected = batch.captured if self._collection.consent(request.task) != "off" else None
        for outcome in outcomes:
            result = response.results.add()
            if isinstance(outcome, EdgeAgentError):
                result.error.CopyFrom(to_input_error(outcome))
                finished_answers.record_error(self._counts, request.task, outcome)
                continue
            finished_answers.record_answer(self._counts, outcome, batch.write(result, outcome))
            if collected:
                self._collection.queue_answer(collected(outcome, result))
        return response

    def _reserved(
        self, bundle: InstalledBundle, low_confidence: LowConfidencePolicy | None, inputs: int, client: str
    ) -> contextlib.AbstractContextManager[Reservation | None]:
        """Keep places for all inputs of a request; none where the large model alone answers them."""
        if low_confidence is not None and self._escalation.mode(bundle.manifest) == "bootstrap":
            return contextlib.nullcontext()
        return self._engines.reserve(bundle.digest, inputs, client)

    async def _one_or_error(
        self,
        text: str,
        bundle: InstalledBundle,
        deadline: float,
        low_confidence: LowConfidencePolicy | None,
        places: Reservation | None,
    ) -> FinishedAnswer | EdgeAgentError:
        try:
            return await self._one(text, bundle, deadline, low_confidence, places)
        except EdgeAgentError as error:
            return error

    async def _one(
        self,
        text: str,
        bundle: InstalledBundle,
        deadline: float,
        low_confidence: LowConfidencePolicy | None,
        places: Reservation | None = None,
    ) -> FinishedAnswer:
        began = time.perf_counter()
        _check_text(text)
        if low_confidence is None:
            finished = finished_answers.with_gate_result(await self._local(text, bundle, deadline, places))
        else:
            asked = self._escalation.asked(bundle.manifest, low_confidence, deadline)
            local = functools.partial(self._local, text, bundle, deadline, places)
            finished = await self._escalation.answer(RoutedInput(text, bundle, deadline), asked, local)
        return finished._replace(seconds=time.perf_counter() - began)

    async def _local(
        self, text: str, bundle: InstalledBundle, deadline: float, places: Reservation | None
    ) -> FinishedAnswer:
        run = Run(job_id=finished_answers.new_prediction_id(), digest=bundle.digest, text=text)
        client = callers.current_caller.get().account
        answer = await self._engines.answer(run, deadline, self._priority, client, places)
        return FinishedAnswer(text, answer, bundle, run.job_id)


async def _together(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return all results; when one fails, or the caller leaves, the others have ended before this does."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


@contextlib.asynccontextmanager
async def _expires(deadline: float) -> AsyncIterator[None]:
    """End a stream at its deadline, also when it is the caller who does not read."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise DeadlineExpired("the deadline passed before the stream was written and read") from None


def _low_confidence_policy(on_low_confidence: int) -> LowConfidencePolicy:
    low_confidence = messages.WISHES.get(on_low_confidence)
    if low_confidence is None:
        raise InvalidRequest(f"on_low_confidence is {on_low_confidence}, which this version does not know")
    return low_confidence


def _check_count(inputs: int, limit: int) -> None:
    if inputs == 0:
        raise InvalidRequest("the request has no texts", remedy="Send at least one text.")
    if inputs > limit:
        raise TooManyInputs(f"the request has {inputs} texts; the limit is {limit}", inputs=inputs, limit=limit)


def _check_text(text: str) -> None:
    if not text.strip():
        raise EmptyInput("the input has no text")


def _generation(request: pb.GenerateRequest, bundle: InstalledBundle) -> Run:
    """Check a generation and fill in the bundle's values."""
    _check_text(request.text)
    task = bundle.manifest.task
    temperature = request.temperature if request.HasField("temperature") else task.prompt.temperature
    if not 0 <= temperature <= TEMPERATURE_MAX:
        raise InvalidRequest(f"temperature is {temperature}; it must be from 0 to {TEMPERATURE_MAX}")
    if len(request.stops) > STOPS_MAX or any(not 0 < len(stop) <= STOP_CHARS_MAX for stop in request.stops):
        raise InvalidRequest(f"stops may hold {STOPS_MAX} strings of 1 to {STOP_CHARS_MAX} characters")
    if request.logprobs > LOGPROBS_MAX:
        raise InvalidRequest(f"logprobs is {request.logprobs}; it must be from 0 to {LOGPROBS_MAX}")
    if request.output_tokens_max > task.limits.output_tokens_max:
        raise InvalidRequest(
            f"output_tokens_max is {request.output_tokens_max}; the task's limit is {task.limits.output_tokens_max}"
        )
    return Run(
        job_id=finished_answers.new_prediction_id(),
        digest=bundle.digest,
        text=request.text,
        output_tokens_max=request.output_tokens_max or task.limits.output_tokens_max,
        temperature=temperature,
        # Not for secrets: any seed will do, it only has to differ from call to call.
        seed=request.seed if request.HasField("seed") else random.getrandbits(32),
        stops=(*task.prompt.stops, *request.stops),
        logprobs=request.logprobs if request.HasField("logprobs") else None,
    )
