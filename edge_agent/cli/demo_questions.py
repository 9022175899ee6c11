"""The part of `edge-agent demo` that asks about labelled messages, and counts which answers are right and confident.

Bundles that classify are compared on the same messages; a bundle with several questions is asked all of them at once.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_agent.cli.output import print_trimmed
from edge_agent.cli.terminal import table
from edge_agent.client import Client, Failure
from edge_agent.durable.atomic_files import is_file
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.questions import QuestionSpec
from edge_agent.formatting import format_bytes
from edge_agent.statistics import Interval, share_of_families

_T = TypeVar("_T")
_REMEDY = "Write one JSON object a line, with 'text', and 'label' or 'answers' by question."


@dataclass(frozen=True)
class LabelledMessage:
    """A message with its right answers."""

    text: str
    label: str = ""
    """The label of a task that classifies."""
    family: str = ""
    """Family of dependent messages; empty = independent."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """The answers of a task with several questions, by question."""


@dataclass(frozen=True)
class DemoAnswer:
    """A bundle's answer to one message."""

    label: str
    sure: bool
    milliseconds: float


@dataclass(frozen=True)
class DemoScore:
    """The quality of a bundle's answers."""

    rows: int
    right: Interval
    sure: int
    sure_right: Interval
    """Of the sure answers."""
    milliseconds: float
    """Median duration of a call, measured by the caller."""


def read_labelled(path: Path) -> tuple[LabelledMessage, ...]:
    """Read JSON lines with "text", and "label" or "answers". Raises FileMissing, InvalidRequest."""
    if not is_file(path):
        raise FileMissing(f"{path} {'is not a file' if path.exists() else 'does not exist'}", remedy=_REMEDY)
    raw = path.read_bytes()
    try:
        rows = tuple(_parse_message(json.loads(line)) for line in raw.decode().split("\n") if line.strip())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        rows = ()
    if not rows:
        raise InvalidRequest(f"{path} must hold labelled messages", remedy=_REMEDY)
    return rows


def _parse_message(row: dict[str, Any]) -> LabelledMessage:
    text, family = str(row["text"]), str(row.get("family") or "")
    text.encode()  # ValueError: half a character
    if "answers" not in row:
        return LabelledMessage(text, str(row["label"]), family)
    answers = {str(name): str(answer) for name, answer in row["answers"].items()}
    return LabelledMessage(text, family=family, answers=answers)


def sample(rows: Sequence[_T], rows_max: int) -> list[_T]:
    """Return at most `rows_max` rows, spread over all of them; always the same ones."""
    if rows_max >= len(rows):
        return list(rows)
    return [rows[index * len(rows) // rows_max] for index in range(rows_max)]


def score(rows: Sequence[LabelledMessage], answers: Sequence[DemoAnswer]) -> DemoScore:
    """Count the right answers, and the right ones among the confident answers."""
    graded = [(row, each.label == row.label) for row, each in zip(rows, answers, strict=True)]
    confident = [pair for pair, each in zip(graded, answers, strict=True) if each.sure]
    milliseconds = median(each.milliseconds for each in answers)
    return DemoScore(len(graded), _share(graded), len(confident), _share(confident), milliseconds)


def _share(graded: Sequence[tuple[LabelledMessage, bool]]) -> Interval:
    """Return the share of right answers with its interval, by families of messages."""
    families: dict[str, list[bool]] = {}
    for row, is_right in graded:
        families.setdefault(row.family or f"\n{row.text}", []).append(is_right)
    return share_of_families([(sum(outcomes), len(outcomes)) for outcomes in families.values()])


def plus_minus(share: Interval) -> str:
    """Return a share with half of its 95% interval, both in percent; "-" without data."""
    return "-" if math.isnan(share.value) else f"{share.value:.0%} ±{50 * (share.high - share.low):.0f}"


def format_milliseconds(milliseconds: float) -> str:
    """Return a time of a call, with a decimal where it is short."""
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


SHOWN_MESSAGES = 4
_NO_ANSWER = DemoAnswer("", False, 0.0)
CALL_SECONDS_MAX = 60.0
"""Also sufficient on a busy machine."""


@dataclass(frozen=True)
class MessageAnswers:
    """The answers of one call about a message; each has the duration of the call."""

    message: LabelledMessage
    answers: dict[str, DemoAnswer]
    milliseconds: float


def has_questions_for(manifest: Manifest, rows: Sequence[LabelledMessage]) -> bool:
    """Return whether a bundle answers every question that the rows have labels for."""
    outputs = {question.name: question.outputs for question in manifest.task.questions}
    labelled = [answer for row in rows for answer in row.answers.items()]
    all_known = all(label in outputs.get(name, ()) for name, label in labelled)
    return manifest.task.kind == "decide" and bool(labelled) and all_known


def decide_rows(
    client: Client, task: str, rows: Sequence[LabelledMessage], report_progress: Callable[[int], None]
) -> list[MessageAnswers]:
    """Ask all questions about one message per call, as a device would; a failed call has no answers."""
    ask = functools.partial(client.decide, task, timeout_seconds=CALL_SECONDS_MAX)
    results = []
    for row, result, milliseconds in _ask_about_each(ask, rows, report_progress):
        answers = () if isinstance(result, Failure) else result.answers
        by_question = {answer.question: DemoAnswer(answer.label, answer.confident, milliseconds) for answer in answers}
        results.append(MessageAnswers(row, by_question, milliseconds))
    return results


def _ask_about_each(
    ask: Callable[[list[str]], list[_T]], rows: Sequence[LabelledMessage], report_progress: Callable[[int], None]
) -> Iterator[tuple[LabelledMessage, _T, float]]:
    """Yield each message with the result of a call about it alone, and its duration in milliseconds."""
    ask([rows[0].text])  # The first call warms the connection up.
    for number, row in enumerate(rows, 1):
        started = time.monotonic()
        (result,) = ask([row.text])
        yield row, result, (time.monotonic() - started) * 1000
        report_progress(number)


def show_questions(console: Console, manifest: Manifest, results: Sequence[MessageAnswers]) -> None:
    """Print the answers about a few messages, then how many answers to each question are right."""
    questions = manifest.task.questions
    for result in sample(results, SHOWN_MESSAGES):
        console.print(Text(result.message.text, style="bold"))
        print_trimmed(console, _answers_table(questions, result))
        console.print()
    console.print("✓ right, ✗ wrong; ? = not confident: a large model or a person is asked", style="dim")
    console.print()
    print_trimmed(console, _score_table(manifest, results))
    duration = format_milliseconds(median(result.milliseconds for result in results))
    summary = f"one call answers all questions about a message, median {duration}; ± is a 95% interval."
    if any(confidence.policy != "threshold" for confidence in manifest.question_confidence.values()):
        summary += " A question that always asks had no threshold that could be proved."
    console.print(summary, style="dim")


def _answers_table(questions: Sequence[QuestionSpec], result: MessageAnswers) -> Table:
    """Return a table of questions above answers; the column widths are the same for all messages."""
    listing = table()
    for question in questions:
        width = max(len(question.name), *(len(f"✓ {output}?") for output in question.outputs))
        listing.add_column(Text(question.name, style="dim"), min_width=width, no_wrap=True)
    listing.add_row(*(_answer_cell(result, question.name) for question in questions))
    return listing


def _answer_cell(result: MessageAnswers, question: str) -> Text:
    answer, expected = result.answers.get(question), result.message.answers.get(question)
    if answer is None:
        return Text("✗ no answer", style="red")
    right = answer.label == expected
    mark = "" if expected is None else "✓ " if right else "✗ "
    style = "" if expected is None else "green" if right else "red"
    return Text(f"{mark}{answer.label}{'' if answer.sure else '?'}", style=f"{style} bold" if answer.sure else style)


def _score_table(manifest: Manifest, results: Sequence[MessageAnswers]) -> Table:
    numbers = ("answers", "right", "confident", "right if confident")
    listing = table("question", *numbers, right=numbers, wrap=("question",))
    for question in manifest.task.questions:
        labelled = [result for result in results if question.name in result.message.answers]
        rows = [replace(result.message, label=result.message.answers[question.name]) for result in labelled]
        confidence = manifest.question_confidence.get(question.name)
        cells = ("-", "-", "-")
        if labelled:
            figures = score(rows, [result.answers.get(question.name, _NO_ANSWER) for result in labelled])
            cells = (plus_minus(figures.right), "always asks", "-")
            if confidence and confidence.policy == "threshold":
                cells = (cells[0], f"{figures.sure / figures.rows:.0%}", plus_minus(figures.sure_right))
        listing.add_row(Text(question.name, style="bold"), str(len(question.outputs)), *cells)
    return listing


SHOWN_ROWS = 8
COLUMN_WIDTHS_MIN = {"model": len("encoder,"), "right if confident": len("confident"), "median call": len("12.3 ms")}
"""Columns that shrink on a narrow terminal, with their minimum widths."""


def has_labels_for(manifest: Manifest, rows: Sequence[LabelledMessage]) -> bool:
    """Return whether a bundle has all labels of the rows."""
    return manifest.task.kind == "classify" and {row.label for row in rows} <= set(manifest.task.labels)


def classify_rows(
    client: Client, task: str, rows: Sequence[LabelledMessage], report_progress: Callable[[int], None]
) -> list[DemoAnswer]:
    """Classify the rows one call at a time, as a till would; a failure counts as a wrong answer."""
    ask = functools.partial(client.classify, task, top_k=1, timeout_seconds=CALL_SECONDS_MAX)
    answers = []
    for _, result, milliseconds in _ask_about_each(ask, rows, report_progress):
        if isinstance(result, Failure):
            answers.append(DemoAnswer(result.reason, False, milliseconds))
        else:
            answers.append(DemoAnswer(result.label, not result.below_threshold, milliseconds))
    return answers


def show_comparison(
    console: Console,
    manifests: Sequence[Manifest],
    rows: Sequence[LabelledMessage],
    answers: Sequence[list[DemoAnswer]],
) -> None:
    """Print a few messages with every bundle's answer, then the figures."""
    print_trimmed(console, _answer_table(manifests, rows, answers))
    console.print()
    print_trimmed(console, _comparison_table(manifests, rows, answers))


def _answer_table(
    manifests: Sequence[Manifest], rows: Sequence[LabelledMessage], by_bundle: Sequence[list[DemoAnswer]]
) -> Table:
    # The names without their common prefix, unless a name is just that prefix.
    shortest = min((manifest.task.name for manifest in manifests), key=len)
    names = [manifest.task.name.removeprefix(f"{shortest}-") for manifest in manifests]
    listing = table("message", "wants", *names, wrap=("message",))
    step = max(1, len(rows) // SHOWN_ROWS)
    for row, *answers in list(zip(rows, *by_bundle, strict=True))[::step][:SHOWN_ROWS]:
        marks = [
            Text(f"✓ {each.label}", "green") if each.label == row.label else Text(f"✗ {each.label}", "red")
            for each in answers
        ]
        listing.add_row(Text(row.text), Text(row.label, style="bold"), *marks)
    return listing


def _comparison_table(
    manifests: Sequence[Manifest], rows: Sequence[LabelledMessage], by_bundle: Sequence[list[DemoAnswer]]
) -> Table:
    numbers = ("right", "confident", "right if confident", "median call", "own files")
    listing = table("task", "model", *numbers, right=numbers, wrap=tuple(COLUMN_WIDTHS_MIN))
    for column in listing.columns:
        column.min_width = COLUMN_WIDTHS_MIN.get(str(column.header))
    # Files shared by several bundles are on the disk and in memory only once.
    copies = Counter(artifact.sha256 for manifest in manifests for artifact in manifest.artifacts)
    for manifest, answers in zip(manifests, by_bundle, strict=True):
        figures = score(rows, answers)
        name, model = Text(manifest.task.name, style="bold"), Text(manifest.provenance.base)
        confident = ("-", "-")
        if manifest.confidence.policy == "threshold":  # otherwise it has no calibration
            confident = (f"{figures.sure / figures.rows:.0%}", plus_minus(figures.sure_right))
        cells = (plus_minus(figures.right), *confident, format_milliseconds(figures.milliseconds))
        own_bytes = sum(artifact.size_bytes for artifact in manifest.artifacts if copies[artifact.sha256] == 1)
        listing.add_row(name, model, *cells, format_bytes(own_bytes))
    return listing
