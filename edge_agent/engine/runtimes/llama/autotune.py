"""Which settings of llama.cpp suit this processor: measured briefly with the loaded weights.

A setting that takes less time is kept only if the same text still has the same meaning (its logits move by no more than
TOLERANCE, and the likeliest token stays), and if they are the same to the last bit however the text is cut, whatever is
computed beside it, and wherever its cells lie: thresholds are set once, at the central team (decisions 0003 and 0036).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import llama_cpp
import numpy as np

from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama.llama_context import ContextShape, LlamaContext, Logits, TokenRows
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.step_costs import ROWS_BLOCK, ROWS_GROUP, thread_counts
from edge_agent.errors import ModelFailed, ModelLoadFailed

_NOISE = -0.1
"""A setting replaces another only if it takes at least a tenth less time: less is noise."""
TOLERANCE = 0.5
"""How far a logit may move. Kernels of different processors differ by half of that."""
ROWS = (256, 128, 64)
"""Rows to try for a batch that computes no score."""
NEIGHBOURS = "scores would depend on what else is computed"
SAME, OTHERS, DEPENDENT = "the same", "others", "neighbours"
"""How scores of other steps compare with those of small ones; DEPENDENT: even those depend on what else is computed."""
STEP_PAIRS = ((15, 16), (30, 32))
"""Pairs of steps in rows: if the second takes less time by a twentieth, rows are multiplied in groups."""
_LESS_TIME = 0.95


@dataclass(frozen=True)
class TuningLimits:
    """Limits on the measurements."""

    seconds: float = 2.5
    """Nothing more is tried once it would take longer."""
    share: float = 0.7
    """The least share of its threads' processor time that the child must get: below it, others distort the times."""


@dataclass(frozen=True)
class TuningTrial:
    """The measurements of one setting."""

    seconds: float
    """For the same work as every other setting."""
    moved: float = 0.0
    """The most by which a logit moved."""
    same_token: bool = True
    is_independent: bool = True
    """The same bits in company, in pieces and in other cells."""


@dataclass(frozen=True)
class TunedSettings:
    """A shape with the best settings, and their source."""

    shape: ContextShape
    key: str
    """The conditions under which they hold: under others they are measured again."""
    source: str
    """measured, remembered, put off or off."""
    notes: str = ""
    """Settings that were tried and not kept."""
    bulk_scores: str = ""
    """SAME, OTHERS or DEPENDENT: scores of bulk steps compared with those of small ones; empty = not measured."""
    thread_scores: str = ""
    """SAME or OTHERS: scores with fewer threads compared with those of all threads; empty = not measured."""

    def details(self) -> dict[str, str]:
        """Return the details for status, which the daemon also passes to the next load."""
        return {
            "threads": str(self.shape.threads),
            "flash_attention": "on" if self.shape.flash else "off",
            "bulk_rows": str(self.shape.rows),
            "row_groups": str(self.shape.groups),
            **({"bulk_scores": self.bulk_scores} if self.bulk_scores else {}),
            **({"thread_scores": self.thread_scores} if self.thread_scores else {}),
            "tuned": self.source,
            "tuned_for": self.key,
            "tuning": self.notes,
        }


def score_variance(tuned: TunedSettings, quantization: str, code: str) -> str:
    """Return why scores of these weights may depend on what else `code` computes; empty = measured that they do not."""
    dependence = f"scores of {quantization} weights depend on what else is computed by llama.cpp's code for {code}"
    if not tuned.bulk_scores:
        return f"whether {dependence} was not measured: {tuned.notes}"
    return dependence if tuned.bulk_scores == DEPENDENT else ""


def trial_verdict(best_seconds: float, trial: TuningTrial) -> str:
    """Return why a setting is not kept, compared with the seconds of the best one so far; empty = it is kept."""
    share = trial.seconds / best_seconds - 1
    if share > _NOISE:
        return f"{share:+.0%} time"
    if not trial.same_token or trial.moved > TOLERANCE:
        return f"{share:+.0%} time, refused: logits would move by {trial.moved:.2f}"
    if not trial.is_independent:
        return f"{share:+.0%} time, refused: {NEIGHBOURS}"
    return ""


def measured_scores(settings: Mapping[str, str], name: str) -> str:
    """Return a stored result on scores; empty = there is none, or it is invalid."""
    score = settings.get(name, "")
    return score if score in (SAME, OTHERS, DEPENDENT) else ""


def row_groups(seconds: Sequence[tuple[float, float]]) -> int:
    """Return how many rows are multiplied at once, from the seconds of the steps of FILLED."""
    first, second = (more < _LESS_TIME * few for few, more in seconds)
    return (ROWS_GROUP if second else ROWS_BLOCK) if first else 0


def tuning_key(spec: LoadRequest, shape: ContextShape, processor: str) -> str:
    """Return the conditions, in addition to the weights, under which settings hold."""
    conditions = f"{spec.threads} threads, {shape.kv_type}, {shape.rows} rows"
    return f"llama-cpp-python {llama_cpp.__version__}, {processor}, {conditions}"


def remembered_shape(settings: Mapping[str, str], key: str, shape: ContextShape) -> ContextShape | None:
    """Return the shape with stored settings; None = they have another key, or exceed the given threads or rows."""
    threads, rows = (settings.get(name, "") for name in ("threads", "bulk_rows"))
    if settings.get("tuned_for") != key or not (threads.isdecimal() and rows.isdecimal()):
        return None
    if not (1 <= int(threads) <= shape.threads and 1 <= int(rows) <= shape.rows):
        return None
    flash = settings.get("flash_attention") != "off"
    groups = next((each for each in (ROWS_GROUP, ROWS_BLOCK) if settings.get("row_groups") == str(each)), 0)
    return replace(shape, threads=int(threads), rows=int(rows), flash=flash, groups=groups)


TRIES, _GROUP_TRIES = 2, 4
"""The shortest of this many times counts: other programs only make it longer."""
BUSY = "other programs were busy"
_TEXT, _STEPS, _CUT, _ASIDE = 32, 6, 11, 5
"""Tokens of the text, steps after it, where it is cut, and tokens of another text."""
_CELLS, _SEQUENCES = 768, 4
_PROSE = """The shop opens at nine. A woman wants to know whether the red jacket comes in a larger size, and what it
costs to have it sent to her sister. The man behind her has lost his receipt; he bought a kettle three weeks ago and it
leaks. Can he have his money back, or at least another one? In the afternoon a clinic calls about an invoice that was
paid twice, and a boy asks for batteries that fit a radio from 1987. Nobody has seen such a radio for years. At six the
doors are locked, the till is counted, and what was sold is written down for the next morning."""
_BULK, _PIECE, _TURNS = 128, 16, 2
"""Rows of a bulk step, rows of a small one, and how many texts are read in steps of both kinds."""
_SMALL, _READ, _COMPARED = (3, 8), 18, 6
"""Rows of small steps for which llama.cpp has different kernels; tokens of a text that is read in steps of each size,
and in one step; and how many of its last tokens are compared. With steps of eight the last one has two rows: a lone row
would get a padding row if it needs one."""
_SMALL_ON_DEVICE, _READ_ON_DEVICE = (2, 3, 8, 16, 32), 63
"""Likewise on a device, where kernels change at other numbers of rows, up to the limit of a step with scores."""


def processor() -> str:
    """Return the name of this machine's processor; empty if Linux does not report it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def autotune(
    spec: LoadRequest, model: LlamaModel, shape: ContextShape, processor_name: str, limits: TuningLimits | None = None
) -> TunedSettings:
    """Return the shape with its settings: stored or measured now. On a device, or without `spec.tune`, as given.

    `processor_name` includes its code. Whether scores depend on what else is computed is always measured. With tuning
    on the processor it is also measured whether bulk steps and fewer threads give the same scores.

    Raises:
        ModelLoadFailed: there is no memory for a small buffer.
    """
    key = tuning_key(spec, shape, processor_name)
    limits, tuned = limits or TuningLimits(), TunedSettings(shape, key, "off")
    try:
        if spec.tune and spec.device == "cpu":
            if remembered := remembered_shape(spec.settings, key, shape):
                scores = (measured_scores(spec.settings, name) for name in ("bulk_scores", "thread_scores"))
                tuned = TunedSettings(remembered, key, "remembered", spec.settings.get("tuning", ""), *scores)
            else:
                tuned = _SettingSearch(model, shape, limits).run(key)
            tuned = _measure_scores(model, tuned, shape.threads, limits.seconds)
        else:
            same = _scores_are_independent(model, shape, on_device=spec.device != "cpu")
            tuned = replace(tuned, bulk_scores=OTHERS if same else DEPENDENT)
    except ModelFailed as error:  # the first answer of a bundle reports it
        return TunedSettings(shape, key, "off", error.message)
    return tuned


def _measure_scores(model: LlamaModel, tuned: TunedSettings, threads: int, seconds: float) -> TunedSettings:
    """Measure, unless it is stored, whether scores depend on bulk steps and on the number of threads."""
    if not tuned.bulk_scores:
        shape, scores = tuned.shape, DEPENDENT
        if _scores_are_independent(model, shape):
            same = shape.rows >= _BULK and _bulk_scores_are_the_same(model, shape, seconds)
            scores = SAME if same else OTHERS
        tuned = replace(tuned, bulk_scores=scores)
    if not tuned.thread_scores and threads > 1:
        same = _thread_scores_are_the_same(model, replace(tuned.shape, threads=threads))
        tuned = replace(tuned, thread_scores=SAME if same else OTHERS)
    return tuned


def _scores_are_independent(model: LlamaModel, shape: ContextShape, *, on_device: bool = False) -> bool:
    """Tell whether prose has the same logits in small steps of any size, and beside another text.

    It depends on the type of the weights, and on whose kernels multiply them (decision 0051).
    """
    sizes, read = (_SMALL_ON_DEVICE, _READ_ON_DEVICE) if on_device else (_SMALL, _READ)
    text = model.tokenize(_PROSE, special=False)[:read]
    with _open_bench(model, shape) as bench:
        expected = bench.last_digests(text, len(text), _COMPARED)
        return all(
            expected == bench.last_digests(text, rows, _COMPARED, beside)
            for rows, beside in [(_SMALL[0], _SMALL[0]), *((rows, 0) for rows in sizes)]
        )


def _bulk_scores_are_the_same(model: LlamaModel, shape: ContextShape, seconds: float) -> bool:
    """Tell whether prose has the same logits in bulk steps as in small ones: one text, and others while there is time.

    With attention by row (decision 0043) it has; llama.cpp's own kernels round differently from each other.
    """
    deadline = time.monotonic() + seconds
    prose = model.tokenize(_PROSE, special=False)
    with _open_bench(model, shape) as bench:
        for turn in range(_TURNS):
            begin = turn * len(prose) // _TURNS
            text = (prose[begin:] + prose * _BULK)[:_BULK]
            small, bulk = (bench.last_digests(text, rows, _PIECE) for rows in (_PIECE, _BULK))
            if small != bulk:
                return False
            if time.monotonic() > deadline:
                break
    return True


def _thread_scores_are_the_same(model: LlamaModel, shape: ContextShape) -> bool:
    """Tell whether a text has the same logits with fewer threads.

    With llama.cpp's kernels it has, because one thread computes each element of a result.
    """
    with _open_bench(model, shape) as bench:
        digests = []
        for threads in reversed(thread_counts(shape.threads)):
            bench.context.use_threads(threads)
            digests.append(bench.digests())
    return all(each == digests[0] for each in digests)


class _SettingSearch:
    """Tries one setting after the other, each on top of what was kept before."""

    def __init__(self, model: LlamaModel, shape: ContextShape, limits: TuningLimits) -> None:
        self._model, self._best, self._limits = model, shape, limits
        self._deadline = time.monotonic() + limits.seconds
        self._notes: list[str] = []
        self._baseline: Logits
        self._seconds = 0.0
        """Time of the work with the best settings so far."""

    def run(self, key: str) -> TunedSettings:
        with _open_bench(self._model, self._best) as bench:
            bench.text_logits()  # the weights are read from the disk now
            spent, started = time.process_time(), time.monotonic()
            self._baseline = bench.text_logits()
            share = (time.process_time() - spent) / ((time.monotonic() - started) * self._best.threads)
            if share < self._limits.share:
                return TunedSettings(self._best, key, "put off", f"{BUSY}: {share:.0%} of the processor time was left")
            self._seconds = self._shortest_time(bench.work)
            self._try_threads(bench)
        self._try_without_flash()
        with _open_bench(self._model, self._best) as bench:
            self._try_rows(bench)
            self._measure_groups(bench)
        return TunedSettings(self._best, key, "measured", "; ".join(self._notes))

    def _shortest_time(self, work: Callable[[], object], tries: int = TRIES) -> float:
        times = []
        for _ in range(tries):
            started = time.monotonic()
            work()
            times.append(time.monotonic() - started)
            if time.monotonic() > self._deadline:
                break
        return min(times)

    def _note_if_late(self, setting: str, seconds: float) -> bool:
        late = time.monotonic() + seconds > self._deadline
        if late:
            self._notes.append(f"{setting}: no time to try")
        return late

    def _keep_if_better(self, setting: str, shape: ContextShape, bench: _TuningBench) -> None:
        """Keep a setting that is faster and as good; note why not."""
        trial = TuningTrial(self._shortest_time(bench.work))
        if not trial_verdict(self._seconds, trial):  # it is faster: is it right?
            logits = bench.text_logits()
            moved = float(np.abs(logits - self._baseline).max())
            same = int(logits.argmax()) == int(self._baseline.argmax())
            trial = replace(trial, moved=moved, same_token=same, is_independent=bench.is_independent())
        if verdict := trial_verdict(self._seconds, trial):
            self._notes.append(f"{setting}: {verdict}")
        else:
            self._best, self._seconds = shape, trial.seconds

    def _try_threads(self, bench: _TuningBench) -> None:
        for threads in reversed(thread_counts(self._best.threads)[:-1]):
            setting = f"{threads} thread{'s' if threads > 1 else ''}"
            if self._note_if_late(setting, TRIES * self._seconds):
                break
            bench.context.use_threads(threads)
            self._keep_if_better(setting, replace(self._best, threads=threads), bench)

    def _try_without_flash(self) -> None:
        setting = "flash attention off"
        # With q8_0, llama.cpp stores values in a layout that only flash attention reads.
        if self._best.kv_type != "f16" or self._note_if_late(setting, TRIES * self._seconds):
            return
        shape = replace(self._best, flash=False)
        try:
            with _open_bench(self._model, shape) as bench:
                self._keep_if_better(setting, shape, bench)
        except ModelLoadFailed:
            self._notes.append(f"{setting}: not possible")

    def _try_rows(self, bench: _TuningBench) -> None:
        """Choose by the time per row alone: bulk steps compute no scores, and use other kernels anyway."""
        rows_max = self._best.rows
        if self._note_if_late("fewer rows", self._seconds * rows_max / _TEXT):
            return
        best_seconds = self._seconds_per_row(bench, rows_max)
        for rows in (each for each in ROWS if each < rows_max):
            seconds = self._seconds_per_row(bench, rows)
            if verdict := trial_verdict(best_seconds, TuningTrial(seconds)):
                self._notes.append(f"{rows} rows: {verdict}")
            else:
                self._best, best_seconds = replace(self._best, rows=rows), seconds

    def _measure_groups(self, bench: _TuningBench) -> None:
        """Find out how many rows are multiplied at once."""
        if not self._note_if_late("groups of rows", 4 * _GROUP_TRIES * self._seconds):
            works = [functools.partial(bench.text_logits, rows) for pair in STEP_PAIRS for rows in pair]
            # In turns, so that other programs affect all of them.
            tries = [[self._shortest_time(work, 1) for work in works] for _ in range(_GROUP_TRIES)]
            few, many, fewer, more = map(min, zip(*tries, strict=True))
            self._best = replace(self._best, groups=row_groups([(few, many), (fewer, more)]))

    def _seconds_per_row(self, bench: _TuningBench, rows: int) -> float:
        return self._shortest_time(functools.partial(bench.text_logits, rows), 1) / rows


@contextlib.contextmanager
def _open_bench(model: LlamaModel, shape: ContextShape) -> Iterator[_TuningBench]:
    """Make a small buffer, which needs less memory than the final one, and free it."""
    small = replace(shape, cells=min(shape.cells, _CELLS), sequences=min(shape.sequences, _SEQUENCES))
    context = LlamaContext(model, small)
    try:
        yield _TuningBench(context, model.vocab_size)
    finally:
        context.close()


class _TuningBench:
    """A small buffer, and the work on it."""

    def __init__(self, context: LlamaContext, vocabulary: int) -> None:
        self.context = context
        # Any tokens will do: spread over the vocabulary, and the same each time.
        self._text = [(7919 * (index + 1)) % vocabulary for index in range(max(ROWS))]

    def work(self) -> None:
        """Compute what a typical input takes: some tokens at once, and some one by one."""
        self._read(0, _TEXT)
        for index in range(_TEXT, _TEXT + _STEPS):
            self._read(index, index + 1)
        self.context.drop(0)

    def text_logits(self, tokens: int = _TEXT) -> Logits:
        """Return the logits after so many tokens of the text, computed at once."""
        logits = self._read(0, tokens)
        self.context.drop(0)
        return logits

    def last_digests(self, text: list[int], rows: int, count: int, beside: int = 0) -> list[bytes]:
        """Return digests of the logits after each of a text's last `count` tokens, computed in steps of `rows` rows.

        In each step are `beside` rows of another text.
        """
        digests: list[bytes] = []
        for start in range(0, len(text), rows):
            step = text[start : start + rows]
            logits_rows = max(0, min(len(step), start + len(step) - (len(text) - count)))
            others = self._text[start // rows * beside :][:beside]
            neighbours = [TokenRows(1, start // rows * beside, others, logits=0)] if beside else []
            self.context.decode([*neighbours, TokenRows(0, start, step, logits=logits_rows)])
            indexes = range(beside + len(step) - logits_rows, beside + len(step))
            digests += [hashlib.blake2b(self.context.logits(index).tobytes()).digest() for index in indexes]
        for sequence in (0, 1):
            self.context.drop(sequence)
        return digests

    def digests(self) -> list[bytes]:
        """Return digests of the logits after a text, after one more token, and after a bulk step."""
        samples = [self._read(0, _TEXT), self._read(_TEXT, _TEXT + 1)]
        self.context.drop(0)
        samples.append(self.text_logits(min(ROWS)))
        return [hashlib.blake2b(logits.tobytes()).digest() for logits in samples]

    def is_independent(self) -> bool:
        """Tell whether the text has the same logits in pieces, beside another one and in cells around another one's."""
        alone = self.text_logits()
        self._read(0, _CUT)
        pieces = self._read(_CUT, _TEXT)
        self.context.drop(0)
        self.context.decode([self._other(1), TokenRows(0, 0, self._text[:_TEXT], logits=1)])
        beside = self.context.logits(_ASIDE + _TEXT - 1).copy()
        self.context.drop(0)
        self.context.decode([self._other(2)])
        self.context.drop(1)  # below the cells of sequence 2: the text begins there and goes on above
        around = self.text_logits()
        self.context.drop(2)
        return all(np.array_equal(alone, each) for each in (pieces, beside, around))

    def _other(self, sequence: int) -> TokenRows:
        return TokenRows(sequence, 0, self._text[_TEXT : _TEXT + _ASIDE], logits=1)

    def _read(self, first: int, end: int) -> Logits:
        self.context.decode([TokenRows(0, first, self._text[first:end], logits=1)])
        return self.context.logits(end - first - 1).copy()
