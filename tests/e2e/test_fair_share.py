"""Fair shares between a noisy and a quiet client, by certificate and by the client name that socket callers give."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest

from edge_agent.client import AsyncClient, CallFailed, Client, Tls
from edge_agent.v1 import inference_pb2, inference_pb2_grpc
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually
from tests.support.tls_site import TlsSite

LABELS = ("refund", "price")
SLOW = "!slow 20 refund"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> TlsSite:
    return TlsSite(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def daemon(site: TlsSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon with a short queue that runs one batch at a time."""
    folder = tmp_path_factory.mktemp("daemon")
    engine = {"queue_requests_max": 24, "sequences_max": 1}
    with RunningDaemon(folder, engine=engine, **site.settings()) as running:
        running.install(echo_bundle(folder / "a", "intent", "classify", LABELS))
        yield running


async def call_on(client: AsyncClient, outcomes: Counter[str]) -> None:
    """Call without end, at once again after each refusal."""
    while True:
        try:
            await client.classify("intent", [SLOW], timeout_seconds=60)
            outcomes["answer"] += 1
        except CallFailed as failed:
            outcomes[f"{failed.code} {failed.reason} {failed.retry_after_seconds}"] += 1
            await client.task("intent")  # a moment in which others come to word


@asynccontextmanager
async def noise(address: str, tls: Tls, callers: int) -> AsyncIterator[Counter[str]]:
    """Let one client call from this number of loops while the block runs."""
    outcomes: Counter[str] = Counter()
    async with AsyncClient(address, tls) as client:
        loops = [asyncio.create_task(call_on(client, outcomes)) for _ in range(callers)]
        await eventually(lambda: any("RESOURCE_EXHAUSTED" in outcome for outcome in outcomes))
        yield outcomes
        for loop in loops:
            loop.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*loops)


async def test_noisy_client_does_not_starve_others(daemon: RunningDaemon, site: TlsSite) -> None:
    """Next to 60 loops of one client, each call of another is answered before 24 others, the length of the queue, have
    been."""
    quiet, most = site.client("quiet", "infer"), 0
    noisy = site.client("noisy", "infer")
    async with noise(site.address, noisy, 60) as outcomes, AsyncClient(site.address, quiet) as client:
        for _ in range(20):
            before = outcomes["answer"]
            [answer] = await client.classify("intent", [SLOW], timeout_seconds=60)
            most = max(most, outcomes["answer"] - before)
            assert "refund" == answer.label
    assert most < 24, f"{most} answers for others while one call waited"
    refusals = {outcome for outcome in outcomes if outcome != "answer"}
    assert refusals <= {"RESOURCE_EXHAUSTED QUEUE_FULL 1.0", "RESOURCE_EXHAUSTED CLIENT_SHARE_FULL 1.0"}, outcomes
    assert outcomes["answer"] > 0


async def test_named_socket_client_has_own_share(daemon: RunningDaemon) -> None:
    """A socket caller with its own client name is answered while unnamed callers, which share one account, fill their
    share."""
    async with grpc.aio.insecure_channel(daemon.inference) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.ClassifyRequest(task="intent", texts=[SLOW])

        async def call(name: str) -> str:
            try:
                await stub.Classify(request, metadata=[("edge-agent-client", name)] if name else None, timeout=60)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        many = [asyncio.create_task(call("")) for _ in range(60)]
        await eventually(lambda: any(task.done() and task.result() != "OK" for task in many))
        assert "OK" == await call("till-3")
        assert {"OK", "RESOURCE_EXHAUSTED"} == set(await asyncio.gather(*many))


@pytest.mark.slow
async def test_burst_over_limit_is_refused_with_details(tmp_path: Path) -> None:
    """Of 3,000 concurrent calls over ten connections, each is answered or refused with RESOURCE_EXHAUSTED and error
    details."""
    with RunningDaemon(tmp_path, service={"calls_max": 8}) as daemon:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", LABELS))
        request = inference_pb2.ClassifyRequest(task="intent", texts=[SLOW])
        outcomes: Counter[str] = Counter()

        async def call(channel: grpc.aio.Channel) -> None:
            try:
                await inference_pb2_grpc.InferenceServiceStub(channel).Classify(request, timeout=60)
                outcomes["answer"] += 1
            except grpc.aio.AioRpcError as error:
                named = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata())
                outcomes[f"{error.code().name} {'with' if named else f'without: {error.details()}'}"] += 1

        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(daemon.inference, options=options) for _ in range(10)]
        await asyncio.gather(*(call(channels[number % 10]) for number in range(3000)))
        for channel in channels:
            await channel.close()
        assert {"answer", "RESOURCE_EXHAUSTED with"} == set(outcomes), outcomes
        assert outcomes["answer"] >= 8


@pytest.mark.slow
def test_client_over_rate_gets_retry_delay(tmp_path: Path) -> None:
    """A client over its call rate gets CLIENT_RATE_EXCEEDED with a retry delay; health checks, other clients and
    operators are not limited."""
    site = TlsSite(tmp_path / "tls")
    settings = site.settings(client_calls_per_second_max=0.1, client_calls_burst_max=2)
    with RunningDaemon(tmp_path / "daemon", **settings) as daemon:
        daemon.install(echo_bundle(tmp_path / "a", "intent", "classify", LABELS))
        with Client(site.address, site.client("noisy", "infer")) as noisy:
            noisy.classify("intent", ["refund"])
            noisy.classify("intent", ["refund"])
            with pytest.raises(CallFailed) as caught:
                noisy.classify("intent", ["refund"])
            assert noisy.serving()
        assert ("RESOURCE_EXHAUSTED", "CLIENT_RATE_EXCEEDED") == (caught.value.code, caught.value.reason)
        assert 0 < (caught.value.retry_after_seconds or 0) <= 10
        with Client(site.address, site.client("quiet", "infer")) as quiet, daemon.admin() as admin:
            assert "refund" == quiet.classify("intent", ["refund"])[0].label
            assert 3 == len([admin.status() for _ in range(3)])


def test_changing_client_names_does_not_raise_rate(tmp_path: Path) -> None:
    """A socket caller with a new name for each call uses at most socket_clients_max accounts, and all further names
    share one burst."""
    access = {"client_calls_per_second_max": 0.001, "client_calls_burst_max": 3, "socket_clients_max": 4}
    with RunningDaemon(tmp_path, access=access) as daemon, grpc.insecure_channel(daemon.inference) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        outcomes: Counter[str] = Counter()
        for number in range(100):
            try:
                stub.ListTasks(inference_pb2.ListTasksRequest(), metadata=[("edge-agent-client", f"till-{number}")])
                outcomes["OK"] += 1
            except grpc.RpcError as error:
                outcomes[error.code().name] += 1
        # Four names have an account and call once; all others are one client.
        assert {"OK": 4 + 3, "RESOURCE_EXHAUSTED": 100 - 7} == outcomes
        for _ in range(2):
            stub.ListTasks(inference_pb2.ListTasksRequest(), metadata=[("edge-agent-client", "till-0")])
