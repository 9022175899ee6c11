"""Systems that take turns: only one of them computes at a time, and each begins as often as any other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from benchmarks.bars import median

PAUSE_SECONDS = 0.05
"""Between two turns: OpenMP's threads go on spinning for up to 20 ms when nothing is left to compute."""

_T = TypeVar("_T")


async def take_turns(rounds: int, systems: Sequence[Callable[[int], Awaitable[_T]]], begin: int = 0) -> list[list[_T]]:
    """Return for each round what each system measured; a system gets the number of the round, the first is `begin`."""
    found = []
    for number in range(begin, begin + rounds):
        measured = {}
        for place in order(number, len(systems)):
            await asyncio.sleep(PAUSE_SECONDS)
            measured[place] = await systems[place](number)
        found.append([measured[place] for place in range(len(systems))])
    return found


def order(number: int, systems: int) -> list[int]:
    """Return the order of a round: each round begins with the next side."""
    return [(number + place) % systems for place in range(systems)]


async def p50_ms(call: Callable[[str], Awaitable[object]], texts: Sequence[str]) -> float:
    """Return the median of the milliseconds that a call takes, one after the other."""
    taken = []
    for text in texts:
        started = time.perf_counter()
        await call(text)
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken)


async def calls_per_second(calls: Sequence[Callable[[str], Awaitable[object]]], texts: Sequence[str]) -> float:
    """Return how many texts a second clients get done that each make one call after the other, by turns of texts."""
    supply = iter(texts)
    started = time.perf_counter()
    await asyncio.gather(*(_client(call, supply) for call in calls))
    return len(texts) / (time.perf_counter() - started)


async def _client(call: Callable[[str], Awaitable[object]], supply: Iterator[str]) -> None:
    for text in supply:
        await call(text)
