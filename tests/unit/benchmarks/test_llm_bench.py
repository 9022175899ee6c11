"""The pure parts of scripts/bench llm: ratios of pairs, bars by interval, alternation, stalls, texts of a given
length."""

from __future__ import annotations

import random
import time
from functools import partial

import pytest

from benchmarks.bare import hot_loop
from benchmarks.bars import Bar
from benchmarks.llama import building, parts, tasks
from benchmarks.llama.comparing import ComparisonGoal, MeasuredPair, compared, ratio
from benchmarks.llama.goals import LABELS
from benchmarks.llama.sides import StreamWatch
from benchmarks.llama.streams import Generation, GenerationTooShort, pace, rate, short, stall
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
    """Count the tokens of a model whose tokens are words."""
    return len(text.split())


def test_ratio_is_unaffected_by_a_slowdown_of_both_sides() -> None:
    """A machine that becomes slower during the measurement changes neither the ratio of pairs nor its interval."""
    drifting = [MeasuredPair(2.0 * slower, 1.0 * slower) for slower in range(1, 13)]
    assert (2.0, 2.0, 2.0) == ratio(drifting)


def test_ratio_interval_covers_the_true_ratio_19_times_in_20() -> None:
    """The intervals of 100 series of 12 noisy pairs contain the true ratio of 0.9 in at least 88 cases."""
    rng = random.Random(1)
    series = ([MeasuredPair(0.9 * rng.lognormvariate(0, 0.1), 1.0) for _ in range(12)] for _ in range(100))
    found = [ratio(pairs) for pairs in series]
    assert 0.88 <= sum(each.low <= 0.9 <= each.high for each in found) / len(found) <= 1.0


def test_ratio_interval_is_reproducible() -> None:
    """The bootstrap of a ratio uses a fixed seed, so the same pairs have the same interval."""
    pairs = [MeasuredPair(ours, 1.0) for ours in (0.9, 1.1, 1.0, 1.3, 0.8)]
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
def test_bar_by_interval_is_met_if_the_better_end_reaches_the_limit(
    better: str, limit: float | None, by_interval: bool, ok: bool
) -> None:
    """A bar by interval compares the better end of the interval with the limit, other bars compare the median; a bar
    without a limit is always met."""
    pairs = [MeasuredPair(ours, 1.0) for ours in [0.8, 0.9, 1.1] * 3]
    goal = ComparisonGoal("bar", better=better, unit="ms", limit=limit, by_interval=by_interval)  # type: ignore[arg-type]
    found = compared(goal, pairs, "model")
    assert (0.9, 0.8, 1.1) == (found.value, found.low, found.high)
    assert ok == found.ok


def test_comparison_row_shows_model_ratio_limit_and_medians() -> None:
    """The row of a comparison shows the model, the ratio with its interval, the limit and the medians of both sides."""
    goal = ComparisonGoal("classify, p50", better="lower", unit="ms", limit=0.85)
    row = compared(goal, [MeasuredPair(30.0, 40.0)] * 3, "SmolLM2-135M-Q4_0").line()
    assert "SmolLM2-135M-Q4_0 classify, p50 0.75 [0.75, 0.75] <= 0.85 ok 30 : 40 ms" == " ".join(row.split())


def test_figure_without_a_limit_is_only_reported() -> None:
    """A figure without a limit is always ok and its row reads `(reported)`."""
    bar = Bar("memory, GB/s", 12.5, None, "higher")
    assert (True, "memory, GB/s                                           12.500  (reported)") == (bar.ok, bar.line())


def test_stall_is_the_longest_gap_that_overlaps_the_window() -> None:
    """The stall is the longest gap between pieces that overlaps the examined window; gaps that end before it or begin
    after it do not count."""
    times = [0.0, 5.0, 6.0, 6.5, 9.0, 10.0, 19.0]
    assert 2.5 == stall(times, 6.2, 9.5)
    assert 5.0 == stall(times, 4.0, 6.2)
    assert 9.0 == stall(times, 9.5, 12.0)


@pytest.mark.parametrize(("start", "end"), [(-1.0, 5.0), (5.0, 20.0)])
def test_stream_that_does_not_cover_the_window_has_no_stall(start: float, end: float) -> None:
    """If a stream does not run before, through and after the window, `stall` raises GenerationTooShort instead of
    returning a number that is too good."""
    with pytest.raises(GenerationTooShort, match="before, through and after"):
        stall([0.0, 5.0, 19.0], start, end)


def test_stream_rate_spans_from_first_request_to_last_end() -> None:
    """The rate divides the tokens of all streams by the time from the first request to the last end, even if one stream
    ended earlier."""
    streams = [Generation(10.0, (10.5, 11.0), 12.0, 100), Generation(10.2, (11.0, 13.5), 14.0, 60)]
    assert 40.0 == rate(streams)
    assert 0.5 == streams[0].first


def test_stream_with_90_percent_of_its_tokens_counts_as_complete() -> None:
    """A stream counts as short if it wrote less than 90% of the requested tokens; its pace counts from its first piece
    to its last."""
    streams = [Generation(0.0, (1.0, 3.0), 3.0, tokens) for tokens in (100, 90, 89, 1)]
    assert 0.5 == short(streams, 100)
    assert 49.5 == pace(streams[0])


def test_stream_without_pieces_has_its_first_token_at_its_end() -> None:
    """The time to first token of a stream without pieces is its duration, because a token can have no text."""
    assert 2.0 == Generation(10.0, (), 12.0, 1).first


def test_texts_have_the_requested_length_and_unique_openings() -> None:
    """Texts have exactly the requested number of tokens and different first words, so a prompt cache cannot reuse one
    text for another."""
    texts = Texts(SENTENCES, words)
    drawn = [texts.short(20, lambda text: f"They say {text} at last") for _ in range(60)]
    assert {16} == {words(text) for text in drawn}
    assert 60 == len({tuple(text.split()[:2]) for text in drawn})
    assert 300 <= words(texts.long(300)) <= 303


def test_texts_are_the_same_in_each_run() -> None:
    """Two runs of the benchmark ask the same texts."""
    first, second = (Texts(SENTENCES, words) for _ in range(2))
    assert [first.short(12) for _ in range(5)] == [second.short(12) for _ in range(5)]


def test_impossible_text_length_is_an_error() -> None:
    """`short` raises an error if no text has the requested number of tokens, as for 7 tokens if each word has two."""
    texts = Texts(SENTENCES, lambda text: 2 * words(text))
    with pytest.raises(LookupError, match="no text of 7 tokens"):
        texts.short(7)


def test_each_system_begins_equally_often() -> None:
    """Two systems alternate in going first; of three, the next one begins in each round."""
    assert [[0, 1], [1, 0], [0, 1]] == [order(number, 2) for number in range(3)]
    assert [[0, 1, 2], [1, 2, 0], [2, 0, 1]] == [order(number, 3) for number in range(3)]


async def test_systems_run_one_at_a_time() -> None:
    """`take_turns` never runs two systems at once and returns each result at the position of its system."""
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
    """A side whose long prompts take ten pieces of its stream; `ending` holds the numbers of the streams that end
    early."""

    def __init__(self, *ending: int, pieces: int = 12, broken: bool = False) -> None:
        self.asked: list[str] = []
        self._ending, self._pieces, self._broken = ending, pieces, broken
        self._stream = StreamWatch()

    async def write(self, task: tasks.Task, text: str, tokens: int, watch: StreamWatch | None = None) -> Generation:
        asked = time.perf_counter()
        if watch is None:  # the long prompt
            await self._stream.until(lambda times: len(times) >= parts.PIECES_BEFORE + 10)
            return Generation(asked, (time.perf_counter(),), time.perf_counter(), tokens)
        self._stream = watch
        self.asked.append(text)
        pieces = self._pieces if len(self.asked) - 1 in self._ending else tokens
        for _ in range(pieces):
            watch.piece()
            await turns()  # meanwhile others may run
        if self._broken:
            raise ConnectionError("the stream broke")
        return Generation(asked, tuple(watch.times), time.perf_counter(), pieces)

    async def extract(self, task: tasks.Task, text: str) -> str:
        self.asked.append(text)
        return '{"product": "lam' if len(self.asked) - 1 in self._ending else "{}"

    async def rest(self) -> None:
        """Nothing computes between two calls."""


def match(ours: Writer, theirs: Writer) -> parts.LoadedSides:
    """Return a match of two rounds for a model whose tokens are words."""
    return parts.LoadedSides("model", ours, theirs, None, Texts(SENTENCES, words), 0, rounds_max=2)  # type: ignore[arg-type]


async def test_pair_whose_stream_ended_early_is_repeated_on_both_sides() -> None:
    """If a stream ends early, the benchmark repeats the pair on both sides with a new text and reports the number of
    repeated pairs."""
    ours, theirs = Writer(1), Writer()
    again, stalled, first = await parts.stalls(match(ours, theirs))
    assert ("pairs of the stall measured in vain", 1, True) == (again.bar, again.value, again.ok)
    assert [2, 2] == [stalled.pairs, first.pairs]  # type: ignore[attr-defined]
    assert ours.asked == theirs.asked
    assert 3 == len(set(ours.asked))


async def test_no_stall_is_reported_if_all_streams_end_early() -> None:
    """If all streams end early, the benchmark stops after three times the wanted number of pairs, misses a bar and
    reports no stall."""
    ours = Writer(*range(100))
    (again,) = await parts.stalls(match(ours, Writer()))
    assert (6, 6, False) == (len(ours.asked), again.value, again.ok)


async def test_too_few_usable_pairs_miss_a_bar() -> None:
    """If only one of six pairs is usable and two were wanted, the benchmark judges that one, reports five repeats and
    misses a bar."""
    again, stalled, _ = await parts.stalls(match(Writer(0, 1, 2, 3, 5), Writer()))
    assert (5, False, 1) == (again.value, again.ok, stalled.pairs)  # type: ignore[attr-defined]


async def test_broken_stream_ends_the_measurement() -> None:
    """A stream that breaks raises its connection error instead of counting as a stream that ended early."""
    with pytest.raises(ConnectionError, match="the stream broke"):
        await parts.stalls(match(Writer(0, pieces=2, broken=True), Writer()))


async def test_incomplete_records_are_counted_and_miss_a_bar() -> None:
    """Records that the model does not complete on either side are counted and miss a bar; the first call of each side
    is a warm-up and does not count."""
    cut_off = (await parts.extract(match(Writer(0, 3), Writer(0, 4, 5))))[1]
    assert ("records that the model did not end", 3, False) == (cut_off.bar, cut_off.value, cut_off.ok)
    assert (await parts.extract(match(Writer(0), Writer())))[1].ok


async def test_clients_share_the_texts() -> None:
    """Clients ask each text once, with as many concurrent calls as there are clients."""
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


async def test_median_call_time_is_measured_over_sequential_calls() -> None:
    """`p50_ms` asks the texts one after the other and returns the median in milliseconds."""
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
def test_build_percentage_is_read_from_make_and_ninja(line: str, percent: int | None) -> None:
    """The percentage of a build is read from the output of make and of ninja; other lines have none."""
    assert percent == building.percent(line)


def test_records_task_has_50_texts_and_a_valid_schema() -> None:
    """The records task has 50 different texts and a schema of four fields that the engine can enforce."""
    texts, schema = tasks.records()["texts"], tasks.records()["schema"]
    record_schema.check(schema)
    assert 50 == len(set(texts)) == len(texts)
    assert ["product", "count", "wish", "day"] == record_schema.fields(schema)


def test_both_sides_read_the_same_prompt() -> None:
    """The prefix and the input part of a task add up to the whole prompt, including spaces."""
    prompt = tasks.CLASSIFY.prompt("How much is it?")
    assert prompt.endswith("Customer: How much is it?\nWants:")
    behind = tasks.input_of(tasks.CLASSIFY, "How much is it?")
    assert " How much is it?\nWants:" == behind
    assert prompt.partition(behind)[0] == tasks.CLASSIFY.template.partition(" {input}")[0]


def test_grammar_has_each_label_with_a_leading_space() -> None:
    """The grammar of the classify task allows each label, preceded by the space that the model writes."""
    rule, _, alternatives = tasks.CLASSIFY.grammar().partition(" ::= ")
    assert ("root", [f'" {label}"' for label in LABELS]) == (rule, alternatives.split(" | "))


def test_reference_workload_of_the_step_loop_is_fixed() -> None:
    """The Python reference workload produces the same result each time, because the step loop's limit is a multiple of
    its duration."""
    streams = [hot_loop.Stream(number) for number in range(8)]
    for _ in range(300):
        hot_loop.reference(streams)
    assert WORK == [(len(stream.tokens), stream.tokens[-1]) for stream in streams]
