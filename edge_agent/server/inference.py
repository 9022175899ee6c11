"""InferenceService: checks a request, gives each input to its engine, writes the response.

A request with one input fails as a call. In a request with several, each input has its own answer or error. What stops
the whole request (unknown task, full queue, model not ready) fails the call before anything is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from edge_agent.engine.protocol import JobRequest, TextChunk
from edge_agent.errors import (
    DeadlineExpired,
    EdgeAgentError,
    EmptyInput,
    InvalidRequest,
    StreamBroken,
    TooManyInputs,
    WrongTaskKind,
)
from edge_agent.metrics.metric_catalogue import UNKNOWN_TASK, AnswerCounts
from edge_agent.routing import policy
from edge_agent.server import decide_questions, finished_answers, messages
from edge_agent.server.decide_questions import RequestedQuestions
from edge_agent.server.error_status import to_input_error
from edge_agent.server.finished_answers import FinishedAnswer
from edge_agent.server.model_router import ModelRouter, RoutedInput
from edge_agent.server.roles import current_caller
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import inference_pb2_grpc, task_pb2

if TYPE_CHECKING:
    from edge_agent.capture.capture_values import CapturedAnswer
    from edge_agent.capture.example_capture import ExampleCapture
    from edge_agent.config import ServiceConfig
    from edge_agent.engine.job_queue import Reservation
    from edge_agent.engine.pool import EnginePool
    from edge_agent.formats.manifest import TaskSpec
    from edge_agent.routing.policy import LowConfidencePolicy
    from edge_agent.server.client_call_limits import AdmissionControl
    from edge_agent.server.interceptor import CallContext
    from edge_agent.server.request_deduplication import RequestDeduplicator
    from edge_agent.store.state_database import InstalledBundle
    from edge_agent.update.activation import Activation

STOPS_MAX = 4
STOP_CHARS_MAX = 64
LOGPROBS_MAX = 5
TEMPERATURE_MAX = 2.0

Response = TypeVar("Response", pb.ClassifyResponse, pb.DecideResponse, pb.ExtractResponse, pb.EmbedResponse)
BatchRequest = pb.ClassifyRequest | pb.DecideRequest | pb.ExtractRequest | pb.EmbedRequest
WriteChunk = Callable[[pb.GenerateResponse], Awaitable[None]]


@dataclass(frozen=True)
class _BatchMethod(Generic[Response]):
    """How a method with several inputs writes its response."""

    kind: str
    response: type[Response]
    message: Callable[[Any], Any]
    """Returns the message of a result that the next answer is written into."""
    fill: Callable[[Any, FinishedAnswer], float | None]
    """Writes an answer into that message; returns its confidence, if it has one."""
    build_example: Callable[[FinishedAnswer, Any], CapturedAnswer] | None = None
    """Builds the example of an answer from it and its message, if its task is collected."""
    low_confidence: LowConfidencePolicy | None = None
    """How the caller wants an unconfident answer; None = answers of this kind have no confidence."""


@dataclass(frozen=True)
class InferenceDependencies:
    """What the servicers of all roles share."""

    activation: Activation
    engines: EnginePool
    admission: AdmissionControl
    capture: ExampleCapture
    counts: AnswerCounts
    router: ModelRouter


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """See the module."""

    def __init__(
        self,
        dependencies: InferenceDependencies,
        config: ServiceConfig,
        priority: int,
        deduplicator: RequestDeduplicator,
    ) -> None:
        """Serve callers of one role, whose priority is 0 for the first; all roles share `deduplicator`."""
        self._activation, self._engines = dependencies.activation, dependencies.engines
        self._admission, self._capture = dependencies.admission, dependencies.capture
        self._counts, self._router = dependencies.counts, dependencies.router
        self._config, self._priority, self._deduplicator = config, priority, deduplicator

    async def Classify(self, request: pb.ClassifyRequest, context: CallContext) -> pb.ClassifyResponse:
        """Choose one label for each input."""

        def fill(message: pb.Classification, finished: FinishedAnswer) -> float | None:
            return finished_answers.fill_classification(message, finished, request.top_k)

        method = _BatchMethod(
            *("classify", pb.ClassifyResponse, attrgetter("classification"), fill),
            build_example=finished_answers.captured_label,
            low_confidence=_low_confidence_policy(request.on_low_confidence),
        )
        return await self._answer_once(request, context, method)

    async def Decide(self, request: pb.DecideRequest, context: CallContext) -> pb.DecideResponse:
        """Answer the questions about each input."""
        method = _BatchMethod(
            *("decide", pb.DecideResponse, lambda result: result.decision.answers.add()),
            finished_answers.fill_decision,
            build_example=finished_answers.captured_label,
            low_confidence=_low_confidence_policy(request.on_low_confidence),
        )
        return await self._answer_once(request, context, method)

    async def Extract(self, request: pb.ExtractRequest, context: CallContext) -> pb.ExtractResponse:
        """Find typed values in each input."""
        method = _BatchMethod(
            *("extract", pb.ExtractResponse, attrgetter("extraction"), finished_answers.fill_extraction),
            build_example=finished_answers.captured_extraction,
            low_confidence=_low_confidence_policy(request.on_low_confidence),
        )
        return await self._answer_once(request, context, method)

    async def Embed(self, request: pb.EmbedRequest, context: CallContext) -> pb.EmbedResponse:
        """Turn each input into a vector."""
        method = _BatchMethod("embed", pb.EmbedResponse, attrgetter("embedding"), finished_answers.fill_embedding)
        return await self._answer_once(request, context, method)

    async def Generate(self, request: pb.GenerateRequest, context: CallContext) -> None:
        """Write text for one input, chunk by chunk."""
        await self.generate(request, context, context.write)

    async def generate(self, request: pb.GenerateRequest, context: CallContext, write: WriteChunk) -> None:
        """Likewise, and hand each chunk to `write`."""
        with self._counting(request.task):
            started_at = time.perf_counter()
            bundle = self._require_bundle(request.task, "generate")
            job, deadline = _generation_job(request, bundle), self._deadline(context)
            client = current_caller.get().account
            item = RoutedInput(request.text, bundle, deadline)
            chunks: list[str] = []
            with self._admission.call(client):
                text = contextlib.aclosing(self._stream_text(item, job, request.escalate, client))
                async with _expires(deadline), text as events:
                    async for event in events:
                        message = pb.GenerateResponse()
                        if isinstance(event, str):
                            message.text = event
                            chunks.append(event)
                        else:
                            finished = event._replace(seconds=time.perf_counter() - started_at)
                            finished_answers.fill_finish(message.finish, finished)
                            finished_answers.record_answer(self._counts, finished)
                            if request.task in self._capture.collected:
                                self._capture.queue_answer(finished_answers.captured_generation(event, "".join(chunks)))
                        await write(message)

    async def _stream_text(
        self, item: RoutedInput, job: JobRequest, escalate: bool, client: str
    ) -> AsyncGenerator[str | FinishedAnswer, None]:
        """Yield a text chunk by chunk, then its end; from the large model if the policy decides so."""
        context = self._router.context(item.bundle.manifest, "escalate" if escalate else "as_mode", item.deadline)
        decision, has_begun = policy.decide_ungraded(context), False
        if decision.route == "upstream":
            try:
                async with contextlib.aclosing(self._router.stream_text(item)) as pieces:
                    async for piece in pieces:
                        has_begun = True
                        if isinstance(piece, str):
                            yield piece
                        else:
                            yield finished_answers.without_local_answer(item.text, item.bundle, decision, piece)
            except EdgeAgentError as error:
                if has_begun:
                    raise StreamBroken(f"the large model's answer broke off: {error.message}") from None
                decision = policy.decide_ungraded(policy.with_blocker(context))
            else:
                return
        if decision.route == "abstained":
            yield finished_answers.without_local_answer(item.text, item.bundle, decision, None)
            return
        async with contextlib.aclosing(self._engines.events(job, item.deadline, self._priority, client)) as events:
            async for event in events:
                if isinstance(event, TextChunk):
                    yield event.text
                else:
                    yield FinishedAnswer(item.text, event, item.bundle, job.job_id, decision=decision)

    async def ListTasks(self, request: pb.ListTasksRequest, context: CallContext) -> pb.ListTasksResponse:
        """List the installed tasks, by name."""
        names = sorted(self._activation.serving)
        page, token = messages.page_slice(request.page_size, request.page_token, len(names))
        return pb.ListTasksResponse(tasks=[self._task_message(name) for name in names[page]], next_page_token=token)

    async def GetTask(self, request: pb.GetTaskRequest, context: CallContext) -> pb.GetTaskResponse:
        """Show one installed task."""
        task = self._task_message(request.task)
        schema = messages.record_schema(self._activation.bundle_of(request.task))
        return pb.GetTaskResponse(task=task, record_schema=schema)

    def _task_message(self, task: str) -> task_pb2.Task:
        bundle = self._activation.bundle_of(task)
        mode = self._router.mode(bundle.manifest)
        ready, variance = self._engines.ready(bundle.digest), self._engines.score_variance(bundle.digest)
        return messages.task_message(bundle, mode, ready=ready, score_variance=variance)

    def _require_bundle(self, task: str, kind: str) -> InstalledBundle:
        """Return the bundle that answers a task of that kind. Raises UnknownTask, WrongTaskKind, or its problem."""
        bundle = self._activation.serving.get(task) or self._activation.bundle_of(task)  # the second raises the reason
        problem = self._activation.problems.get(task)
        if problem is not None and not self._engines.ready(bundle.digest):
            raise problem
        actual = bundle.manifest.task.kind
        if not _is_served_by(bundle.manifest.task, kind):
            raise WrongTaskKind(
                f"task {task!r} is of kind {actual}; this call needs {kind}",
                remedy=f"Use the call for {actual}, or a task of kind {kind}.",
                task=task,
                kind=actual,
            )
        return bundle

    def seconds_left(self, context: CallContext) -> float:
        """Return the seconds until the caller's deadline, or the site's default if the caller sets none."""
        remaining = context.time_remaining()
        return self._config.deadline_seconds_default if remaining is None else remaining

    def _deadline(self, context: CallContext) -> float:
        seconds = self.seconds_left(context)
        if seconds <= 0:
            raise DeadlineExpired("the deadline had passed when the request arrived")
        return asyncio.get_running_loop().time() + seconds

    def _counting(self, task: str) -> finished_answers.UnansweredCallCounter:
        known = task if task in self._activation.serving else UNKNOWN_TASK
        return finished_answers.UnansweredCallCounter(self._counts, known)

    def _answer_once(
        self, request: BatchRequest, context: CallContext, method: _BatchMethod[Response]
    ) -> Awaitable[Response]:
        """Answer a request; a repeated `request_id` gets the first response."""
        if not request.request_id:
            return self._answer(request, context, method)
        content = request.SerializeToString(deterministic=True)
        key = (current_caller.get().name, method.kind, request.request_id)
        return self._deduplicator.run(key, content, functools.partial(self._answer, request, context, method))

    async def _answer(self, request: BatchRequest, context: CallContext, method: _BatchMethod[Response]) -> Response:
        """Compute every input of a request together."""
        with self._counting(request.task):
            bundle = self._require_bundle(request.task, method.kind)
            _check_count(len(request.texts), bundle.manifest.task.limits.inputs_max)
            task_questions = bundle.manifest.task.questions_asked  # none for a record or a text
            questions = RequestedQuestions(task_questions, task_questions)
            if isinstance(request, pb.DecideRequest):
                questions = decide_questions.requested_questions(request, bundle.manifest)
            template = RoutedInput("", bundle, self._deadline(context), questions.requested)
            client = current_caller.get().account
            with self._admission.call(client):
                outcomes = await self._outcomes(request.texts, template, questions, method.low_confidence)
            response = method.response()
            build_example = method.build_example if request.task in self._capture.collected else None
            for outcome in outcomes:
                result = response.results.add()
                if isinstance(outcome, EdgeAgentError):
                    result.error.CopyFrom(to_input_error(outcome))
                    finished_answers.record_error(self._counts, request.task, outcome)
                    continue
                for index, finished in enumerate(outcome):
                    message = method.message(result)
                    confidence = method.fill(message, finished)
                    finished_answers.record_answer(self._counts, finished, confidence, first=index == 0)
                    if build_example:
                        self._capture.queue_answer(build_example(finished, message))
            return response

    async def _outcomes(
        self,
        texts: Sequence[str],
        template: RoutedInput,
        questions: RequestedQuestions,
        low_confidence: LowConfidencePolicy | None,
    ) -> list[list[FinishedAnswer] | EdgeAgentError]:
        """Compute all inputs, each with the answers to its questions. The error of a single input is raised.

        `template` is every input without its text.
        """
        if len(texts) == 1:
            return [await self._answer_input(template._replace(text=texts[0]), questions, low_confidence)]

        async def answer_or_error(text: str) -> list[FinishedAnswer] | EdgeAgentError:
            try:
                return await self._answer_input(template._replace(text=text), questions, low_confidence, reservation)
            except EdgeAgentError as error:
                return error

        with self._reserve(template.bundle, low_confidence, len(texts)) as reservation:
            try:
                async with asyncio.TaskGroup() as group:  # if one fails, or the caller leaves, all others end first
                    tasks = [group.create_task(answer_or_error(text)) for text in texts]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            return [task.result() for task in tasks]

    def _reserve(
        self, bundle: InstalledBundle, low_confidence: LowConfidencePolicy | None, inputs: int
    ) -> contextlib.AbstractContextManager[Reservation | None]:
        """Reserve queue places for all inputs of a request; none if the large model alone answers them."""
        if low_confidence is not None and self._router.mode(bundle.manifest) == "bootstrap":
            return contextlib.nullcontext()
        return self._engines.reserve(bundle.digest, inputs, current_caller.get().account)

    async def _answer_input(
        self,
        item: RoutedInput,
        questions: RequestedQuestions,
        low_confidence: LowConfidencePolicy | None,
        reservation: Reservation | None = None,
    ) -> list[FinishedAnswer]:
        started_at = time.perf_counter()
        text, bundle, deadline, _ = item
        _check_text(text)

        async def compute() -> list[FinishedAnswer]:
            job = JobRequest(
                job_id=finished_answers.new_prediction_id(), digest=bundle.digest, text=text, questions=questions.job
            )
            client = current_caller.get().account
            answer = await self._engines.answer(job, deadline, self._priority, client, reservation)
            finished = FinishedAnswer(text, answer, bundle, job.job_id)
            return finished_answers.split_by_question(finished, questions.computed, questions.requested)

        if low_confidence is None:
            answers = [finished_answers.with_gate_result(each) for each in await compute()]
        else:
            context = self._router.context(bundle.manifest, low_confidence, deadline)
            answers = await self._router.answer(item, context, compute)
        seconds = time.perf_counter() - started_at
        return [each._replace(seconds=seconds) for each in answers]


def _is_served_by(task: TaskSpec, kind: str) -> bool:
    """Tell whether the call for a kind answers a task: Classify and Decide both answer a single choice."""
    if task.kind == kind:
        return True
    if kind == "decide":
        return task.kind == "classify"
    return kind == "classify" and not task.open_questions and [each.type for each in task.questions] == ["choice"]


@contextlib.asynccontextmanager
async def _expires(deadline: float) -> AsyncIterator[None]:
    """End a stream at its deadline, also while it waits for a caller that does not read."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise DeadlineExpired("the deadline passed before the stream was written and read") from None


def _low_confidence_policy(on_low_confidence: int) -> LowConfidencePolicy:
    low_confidence = messages.LOW_CONFIDENCE_POLICIES.get(on_low_confidence)
    if low_confidence is None:
        raise InvalidRequest(f"on_low_confidence is {on_low_confidence}, which this version does not support")
    return low_confidence


def _check_count(inputs: int, limit: int) -> None:
    if inputs == 0:
        raise InvalidRequest("the request has no texts", remedy="Send at least one text.")
    if inputs > limit:
        raise TooManyInputs(f"the request has {inputs} texts; the limit is {limit}", inputs=inputs, limit=limit)


def _check_text(text: str) -> None:
    if not text.strip():
        raise EmptyInput("the input has no text")


def _generation_job(request: pb.GenerateRequest, bundle: InstalledBundle) -> JobRequest:
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
    return JobRequest(
        job_id=finished_answers.new_prediction_id(),
        digest=bundle.digest,
        text=request.text,
        output_tokens_max=request.output_tokens_max or task.limits.output_tokens_max,
        temperature=temperature,
        # Not for secrets: the seed only has to differ from call to call.
        seed=request.seed if request.HasField("seed") else random.getrandbits(32),
        stops=(*task.prompt.stops, *request.stops),
        logprobs=request.logprobs if request.HasField("logprobs") else None,
    )
