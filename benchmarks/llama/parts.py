"""The parts of the comparison: each asks the same of both sides, by turns, and judges the pairs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from benchmarks.bars import Bar, median
from benchmarks.llama import goals, tasks
from benchmarks.llama.bare import BareScorer
from benchmarks.llama.comparing import Comparison, ComparisonGoal, Figure, MeasuredPair, compared
from benchmarks.llama.sides import ServerSide, StreamWatch
from benchmarks.llama.streams import Generation, GenerationTooShort, rate, short, stall
from benchmarks.llama.tasks import Task, Texts
from benchmarks.llama.turns import calls_per_second, p50_ms, take_turns

ROUNDS, STALL_ROUNDS = 12, 5
BLOCK, RECORD_BLOCK = 8, 5
MANY_CALLS = 48
WARM_CALLS = 4
PIECES_BEFORE = 10
TRIES_MAX = 3
"""Pairs that are measured for one that counts, at most, where a stream ends while it is needed."""


@dataclass(frozen=True)
class LoadedSides:
    """Both sides with one model loaded, and what to ask them."""

    model: str
    ours: ServerSide
    theirs: ServerSide
    bare: BareScorer
    texts: Texts
    prefix_tokens: int
    rounds_max: int = ROUNDS
    """Fewer than ROUNDS for a look that need not be sure."""

    @property
    def sides(self) -> tuple[ServerSide, ServerSide]:
        """Ours first, as everywhere."""
        return self.ours, self.theirs

    def judge(self, goal: ComparisonGoal, found: Sequence[Sequence[float]]) -> Comparison:
        """Hold what two systems measured against a goal."""
        return compared(goal, [MeasuredPair(*round_) for round_ in found], self.model)

    def rounds(self, wanted: int = ROUNDS) -> int:
        """Return how many pairs to measure."""
        return min(wanted, self.rounds_max)

    def blocks(self, rounds: int, size: int) -> list[list[str]]:
        """Return texts of TEXT_TOKENS tokens after the prefix, including the prompt's part after the input."""
        wanted = self.prefix_tokens + goals.TEXT_TOKENS
        return [[self.texts.short(wanted, tasks.CLASSIFY.prompt) for _ in range(size)] for _ in range(rounds)]


Part = Callable[[LoadedSides], Awaitable[list[Bar]]]


async def generate(match: LoadedSides) -> list[Bar]:
    """Streams that begin together, from the request to the last token of the last one."""
    bars: list[Bar] = []
    ours: list[Generation] = []

    async def together(side: ServerSide, prompts: list[list[str]], number: int) -> float:
        asked = (side.write(tasks.WRITE, text, goals.TOKENS) for text in prompts[number])
        written = await asyncio.gather(*asked)
        if side is match.ours:
            ours.extend(written)
        return rate(written)

    for streams, goal in goals.GENERATE.items():
        prompts = [[tasks.story(match.texts) for _ in range(streams)] for _ in range(match.rounds())]
        warm = [[tasks.story(match.texts)]]
        for side in match.sides:
            await together(side, warm, 0)
        bars.append(
            match.judge(goal, await take_turns(match.rounds(), [partial(together, s, prompts) for s in match.sides]))
        )
    share = short(ours, goals.TOKENS)
    about = {"why": "ours stops where the model ends its text; llama-server is told not to"}
    return [*bars, Figure("streams that ended by themselves, share", share, None, "lower", about, match.model)]


async def first_token(match: LoadedSides) -> list[Bar]:
    """The first piece of a stream: the prompt's prefix is known, the text is not."""

    async def block(side: ServerSide, blocks: list[list[str]], number: int) -> float:
        return median([1000 * (await side.write(tasks.CONTINUE, text, 1)).first for text in blocks[number]])

    blocks = match.blocks(match.rounds(), BLOCK)
    for side in match.sides:
        await block(side, match.blocks(1, WARM_CALLS), 0)
    found = await take_turns(match.rounds(), [partial(block, side, blocks) for side in match.sides])
    prefix = Figure("tokens of the shared prefix", match.prefix_tokens, None, "higher", {}, match.model)
    return [prefix, match.judge(goals.FIRST_TOKEN, found)]


async def classify(match: LoadedSides) -> list[Bar]:
    """One client, also compared with the bare decode; then with a prompt without examples."""
    blocks = match.blocks(match.rounds(), BLOCK)
    asks = [partial(_classify_block, side, tasks.CLASSIFY) for side in match.sides]
    for ask in asks:
        await ask(match.blocks(1, WARM_CALLS), 0)

    async def bare(number: int) -> float:
        return match.bare.p50_ms([tasks.input_of(tasks.CLASSIFY, text) for text in blocks[number]])

    systems: list[Callable[[int], Awaitable[float]]] = [*(partial(ask, blocks) for ask in asks), bare]
    found = await take_turns(match.rounds(), systems)
    return [
        match.judge(goals.CLASSIFY, [(ours, theirs) for ours, theirs, _ in found]),
        match.judge(goals.CLASSIFY_BARE, [(ours, decode) for ours, _, decode in found]),
        match.judge(goals.BARE, [(decode, theirs) for _, theirs, decode in found]),
    ]


async def short_prompt(match: LoadedSides) -> list[Bar]:
    """Ours against ours: what a model gains that was fine-tuned and needs no examples in its prompt."""
    fresh = [match.blocks(match.rounds(), BLOCK) for _ in range(2)]
    of = (tasks.CLASSIFY_SHORT, tasks.CLASSIFY)
    systems = [partial(_classify_block, match.ours, task, blocks) for task, blocks in zip(of, fresh, strict=True)]
    return [match.judge(goals.SHORT_PROMPT, await take_turns(match.rounds(), systems))]


async def classify_many(match: LoadedSides) -> list[Bar]:
    """Clients that each ask about one text after the other."""
    blocks = match.blocks(match.rounds(), MANY_CALLS)

    async def clients(side: ServerSide, number: int) -> float:
        return await calls_per_second([partial(side.classify, tasks.CLASSIFY)] * goals.CLIENTS, blocks[number])

    return [
        match.judge(
            goals.CLASSIFY_MANY, await take_turns(match.rounds(), [partial(clients, side) for side in match.sides])
        )
    ]


async def extract(match: LoadedSides) -> list[Bar]:
    """The fifty texts, a few at a time."""
    every = tasks.records()["texts"]
    blocks = [every[start : start + RECORD_BLOCK] for start in range(0, len(every), RECORD_BLOCK)]
    records: list[str] = []

    async def ask(side: ServerSide, text: str) -> None:
        records.append(await side.extract(tasks.EXTRACT, text))

    async def block(side: ServerSide, number: int) -> float:
        return await p50_ms(partial(ask, side), blocks[number])

    for side in match.sides:
        await side.extract(tasks.EXTRACT, match.texts.opening())
    found = await take_turns(match.rounds(len(blocks)), [partial(block, side) for side in match.sides])
    cut = sum(not _whole(record) for record in records)
    about = {"why": f"of either side, after {tasks.RECORD_TOKENS_MAX} tokens: what is timed then is no record"}
    return [
        match.judge(goals.EXTRACT, found),
        Figure("records that the model did not end", cut, 0, "lower", about, match.model),
    ]


async def stalls(match: LoadedSides) -> list[Bar]:
    """A long prompt arrives while a stream runs: the pause of the stream, and the wait of the prompt.

    A pair in which the model ended its text too soon is measured again with other texts. That says nothing of how fast
    either side is: a text ends by what is in it.
    """
    prompts: list[tuple[str, str]] = []

    async def disturbed(side: ServerSide, number: int) -> tuple[float, float] | None:
        with suppress(GenerationTooShort):
            return await _disturbed(side, *prompts[number])
        return None

    wanted = match.rounds(STALL_ROUNDS)
    found: list[tuple[tuple[float, float], tuple[float, float]]] = []
    while missing := min(wanted - len(found), TRIES_MAX * wanted - len(prompts)):
        begin = len(prompts)
        prompts += [(tasks.story(match.texts), match.texts.long(goals.LONG_TOKENS)) for _ in range(missing)]
        pairs = await take_turns(missing, [partial(disturbed, side) for side in match.sides], begin)
        found += [(ours, theirs) for ours, theirs in pairs if ours and theirs]
    about = {"why": "the stream ended before the long prompt had its first token"}
    again, most = len(prompts) - len(found), (TRIES_MAX - 1) * wanted
    bars: list[Bar] = [Figure("pairs of the stall measured in vain", again, most, "lower", about, match.model)]
    if found:
        bars.append(match.judge(goals.STALL, [(ours[0], theirs[0]) for ours, theirs in found]))
        bars.append(match.judge(goals.LONG_PROMPT, [(ours[1], theirs[1]) for ours, theirs in found]))
    return bars


async def _disturbed(side: ServerSide, story: str, long: str) -> tuple[float, float]:
    """Return the stream's longest stall and the long prompt's first token, in milliseconds.

    Raises:
        GenerationTooShort: the stream did not run before, through and after the long prompt.
    """
    watch = StreamWatch()
    stream = asyncio.create_task(side.write(tasks.WRITE, story, tasks.OUTPUT_TOKENS_MAX, watch))
    stream.add_done_callback(lambda _: watch.end())  # also where it fails: nobody is to wait for more
    try:
        await watch.until(lambda times: len(times) >= PIECES_BEFORE)
        arrived = time.perf_counter()
        written = await side.write(tasks.WRITE, long, 1)
        await watch.until(lambda times: times[-1] >= written.first_at)
    finally:
        stream.cancel()
        (ended,) = await asyncio.gather(stream, return_exceptions=True)
        await side.rest()
    if isinstance(ended, Exception):
        raise ended
    return 1000 * stall(watch.times, arrived, written.first_at), 1000 * written.first


def _whole(record: str) -> bool:
    with suppress(ValueError):
        return isinstance(json.loads(record), dict)
    return False


async def _classify_block(side: ServerSide, task: Task, blocks: list[list[str]], number: int) -> float:
    return await p50_ms(partial(side.classify, task), blocks[number])
