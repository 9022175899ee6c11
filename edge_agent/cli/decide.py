"""`edge-agent decide`: ask a task's questions about many inputs, and print the answers with their probabilities."""

# No `from __future__ import annotations`: typer looks for the names of annotations in the module of the subclass.
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edge_agent.cli.batch_inference import (
    TIMEOUT_SECONDS,
    BatchCommand,
    LowConfidence,
    confidence_note,
    shorten,
)
from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.exits import ExitCode, exit_code
from edge_agent.cli.inputs import Inputs, answers
from edge_agent.cli.output import out, plain, print_json, print_trimmed, table
from edge_agent.cli.terminal import printable_text
from edge_agent.client import Client, Decision, DecisionAnswer, Failure

BAR_CELLS = 10
OPTION_CELLS = 16
"""Width of a possible answer beside its bar: a longer one is cut there, and whole in the column of the answer."""
SHOWN_MAX = 3
"""Possible answers of a question with their bars; --json has all of them."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"

QuestionOption = Annotated[
    list[str] | None,
    typer.Option("--question", metavar="NAME", help="Answer this question alone; may be given several times."),
]


@dataclass(kw_only=True)
class DecideCommand(BatchCommand):
    """Answer a task's questions about each input.

    Each answer has a bar for the probability of the likeliest ones. A score also has its expected value: the mean of
    the levels' places from 0. A classify task has one question, which has its name. With --json, one object per line.

    Example: [bold]edge-agent decide front-desk 'My kettle burns, send somebody now'[/bold]

    Example: [bold]edge-agent decide front-desk --question urgent --json --file messages.txt[/bold]
    """

    question: QuestionOption = None
    on_low_confidence: LowConfidence = "answer"

    def __post_init__(self) -> None:
        """Run the command."""
        inputs = Inputs(self.texts, self.file)
        with target_of(self.ctx).client(self.target, inputs.retry) as client:
            found = answers(client, self.task, inputs, self._call_of(client), as_json=self.as_json)
            code = print_decisions(found, as_json=self.as_json)
        raise typer.Exit(code)

    def _call_of(self, client: Client):  # type: ignore[no-untyped-def]
        return lambda task, batch: client.decide(
            task,
            batch,
            questions=self.question or (),
            on_low_confidence=self.on_low_confidence,
            timeout_seconds=TIMEOUT_SECONDS,
        )


def print_decisions(found: Iterable[tuple[str, Decision | Failure]], *, as_json: bool) -> ExitCode:
    """Print the answers to each input; return the exit code of the first input that failed, or OK."""
    code = ExitCode.OK
    for place, (text, result) in enumerate(found):
        if isinstance(result, Failure):
            code = code or exit_code(result.reason)
        if as_json:
            print_json({"input": text, "error" if isinstance(result, Failure) else "decision": plain(result)})
            continue
        console = out()
        if place:
            console.print()
        console.print(Text(shorten(text), style="bold"), soft_wrap=True)
        if isinstance(result, Failure):
            console.print(Text(f"{result.reason}: {result.message}", style="red"), soft_wrap=True)
            console.print(Text(f"what to do: {result.remedy}", style="red"), soft_wrap=True)
        else:
            print_trimmed(console, decision_table(result))
    return code


def decision_table(decision: Decision) -> Table:
    """Return the answers to one input: question, answer, the likeliest answers with bars, and what limits each."""
    made = table("question", "answer", "probability", "note", wrap=("question", "answer", "note"))
    for answer in decision.answers:
        made.add_row(answer.question, _answer_cell(answer), _bars(answer.probabilities), _note(answer))
    return made


def _answer_cell(answer: DecisionAnswer) -> Text:
    label = answer.label or answer.route.lower()
    value = "" if answer.score is None else f" ({answer.score:.2f})"
    return Text.assemble((label, "bold" if answer.label else "yellow"), value)


def _note(answer: DecisionAnswer) -> Text:
    return Text("confident", "green") if answer.confident else confidence_note(answer)


def _bars(probabilities: Iterable[tuple[str, float]]) -> Group:
    """Return the likeliest answers, each on a line that is never broken."""
    ranked = sorted(probabilities, key=lambda pair: -pair[1])
    return Group(*(Text.assemble(f"{share:.2f} {bar(share)} ", _cut(label)) for label, share in ranked[:SHOWN_MAX]))


def _cut(label: str) -> Text:
    text = printable_text(Text(label))
    text.truncate(OPTION_CELLS, overflow="ellipsis")
    return text


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """Return a bar of block characters for a share from 0 to 1, filled up with spaces."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return (_EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")).ljust(cells)
