"""A daemon at the limits of its machine and of its queue: it refuses whole requests, and recovers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest

from edge_agent.server.open_inference.oip_tensors import pb
from edge_agent.v1.inference_pb2 import ClassifyRequest
from edge_agent.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

QUEUE = 8
BATCH = 5
REQUESTS = 24
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with a short queue and one place for work at a time."""
    folder = tmp_path_factory.mktemp("daemon")
    engine = {
        "queue_requests_max": QUEUE,
        "sequences_max": 1,
        "restart_seconds_first": 0.05,
        "restart_seconds_max": 0.2,
    }
    with RunningDaemon(folder, engine=engine) as running:
        running.install(echo_bundle(folder / "a", "intent", "classify", ("refund", "price")))
        yield running


@contextlib.contextmanager
def descriptors_max(pid: int, count: int) -> Iterator[None]:
    """Let another process have no more open files than that inside the block; it keeps those that it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_daemon_out_of_descriptors_recovers_by_itself(daemon: RunningDaemon) -> None:
    """A child that dies then cannot be replaced: status says why, and the task answers when there are some again."""
    assert daemon.process is not None
    with daemon.admin() as admin, daemon.client() as client:
        assert client.classify("intent", ["refund"])
        before = admin.status().engines[0]
        with descriptors_max(daemon.process.pid, 3):
            os.kill(before.pid, signal.SIGKILL)
            eventually_sync(lambda: "Too many open files" in admin.status().engines[0].problem)
            assert 0 == admin.status().engines[0].pid
        eventually_sync(lambda: client.serving("intent"))
        assert client.classify("intent", ["refund"])
        assert admin.status().engines[0].pid not in (0, before.pid)


async def test_a_request_of_several_inputs_is_taken_whole_or_not_at_all(daemon: RunningDaemon) -> None:
    """Of many that come at once each is refused as a call, or none of its inputs finds the queue full."""
    request = ClassifyRequest(task="intent", texts=["!slow 5 refund"] * BATCH)
    async with grpc.aio.insecure_channel(daemon.inference) as channel:
        classify = InferenceServiceStub(channel).Classify
        calls = [classify(request, timeout=30) for _ in range(REQUESTS)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    whole: Counter[str] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, grpc.aio.AioRpcError):
            assert grpc.StatusCode.RESOURCE_EXHAUSTED is outcome.code(), outcome
            whole["refused"] += 1
        else:
            assert not isinstance(outcome, BaseException)
            assert [""] * BATCH == [result.error.reason for result in outcome.results]
            whole["answered"] += 1
    assert whole["answered"] >= 1 <= whole["refused"]


async def test_places_are_given_back_by_callers_that_leave(daemon: RunningDaemon) -> None:
    """Requests that are cancelled while they wait leave the whole queue to the next one."""
    slow = ClassifyRequest(task="intent", texts=["!slow 20 refund"] * BATCH)
    async with grpc.aio.insecure_channel(daemon.inference) as channel:
        classify = InferenceServiceStub(channel).Classify
        for _ in range(10):
            call = classify(slow, timeout=30)
            await asyncio.wait([asyncio.ensure_future(call.code())], timeout=0.02)
            call.cancel()
    with daemon.admin() as admin, daemon.client() as client:
        eventually_sync(lambda: admin.status().engines[0].pending == 0)
        assert QUEUE == len(client.classify("intent", ["refund"] * QUEUE))


async def test_a_request_of_the_open_protocol_is_taken_whole_or_not_at_all(daemon: RunningDaemon) -> None:
    """Likewise: a refusal comes before anything is computed, and names no input."""
    request = pb.ModelInferRequest(model_name="intent")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[BATCH, 1])
    tensor.contents.bytes_contents.extend([b"!slow 5 refund"] * BATCH)
    async with grpc.aio.insecure_channel(daemon.inference) as channel:
        infer = channel.unary_unary(
            INFER,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        outcomes = await asyncio.gather(*(infer(request, timeout=30) for _ in range(REQUESTS)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert 1 <= len(refused) < REQUESTS
    assert not [each.details() for each in refused if f"of {BATCH}:" in str(each.details())]
