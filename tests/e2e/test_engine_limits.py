"""A daemon at the limits of its machine and of its queue refuses whole requests, and recovers."""

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
    """A daemon with a short queue that runs one batch at a time."""
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
    """Limit another process to this number of open files inside the block; files that are already open stay open."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_daemon_out_of_file_descriptors_recovers(daemon: RunningDaemon) -> None:
    """Without free file descriptors a killed engine cannot restart and status shows the reason; once there are some,
    the task answers again."""
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


async def test_batch_is_admitted_whole_or_refused_whole(daemon: RunningDaemon) -> None:
    """Of many concurrent batches, each is either refused as a call or gets an answer for every input."""
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


async def test_cancelled_requests_release_queue_places(daemon: RunningDaemon) -> None:
    """After requests are cancelled while queued, a batch of the full queue size is accepted."""
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


async def test_open_inference_batch_is_refused_whole(daemon: RunningDaemon) -> None:
    """A ModelInfer batch that does not fit the queue is refused as a whole, and the message names no single input."""
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
