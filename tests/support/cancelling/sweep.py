"""The cancellation sweep: cancels each call of the daemon at each of its awaits, one after the other.

async with Site(folder) as site:
    async for swept in sweep(site, CALLS): print(swept)

After each point every method of every service has to be answered; what the call held has to be given back, and what was
acknowledged has to be there. A point at which that fails is named, with what was found.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.cancelling.calls import DRAINED, Call, probes, shown
from tests.support.cancelling.cancellation_points import CancellationPoint, How, Whose
from tests.support.cancelling.held_resources import HeldResources
from tests.support.cancelling.site import Outcome, Site
from tests.support.eventually import eventually, eventually_answered

SETTLED_SECONDS_MAX = 60.0
"""What a call began and nobody waits for any more comes to its end within this time."""
UNDISTURBED = 3
"""Calls that are made whole before the points: what they leave in caches is no leak."""
AWAITS_MAX = 500
"""Of one call: one that passes more each time it is left would be swept for ever."""
HOWS: tuple[How, ...] = ("waiting", "waking", "wire")


@dataclass
class SweepResults:
    """The results of all points of one call."""

    call: Call
    own: int = 0
    """Awaits of the caller."""
    begun: int = 0
    """Awaits of tasks that it began."""
    points: int = 0
    hung: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """The findings: one sentence for each point with a defect."""
        every = {"hung": self.hung, "leaked": self.leaked, "lost": self.lost}
        return [f"    {what}: {said}" for what, each in every.items() for said in each]

    def __str__(self) -> str:
        counts = f"{self.own:>5} {self.begun:>6} {self.points:>7} {len(self.hung):>5} {len(self.leaked):>7}"
        return f"{self.call!s:<44} {counts} {len(self.lost):>5}"


TITLES = f"{'call':<44} {'own':>5} {'begun':>6} {'points':>7} {'hung':>5} {'leaked':>7} {'lost':>5}"


async def sweep(
    site: Site, calls: Iterable[Call], every: int = 1, settled_seconds_max: float = SETTLED_SECONDS_MAX
) -> AsyncIterator[SweepResults]:
    """Sweep calls one after the other; `every` 3 = every third point, beginning with the first.

    What a call began has `settled_seconds_max` to come to its end after each.
    """
    for call in calls:
        yield await _Sweep(site, call, settled_seconds_max).swept(every)


class _Sweep:
    """The sweep of one call."""

    def __init__(self, site: Site, call: Call, settled_seconds_max: float) -> None:
        self._site, self._call, self._settled_seconds_max = site, call, settled_seconds_max
        self._found = SweepResults(call)
        self._before = HeldResources()

    async def swept(self, every: int) -> SweepResults:
        """Complete the call once, then cancel it at each point."""
        for _ in range(1 if self._call.ends else UNDISTURBED):
            await self._undisturbed()
            assert [] == [*await self._unanswered(), *await self._site.lost()], f"{self._call}: before anybody leaves"
        self._before = await self._settled()
        self._site.complaints()
        for number, point in enumerate(self._points()):
            if number % every == 0:
                await self._left_at(point)
        return self._found

    def _points(self) -> Iterator[CancellationPoint]:
        """Yield the points; how many there are may change from call to call with the time that threads take."""
        for how in HOWS:
            yield from self._numbers("own", how)
        yield from self._numbers("begun", "waiting")

    def _numbers(self, whose: Whose, how: How) -> Iterator[CancellationPoint]:
        number = 1
        while number <= (self._found.own if whose == "own" else self._found.begun):
            assert number <= AWAITS_MAX, f"{self._call} passes more and more awaits"
            yield CancellationPoint(whose, how, number)
            number += 1

    async def _undisturbed(self) -> None:
        call, site = self._call, self._site
        await call.prepare(site)
        messages = await call.messages(site)
        others = await call.beside(site, messages)
        outcome = await site.call(call.method, *messages, aimed=True, answers_max=call.answers_max)
        assert (outcome.code != "OK", outcome.reason) == (bool(call.reason), call.reason), f"{call}: {shown(outcome)}"
        self._count()
        assert [] == await self._unanswered_others(others), f"{call}: before anybody leaves"
        await self._put_back()

    def _count(self) -> None:
        passed, found = self._site.points.passed, self._found
        found.own, found.begun = max(found.own, passed["own"]), max(found.begun, passed["begun"])

    async def _put_back(self) -> None:
        if self._call.ends:
            await self._site.restart()
        else:
            await self._call.restore(self._site)

    async def _left_at(self, point: CancellationPoint) -> None:
        """Cancel the call at a point, and check the consequences."""
        call, site, found = self._call, self._site, self._found
        await call.prepare(site)
        messages = await call.messages(site)
        others = await call.beside(site, messages)
        outcome = await site.call(call.method, *messages, at=point, answers_max=call.answers_max)
        if site.points.reached.is_set():
            self._count()
        found.points += site.points.reached.is_set()
        if hung := await self._unanswered():
            found.hung.append(f"{call}, {point}: {'; '.join(hung)}")
            await self._start_anew()
            return
        lost = await call.claims(site, messages, outcome) if outcome.code == "OK" else ""
        others_lost = await self._unanswered_others(others)
        if said := [*([lost] if lost else []), *others_lost, *await site.lost()]:
            found.lost.append(f"{call}, {point}: {'; '.join(said)}")
        await self._put_back()
        if call.ends:
            self._before = await self._settled()
            return
        if left := await self._left_over():
            found.leaked.append(f"{call}, {point}: {'; '.join(left)}")
            self._before = site.look()

    async def _unanswered_others(self, others: Iterable[asyncio.Future[Outcome]]) -> list[str]:
        """Wait for the concurrent calls of others; return the outcomes of those that were not answered."""
        outcomes = await asyncio.gather(*others)
        return [f"another call ended with {shown(each)}" for each in outcomes if each.code != "OK"]

    async def _unanswered(self) -> list[str]:
        """Make all calls concurrently; return those that are not answered."""
        every = probes()
        also = DRAINED if self._call.ends else ()

        async def tried(number: int) -> Outcome:
            probe = every[number]
            messages = await probe.messages(self._site)
            return await self._site.call(probe.method, *messages, answers_max=probe.answers_max)

        try:
            outcomes = await asyncio.gather(*(tried(number) for number in range(len(every))))
        except IndexError:  # what makes a message was not answered itself
            return ["a call that makes a prediction is not answered"]
        return [
            f"{probe.method.name} is answered with {shown(outcome)}"
            for probe, outcome in zip(every, outcomes, strict=True)
            if not probe.answered(outcome, also)
        ]

    async def _left_over(self) -> list[str]:
        """Return the resources still held beyond those before, after a time limit, and the logged errors."""
        with suppress(AssertionError):
            await eventually(lambda: not self._site.look().beyond(self._before), self._settled_seconds_max)
        return [*self._site.look().beyond(self._before), *self._site.complaints(self._call.logged)]

    async def _settled(self) -> HeldResources:
        """Wait until all tasks answer, the uplink is connected and two consecutive snapshots are equal; return it.

        Raises AssertionError when the daemon goes on.
        """
        await eventually_answered(self._site.ready, SETTLED_SECONDS_MAX)
        looks = [self._site.look()]

        def alike() -> bool:
            looks.append(self._site.look())
            return not looks[-1].beyond(looks[-2]) and not looks[-2].beyond(looks[-1])

        await eventually(alike, SETTLED_SECONDS_MAX)
        return looks[-1]

    async def _start_anew(self) -> None:
        """Continue with a restarted daemon, because the previous one does not answer."""
        await self._site.restart()
        await self._call.restore(self._site)
        await self._unanswered()
        self._before = await self._settled()
        self._site.complaints()
