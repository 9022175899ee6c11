"""edge_agent/server/interceptor.py, with a real client and server on a Unix socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from edge_agent.errors import EdgeAgentError, ModelFailed, QueueFull, UnknownTask
from edge_agent.refusal_log import RefusalLog
from edge_agent.server.audit_log import AuditLog
from edge_agent.server.client_call_limits import RateLimiter
from edge_agent.server.detached_calls import ChangeRunner
from edge_agent.server.interceptor import CallContext, ServerInterceptor
from edge_agent.server.roles import INFER, Caller
from edge_agent.v1 import inference_pb2 as pb
from edge_agent.v1 import inference_pb2_grpc

SECRET = "the secret text"
LISTED = pb.ListTasksResponse(next_page_token="next")


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    """A servicer whose handlers the test sets."""

    def __init__(self) -> None:
        self.list_tasks: Callable[[CallContext], Awaitable[pb.ListTasksResponse]]
        self.generate: Callable[[], AsyncIterator[pb.GenerateResponse]]

    async def ListTasks(self, request: pb.ListTasksRequest, context: CallContext) -> pb.ListTasksResponse:
        return await self.list_tasks(context)

    async def Generate(self, request: pb.GenerateRequest, context: CallContext) -> None:
        async with contextlib.aclosing(self.generate()) as responses:
            async for response in responses:
                await context.write(response)


@pytest.fixture
async def servicer(tmp_path: Path) -> AsyncIterator[Servicer]:
    """Serve on a socket in the test's directory."""
    server, handlers = grpc.aio.server(), Servicer()
    audit = AuditLog(tmp_path, 1000)
    till = Caller("till", INFER)
    interceptor = ServerInterceptor(server, lambda _: till, RateLimiter(0, 1), audit, ChangeRunner(audit), RefusalLog())
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(handlers, interceptor)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    yield handlers
    await server.stop(None)
    await audit.close()


@pytest.fixture
async def stub(servicer: Servicer, tmp_path: Path) -> AsyncIterator[inference_pb2_grpc.InferenceServiceStub]:
    """Call that server."""
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


async def listing_fails(stub: inference_pb2_grpc.InferenceServiceStub) -> grpc.aio.AioRpcError:
    """Call the unary method and return its error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListTasks(pb.ListTasksRequest())
    return caught.value


def raising(error: Exception) -> Callable[[CallContext], Awaitable[pb.ListTasksResponse]]:
    """Return a unary handler that raises."""

    async def handler(context: CallContext) -> pb.ListTasksResponse:
        raise error

    return handler


def streaming(*texts: str, then: Exception | None = None) -> Callable[[], AsyncIterator[pb.GenerateResponse]]:
    """Return a streaming handler that sends texts and then raises `then`, if given."""

    async def handler() -> AsyncIterator[pb.GenerateResponse]:
        for text in texts:
            yield pb.GenerateResponse(text=text)
        if then is not None:
            raise then

    return handler


async def received(stub: inference_pb2_grpc.InferenceServiceStub) -> tuple[list[str], grpc.aio.AioRpcError | None]:
    """Read a stream to its end; return its texts and its error."""
    texts = []
    try:
        async for response in stub.Generate(pb.GenerateRequest()):
            texts.append(response.text)
    except grpc.aio.AioRpcError as error:
        return texts, error
    return texts, None


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """Return the ErrorInfo of a failed call."""
    written = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert written.details[0].Unpack(info)
    return info


async def test_responses_pass_unchanged(servicer, stub):
    """Unary and streamed responses of the handlers arrive unchanged."""

    async def handler(context: CallContext) -> pb.ListTasksResponse:
        return LISTED

    servicer.list_tasks, servicer.generate = handler, streaming("a", "b")
    assert LISTED == await stub.ListTasks(pb.ListTasksRequest())
    assert (["a", "b"], None) == await received(stub)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownTask("no task is called 'x'", task="x", remedy="Check the name."), grpc.StatusCode.NOT_FOUND),
        (QueueFull("64 inputs are waiting", waiting=64), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (ModelFailed("the model gave no answer"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_error_arrives_with_all_its_details(servicer, stub, error: EdgeAgentError, code):
    """An EdgeAgentError arrives with its code, message, reason, metadata and remedy."""
    servicer.list_tasks, servicer.generate = raising(error), streaming("a", then=error)
    texts, broken = await received(stub)
    assert ["a"] == texts
    for failed in (await listing_fails(stub), broken):
        assert (code, error.message) == (failed.code(), failed.details())
        assert ("edge-agent", error.reason) == (info_of(failed).domain, info_of(failed).reason)
        assert {**error.metadata, "remedy": error.remedy} == dict(info_of(failed).metadata)


async def test_huge_error_arrives_truncated(servicer, stub):
    """An error with more text than trailers can hold arrives with its code and reason."""
    huge = QueueFull("漢" * 10_000, **{f"value_{i}": "漢" * 10_000 for i in range(100)})
    servicer.list_tasks = raising(huge)
    failed = await listing_fails(stub)
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL") == (failed.code(), info_of(failed).reason)


async def test_text_of_an_unexpected_exception_is_not_sent(servicer, stub):
    """An unexpected exception becomes INTERNAL with a fixed message; its own text is only in the log."""
    bug = RuntimeError(SECRET)
    servicer.list_tasks, servicer.generate = raising(bug), streaming("a", then=bug)
    with structlog.testing.capture_logs() as logged:
        _, broken = await received(stub)
        failures = [await listing_fails(stub), broken]
    for failed in failures:
        assert grpc.StatusCode.INTERNAL == failed.code()
        assert "an unexpected error in edge-agent; its log has the details" == failed.details()
        assert SECRET not in repr(failed) + repr(failed.trailing_metadata())
    assert [("Generate", "RuntimeError"), ("ListTasks", "RuntimeError")] == [
        (entry["method"], entry["error"]) for entry in logged if entry["event"] == "handler_failed"
    ]
    assert all(entry["exc_info"] for entry in logged)


async def test_refused_call_is_logged_once_without_its_message(servicer, stub):
    """The log line has client, call and reason; a second refusal is only counted."""
    servicer.list_tasks = raising(UnknownTask(f"no task is called {SECRET!r}"))
    with structlog.testing.capture_logs() as logged:
        await listing_fails(stub)
        await listing_fails(stub)
    [line] = logged
    assert ("call_refused", "till", "ListTasks", "TASK_UNKNOWN") == (
        line["event"],
        line["client"],
        line["call"],
        line["reason"],
    )
    assert SECRET not in repr(line)


async def test_cancelled_call_is_not_logged_as_refused(servicer, stub):
    """A call that its caller cancels is not logged, and the next refusal is."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(context: CallContext) -> pb.ListTasksResponse:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return LISTED

    servicer.list_tasks = handler
    with structlog.testing.capture_logs() as logged:
        call = stub.ListTasks(pb.ListTasksRequest())
        await started.wait()
        call.cancel()
        await ended.wait()
        servicer.list_tasks = raising(QueueFull("64 inputs are waiting"))
        await listing_fails(stub)
    assert ["QUEUE_FULL"] == [line["reason"] for line in logged]


async def test_abort_by_a_handler_passes_unchanged(servicer, stub):
    """A handler that aborts keeps its code and message, and is not logged as a failure."""

    async def handler(context: CallContext) -> pb.ListTasksResponse:
        await context.abort(grpc.StatusCode.DATA_LOSS, "by itself")

    servicer.list_tasks = handler
    with structlog.testing.capture_logs() as logged:
        failed = await listing_fails(stub)
    assert (grpc.StatusCode.DATA_LOSS, "by itself") == (failed.code(), failed.details())
    assert [] == logged


async def test_server_continues_after_a_failed_call(servicer, stub):
    """A failed call does not affect the next one."""
    servicer.generate = streaming("a", then=RuntimeError(SECRET))
    await received(stub)
    servicer.generate = streaming("b")
    assert (["b"], None) == await received(stub)


@pytest.mark.parametrize("endless", [False, True])
async def test_cancelling_a_stream_reaches_the_handler(servicer, stub, endless):
    """When the client cancels a stream, its handler ends, whether it waits for the model or for the client to read."""
    ended = asyncio.Event()

    async def handler() -> AsyncIterator[pb.GenerateResponse]:
        try:
            yield pb.GenerateResponse(text="a")
            while endless:
                yield pb.GenerateResponse(text="b" * 100_000)
            await asyncio.Event().wait()
        finally:
            ended.set()

    servicer.generate = handler
    call = stub.Generate(pb.GenerateRequest())
    assert "a" == (await call.read()).text
    call.cancel()
    async with asyncio.timeout(60):
        await ended.wait()


async def test_cancelling_a_call_reaches_the_handler(servicer, stub):
    """When the client cancels a unary call, its handler is cancelled."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(context: CallContext) -> pb.ListTasksResponse:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return LISTED

    servicer.list_tasks = handler
    call = stub.ListTasks(pb.ListTasksRequest())
    await started.wait()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    async with asyncio.timeout(60):
        await ended.wait()


async def test_a_deadline_reaches_the_handler(servicer, stub):
    """When the client's deadline passes, the handler of its stream ends."""
    ended = asyncio.Event()

    async def handler() -> AsyncIterator[pb.GenerateResponse]:
        try:
            yield pb.GenerateResponse(text="a")
            await asyncio.Event().wait()
        finally:
            ended.set()

    servicer.generate = handler
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Generate(pb.GenerateRequest(), timeout=0.2):
            pass
    assert grpc.StatusCode.DEADLINE_EXCEEDED == caught.value.code()
    async with asyncio.timeout(60):
        await ended.wait()
