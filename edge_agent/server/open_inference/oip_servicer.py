"""GRPCInferenceService, the Open Inference Protocol: InferenceServicer answers each call.

A request is translated into one of InferenceService, with the same limits, routing, capture and counts, and its answer
into tensors. One thing differs: a request is answered whole or not at all, because a tensor cannot hold an error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_agent import __version__
from edge_agent.errors import (
    DeadlineExpired,
    Draining,
    EdgeAgentError,
    InvalidRequest,
    UnknownBundle,
    UnknownTask,
    WrongTaskKind,
    from_wire,
)
from edge_agent.metrics.metric_catalogue import UNKNOWN_TASK
from edge_agent.server import finished_answers, roles
from edge_agent.server.client_call_limits import AdmissionControl, CallSlot
from edge_agent.server.inference import InferenceDependencies, InferenceServicer
from edge_agent.server.open_inference import oip_requests, oip_tensors
from edge_agent.server.open_inference.oip_tensors import pb
from edge_agent.v1 import inference_pb2

if TYPE_CHECKING:
    from edge_agent.server.interceptor import CallContext
    from edge_agent.store.state_database import InstalledBundle

WITH_STATUSES = ("triton_grpc_error", "true")
"""Metadata of a stream that its first error ends with a status, as with Triton."""
FINAL = "triton_final_response"
REASON = "reason"


class _OwnMethod(NamedTuple):
    """The request and method of our own API for one kind of task, and the field of an answer in its result."""

    request: Callable[..., Any]
    answer: str
    method: Callable[[InferenceServicer, Any, Any], Any]


_KINDS = {
    "classify": _OwnMethod(inference_pb2.ClassifyRequest, "classification", InferenceServicer.Classify),
    "extract": _OwnMethod(inference_pb2.ExtractRequest, "extraction", InferenceServicer.Extract),
    "embed": _OwnMethod(inference_pb2.EmbedRequest, "embedding", InferenceServicer.Embed),
}


class OpenInferenceServicer:
    """See the module."""

    def __init__(
        self, dependencies: InferenceDependencies, servicer: InferenceServicer, streams: StreamLimiter
    ) -> None:
        """Answer by `servicer`, that of the same role; `streams` limits all roles together."""
        self._activation, self._engines = dependencies.activation, dependencies.engines
        self._admission, self._counts = dependencies.admission, dependencies.counts
        self._router, self._servicer, self._streams = dependencies.router, servicer, streams

    async def ServerLive(self, request: Any, context: CallContext) -> Any:
        """Report that the daemon accepts calls."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: CallContext) -> Any:
        """Tell whether every task can be answered."""
        tasks = self._activation.serving.keys() | self._activation.problems.keys()
        return pb.ServerReadyResponse(ready=all(map(self._ready, tasks)) and not self._admission.draining)

    async def ModelReady(self, request: Any, context: CallContext) -> Any:
        """Tell whether a task can be answered."""
        if request.name not in self._activation.problems:
            self._bundle(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._ready(request.name))

    async def ServerMetadata(self, request: Any, context: CallContext) -> Any:
        """Name the server."""
        return pb.ServerMetadataResponse(name="edge-agent", version=__version__, extensions=oip_tensors.EXTENSIONS)

    async def ModelMetadata(self, request: Any, context: CallContext) -> Any:
        """Describe the tensors of a task."""
        return oip_tensors.model_metadata(self._bundle(request.name, request.version))

    async def ModelConfig(self, request: Any, context: CallContext) -> Any:
        """Describe a task for Triton's clients."""
        bundle = self._bundle(request.name, request.version)
        return pb.ModelConfigResponse(
            config=oip_tensors.model_configuration(bundle, self._router.mode(bundle.manifest))
        )

    async def ModelStatistics(self, request: Any, context: CallContext) -> Any:
        """Return the counts of answers."""
        serving = self._activation.serving
        askable = [name for name in sorted(serving) if serving[name].manifest.task.kind in oip_tensors.OUTPUTS]
        names = [request.name] if request.name else askable
        bundles = [self._bundle(name, request.version if request.name else "") for name in names]
        return pb.ModelStatisticsResponse(
            model_stats=[oip_tensors.model_statistics(each, self._counts) for each in bundles]
        )

    async def ModelInfer(self, request: Any, context: CallContext) -> Any:
        """Answer a request; a generation when all of it is written."""
        bundle = self._bundle(request.model_name, request.model_version)
        if bundle.manifest.task.kind in oip_tensors.BATCHED:
            return await self._answer_batch(request, bundle, context)
        pieces: list[oip_tensors.GeneratedText] = []

        async def take(piece: oip_tensors.GeneratedText) -> None:
            pieces.append(piece)

        names = await self._generate(request, bundle, context, take)
        whole = pieces[-1]._replace(text="".join(piece.text for piece in pieces))
        return _response(request, bundle, names, [whole])

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: CallContext) -> None:
        """Answer one request after the other; report failures in the stream, unless the caller wants statuses."""
        wants_statuses = WITH_STATUSES in tuple(context.invocation_metadata() or ())
        with self._streams.slot(roles.current_caller.get().account):
            async with contextlib.aclosing(self._streams.iterate(requests)) as limited_requests:
                async for request in limited_requests:
                    try:
                        await self._answer(request, context)
                    except EdgeAgentError as error:
                        if wants_statuses:
                            raise
                        await self._write(_failure(request, error), context)

    async def _answer(self, request: Any, context: CallContext) -> None:
        bundle = self._bundle(request.model_name, request.model_version)
        kind = bundle.manifest.task.kind
        if kind in oip_tensors.BATCHED:
            await self._write(_stream_response(await self._answer_batch(request, bundle, context), final=True), context)
            return
        names = _output_names(request, bundle)
        early_names = [name for name in names if name in oip_tensors.EACH_PIECE]

        async def take(piece: oip_tensors.GeneratedText) -> None:
            is_final = piece.provenance is not None
            if is_final or early_names:
                response = _response(request, bundle, names if is_final else early_names, [piece])
                await context.write(_stream_response(response, final=is_final))

        await self._generate(request, bundle, context, take)

    async def _answer_batch(self, request: Any, bundle: InstalledBundle, context: CallContext) -> Any:
        task, kind = bundle.manifest.task, _KINDS[bundle.manifest.task.kind]
        with finished_answers.UnansweredCallCounter(self._counts, task.name):
            names = _output_names(request, bundle)
            texts = oip_requests.parse_texts(request)
            options = oip_requests.parse_parameters(request.parameters, task.kind)
        own_request = kind.request(task=task.name, texts=texts, **options)
        own_response = await kind.method(self._servicer, own_request, context)
        return _response(request, bundle, names, _require_answers(own_response.results, kind.answer))

    async def _generate(
        self,
        request: Any,
        bundle: InstalledBundle,
        context: CallContext,
        take: Callable[[oip_tensors.GeneratedText], Any],
    ) -> list[str]:
        """Generate a text and hand each piece to `take`; return the names of the requested outputs."""
        task = bundle.manifest.task
        with finished_answers.UnansweredCallCounter(self._counts, task.name):
            names, texts = _output_names(request, bundle), oip_requests.parse_texts(request)
            if len(texts) != 1:
                raise InvalidRequest(f"a generation has one input; the request has {len(texts)}")
            options = oip_requests.parse_parameters(request.parameters, task.kind)
            try:
                own_request = inference_pb2.GenerateRequest(task=task.name, text=texts[0], **options)
            except ValueError as error:  # protobuf's, of a number that its field cannot hold
                raise InvalidRequest(f"a parameter is out of range: {error}") from None

        async def write(message: inference_pb2.GenerateResponse) -> None:
            finish = message.finish
            is_final = message.HasField("finish")
            await take(oip_tensors.GeneratedText(message.text, finish.provenance if is_final else None, finish.reason))

        await self._servicer.generate(own_request, context, write)
        return names

    async def _write(self, response: Any, context: CallContext) -> None:
        """Write to a caller that may not read."""
        try:
            async with asyncio.timeout(self._servicer.seconds_left(context)):
                await context.write(response)
        except TimeoutError:
            raise DeadlineExpired("the deadline passed before the stream was read") from None

    def _bundle(self, task: str, version: str) -> InstalledBundle:
        """Return the bundle that answers. Raises UnknownTask, UnknownBundle, InvalidRequest, WrongTaskKind."""
        requested = oip_requests.parse_version(version)
        try:
            bundle = self._activation.bundle_of(task)
        except UnknownTask as error:
            finished_answers.record_error(self._counts, UNKNOWN_TASK, error)
            message = f"Request for unknown model: {error.message}"  # Triton's own tools look for this beginning
            raise UnknownTask(message, remedy=error.remedy, **error.metadata) from None
        active = oip_tensors.version_number(bundle.manifest.version)
        if requested not in (None, active):
            message = f"Request for unknown model: {task!r} has no version {requested} that answers; {active} does"
            raise UnknownBundle(message, remedy="Leave the version empty.", task=task, version=active)
        if (kind := bundle.manifest.task.kind) not in oip_tensors.OUTPUTS:
            message = f"task {task!r} is of kind {kind}, for which this protocol has no tensors"
            raise WrongTaskKind(message, remedy="Name another task.", task=task, kind=kind)
        return bundle

    def _ready(self, task: str) -> bool:
        bundle = self._activation.serving.get(task)
        return bundle is not None and self._engines.ready(bundle.digest)


def _require_answers(results: Any, answer: str) -> list[Any]:
    """Return the answers. Raises the first error among them, with the number of its input."""
    for number, result in enumerate(results, 1):
        if result.HasField("error"):
            error = result.error
            metadata = {**error.metadata, "input": str(number)}
            message = f"input {number} of {len(results)}: {error.message}"
            raise from_wire(error.reason, message, metadata.pop("remedy", ""), metadata)
    return [getattr(result, answer) for result in results]


def _response(request: Any, bundle: InstalledBundle, names: list[str], results: oip_tensors.Results) -> Any:
    task, version = bundle.manifest.task, bundle.manifest.version
    if provenance := results[0].provenance:
        version = provenance.bundle.version  # a repeated request_id may have the answer of the bundle before
    response = oip_tensors.outputs_response(task, names, results)
    response.model_name, response.id = task.name, request.id
    response.model_version = str(oip_tensors.version_number(version))
    return response


def _output_names(request: Any, bundle: InstalledBundle) -> list[str]:
    manifest = bundle.manifest
    return oip_requests.requested_outputs(
        request, oip_tensors.OUTPUTS[manifest.task.kind], oip_tensors.outputs_of(manifest)
    )


def _stream_response(response: Any, *, final: bool) -> Any:
    response.parameters[FINAL].bool_param = final
    return pb.ModelStreamInferResponse(infer_response=response)


def _failure(request: Any, error: EdgeAgentError) -> Any:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    response.parameters[REASON].string_param = error.reason
    stream_response = _stream_response(response, final=True)
    stream_response.error_message = f"{error.message}. {error.remedy}" if error.remedy else error.message
    return stream_response


SILENT_SECONDS_MAX = 600.0
STREAMS_MAX = 1024
"""The most open streams of all callers, of which each has its share; one costs some tens of kilobytes."""
RETRY_SECONDS = 1.0


class StreamLimiter:
    """Limits the open request streams of one daemon, in number and in silence. One event loop owns it.

    An open stream takes no slot among the calls in progress, so streams have slots of their own.
    """

    def __init__(self, client_streams_max: int, silent_seconds_max: float = SILENT_SECONDS_MAX) -> None:
        """Allow each client `client_streams_max` open streams; end one without a request for `silent_seconds_max`."""
        self._slots = AdmissionControl(STREAMS_MAX, client_streams_max, "streams of requests")
        self._silent_seconds_max = silent_seconds_max
        self._timeouts: set[asyncio.Timeout] = set()
        self._closed = False

    def slot(self, client: str) -> CallSlot:
        """Count a stream until the end of the `with` block. Raises QueueFull, ShareExceeded."""
        return self._slots.call(client)

    async def iterate(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """Yield the requests of a stream.

        Raises:
            Draining: the daemon stops; earlier requests have been answered.
            DeadlineExpired: the caller was silent for too long.
        """
        while True:
            self._require_open()
            try:
                async with asyncio.timeout(self._silent_seconds_max) as timeout:
                    self._timeouts.add(timeout)
                    request = await anext(requests)
            except StopAsyncIteration:
                return
            except TimeoutError:
                self._require_open()
                message = f"no request came on this stream for {self._silent_seconds_max:g} s"
                raise DeadlineExpired(message, remedy="Open a stream when there is something to ask.") from None
            finally:
                self._timeouts.discard(timeout)
            yield request

    def close(self) -> None:
        """End the streams that wait for a request now, and the others after the one that they answer."""
        self._closed = True
        for timeout in self._timeouts:
            if not timeout.expired():  # otherwise its silence ends at this moment
                timeout.reschedule(0.0)

    def _require_open(self) -> None:
        if self._closed:
            raise Draining("the daemon is stopping and takes no new work", retry_seconds=RETRY_SECONDS)
