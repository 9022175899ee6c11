"""Malformed and excessive requests: invalid text, a tar with a wrong size, too many calls."""

from __future__ import annotations

import asyncio
import contextlib
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from grpc_health.v1 import health_pb2

from edge_agent.client import AsyncClient, CallFailed
from edge_agent.process_resources import resident_bytes
from edge_agent.v1 import admin_pb2, inference_pb2
from tests.support.bundles import echo_bundle
from tests.support.callers import Callers
from tests.support.daemon import RunningDaemon

LABELS = ("refund", "price")
WATCH = "/grpc.health.v1.Health/Watch"
NO_TEXT = b"\xff\xfe\xc3("
CUT_OFF = b"\x0a\x7f"
METHODS = [
    method
    for file, service in (
        (inference_pb2, "InferenceService"),
        (admin_pb2, "AdminService"),
        (health_pb2, "Health"),
    )
    for method in file.DESCRIPTOR.services_by_name[service].methods
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with a short queue; its tests leave its state unchanged."""
    folder = tmp_path_factory.mktemp("daemon")
    with RunningDaemon(folder, engine={"queue_requests_max": 16, "sequences_max": 4}) as running:
        running.install(echo_bundle(folder / "a", "intent", "classify", LABELS))
        yield running


def assert_well(daemon: RunningDaemon) -> None:
    """Check that the daemon's only task answers on an engine that has never restarted."""
    with daemon.admin() as admin, daemon.client() as client:
        assert client.serving()
        assert "refund" == client.classify("intent", ["refund"])[0].label
        assert [(0, 0)] == [(engine.restarts, engine.pending) for engine in admin.status().engines]


def texts_of(method: MethodDescriptor) -> list[FieldDescriptor]:
    return [field for field in method.input_type.fields if field.type == FieldDescriptor.TYPE_STRING]


def malformed(daemon: RunningDaemon, method: MethodDescriptor, raw: bytes) -> grpc.Call:
    """Call a method with bytes that are not its message; return the error."""
    with grpc.insecure_channel(daemon.admin_target) as channel:
        # As a stream all calls look the same: the error comes with the first message.
        answers = channel.unary_stream(f"/{method.containing_service.full_name}/{method.name}")(raw, timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
    return caught.value


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_invalid_utf8_fails_only_the_call(daemon: RunningDaemon, method: MethodDescriptor) -> None:
    """Invalid UTF-8 in any text field of any call, or a truncated message, fails that call only, and the daemon keeps
    answering."""
    texts = [bytes([field.number << 3 | 2, len(NO_TEXT)]) + NO_TEXT for field in texts_of(method)]
    codes = {malformed(daemon, method, raw).code() for raw in (*texts, CUT_OFF)}
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    assert_well(daemon)


def test_malformed_message_is_invalid_argument(daemon: RunningDaemon) -> None:
    """A malformed message fails with INVALID_ARGUMENT, and the error has no exception text of the daemon."""
    error = malformed(daemon, METHODS[0], CUT_OFF)
    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
    assert "<class" not in error.details()


def bytes_moved(pid: int) -> int:
    """Return how many bytes a process has read and written since it started: files, pipes and sockets."""
    counts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(counts["rchar"]) + int(counts["wchar"])


def test_tar_with_false_size_of_ten_gigabytes_is_refused(daemon: RunningDaemon, tmp_path: Path) -> None:
    """The daemon refuses a truncated tar whose header claims 10 GB, with less than 16 MiB of memory, disk and reads."""
    assert daemon.process is not None
    folder = echo_bundle(tmp_path / "b", "huge", labels=LABELS, weights=b"weights")
    with tarfile.open(tmp_path / "huge.tar", "w") as tar:
        tar.add(folder / "manifest.json", "manifest.json")
        header = tarfile.TarInfo("echo.bin")
        header.size = 10 * 2**30
        tar.fileobj.write(header.tobuf())
    before, read_and_written = resident_bytes(daemon.process.pid), bytes_moved(daemon.process.pid)
    with daemon.admin() as admin:
        stored = admin.status().store_bytes
        with pytest.raises(CallFailed) as caught:
            admin.install(tmp_path / "huge.tar")
        assert ("FAILED_PRECONDITION", stored) == (caught.value.code, admin.status().store_bytes)
    assert bytes_moved(daemon.process.pid) - read_and_written < 16 * 2**20
    assert resident_bytes(daemon.process.pid) - before < 16 * 2**20
    assert [] == [path for path in daemon.state_dir.rglob("*") if path.stat().st_size > 2**20]
    assert_well(daemon)


async def outcomes_of_calls(daemon: RunningDaemon, count: int, text: str) -> Counter[str]:
    """Make this number of concurrent calls; count the answers and the errors."""

    async def outcome(client: AsyncClient) -> str:
        try:
            [answer] = await client.classify("intent", [text], timeout_seconds=60)
        except CallFailed as failed:
            return f"{failed.code} {failed.reason} {failed.retry_after_seconds is not None}"
        return answer.label

    async with AsyncClient(daemon.inference) as client:
        return Counter(await asyncio.gather(*(outcome(client) for _ in range(count))))


async def slowest_check(daemon: RunningDaemon, stop: asyncio.Event) -> float:
    """Check health repeatedly until the stop event; return the longest response time in seconds."""
    slowest = 0.0
    async with grpc.aio.insecure_channel(daemon.inference, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", response_deserializer=health_pb2.HealthCheckResponse.FromString
        )
        while not stop.is_set():
            started = time.monotonic()
            answer = await check(b"", timeout=60)
            assert health_pb2.HealthCheckResponse.SERVING == answer.status
            slowest = max(slowest, time.monotonic() - started)
    return slowest


@pytest.mark.slow
async def test_200_calls_on_queue_of_16_are_answered_or_refused(daemon: RunningDaemon) -> None:
    """Of 200 calls on a queue of 16, each is answered or refused with a retry delay; health checks are answered
    meanwhile."""
    stop = asyncio.Event()
    checking = asyncio.create_task(slowest_check(daemon, stop))
    started = time.monotonic()
    outcomes = await outcomes_of_calls(daemon, 200, "!slow 50 refund")
    seconds = time.monotonic() - started
    stop.set()
    assert {"refund", "RESOURCE_EXHAUSTED QUEUE_FULL True"} == set(outcomes)
    assert outcomes["refund"] >= 16
    assert await checking < seconds
    assert_well(daemon)


@pytest.mark.slow
async def test_health_is_answered_at_call_limit(tmp_path: Path) -> None:
    """At the limit of calls_max, further calls are refused with a retry delay, and health checks are answered."""
    with RunningDaemon(tmp_path, service={"calls_max": 8}) as daemon:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", LABELS))
        stop = asyncio.Event()
        checking = asyncio.create_task(slowest_check(daemon, stop))
        started = time.monotonic()
        outcomes = await outcomes_of_calls(daemon, 200, "!slow 50 refund")
        seconds = time.monotonic() - started
        stop.set()
        assert await checking < seconds
        assert {"refund", "RESOURCE_EXHAUSTED QUEUE_FULL True"} == set(outcomes)
        with Callers(daemon, "intent") as callers:
            callers.wait_for_answers(10)
    assert [] == callers.lost


@pytest.mark.slow
def test_health_watches_leave_room_for_calls(tmp_path: Path) -> None:
    """100 health watches of one client with calls_max 8 block neither its calls and health checks nor the watches of
    other clients and of the operator."""
    with RunningDaemon(tmp_path, service={"calls_max": 8}) as daemon, daemon.client() as client:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", LABELS))
        with grpc.insecure_channel(daemon.inference, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            watch = channel.unary_stream(WATCH, None, health_pb2.HealthCheckResponse.FromString)
            watches = [watch(b"") for _ in range(100)]
            with contextlib.suppress(grpc.RpcError):
                for each in watches:
                    next(each)  # it has begun, or was refused
            assert client.serving()
            assert "refund" == client.classify("intent", ["refund"])[0].label
            # Another client of the socket finds one, and so does who comes over another socket.
            named = watch(b"", metadata=[("edge-agent-client", "till-3")])
            with grpc.insecure_channel(daemon.admin_target) as operator:
                operators = operator.unary_stream(WATCH, None, health_pb2.HealthCheckResponse.FromString)(b"")
                serving = health_pb2.HealthCheckResponse.SERVING
                assert [serving, serving] == [next(each).status for each in (named, operators)]


@pytest.mark.slow
def test_health_watch_does_not_delay_stop(tmp_path: Path) -> None:
    """At a stop, a health watch gets NOT_SERVING and ends with the reason, without waiting for the drain time."""
    with RunningDaemon(tmp_path, service={"drain_seconds": 600}) as daemon:
        with grpc.insecure_channel(daemon.inference) as channel:
            watch = channel.unary_stream(WATCH, None, health_pb2.HealthCheckResponse.FromString)(b"")
            assert health_pb2.HealthCheckResponse.SERVING == next(watch).status
            assert 0 == daemon.stop()
            assert health_pb2.HealthCheckResponse.NOT_SERVING == next(watch).status
            with pytest.raises(grpc.RpcError) as ended:
                next(watch)
            assert "the daemon is stopping" == ended.value.details()
        daemon.start()
