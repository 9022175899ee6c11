"""A new topic that appears at a site: whether it is noticed, queued first for people, and answered after retraining.

A daemon serves a bundle that knows all labels but ten. From call BEFORE on, a share of the calls is about these ten.
The daemon's own alarm `new_inputs` says when it has noticed; the `new` stream of its review queue says what people read
first. What they read gets its right label and becomes training and calibration rows of a second bundle, which then
answers calls of the topic that nobody has read.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.bars import Bar
from benchmarks.strangers.asking import ask
from benchmarks.strangers.bundles import CALIBRATION_SHARE, HELD_UP_MAX, Row, Wanted, parted
from benchmarks.strangers.figures import Asked, accuracy, confident, share
from edge_agent.client import AdminClient, Classification, Client, FieldSeries, ReviewClient
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

BEFORE, AFTER = 3000, 1500
SHARE = 0.1
"""Of the calls after BEFORE that are about the new topic."""
READ_MAX = 250
"""Answers of the `new` stream that people read."""
BLOCK = 100
_AT_ONCE = 20
_TASK = "topic"


@dataclass
class Walk:
    """What happened, by blocks of calls."""

    blocks: list[tuple[int, float, float]] = field(default_factory=list)
    """The calls so far; of the block the shares held up, of ordinary calls and of those of the topic; NaN = none."""
    found_at: int | None = None
    """The call after which the alarm stood."""
    false_alarm: bool = False
    read: list[Row] = field(default_factory=list)
    """What people read, in the order of the queue, with its right label."""
    before: Sequence[Asked] = ()
    after: Sequence[Asked] = ()
    """The answers to calls of the topic that nobody has read, by the first bundle and by the second one."""


@dataclass(frozen=True)
class Rows:
    """What a walk is made of; no text is in two of them."""

    known: Sequence[Row]
    """Labelled rows of the first bundle: to train and to calibrate on."""
    ordinary: Sequence[Row]
    topic: Sequence[Row]
    unread: Sequence[Row]
    """Of the topic; asked at the end."""


Made = Callable[[Wanted], Path]


def walk(rows: Rows, test: Sequence[Row], made: Made) -> Walk:
    """Walk it.

    Args:
        rows: at least BEFORE + AFTER of `ordinary`, and SHARE of AFTER of `topic`.
        test: rows on which edge-convert measures each bundle.
        made: makes a bundle.
    """
    found = Walk()
    known = {row.label for row in rows.known}
    calibration, train = parted(rows.known, CALIBRATION_SHARE)
    first = Wanted(f"{_TASK}-before", train, calibration, [row for row in test if row.label in known])
    bundle = made(first)
    _call(bundle, first.name, rows, found)
    found.before = ask(bundle, first.name, {"unread": rows.unread})["unread"]
    read_calibration, read_train = parted(found.read, CALIBRATION_SHARE)
    learnt = [*train, *read_train]
    names = {row.label for row in learnt}
    second = Wanted(
        f"{_TASK}-after",
        learnt,
        [*calibration, *(row for row in read_calibration if row.label in names)],
        [row for row in test if row.label in names],
    )
    found.after = ask(made(second), second.name, {"unread": rows.unread})["unread"]
    return found


def _call(bundle: Path, task: str, rows: Rows, found: Walk) -> None:
    """Serve the first bundle to all calls, watch the alarm, and read the queue."""
    topic = {row.text for row in rows.topic}
    truth = {row.text: row for row in (*rows.ordinary, *rows.topic)}
    with tempfile.TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder), examples={"collect": {task: "local"}, "routine_share": 1.0})
        daemon.start_seconds_max = 300.0
        with daemon, daemon.client() as client, daemon.admin() as admin:
            daemon.install(bundle)
            for number, some in enumerate(_blocks(list(calls(rows))), 1):
                held = _held_up(client, task, some, topic)
                done = number * BLOCK
                eventually_sync(partial(_is_counted, admin, task, done), 120)
                found.blocks.append((done, _share(held[False]), _share(held[True])))
                if found.found_at is None and _is_alarmed(admin, task):
                    found.found_at, found.false_alarm = done, done <= BEFORE
            with ReviewClient(f"unix:{daemon.run_dir}/review.sock") as reviewer:
                new = (kept.input for kept in reviewer.queue(task, stream="NEW"))
                found.read += islice((truth[text] for text in new if text in truth), READ_MAX)


def _held_up(client: Client, task: str, block: Sequence[Row], topic: set[str]) -> dict[bool, list[bool]]:
    """Ask about a block of calls; return which the gate holds up, of those about the topic and of the others."""
    held: dict[bool, list[bool]] = {True: [], False: []}
    for at in range(0, len(block), _AT_ONCE):
        texts = [row.text for row in block[at : at + _AT_ONCE]]
        for text, said in zip(texts, client.classify(task, texts, timeout_seconds=120.0), strict=True):
            strange = isinstance(said, Classification) and (said.p_value or 0.0) <= HELD_UP_MAX
            held[text in topic].append(strange)
    return held


def calls(rows: Rows) -> Iterator[Row]:
    """Yield the calls in their order: ordinary ones, and from BEFORE on SHARE of the topic."""
    chance = random.Random(26)  # noqa: S311 - no secret
    ordinary, topic = iter(rows.ordinary), iter(rows.topic)
    for call in range(BEFORE + AFTER):
        yield next(topic) if call >= BEFORE and chance.random() < SHARE else next(ordinary)


def bars(found: Walk, topic: set[str]) -> Iterable[Bar]:
    """Yield the figures."""
    about = [row.label in topic for row in found.read]
    until = float("inf") if found.found_at is None else found.found_at - BEFORE
    yield Bar("new topic: false alarm before it comes", float(found.false_alarm), 0.0, "lower")
    yield Bar(f"new topic at {SHARE:.0%} of calls: calls until the alarm", until, float(AFTER), "lower")
    yield Bar("new topic: held up by the gate", share([p <= HELD_UP_MAX for p in _p_values(found)]), None, "higher")
    yield Bar("new topic: share of the answers that people read", share(about), None, "higher")
    yield Bar("new topic: rows that people read", float(sum(about)), None, "higher")
    yield Bar("new topic: confident before retraining", confident(found.before), None, "lower")
    sure = [each for each in found.after if each.confident]
    yield Bar("new topic: confident after retraining", confident(found.after), 0.5, "higher")
    yield Bar("new topic: wrong among these", 1 - accuracy(sure) if sure else 1.0, 0.1, "lower")


def draw(path: Path, found: Walk) -> None:
    """Write the picture: what the gate holds up by calls, what people read, and what becomes of the topic's calls."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    held, queue, answers = figure.subplots(3, 1, height_ratios=(2, 1, 1))
    _draw_held(held, found)
    known = {row.label for row in found.read} - {each.wanted for each in found.before}
    for place, row in enumerate(found.read):
        queue.axvspan(place, place + 1, color="#2b6cb0" if row.label in known else "#dd6b20", linewidth=0)
    queue.set(yticks=[], xlim=(0, len(found.read)), xlabel="answers that people read, in the order of the stream 'new'")
    _draw_answers(answers, found)
    figure.savefig(path, dpi=150, metadata={"Software": None} if path.suffix == ".png" else None)


def _draw_held(held: Axes, found: Walk) -> None:
    ends = [end for end, _, _ in found.blocks]
    held.plot(ends, [each for _, each, _ in found.blocks], color="#2b6cb0", label="ordinary calls")
    held.plot(ends, [each for _, _, each in found.blocks], color="#dd6b20", label="calls of the new topic")
    held.axvline(BEFORE, color="#9a9a9a", linestyle="--")
    held.text(BEFORE, 1.02, "the topic begins ", ha="right", fontsize=9)
    if found.found_at is not None:
        held.axvline(found.found_at, color="#c53030")
        held.text(found.found_at, 1.02, f" alarm new_inputs at call {found.found_at:,}", fontsize=9, color="#c53030")
    held.set(ylim=(0, 1), xlim=(0, ends[-1]), ylabel=f"held up, of {BLOCK} calls", xlabel="calls")
    held.legend(loc="center left", frameon=False)


def _draw_answers(answers: Axes, found: Walk) -> None:
    for place, said in enumerate((found.after, found.before)):
        left = 0.0
        for colour, part in (
            ("#2f855a", share([each.confident and each.right for each in said])),
            ("#c53030", share([each.confident and not each.right for each in said])),
            ("#d9d9d9", share([not each.confident for each in said])),
        ):
            answers.barh(place, part, left=left, color=colour)
            left += part
        answers.text(1.01, place, f"{confident(said):.0%} confident", va="center", fontsize=9)
    answers.set(yticks=(0, 1), yticklabels=("after", "before"), xlim=(0, 1))
    answers.set_xlabel("unread calls of the topic: confident and right, confident and wrong, not confident")


def _p_values(found: Walk) -> list[float]:
    return [each.p_value for each in found.before]


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
