"""The pure parts of scripts/bench llm: ratios of pairs, bars by interval, turns, stalls, texts of a given length."""

from __future__ import annotations

import random
import time
from functools import partial

import pytest

from benchmarks.bare import hot_loop
from benchmarks.bars import Bar
from benchmarks.llama import building, parts, tasks
from benchmarks.llama.comparing import Goal, Pair, compared, ratio
from benchmarks.llama.goals import LABELS
from benchmarks.llama.sides import Watch
from benchmarks.llama.streams import EndedSooner, Written, pace, rate, short, stall
from benchmarks.llama.tasks import Texts
from benchmarks.llama.turns import calls_per_second, order, p50_ms, take_turns
from edge_agent.formats import record_schema
from tests.support.eventually import turns

SENTENCES = [
    "how much is the blue lamp in the window",
    "can I pay half by card and the other half in cash",
    "we close at six and open again tomorrow at nine",
]
WORK = [(50, 19032), (115, 16634), (53, 25979), (119, 6780), (57, 45053), (123, 46590), (61, 15487), (2, 37760)]
"""What eight streams of the fixed piece of Python have after 300 rounds: how many tokens, and the last."""


def words(text: str) -> int:
    """Count as a model does whose tokens are words."""
    return len(text.split())


def test_a_ratio_does_not_see_what_slows_both_sides_down() -> None:
    """A machine that gets slower all the time changes no ratio of pairs, nor its interval."""
    drifting = [Pair(2.0 * slower, 1.0 * slower) for slower in range(1, 13)]
    assert (2.0, 2.0, 2.0) == ratio(drifting)


def test_the_interval_of_a_ratio_holds_the_truth_about_19_times_in_20() -> None:
    """Of 100 series of 12 noisy pairs whose true ratio is 0.9."""
    rng = random.Random(1)
    series = ([Pair(0.9 * rng.lognormvariate(0, 0.1), 1.0) for _ in range(12)] for _ in range(100))
    found = [ratio(pairs) for pairs in series]
    assert 0.88 <= sum(each.low <= 0.9 <= each.high for each in found) / len(found) <= 1.0


def test_an_interval_is_the_same_each_time() -> None:
    """What is drawn has a fixed seed."""
    pairs = [Pair(ours, 1.0) for ours in (0.9, 1.1, 1.0, 1.3, 0.8)]
    assert ratio(pairs) == ratio(pairs)


@pytest.mark.parametrize(
    ("better", "limit", "by_interval", "ok"),
    [
        ("higher", 0.95, False, False),
        ("higher", 0.95, True, True),
        ("higher", 1.15, True, False),
        ("lower", 0.85, False, False),
        ("lower", 0.85, True, True),
        ("lower", 0.75, True, False),
        ("lower", None, False, True),
    ],
)
def test_a_bar_by_interval_is_met_where_the_better_end_reaches_the_limit(
    better: str, limit: float | None, by_interval: bool, ok: bool
) -> None:
    """Other bars hold the median, 0.9 of 0.8 to 1.1, against it; one without a limit is only reported."""
    pairs = [Pair(ours, 1.0) for ours in [0.8, 0.9, 1.1] * 3]
    goal = Goal("bar", better=better, unit="ms", limit=limit, by_interval=by_interval)  # type: ignore[arg-type]
    found = compared(goal, pairs, "model")
    assert (0.9, 0.8, 1.1) == (found.value, found.low, found.high)
    assert ok == found.ok


def test_a_comparison_says_what_was_compared() -> None:
    """In one row: the model, the ratio with its interval, the limit, and the medians of both sides."""
    goal = Goal("classify, p50", better="lower", unit="ms", limit=0.85)
    row = compared(goal, [Pair(30.0, 40.0)] * 3, "SmolLM2-135M-Q4_0").line()
    assert "SmolLM2-135M-Q4_0 classify, p50 0.75 [0.75, 0.75] <= 0.85 ok 30 : 40 ms" == " ".join(row.split())


def test_a_figure_without_a_limit_is_not_judged() -> None:
    """Its row says that it is reported."""
    bar = Bar("memory, GB/s", 12.5, None, "higher")
    assert (True, "memory, GB/s                                           12.500  (reported)") == (bar.ok, bar.line())


def test_a_stall_is_the_longest_gap_that_touches_the_time_looked_at() -> None:
    """Gaps that end before it, or begin after it, do not count; those across its ends do."""
    times = [0.0, 5.0, 6.0, 6.5, 9.0, 10.0, 19.0]
    assert 2.5 == stall(times, 6.2, 9.5)
    assert 5.0 == stall(times, 4.0, 6.2)
    assert 9.0 == stall(times, 9.5, 12.0)


@pytest.mark.parametrize(("start", "end"), [(-1.0, 5.0), (5.0, 20.0)])
def test_a_stream_that_did_not_run_all_the_time_has_no_stall(start: float, end: float) -> None:
    """It says so instead of a number that is too good."""
    with pytest.raises(EndedSooner, match="before, through and after"):
        stall([0.0, 5.0, 19.0], start, end)


def test_the_rate_of_streams_counts_from_the_first_request_to_the_last_end() -> None:
    """Tokens of all of them, also of one that ended sooner."""
    streams = [Written(10.0, (10.5, 11.0), 12.0, 100), Written(10.2, (11.0, 13.5), 14.0, 60)]
    assert 40.0 == rate(streams)
    assert 0.5 == streams[0].first


def test_a_stream_that_wrote_nearly_all_that_it_was_asked_for_has_not_ended_by_itself() -> None:
    """Nine in ten; and its pace is that from its first piece to its last."""
    streams = [Written(0.0, (1.0, 3.0), 3.0, tokens) for tokens in (100, 90, 89, 1)]
    assert 0.5 == short(streams, 100)
    assert 49.5 == pace(streams[0])


def test_an_answer_without_a_piece_came_when_it_ended() -> None:
    """A token may be no text at all."""
    assert 2.0 == Written(10.0, (), 12.0, 1).first


def test_texts_have_the_wanted_length_and_openings_of_their_own() -> None:
    """Whoever keeps prompts finds nothing of one text in another."""
    texts = Texts(SENTENCES, words)
    drawn = [texts.short(20, lambda text: f"They say {text} at last") for _ in range(60)]
    assert {16} == {words(text) for text in drawn}
    assert 60 == len({tuple(text.split()[:2]) for text in drawn})
    assert 300 <= words(texts.long(300)) <= 303


def test_texts_are_the_same_each_time() -> None:
    """Two runs ask the same."""
    first, second = (Texts(SENTENCES, words) for _ in range(2))
    assert [first.short(12) for _ in range(5)] == [second.short(12) for _ in range(5)]


def test_a_length_that_no_text_has_is_said() -> None:
    """A model whose words are two tokens each has no text of seven."""
    texts = Texts(SENTENCES, lambda text: 2 * words(text))
    with pytest.raises(LookupError, match="no text of 7 tokens"):
        texts.short(7)


def test_each_system_begins_as_often_as_the_others() -> None:
    """Two alternate; of three, the next one begins each time."""
    assert [[0, 1], [1, 0], [0, 1]] == [order(number, 2) for number in range(3)]
    assert [[0, 1, 2], [1, 2, 0], [2, 0, 1]] == [order(number, 3) for number in range(3)]


async def test_turns_are_taken_one_after_the_other() -> None:
    """Never two at a time, and what each measured stands at its place."""
    running, seen = 0, []

    async def system(name: str, number: int) -> str:
        nonlocal running
        running += 1
        seen.append((name, running))
        await turns()  # meanwhile others may run
        running -= 1
        return f"{name}{number}"

    found = await take_turns(2, [partial(system, name) for name in "ab"])
    assert [["a0", "b0"], ["a1", "b1"]] == found
    assert [("a", 1), ("b", 1), ("b", 1), ("a", 1)] == seen
    assert [["a1", "b1"]] == await take_turns(1, [partial(system, name) for name in "ab"], begin=1)
    assert [("b", 1), ("a", 1)] == seen[4:]


class Writer:
    """A side whose long prompts take ten pieces of its stream; which streams end sooner is told, by their number."""

    def __init__(self, *ending: int, pieces: int = 12, broken: bool = False) -> None:
        self.asked: list[str] = []
        self._ending, self._pieces, self._broken = ending, pieces, broken
        self._stream = Watch()

    async def write(self, task: tasks.Task, text: str, tokens: int, watch: Watch | None = None) -> Written:
        asked = time.perf_counter()
        if watch is None:  # the long prompt
            await self._stream.until(lambda times: len(times) >= parts.PIECES_BEFORE + 10)
            return Written(asked, (time.perf_counter(),), time.perf_counter(), tokens)
        self._stream = watch
        self.asked.append(text)
        pieces = self._pieces if len(self.asked) - 1 in self._ending else tokens
        for _ in range(pieces):
            watch.piece()
            await turns()  # meanwhile others may run
        if self._broken:
            raise ConnectionError("the stream broke")
        return Written(asked, tuple(watch.times), time.perf_counter(), pieces)

    async def extract(self, task: tasks.Task, text: str) -> str:
        self.asked.append(text)
        return '{"product": "lam' if len(self.asked) - 1 in self._ending else "{}"

    async def rest(self) -> None:
        """Nothing computes between two calls."""


def match(ours: Writer, theirs: Writer) -> parts.Match:
    """Two rounds of a model whose tokens are words."""
    return parts.Match("model", ours, theirs, None, Texts(SENTENCES, words), 0, rounds_max=2)  # type: ignore[arg-type]


async def test_a_pair_whose_stream_ended_too_soon_is_measured_again_on_both_sides() -> None:
    """With texts of its own, the same on both sides; how many were is said."""
    ours, theirs = Writer(1), Writer()
    again, stalled, first = await parts.stalls(match(ours, theirs))
    assert ("pairs of the stall measured in vain", 1, True) == (again.bar, again.value, again.ok)
    assert [2, 2] == [stalled.pairs, first.pairs]  # type: ignore[attr-defined]
    assert ours.asked == theirs.asked
    assert 3 == len(set(ours.asked))


async def test_a_model_whose_streams_all_end_too_soon_misses_a_bar_and_no_stall_is_told() -> None:
    """After three times as many pairs as are wanted."""
    ours = Writer(*range(100))
    (again,) = await parts.stalls(match(ours, Writer()))
    assert (6, 6, False) == (len(ours.asked), again.value, again.ok)


async def test_too_few_pairs_are_told_and_miss_a_bar() -> None:
    """One in six is judged, but two were wanted."""
    again, stalled, _ = await parts.stalls(match(Writer(0, 1, 2, 3, 5), Writer()))
    assert (5, False, 1) == (again.value, again.ok, stalled.pairs)  # type: ignore[attr-defined]


async def test_a_stream_that_breaks_ends_the_measurement() -> None:
    """It is no end of a text, and nobody waits for more of it."""
    with pytest.raises(ConnectionError, match="the stream broke"):
        await parts.stalls(match(Writer(0, pieces=2, broken=True), Writer()))


async def test_records_that_the_model_does_not_end_are_counted_and_miss_a_bar() -> None:
    """On either side; the first call of each is to warm up, and not looked at."""
    cut_off = (await parts.extract(match(Writer(0, 3), Writer(0, 4, 5))))[1]
    assert ("records that the model did not end", 3, False) == (cut_off.bar, cut_off.value, cut_off.ok)
    assert (await parts.extract(match(Writer(0), Writer())))[1].ok


async def test_clients_share_the_texts() -> None:
    """Each text is asked about once; as many calls are under way as there are clients."""
    asked, running, most = [], 0, 0

    async def call(text: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        asked.append(text)
        await turns()  # meanwhile others may run
        running -= 1

    texts = [str(number) for number in range(20)]
    assert await calls_per_second([call] * 4, texts) > 0
    assert (texts, 4) == (sorted(asked, key=int), most)


async def test_the_median_call_is_in_milliseconds() -> None:
    """Of calls one after the other."""
    asked: list[str] = []

    async def call(text: str) -> None:
        asked.append(text)

    assert 0 < await p50_ms(call, ["a", "b"]) < 1000
    assert ["a", "b"] == asked


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("[ 42%] Building CXX object", 42),
        ("[100%] Linking", 100),
        ("[79/210] Linking CXX static library", 37),
        ("-- Found Threads: TRUE", None),
        ("[warning] 12%", None),
    ],
)
def test_a_build_says_how_far_it_is(line: str, percent: int | None) -> None:
    """As make says it, and as ninja does."""
    assert percent == building.percent(line)


def test_the_records_are_a_task_that_a_bundle_can_be() -> None:
    """Fifty texts, all different, and a schema of four fields that the engine can hold a model to."""
    texts, schema = tasks.records()["texts"], tasks.records()["schema"]
    record_schema.check(schema)
    assert 50 == len(set(texts)) == len(texts)
    assert ["product", "count", "wish", "day"] == record_schema.fields(schema)


def test_both_sides_read_the_same_prompt() -> None:
    """The prefix of a task and what stands behind it are the whole prompt, blanks included."""
    prompt = tasks.CLASSIFY.prompt("How much is it?")
    assert prompt.endswith("Customer: How much is it?\nWants:")
    behind = tasks.input_of(tasks.CLASSIFY, "How much is it?")
    assert " How much is it?\nWants:" == behind
    assert prompt.partition(behind)[0] == tasks.CLASSIFY.template.partition(" {input}")[0]


def test_labels_are_a_grammar() -> None:
    """With the space that the model writes before them."""
    rule, _, alternatives = tasks.CLASSIFY.grammar().partition(" ::= ")
    assert ("root", [f'" {label}"' for label in LABELS]) == (rule, alternatives.split(" | "))


def test_the_piece_of_python_that_the_step_loop_is_held_to_stays_what_it_is() -> None:
    """The limit is a multiple of what it takes: it does the same work for ever, whatever the clock says."""
    streams = [hot_loop.Stream(number) for number in range(8)]
    for _ in range(300):
        hot_loop.reference(streams)
    assert WORK == [(len(stream.tokens), stream.tokens[-1]) for stream in streams]
