"""Streams whose callers disconnect, cancel or never read: the daemon releases what they held."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from edge_agent.client import AdminClient
from edge_agent.process_resources import resident_bytes
from edge_agent.v1.inference_pb2 import GenerateRequest
from edge_agent.v1.inference_pb2_grpc import InferenceServiceStub
from tests.support.bundles import echo_bundle, smollm2_bundle
from tests.support.callers import Callers
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

WARM_UP, STREAMS, AT_ONCE = 200, 1000, 20
BEGUN = 8  # of those at once: these are read from, and some of the others wait in the queue
# A long way to go when its caller leaves: 500 words, 1 ms each, and as much for each stream beside it.
SLOW_TEXT = "!slow 1 " + "word " * 500
# Socket buffers and HTTP/2 windows hold some hundred kB of what nobody reads; this is 20 MB.
LARGE_TEXT = ("x" * 40_000 + " ") * 500
DESCRIPTORS_GROWTH_MAX = 8
RESIDENT_GROWTH_MAX = 16 * 2**20


class HeldResources(NamedTuple):
    """The resources that a process holds."""

    descriptors: int
    resident: int


def held(pid: int) -> HeldResources:
    folder = Path(f"/proc/{pid}")
    try:
        descriptors = len(list((folder / "fd").iterdir()))
    except PermissionError:  # a confined child shows only root which ones; how many places it has is for all to see
        descriptors = int(re.findall(r"FDSize:\s+(\d+)", (folder / "status").read_text())[0])
    return HeldResources(descriptors, resident_bytes(pid))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon with a generate task and a classify task on one engine."""
    limits = {"limits": {"input_tokens_max": 1000, "output_tokens_max": 1000}}
    settings = {"queue_requests_max": 2 * AT_ONCE, "sequences_max": 16}
    with RunningDaemon(tmp_path, engine=settings, service={"message_bytes_max": 64 * 2**20}) as running:
        running.install(
            echo_bundle(tmp_path / "talk", "talk", "generate", task=limits, engine={"context_tokens": 4096}),
            echo_bundle(tmp_path / "intent", "intent", labels=("refund", "price"), engine={"context_tokens": 4096}),
        )
        yield running


def idle(admin: AdminClient) -> bool:
    return [0] == [engine.pending for engine in admin.status().engines]


def open_stream(daemon: RunningDaemon, text: str, timeout: float | None = 60) -> tuple[grpc.Channel, grpc.Call]:
    """Start a generation on its own connection."""
    channel = grpc.insecure_channel(daemon.inference, options=[("grpc.use_local_subchannel_pool", 1)])
    return channel, InferenceServiceStub(channel).Generate(GenerateRequest(task="talk", text=text), timeout=timeout)


def cancelled(daemon: RunningDaemon, count: int) -> None:
    """Cancel calls: some after the first piece, some before it, some in the queue."""
    with grpc.insecure_channel(daemon.inference) as channel:
        stub, request = InferenceServiceStub(channel), GenerateRequest(task="talk", text=SLOW_TEXT)
        for _ in range(count // AT_ONCE):
            calls = [stub.Generate(request, timeout=60) for _ in range(BEGUN)]
            for call in calls:
                next(call)
            calls += [stub.Generate(request, timeout=60) for _ in range(AT_ONCE - BEGUN)]
            for call in calls:
                call.cancel()


def dropped(daemon: RunningDaemon, count: int) -> None:
    """Close connections, some after a piece was read and some before any."""
    for _ in range(count // AT_ONCE):
        opened = [open_stream(daemon, SLOW_TEXT) for _ in range(BEGUN)]
        for _, call in opened:
            next(call)
        opened += [open_stream(daemon, SLOW_TEXT) for _ in range(AT_ONCE - BEGUN)]
        for channel, _ in opened:
            channel.close()


def unread(daemon: RunningDaemon, count: int) -> None:
    """Open streams, read nothing, and close their connections."""
    for _ in range(count // AT_ONCE):
        opened = [open_stream(daemon, LARGE_TEXT[: 40_001 * 8]) for _ in range(AT_ONCE)]
        with daemon.client() as client:
            client.classify("intent", ["refund"])
        for channel, _ in opened:
            channel.close()


@pytest.mark.slow
@pytest.mark.parametrize("leave", [cancelled, dropped, pytest.param(unread, marks=pytest.mark.release)])
def test_thousand_abandoned_streams_leak_nothing(
    daemon: RunningDaemon, leave: Callable[[RunningDaemon, int], None]
) -> None:
    """After a warm-up of 200, 1,000 more abandoned streams do not increase file descriptors and memory of daemon and
    engine."""
    assert daemon.process is not None
    with daemon.admin() as admin:
        (engine,) = admin.status().engines
        pids = (daemon.process.pid, engine.pid)
        leave(daemon, WARM_UP)
        eventually_sync(lambda: idle(admin))
        before = [held(pid) for pid in pids]
        leave(daemon, STREAMS)
        eventually_sync(lambda: idle(admin))
        after = [held(pid) for pid in pids]
        assert 0 == admin.status().engines[0].restarts
    for was, now in zip(before, after, strict=True):
        assert now.descriptors - was.descriptors <= DESCRIPTORS_GROWTH_MAX, (before, after)
        assert now.resident - was.resident <= RESIDENT_GROWTH_MAX, (before, after)
    with Callers(daemon, "intent", 1) as callers:
        callers.wait_for_answers(10)
    assert ([], 0) == (callers.lost, callers.retries)


CLIENT = """
import sys
import grpc
from edge_agent.v1.inference_pb2 import GenerateRequest
from edge_agent.v1.inference_pb2_grpc import InferenceServiceStub
channel = grpc.insecure_channel(sys.argv[1])
stub = InferenceServiceStub(channel)
calls = [stub.Generate(GenerateRequest(task="talk", text=sys.argv[2])) for _ in range(16)]
for call in calls:
    next(call)
print("streaming", flush=True)
sys.stdin.read()
"""


def streaming_client(daemon: RunningDaemon, text: str) -> subprocess.Popen[bytes]:
    """Start a process with 16 streams and wait until each has begun."""
    command = [sys.executable, "-c", CLIENT, daemon.inference, text]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert b"streaming\n" == client.stdout.readline()
    return client


def test_killed_client_frees_engine(daemon: RunningDaemon) -> None:
    """After a client process with 16 open streams is killed, the engine becomes idle, and the next caller is
    answered."""
    with daemon.admin() as admin, streaming_client(daemon, SLOW_TEXT) as client:
        assert 16 == admin.status().engines[0].pending
        client.kill()
        eventually_sync(lambda: idle(admin), 2)
        with Callers(daemon, "intent", 1) as callers:
            callers.wait_for_answers(1, seconds=2)
    assert [] == callers.lost


@pytest.mark.slow
def test_unread_stream_ends_at_its_deadline(daemon: RunningDaemon) -> None:
    """A stream whose client reads nothing, so that the connection's buffers fill up, ends at its deadline and leaves no
    work pending."""
    with daemon.admin() as admin:
        channel, _ = open_stream(daemon, LARGE_TEXT, timeout=2)
        eventually_sync(lambda: admin.status().engines[0].pending == 1)
        eventually_sync(lambda: idle(admin), 6)
        channel.close()


@pytest.mark.release
def test_unread_stream_without_deadline_ends_at_default(tmp_path: Path) -> None:
    """A stream whose client names no deadline and reads nothing ends at deadline_seconds_default."""
    limits = {"limits": {"input_tokens_max": 1000, "output_tokens_max": 1000}}
    service = {"deadline_seconds_default": 2, "drain_seconds": 1, "message_bytes_max": 64 * 2**20}
    with RunningDaemon(tmp_path, service=service) as daemon, daemon.admin() as admin:
        daemon.install(echo_bundle(tmp_path / "talk", "talk", "generate", task=limits, engine={"context_tokens": 4096}))
        channel, _ = open_stream(daemon, LARGE_TEXT, timeout=None)
        eventually_sync(lambda: admin.status().engines[0].pending == 1)
        eventually_sync(lambda: idle(admin), 6)
        channel.close()


@pytest.mark.slow
def test_daemon_killed_with_16_streams_restarts(daemon: RunningDaemon) -> None:
    """SIGKILL of the daemon also ends its engine; the daemon starts again on the same state directory and its tasks
    answer."""
    with daemon.admin() as admin, streaming_client(daemon, SLOW_TEXT) as client:
        (engine,) = admin.status().engines
        daemon.kill()
        client.kill()
    eventually_sync(lambda: resident_bytes(engine.pid) == 0)
    daemon.start()
    with Callers(daemon, "intent", 1) as callers:
        callers.wait_for_answers(1)
    assert [] == callers.lost


@pytest.mark.slow
def test_disconnect_during_prompt_frees_engine(tmp_path: Path) -> None:
    """When a client disconnects while the engine processes its prompt of 4,000 tokens, the engine becomes idle and
    answers the next call."""
    limits = {"limits": {"input_tokens_max": 4000, "output_tokens_max": 16}}
    bundle = smollm2_bundle(tmp_path / "talk", "generate", "talk", task=limits, engine={"context_tokens": 4200})
    with RunningDaemon(tmp_path) as daemon, daemon.admin() as admin:
        daemon.install(bundle)
        for _ in range(2):
            channel, _ = open_stream(daemon, "word " * 3900)
            eventually_sync(lambda: admin.status().engines[0].pending == 1)
            channel.close()
            eventually_sync(lambda: idle(admin), 1)
        with daemon.client() as client, client.generate("talk", "hello", timeout_seconds=20) as stream:
            assert "".join(stream)
        assert 0 == admin.status().engines[0].restarts
