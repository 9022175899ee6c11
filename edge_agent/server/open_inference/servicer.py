"""GRPCInferenceService: the calls of the protocol, each answered by what answers our own.

A request becomes one of InferenceService, goes the same way (limits, routing, capture, counting), and its answer
becomes tensors. What differs: a request is answered whole or not at all, for a tensor has no place for an error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from edge_agent import __version__
from edge_agent.errors import (
    DeadlineExpired,
    EdgeAgentError,
    InvalidRequest,
    UnknownBundle,
    UnknownTask,
    from_wire,
)
from edge_agent.metrics.counting import UNKNOWN
from edge_agent.server import callers, guard, measured
from edge_agent.server.inference import InferenceServicer, Rooms
from edge_agent.server.open_inference import asking, models, tensors
from edge_agent.server.open_inference.dialogues import Dialogues
from edge_agent.server.open_inference.wire import pb
from edge_agent.store.state_database import InstalledBundle
from edge_agent.v1 import inference_pb2

STATUSES_WANTED = ("triton_grpc_error", "true")
"""Metadata of a stream whose first error is to end it with a status, as Triton has it."""
FINAL = "triton_final_response"
REASON = "reason"


class _Kind(NamedTuple):
    """How our own API asks for one kind of task, and where an answer stands in its result."""

    request: Callable[..., Any]
    answer: str
    method: Callable[[InferenceServicer, Any, Any], Any]


_KINDS = {
    "classify": _Kind(inference_pb2.ClassifyRequest, "classification", InferenceServicer.classify),
    "extract": _Kind(inference_pb2.ExtractRequest, "extraction", InferenceServicer.extract),
    "embed": _Kind(inference_pb2.EmbedRequest, "embedding", InferenceServicer.embed),
}


class OpenInferenceServicer:
    """See the module."""

    def __init__(self, rooms: Rooms, answering: InferenceServicer, dialogues: Dialogues) -> None:
        """Answer by the servicer of the same role."""
        self._activation = rooms.activation
        self._engines = rooms.engines
        self._admission = rooms.admission
        self._counts = rooms.counts
        self._escalation = rooms.escalation
        self._answering = answering
        self._dialogues = dialogues

    @guard.call
    async def ServerLive(self, request: Any, context: guard.Context) -> Any:
        """Say that the daemon takes calls."""
        return pb.ServerLiveResponse(live=True)

    @guard.call
    async def ServerReady(self, request: Any, context: guard.Context) -> Any:
        """Say whether every task can be answered."""
        tasks = self._activation.serving.keys() | self._activation.problems.keys()
        return pb.ServerReadyResponse(ready=all(map(self._ready, tasks)) and not self._admission.draining)

    @guard.call
    async def ModelReady(self, request: Any, context: guard.Context) -> Any:
        """Say whether a task can be answered."""
        if request.name not in self._activation.problems:
            self._bundle(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._ready(request.name))

    @guard.call
    async def ServerMetadata(self, request: Any, context: guard.Context) -> Any:
        """Name the server."""
        return pb.ServerMetadataResponse(name="edge-agent", version=__version__, extensions=models.EXTENSIONS)

    @guard.call
    async def ModelMetadata(self, request: Any, context: guard.Context) -> Any:
        """Describe the tensors of a task."""
        return models.metadata(self._bundle(request.name, request.version))

    @guard.call
    async def ModelConfig(self, request: Any, context: guard.Context) -> Any:
        """Describe a task as Triton's clients want it."""
        bundle = self._bundle(request.name, request.version)
        return pb.ModelConfigResponse(config=models.configuration(bundle, self._escalation.mode(bundle.manifest)))

    @guard.call
    async def ModelStatistics(self, request: Any, context: guard.Context) -> Any:
        """Count what was answered."""
        names = [request.name] if request.name else sorted(self._activation.serving)
        bundles = [self._bundle(name, request.version if request.name else "") for name in names]
        return pb.ModelStatisticsResponse(model_stats=[models.statistics(each, self._counts) for each in bundles])

    @guard.call
    async def ModelInfer(self, request: Any, context: guard.Context) -> Any:
        """Answer a request; a generation when all of it is written."""
        bundle = self._bundle(request.model_name, request.model_version)
        if bundle.manifest.task.kind in tensors.BATCHED:
            return await self._batch(request, bundle, context)
        pieces: list[tensors.Text] = []

        async def take(piece: tensors.Text) -> None:
            pieces.append(piece)

        names = await self._generation(request, bundle, context, take)
        whole = pieces[-1]._replace(text="".join(piece.text for piece in pieces))
        return _response(request, bundle, names, [whole])

    @guard.call
    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: guard.Context) -> None:
        """Answer one request after the other; what fails is said in the stream, unless statuses are wanted."""
        statuses_wanted = STATUSES_WANTED in tuple(context.invocation_metadata() or ())
        with self._dialogues.place(callers.current.get().account):
            async with contextlib.aclosing(self._dialogues.each(requests)) as each:
                async for request in each:
                    try:
                        await self._answer(request, context)
                    except EdgeAgentError as error:
                        if statuses_wanted:
                            raise
                        await self._write(_failure(request, error), context)

    async def _answer(self, request: Any, context: guard.Context) -> None:
        bundle = self._bundle(request.model_name, request.model_version)
        kind = bundle.manifest.task.kind
        if kind in tensors.BATCHED:
            await self._write(_marked(await self._batch(request, bundle, context), final=True), context)
            return
        names = _wanted(request, bundle)
        early = [name for name in names if name in tensors.EACH_PIECE]

        async def take(piece: tensors.Text) -> None:
            final = piece.provenance is not None
            if final or early:
                response = _response(request, bundle, names if final else early, [piece])
                await context.write(_marked(response, final=final))

        await self._generation(request, bundle, context, take)

    async def _batch(self, request: Any, bundle: InstalledBundle, context: guard.Context) -> Any:
        task, kind = bundle.manifest.task, _KINDS[bundle.manifest.task.kind]
        with measured.Counting(self._counts, task.name):
            names = _wanted(request, bundle)
            texts, options = asking.texts(request), asking.options(request.parameters, task.kind)
        asked = kind.request(task=task.name, texts=texts, **options)
        answered = await kind.method(self._answering, asked, context)
        return _response(request, bundle, names, _all(answered.results, kind.answer))

    async def _generation(
        self, request: Any, bundle: InstalledBundle, context: guard.Context, take: Callable[[tensors.Text], Any]
    ) -> list[str]:
        """Have a text written, and each piece taken; return the names of the outputs that are wanted."""
        task = bundle.manifest.task
        with measured.Counting(self._counts, task.name):
            names, texts = _wanted(request, bundle), asking.texts(request)
            if len(texts) != 1:
                raise InvalidRequest(f"a generation has one input; the request has {len(texts)}")
            asked = _generate_request(task.name, texts[0], asking.options(request.parameters, task.kind))

        async def write(message: inference_pb2.GenerateResponse) -> None:
            end = message.finish
            done = message.HasField("finish")
            await take(tensors.Text(message.text, end.provenance if done else None, end.reason))

        await self._answering.generate(asked, context, write)
        return names

    async def _write(self, response: Any, context: guard.Context) -> None:
        """Write to a caller who may not read."""
        try:
            async with asyncio.timeout(self._answering.seconds_left(context)):
                await context.write(response)
        except TimeoutError:
            raise DeadlineExpired("the deadline passed before the stream was read") from None

    def _bundle(self, task: str, version: str) -> InstalledBundle:
        """Return the bundle that answers. Raises UnknownTask, UnknownBundle, InvalidRequest."""
        requested = asking.version(version)
        try:
            bundle = self._activation.bundle_of(task)
        except UnknownTask as error:
            measured.lost(self._counts, UNKNOWN, error)
            said = f"Request for unknown model: {error.message}"  # the beginning is what Triton's own tools look for
            raise UnknownTask(said, remedy=error.remedy, **error.metadata) from None
        answers = models.number_of(bundle.manifest.version)
        if requested not in (None, answers):
            said = f"Request for unknown model: {task!r} has no version {requested} that answers; {answers} does"
            raise UnknownBundle(said, remedy="Leave the version empty.", task=task, version=answers)
        return bundle

    def _ready(self, task: str) -> bool:
        bundle = self._activation.serving.get(task)
        return bundle is not None and self._engines.ready(bundle.digest)


def _all(results: Any, answer: str) -> list[Any]:
    """Return the answers. Raises the first error among them, saying which input it is of."""
    for place, result in enumerate(results, 1):
        if result.HasField("error"):
            error = result.error
            metadata = {**error.metadata, "input": str(place)}
            said = f"input {place} of {len(results)}: {error.message}"
            raise from_wire(error.reason, said, metadata.pop("remedy", ""), metadata)
    return [getattr(result, answer) for result in results]


def _generate_request(task: str, text: str, options: dict[str, Any]) -> inference_pb2.GenerateRequest:
    try:
        return inference_pb2.GenerateRequest(task=task, text=text, **options)
    except ValueError as error:  # protobuf's, of a number that its field cannot hold
        raise InvalidRequest(f"a parameter is out of range: {error}") from None


def _response(request: Any, bundle: InstalledBundle, names: list[str], results: tensors.Results) -> Any:
    task, version = bundle.manifest.task, bundle.manifest.version
    if provenance := results[0].provenance:
        version = provenance.bundle.version  # a repeated request_id may have the answer of the bundle before
    response = tensors.response(task, names, results)
    response.model_name, response.model_version, response.id = task.name, str(models.number_of(version)), request.id
    return response


def _wanted(request: Any, bundle: InstalledBundle) -> list[str]:
    manifest = bundle.manifest
    return asking.wanted(request, tensors.OUTPUTS[manifest.task.kind], tensors.outputs_of(manifest))


def _marked(response: Any, *, final: bool) -> Any:
    response.parameters[FINAL].bool_param = final
    return pb.ModelStreamInferResponse(infer_response=response)


def _failure(request: Any, error: EdgeAgentError) -> Any:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    response.parameters[REASON].string_param = error.reason
    failed = _marked(response, final=True)
    failed.error_message = f"{error.message}. {error.remedy}" if error.remedy else error.message
    return failed
