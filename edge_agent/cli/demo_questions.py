"""The part of `edge-agent demo` that asks a task's questions about labelled messages, and counts the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_agent.cli.demo_scores import DemoAnswer, LabelledMessage, format_milliseconds, plus_minus, sample, score
from edge_agent.cli.output import print_trimmed, table
from edge_agent.client import Client, Failure
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.questions import QuestionSpec

SHOWN_MESSAGES = 4
_NO_ANSWER = DemoAnswer("", False, 0.0)
CALL_SECONDS_MAX = 60.0
"""On a machine that does much else besides."""


@dataclass(frozen=True)
class MessageAnswers:
    """What one call answered about a message; each answer has the time of the call."""

    message: LabelledMessage
    answers: dict[str, DemoAnswer]
    milliseconds: float


def has_questions_for(manifest: Manifest, rows: Sequence[LabelledMessage]) -> bool:
    """Tell whether a bundle answers every question that the rows are labelled for."""
    outputs = {question.name: question.outputs for question in manifest.task.questions}
    labelled = [answer for row in rows for answer in row.answers.items()]
    known = all(label in outputs.get(name, ()) for name, label in labelled)
    return manifest.task.kind == "decide" and bool(labelled) and known


def decide_rows(
    client: Client, task: str, rows: Sequence[LabelledMessage], done: Callable[[int], None]
) -> list[MessageAnswers]:
    """Ask all questions about one message a call, as a device would; what fails answers nothing."""
    client.decide(task, [rows[0].text], timeout_seconds=CALL_SECONDS_MAX)  # The first call warms the connection up.
    found = []
    for row in rows:
        started = time.monotonic()
        (result,) = client.decide(task, [row.text], timeout_seconds=CALL_SECONDS_MAX)
        spent = (time.monotonic() - started) * 1000
        answers = () if isinstance(result, Failure) else result.answers
        said = {each.question: DemoAnswer(each.label, each.confident, spent) for each in answers}
        found.append(MessageAnswers(row, said, spent))
        done(len(found))
    return found


def show_questions(console: Console, manifest: Manifest, said: Sequence[MessageAnswers]) -> None:
    """Print the answers about a few messages, then how many answers to each question are right."""
    questions = manifest.task.questions
    for each in sample_of(said):
        console.print(Text(each.message.text, style="bold"))
        print_trimmed(console, _answers(questions, each))
        console.print()
    console.print("✓ right, ✗ wrong; ? = not confident: a large model or a person is asked", style="dim")
    console.print()
    print_trimmed(console, _score_table(manifest, said))
    spent = format_milliseconds(median(each.milliseconds for each in said))
    told = f"one call answers all questions about a message, median {spent}; ± is a 95% interval."
    if any(confidence.policy != "threshold" for confidence in manifest.question_confidence.values()):
        told += " A question that always asks had no threshold that could be proved."
    console.print(told, style="dim")


def sample_of(said: Sequence[MessageAnswers]) -> list[MessageAnswers]:
    """Return the messages to show: spread over all, always the same ones."""
    shown = sample([each.message for each in said], SHOWN_MESSAGES)
    return [next(each for each in said if each.message is message) for message in shown]


def _answers(questions: Sequence[QuestionSpec], said: MessageAnswers) -> Table:
    """Return question over answer; the columns are as wide for one message as for the next."""
    made = table()
    for question in questions:
        wide = max(len(question.name), *(len(f"✓ {output}?") for output in question.outputs))
        made.add_column(Text(question.name, style="dim"), min_width=wide, overflow="fold")
    made.add_row(*(_answer(said, question.name) for question in questions))
    return made


def _answer(said: MessageAnswers, question: str) -> Text:
    answer, wanted = said.answers.get(question), said.message.answers.get(question)
    if answer is None:
        return Text("✗ no answer", style="red")
    right = answer.label == wanted
    mark = "" if wanted is None else "✓ " if right else "✗ "
    style = "" if wanted is None else "green" if right else "red"
    return Text(f"{mark}{answer.label}{'' if answer.sure else '?'}", style=f"{style} bold" if answer.sure else style)


def _score_table(manifest: Manifest, said: Sequence[MessageAnswers]) -> Table:
    numbers = ("answers", "right", "confident", "right if confident")
    made = table("question", *numbers, right=numbers)
    for question in manifest.task.questions:
        asked = [each for each in said if question.name in each.message.answers]
        rows = [replace(each.message, label=each.message.answers[question.name]) for each in asked]
        confidence = manifest.question_confidence.get(question.name)
        cells = ("-", "-", "-")
        if asked:
            found = score(rows, [each.answers.get(question.name, _NO_ANSWER) for each in asked])
            cells = (plus_minus(found.right), "always asks", "-")
            if confidence and confidence.policy == "threshold":
                cells = (cells[0], f"{found.sure / found.rows:.0%}", plus_minus(found.sure_right))
        made.add_row(Text(question.name, style="bold"), str(len(question.outputs)), *cells)
    return made
