"""A new topic that appears at a site: whether it is noticed, queued first for people, and answered after retraining.

A daemon serves a bundle that knows all labels but ten. From call BEFORE on, a share of the calls is about these ten.
The daemon's own alarm `new_inputs` says when it has noticed; the `new` stream of its review queue says what people read
first. What they read gets its right label and trains a second bundle; as in `edge-convert dataset`, such rows calibrate
nothing, for they represent no calls. That bundle answers the next calls, of which people read the whole queue, and a
third one learns from these, too. All three answer calls of the topic, and ordinary ones, that nobody has read.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.bars import Bar
from benchmarks.out_of_distribution.answers import OodAnswer, accuracy, ask, confident, share
from benchmarks.out_of_distribution.bundles import CALIBRATION_SHARE, HELD_UP_MAX, BundleSpec, Row, split_by_hash
from edge_agent.client import AdminClient, Classification, Client, FieldSeries, ReviewClient
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

BEFORE, AFTER, WAIT_MAX = 3000, 1500, 2400
"""Calls before the topic; calls with it before people read, more if the alarm does not stand yet, and at most so many.
The second bundle answers AFTER more."""
SHARE = 0.1
"""Of the calls after BEFORE that are about the new topic."""
READ_MAX = 250
"""Answers that people read in each round."""
FIRST = 50
"""Of these, what a reviewer reads in an hour."""
BLOCK = 100
_AT_ONCE = 20
_TASK = "topic"


@dataclass(frozen=True)
class UnreadAnswers:
    """One bundle's answers to calls that people have not reviewed."""

    topic: Sequence[OodAnswer]
    ordinary: Sequence[OodAnswer]

    @property
    def wrong(self) -> float:
        """The share of wrong answers among the confident ones, at the mix of the calls."""
        parts = ((SHARE, self.topic), (1 - SHARE, self.ordinary))
        sure = sum(part * confident(answers) for part, answers in parts)
        wrong = sum(
            part * share([answer.confident and not answer.correct for answer in answers]) for part, answers in parts
        )
        return wrong / sure if sure else 0.0


@dataclass
class TopicRun:
    """What happened, by blocks of calls."""

    blocks: list[tuple[int, float, float]] = field(default_factory=list)
    """The calls so far; of the block the shares held up, of ordinary calls and of those of the topic; NaN = none."""
    alarm_at: int | None = None
    """The call after which the alarm was on."""
    false_alarm: bool = False
    read: list[Row] = field(default_factory=list)
    """What people read in the stream of new inputs, in its order, with its right label."""
    read_later: list[Row] = field(default_factory=list)
    """What they read of the second bundle's answers, likewise."""
    answers: list[UnreadAnswers] = field(default_factory=list)
    """Of the bundles, one after the other."""


@dataclass(frozen=True)
class Rows:
    """The sets of rows of a run; no text is in two of them."""

    known: Sequence[Row]
    """Labelled rows of the first bundle: to train and to calibrate on."""
    ordinary: Sequence[Row]
    topic: Sequence[Row]
    topic_later: Sequence[Row]
    """Sent while the second bundle answers."""
    unread: Sequence[Row]
    """Of the topic; asked of each bundle."""

    @property
    def unread_ordinary(self) -> Sequence[Row]:
        """Ordinary rows that are not in the calls."""
        return self.ordinary[BEFORE + WAIT_MAX + AFTER :][:UNREAD_MAX]


UNREAD_MAX = 1000
ORDINARY, TOPIC = "#2b6cb0", "#dd6b20"
"""Colours."""
ALARM_LEGIBLE = 0.78
"""Up to this part of the calls there is room for words to the right of the alarm."""
LEGIBLE = 0.03
"""A smaller part of a bar has no room for its number."""
BuildBundle = Callable[[BundleSpec], Path]


def run_topic(rows: Rows, test: Sequence[Row], build: BuildBundle) -> TopicRun:
    """Send the calls, and train the bundles.

    Args:
        rows: more than BEFORE + WAIT_MAX + AFTER of `ordinary`, and as many of `topic` and `topic_later` as come.
        test: rows on which edge-convert measures each bundle.
        build: builds a bundle.
    """
    run = TopicRun()
    calibration, train = split_by_hash(rows.known, CALIBRATION_SHARE)

    def bundle(name: str, read: Sequence[Row]) -> tuple[Path, str]:
        """Train a bundle also on the reviewed rows, and send it the unreviewed ones."""
        trained = [*train, *read]
        names = {row.label for row in trained}
        known_test = [row for row in test if row.label in names]
        # The rows that people have read are few, and no sign of how often the calls have these labels.
        path = build(
            BundleSpec(name, trained, calibration, known_test, class_weights="logit_adjusted" if read else "none")
        )
        run.answers.append(UnreadAnswers(**ask(path, name, {"topic": rows.unread, "ordinary": rows.unread_ordinary})))
        return path, name

    _watch(*bundle(f"{_TASK}-before", []), rows, run)
    _serve_retrained(*bundle(f"{_TASK}-after", run.read), rows, run)
    bundle(f"{_TASK}-later", [*run.read, *run.read_later])
    return run


@contextmanager
def _site(bundle: Path, task: str) -> Iterator[RunningDaemon]:
    """Serve a bundle to all calls, and keep all answers."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder), examples={"collect": {task: "local"}, "routine_share": 1.0})
        daemon.start_seconds_max = 300.0
        with daemon:
            daemon.install(bundle)
            yield daemon


def _watch(bundle: Path, task: str, rows: Rows, run: TopicRun) -> None:
    """Serve the first bundle, watch the alarm, and read the stream of new inputs."""
    called = list(calls(rows))
    of_topic = {row.text for row in rows.topic}
    with _site(bundle, task) as daemon, daemon.client() as client, daemon.admin() as admin:
        for number, block in enumerate(_blocks(called), 1):
            held = _held_up(client, task, block, of_topic)
            done = number * BLOCK
            eventually_sync(partial(_is_counted, admin, task, done), 120)
            run.blocks.append((done, _share(held[False]), _share(held[True])))
            alarmed = _is_alarmed(admin, task)
            if run.alarm_at is None and alarmed:
                run.alarm_at, run.false_alarm = done, done <= BEFORE
            if alarmed and done >= BEFORE + AFTER:
                break
        run.read += _read(daemon, task, called, "NEW")


def _serve_retrained(bundle: Path, task: str, rows: Rows, run: TopicRun) -> None:
    """Serve the second bundle to the next calls, and read the whole queue."""
    chance = random.Random(27)  # noqa: S311 - no secret
    ordinary, topic = iter(rows.ordinary[BEFORE + WAIT_MAX :]), iter(rows.topic_later)
    called = [next(topic) if chance.random() < SHARE else next(ordinary) for _ in range(AFTER)]
    with _site(bundle, task) as daemon, daemon.client() as client, daemon.admin() as admin:
        for block in _blocks(called):
            _held_up(client, task, block, set())
        eventually_sync(partial(_is_counted, admin, task, len(called)), 120)
        run.read_later += _read(daemon, task, called, "")


def _read(daemon: RunningDaemon, task: str, called: Sequence[Row], stream: str) -> list[Row]:
    """Return what people read first, with its right label."""
    truth = {row.text: row for row in called}
    with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
        inputs = (example.input for example in reviewer.queue(task, stream=stream))
        return list(islice((truth[text] for text in inputs if text in truth), READ_MAX))


def _held_up(client: Client, task: str, block: Sequence[Row], topic: set[str]) -> dict[bool, list[bool]]:
    """Ask about a block of calls; return which the gate holds up, of those about the topic and of the others."""
    held: dict[bool, list[bool]] = {True: [], False: []}
    for at in range(0, len(block), _AT_ONCE):
        texts = [row.text for row in block[at : at + _AT_ONCE]]
        for text, result in zip(texts, client.classify(task, texts, timeout_seconds=120.0), strict=True):
            held[text in topic].append(isinstance(result, Classification) and (result.p_value or 0.0) <= HELD_UP_MAX)
    return held


def calls(rows: Rows) -> Iterator[Row]:
    """Yield the calls in their order: ordinary ones, and from BEFORE on SHARE of the topic."""
    chance = random.Random(26)  # noqa: S311 - no secret
    ordinary, topic = iter(rows.ordinary), iter(rows.topic)
    for call in range(BEFORE + WAIT_MAX):
        yield next(topic) if call >= BEFORE and chance.random() < SHARE else next(ordinary)


def bars(run: TopicRun, topic: set[str]) -> Iterable[Bar]:
    """Yield the figures."""
    about, later = ([row.label in topic for row in read] for read in (run.read, run.read_later))
    until = float("inf") if run.alarm_at is None else run.alarm_at - BEFORE
    before, *after = run.answers
    yield Bar("new topic: false alarm before it comes", float(run.false_alarm), 0.0, "lower")
    yield Bar(f"new topic at {SHARE:.0%} of calls: calls until the alarm", until, float(AFTER), "lower")
    held = share([answer.p_value <= HELD_UP_MAX for answer in before.topic])
    yield Bar("new topic: held up by the gate", held, None, "higher")
    yield Bar(f"new topic: rows among the first {FIRST} that people read", float(sum(about[:FIRST])), None, "higher")
    yield Bar(f"new topic: rows among the {len(about)} that people read", float(sum(about)), None, "higher")
    yield Bar("new topic: confident before retraining", confident(before.topic), None, "lower")
    yield Bar("all calls: wrong among the confident, before retraining", before.wrong, None, "lower")
    yield from _retrained_bars(after[0], "retraining")
    yield Bar(f"new topic: rows among the {len(later)} that people read next", float(sum(later)), None, "higher")
    yield from _retrained_bars(after[1], "retraining twice")


def _retrained_bars(answers: UnreadAnswers, when: str) -> Iterable[Bar]:
    sure = [answer for answer in answers.topic if answer.confident]
    yield Bar(f"new topic: confident after {when}", confident(answers.topic), 0.5, "higher")
    wrong = 1 - accuracy(sure) if sure else 1.0
    yield Bar(f"new topic: wrong among the confident, after {when}", wrong, 0.1, "lower")
    yield Bar(f"all calls: wrong among the confident, after {when}", answers.wrong, 0.05, "lower")


def draw(path: Path, run: TopicRun) -> None:
    """Write the picture: what the gate holds up by calls, what people read, and what becomes of the topic's calls."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    held, queue, later, answers = figure.subplots(4, 1, height_ratios=(4, 1, 1, 2.4))
    _draw_held(held, run)
    topic = {answer.true_label for answer in run.answers[0].topic}
    _draw_read(queue, run.read, topic, "Answers that people read first, the stream 'new' in its order")
    _draw_read(later, run.read_later, topic, "Answers that people read after retraining, the whole queue in its order")
    _draw_answers(answers, run)
    figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)


def _draw_read(queue: Axes, read: Sequence[Row], topic: set[str], title: str) -> None:
    about = [row.label in topic for row in read]
    for place, strange in enumerate(about):
        queue.axvspan(place, place + 1, color=TOPIC if strange else ORDINARY, linewidth=0)
    queue.set(yticks=[], xlim=(0, len(read)))
    queue.set_title(f"{title}: {sum(about)} of {len(about)} are about the new topic", fontsize=10, loc="left")


def _draw_held(held: Axes, run: TopicRun) -> None:
    ends = [end for end, _, _ in run.blocks]
    held.plot(ends, [each for _, each, _ in run.blocks], color=ORDINARY, label="ordinary call")
    held.plot(ends, [each for _, _, each in run.blocks], color=TOPIC, label="call about the new topic")
    held.axvline(BEFORE, color="#9a9a9a", linestyle="--")
    held.text(BEFORE, 0.94, f"the topic begins at call {BEFORE:,} ", ha="right", fontsize=9)
    if run.alarm_at is not None:
        held.axvline(run.alarm_at, color="#c53030")
        label = f" alarm new_inputs at call {run.alarm_at:,}"
        side = "left" if run.alarm_at < ALARM_LEGIBLE * ends[-1] else "right"
        held.text(run.alarm_at, 0.87, label, ha=side, fontsize=9, color="#c53030")
    held.set(ylim=(0, 1), xlim=(0, ends[-1]))
    held.xaxis.set_major_formatter("{x:,.0f}")
    held.yaxis.set_major_formatter(PercentFormatter(1.0))
    held.set_title(f"Calls that the gate holds up, by {BLOCK} calls", fontsize=10, loc="left")
    held.legend(loc="center left", frameon=False)


def _draw_answers(axes: Axes, run: TopicRun) -> None:
    names = ("before", "after retraining", "after retraining twice")
    topics = [answers.topic for answers in run.answers]
    left = [0.0] * len(topics)
    for name, colour, ink in (
        ("confident and right", "#2f855a", "white"),
        ("confident and wrong", "#c53030", "white"),
        ("not confident", "#d9d9d9", "black"),
    ):
        parts = [share([_outcome(answer) == name for answer in answers]) for answers in topics]
        drawn = axes.barh(names, parts, left=left, color=colour, label=name)
        legible = [f"{part:.0%}" if part >= LEGIBLE else "" for part in parts]
        axes.bar_label(drawn, legible, label_type="center", color=ink, fontsize=9)
        left = [begin + part for begin, part in zip(left, parts, strict=True)]
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xticks=[])
    axes.set_title("Answers to calls about the new topic that nobody has read", fontsize=10, loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False)


def _outcome(answer: OodAnswer) -> str:
    if not answer.confident:
        return "not confident"
    return "confident and right" if answer.correct else "confident and wrong"


def _series(admin: AdminClient, task: str) -> FieldSeries:
    return next(each for each in admin.field_report(task).series if each.active)


def _is_alarmed(admin: AdminClient, task: str) -> bool:
    return any(each.alarm == "new_inputs" and each.ended is None for each in _series(admin, task).alarms)


def _is_counted(admin: AdminClient, task: str, answers: int) -> bool:
    return _series(admin, task).totals["answers"] >= answers


def _blocks(rows: Sequence[Row]) -> list[Sequence[Row]]:
    return [rows[at : at + BLOCK] for at in range(0, len(rows), BLOCK)]


def _share(flags: Sequence[bool]) -> float:
    return share(flags) if flags else float("nan")
