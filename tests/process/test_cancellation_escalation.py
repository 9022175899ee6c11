"""Calls of EscalationService, which the uplink serves and the daemon calls, cancelled at every await.

It is not a service of the daemon, so the sweep of the daemon's calls does not list it. The daemon awaits `Ask` inside
Classify and Generate, where that sweep cancels it. The daemon's watch over the uplink is a background task and not a
call: the sweep of component deaths ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
import pytest

from edge_agent.config import EscalationConfig
from edge_agent.uplink.escalation.escalation_server import EscalationServicer
from edge_agent.uplink.escalation.large_model_client import LargeModelClient
from edge_agent.uplink.escalation.question_broker import SAMPLES_MAX, EscalationBroker
from edge_agent.uplink.escalation.spend_ledger import SpendLedger
from edge_agent.v1 import escalation_pb2 as pb
from edge_agent.v1.escalation_pb2_grpc import EscalationServiceStub, add_EscalationServiceServicer_to_server
from tests.support.cancelling.cancellation_points import (
    HANDLES_A_CALL,
    CancellationPoint,
    CancellationPoints,
    How,
    Whose,
)
from tests.support.cancelling.held_resources import HeldResources, held
from tests.support.eventually import eventually
from tests.support.large_model import KEY, LargeModel

pytestmark = pytest.mark.slow

TASK = "pos-intent"
NOON = 1_795_694_400.0  # 2026-11-26 12:00 UTC
SECONDS_MAX, LEAVE_SECONDS_MAX = 30.0, 2.0
ASKED = pb.AskRequest(task=TASK, turns=[pb.Turn(role="user", text="a refund")], output_tokens_max=10)
CALLS: dict[str, tuple[str, Any, int]] = {
    "Ask": ("Ask", ASKED, 1000),
    "Ask, refused": ("Ask", pb.AskRequest(task="nobody", turns=ASKED.turns, output_tokens_max=10), 1000),
    "Watch": ("Watch", pb.WatchRequest(), 1),
}
"""By what they are: method, request, and after how many answers the caller leaves."""
OF_A_CALL = {HANDLES_A_CALL, "_schedule_rpc_coro"}
"""The tasks of gRPC in which a call runs."""


@dataclass
class Uplink:
    """The escalation service of an uplink on this event loop, with capacity for one question."""

    points: CancellationPoints
    stub: Any
    broker: EscalationBroker
    servicer: EscalationServicer
    folder: Path
    paid: int = 0
    """Of the answers whose end was delivered, in millionths."""
    passed: dict[Whose, int] = field(default_factory=lambda: {"own": 0, "begun": 0})

    async def call(self, name: str, at: CancellationPoint | None = None) -> list[Any]:
        """Make a call, cancel it at a point, and return its result until then."""
        method, request, answers_max = CALLS[name]
        begun: list[Any] = []
        self.points.aim(at, lambda: begun[0].cancel())
        begun.append(getattr(self.stub, method)(request, timeout=SECONDS_MAX))
        reading = asyncio.ensure_future(self._read(begun[0], answers_max))
        reached = asyncio.ensure_future(self.points.reached.wait())
        await asyncio.wait([reading, reached], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        await asyncio.wait([reached])
        if not reading.done():
            with suppress(AssertionError):
                await eventually(lambda: self.points.handled, LEAVE_SECONDS_MAX)
            begun[0].cancel()
        answers = await reading
        for whose, count in self.points.passed.items():
            self.passed[whose] = max(self.passed[whose], count)
        return answers

    async def _read(self, call: Any, answers_max: int) -> list[Any]:
        answers = []
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            async for answer in call:
                answers.append(answer)
                if isinstance(answer, pb.AskResponse) and answer.HasField("finish"):
                    self.paid += answer.finish.cost_micros
                if len(answers) >= answers_max:
                    call.cancel()
        return answers

    def look(self) -> HeldResources:
        """Return the tasks and resources that the process holds now."""
        return held(self.servicer, self.folder)

    async def rest(self) -> None:
        """Wait until no call is in progress: the uplink handles a cancellation later, and then frees its only slot."""
        await eventually(lambda: self.broker.status().free and not self.look().tasks.keys() & OF_A_CALL)

    async def faults(self, before: HeldResources) -> list[str]:
        """Make every call again; return missing answers, lost data and leftovers."""
        said = []
        await self.rest()
        if not any(answer.HasField("finish") for answer in await self.call("Ask")):
            said.append("Ask is not answered")
        if [answer.online for answer in await self.call("Watch")] != [True]:
            said.append("Watch is not answered")
        if (spent := self.broker.ledger.spent.on(self.broker.ledger.today)) < self.paid:
            said.append(f"{self.paid} were paid, and {spent} are in the books")
        with suppress(AssertionError):
            await eventually(lambda: not self.look().beyond(before))
        return [*said, *self.look().beyond(before)]


@asynccontextmanager
async def _uplink(folder: Path) -> AsyncIterator[Uplink]:
    prices = {"input_token_price": 1.0, "output_token_price": 2.0}
    with LargeModel(lambda _: "hello there") as oracle, TemporaryDirectory(prefix="ea-") as short:
        config = EscalationConfig(url=oracle.url, model="m", tasks=(TASK,), calls_max=1, **prices)
        model = LargeModelClient(config, KEY)
        broker = EscalationBroker(config, model, SpendLedger(folder, config, lambda: NOON))
        servicer, server, points = (
            EscalationServicer(config, broker),
            grpc.aio.server(),
            CancellationPoints(asyncio.get_running_loop()),
        )
        add_EscalationServiceServicer_to_server(servicer, server)
        socket = Path(short) / "escalation.sock"
        server.add_insecure_port(f"unix:{socket}")
        running = asyncio.ensure_future(broker.run())
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                await eventually(lambda: broker.status().online)
                yield Uplink(points, EscalationServiceStub(channel), broker, servicer, folder)
        finally:
            running.cancel()
            await server.stop(0)
            await model.close()
            points.close()


def _points(passed: Callable[[], dict[Whose, int]]) -> Iterator[CancellationPoint]:
    ways: tuple[tuple[Whose, How], ...] = (
        *(("own", "waiting"), ("own", "waking"), ("own", "wire")),
        ("begun", "waiting"),
    )
    for whose, how in ways:
        number = 1
        while number <= passed()[whose]:
            yield CancellationPoint(whose, how, number)
            number += 1


def test_every_method_of_the_uplink_is_cancelled():
    """The tests of this file cover every method in the descriptor of EscalationService."""
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["EscalationService"].methods}
    assert methods == {method for method, _, _ in CALLS.values()}


@pytest.mark.parametrize("name", CALLS)
async def test_uplink_call_can_be_cancelled_at_every_await(tmp_path: Path, name: str):
    """After a cancelled call the uplink's only slot is free again, delivered answers stay charged, and nothing
    remains."""
    found, points = [], 0
    async with _uplink(tmp_path) as uplink:
        for each in (*CALLS, *["Ask"] * SAMPLES_MAX, name):  # how long answers took is remembered, so many of them
            uplink.passed = {"own": 0, "begun": 0}
            await uplink.call(each)
        passed = dict(uplink.passed)
        await uplink.rest()
        before = uplink.look()
        for point in _points(lambda: passed):
            await uplink.call(name, point)
            points += uplink.points.reached.is_set()
            found += [f"{point}: {said}" for said in await uplink.faults(before)]
    assert [] == found
    assert points >= 3
