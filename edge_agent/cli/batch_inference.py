"""`edge-agent classify`, `extract`, `embed`, `decide`, `generate`: ask a task about inputs, and print the results."""

# No `from __future__ import annotations`: typer looks for the names of annotations in the module of the subclass.
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp
from typing import Annotated, Generic, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_agent.cli.daemon_target import TargetOption, TaskArgument, target_of
from edge_agent.cli.exits import ExitCode, exit_code
from edge_agent.cli.inputs import FileOption, Inputs, Texts, answers, as_text
from edge_agent.cli.output import AsJson, err, no_threshold, out, plain, print_json, print_trimmed
from edge_agent.cli.terminal import EscapedTable, draw_bar, printable_text, table, write_answer
from edge_agent.client import (
    Answer,
    CallFailed,
    Classification,
    Client,
    Decision,
    DecisionAnswer,
    Embedding,
    Extraction,
    Failure,
    Finish,
    GenerateOptions,
    OnLowConfidence,
)

TIMEOUT_SECONDS = 60
_INPUT_SHOWN_MAX = 500  # characters in a table; --json has all of it
_VALUES_SHOWN = 4
_A = TypeVar("_A", bound=Answer)

LowConfidence = Annotated[
    OnLowConfidence,
    typer.Option(
        help="What to do with an answer that is not confident: as_mode = as the task's mode says; escalate ="
        " ask the large model if it is available."
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=1000,
        help="Show the N best labels with their scores; 0 = the best one, and with --json the scores of all.",
    ),
]


@dataclass(frozen=True)
class ResultColumns(Generic[_A]):
    """The output of the answers of one kind of task."""

    key: str
    """Of an answer in JSON."""
    columns: tuple[str, ...]
    """Between the input, and the milliseconds and the note."""
    cells: Callable[[_A], Sequence[RenderableType]]
    """Their content."""
    note: Callable[[_A], Text]
    right: tuple[str, ...] = ()


@dataclass(kw_only=True)
class BatchCommand:
    """The arguments and options of such a command: typer reads the fields like a function's parameters."""

    ctx: typer.Context
    task: TaskArgument
    texts: Texts = None
    file: FileOption = None
    target: TargetOption = ""
    as_json: AsJson = False

    def answer(self, call: Callable[[Client, str, list[str]], list[_A | Failure]], layout: ResultColumns[_A]) -> None:
        """Ask, print each result, and end the command with the code of the first input that failed."""
        inputs = Inputs(self.texts, self.file)
        with target_of(self.ctx).client(self.target, inputs.retry) as client:
            results = answers(client, self.task, inputs, functools.partial(call, client), as_json=self.as_json)
            code = print_results(results, layout, self.as_json)
        raise typer.Exit(code)


@dataclass(kw_only=True)
class ClassifyCommand(BatchCommand):
    """Choose one label for each input.

    The inputs go to the daemon in batches, at most 16 and at most the task's limit; every input gets its own result.
    Inputs of a file or of standard input are retried while the daemon is busy or restarts. With --json, one object
    per line.

    Example: [bold]edge-agent classify pos-intent 'I want my money back'[/bold]

    Example: [bold]edge-agent classify pos-intent --json < messages.txt > answers.jsonl[/bold]

    Example: [bold]edge-agent classify pos-intent --top-k 5 'I want my money back'[/bold]

    Example: [bold]edge-agent classify pos-intent --json --file messages.jsonl > answers.jsonl[/bold]
    """

    on_low_confidence: LowConfidence = "as_mode"
    top_k: TopK = 0

    def __post_init__(self) -> None:
        """Run the command."""
        self.answer(self._call, RANKED_CLASSIFICATION if self.top_k else CLASSIFICATION)

    def _call(self, client: Client, task: str, batch: list[str]) -> list[Classification | Failure]:
        return client.classify(
            task, batch, on_low_confidence=self.on_low_confidence, top_k=self.top_k, timeout_seconds=TIMEOUT_SECONDS
        )


@dataclass(kw_only=True)
class ExtractCommand(BatchCommand):
    """Find the task's record in each input.

    With --json, one object per line: the confidence of each field that was written, the place of each value that was
    found in the text.

    Example: [bold]edge-agent extract pos-fields 'two blue mugs for 7 euros'[/bold]

    Example: [bold]edge-agent extract pos-fields --json --file orders.txt > orders.jsonl[/bold]
    """

    on_low_confidence: LowConfidence = "answer"

    def __post_init__(self) -> None:
        """Run the command."""
        self.answer(self._call, EXTRACTION)

    def _call(self, client: Client, task: str, batch: list[str]) -> list[Extraction | Failure]:
        return client.extract(task, batch, on_low_confidence=self.on_low_confidence, timeout_seconds=TIMEOUT_SECONDS)


@dataclass(kw_only=True)
class EmbedCommand(BatchCommand):
    """Turn each input into a vector.

    The table shows its first values; --json prints all of them, one object per line.

    Example: [bold]edge-agent embed product-search --json 'blue backpack' > vectors.jsonl[/bold]

    Example: [bold]edge-agent embed product-search --json --file products.txt > vectors.jsonl[/bold]
    """

    def __post_init__(self) -> None:
        """Run the command."""
        self.answer(_embed, EMBEDDING)


def print_results(results: Iterable[tuple[str, _A | Failure]], layout: ResultColumns[_A], as_json: bool) -> ExitCode:
    """Print every result; return the exit code of the first input that failed, or OK."""
    code = ExitCode.OK
    listing = table(
        "input", *layout.columns, "ms", "note", right=(*layout.right, "ms"), wrap=("input", "note", *layout.columns)
    )
    try:
        for text, result in results:
            if isinstance(result, Failure):
                code = code or exit_code(result.reason)
            if as_json:
                print_json({"input": text, "error" if isinstance(result, Failure) else layout.key: plain(result)})
            elif isinstance(result, Failure):
                listing.add_row(Text(shorten(text)), *("-" for _ in layout.columns), "", _failure_cell(result))
            else:
                cells = layout.cells(result)
                listing.add_row(Text(shorten(text)), *cells, f"{result.timings.total_ms:.0f}", layout.note(result))
    finally:  # Results of the batches before a failed one are printed, too.
        if listing.row_count:
            print_trimmed(out(), listing)
    return code


def shorten(text: str) -> str:
    """Return an input as a table shows it; --json has all of it."""
    if len(text) <= _INPUT_SHOWN_MAX:
        return text
    return f"{text[:_INPUT_SHOWN_MAX]}… ({len(text):,} characters)"


def _failure_cell(failure: Failure) -> RenderableType:
    message = Text(f"{failure.reason}: {failure.message}", style="red")
    return Group(message, Text(f"what to do: {failure.remedy}", style="red")) if failure.remedy else message


def confidence_note(result: Classification | DecisionAnswer | Extraction) -> Text:
    """Return the limitations of an answer that has a confidence."""
    notes = [f"by {result.model}"] if result.model else []
    is_below = result.threshold and not result.confidence >= result.threshold
    notes += [f"below the threshold {result.threshold:.2f}"] if is_below else []
    if result.threshold is None and "SCORES_VARY" not in result.degraded:
        notes.append(no_threshold(result.no_threshold_reason))
    p_value = "" if result.p_value is None else f" (p = {result.p_value:.3f})"
    for reason in result.degraded:
        notes.append(f"{reason.lower().replace('_', ' ')}{p_value if reason == 'OUT_OF_DISTRIBUTION' else ''}")
    return Text(", ".join(notes), style="yellow" if result.below_threshold else "")


def _classification_cells(result: Classification) -> tuple[Text, str]:
    label = Text(result.label or result.route.lower(), style="bold" if result.label else "yellow")
    return label, f"{result.confidence:.2f}"


def _ranked_cells(result: Classification) -> tuple[RenderableType, ...]:
    return *_classification_cells(result), Group(*(Text(f"{score:.2f}  {label}") for label, score in result.scores))


CLASSIFICATION = ResultColumns(
    "classification", ("label", "confidence"), _classification_cells, confidence_note, right=("confidence",)
)
RANKED_CLASSIFICATION = ResultColumns(
    "classification", (*CLASSIFICATION.columns, "scores"), _ranked_cells, confidence_note, right=CLASSIFICATION.right
)


def _extraction_cells(result: Extraction) -> tuple[Text, str]:
    return Text(result.json or result.route.lower()), f"{result.confidence:.2f}"


EXTRACTION = ResultColumns(
    "extraction", ("record", "confidence"), _extraction_cells, confidence_note, right=("confidence",)
)


def _embed(client: Client, task: str, batch: list[str]) -> list[Embedding | Failure]:
    return client.embed(task, batch, timeout_seconds=TIMEOUT_SECONDS)


def _embedding_cells(result: Embedding) -> tuple[str, str]:
    return str(len(result.values)), " ".join(f"{value:+.3f}" for value in result.values[:_VALUES_SHOWN]) + " …"


def _embedding_note(result: Embedding) -> Text:
    return Text(", ".join(reason.lower().replace("_", " ") for reason in result.degraded))


EMBEDDING = ResultColumns("embedding", ("length", "vector"), _embedding_cells, _embedding_note, right=("length",))


BAR_CELLS = 10
OPTION_CELLS = 16
"""Width of a possible answer next to its bar; longer ones are cut there, and complete in the column of the answer."""
SHOWN_MAX = 3
"""Possible answers of a question with their bars; --json has all of them."""

QuestionOption = Annotated[
    list[str] | None,
    typer.Option("--question", metavar="NAME", help="Answer only this question; can be given several times."),
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
            ask = functools.partial(
                client.decide,
                questions=self.question or (),
                on_low_confidence=self.on_low_confidence,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            results = answers(client, self.task, inputs, ask, as_json=self.as_json)
            code = print_decisions(results, as_json=self.as_json)
        raise typer.Exit(code)


def print_decisions(results: Iterable[tuple[str, Decision | Failure]], *, as_json: bool) -> ExitCode:
    """Print the answers to each input; return the exit code of the first input that failed, or OK."""
    code = ExitCode.OK
    for number, (text, result) in enumerate(results):
        if isinstance(result, Failure):
            code = code or exit_code(result.reason)
        if as_json:
            print_json({"input": text, "error" if isinstance(result, Failure) else "decision": plain(result)})
            continue
        console = out()
        if number:
            console.print()
        console.print(Text(shorten(text), style="bold"), soft_wrap=True)
        if isinstance(result, Failure):
            console.print(_failure_cell(result), soft_wrap=True)
        else:
            print_trimmed(console, decision_table(result))
    return code


def decision_table(decision: Decision) -> Table:
    """Return the answers to one input: question, answer, the likeliest answers with bars, and what limits each."""
    listing = table("question", "answer", "probability", "note", wrap=("question", "answer", "note"))
    for answer in decision.answers:
        value = "" if answer.score is None else f" ({answer.score:.2f})"
        label = Text.assemble((answer.label or answer.route.lower(), "bold" if answer.label else "yellow"), value)
        note = Text("confident", "green") if answer.confident else confidence_note(answer)
        listing.add_row(answer.question, label, _bars(answer.probabilities), note)
    return listing


def _bars(probabilities: Iterable[tuple[str, float]]) -> Group:
    """Return the likeliest answers, each on a line that is never broken."""
    ranked = sorted(probabilities, key=lambda pair: -pair[1])
    return Group(
        *(
            Text.assemble(f"{share:.2f} {draw_bar(share, BAR_CELLS)} ", _shorten_label(label))
            for label, share in ranked[:SHOWN_MAX]
        )
    )


def _shorten_label(label: str) -> Text:
    text = printable_text(Text(label))
    text.truncate(OPTION_CELLS, overflow="ellipsis")
    return text


_GENERATE_TIMEOUT_SECONDS = 300


@dataclass(kw_only=True)
class GenerateCommand:
    """Write text, shown as it comes.

    With --escalate the large model writes it, if the task's inputs may go there and it can be asked; otherwise the
    model here does, and standard error explains why.

    Example: [bold]edge-agent generate assistant 'Write a sign: we close at six today'[/bold]

    With --logprobs 3 a table on standard error shows how likely each token was, and the three likeliest.

    Example: [bold]edge-agent generate assistant --escalate 'Write to a customer whose lamp came broken'[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    ctx: typer.Context
    task: TaskArgument
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The input; '-' reads standard input.")]
    output_tokens_max: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The most tokens to write; 0 = the task's limit.")
    ] = 0
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=2, help="0 = always the most probable token; default: the bundle's value."),
    ] = None
    escalate: Annotated[
        bool, typer.Option("--escalate", help="Ask the large model, if it can be asked; this can cost money.")
    ] = False
    logprobs: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="Show each token's probability, and the N most likely tokens there."),
    ] = None
    target: TargetOption = ""

    def __post_init__(self) -> None:
        """Run the command."""
        prompt = as_text(sys.stdin.buffer.read(), "standard input") if self.text == "-" else self.text
        options: GenerateOptions = {
            "output_tokens_max": self.output_tokens_max,
            "temperature": self.temperature,
            "escalate": self.escalate,
            "logprobs": self.logprobs,
        }
        with (
            target_of(self.ctx).client(self.target) as client,
            client.generate(self.task, prompt, timeout_seconds=_GENERATE_TIMEOUT_SECONDS, **options) as stream,
        ):
            try:
                for piece in stream:
                    write_answer(piece)
                write_answer("\n")
            except CallFailed as error:
                # The remedy of the daemon names a field of the request, which is an option of this command.
                if error.reason == "REQUEST_INVALID" and error.message.startswith("output_tokens_max"):
                    error.remedy = "Give a smaller --output-tokens-max, or leave it out for the task's limit."
                raise
        if stream.finish is None:
            return
        if stream.finish.reason == "LENGTH":
            err().print(Text(f"cut at {stream.finish.output_tokens} tokens", style="dim"))
        if self.logprobs is not None:
            err().print(_token_table(stream.finish))
        if self.escalate:
            err().print(Text(_author_text(stream.finish), style="dim"))


def _token_table(finish: Finish) -> Table | Text:
    """Return a table of the written tokens, a row each."""
    if not finish.tokens:
        return Text("no probabilities: the model that wrote this returned none", style="dim")
    table = EscapedTable(box=None, header_style="dim", pad_edge=False)
    table.add_column("token")
    table.add_column("probability", justify="right")
    table.add_column("the likeliest in its place", style="dim")
    for token in finish.tokens:
        others = "  ".join(f"{_quoted_token(piece)} {exp(logprob):.1%}" for piece, logprob in token.alternatives)
        table.add_row(Text(_quoted_token(token.token)), f"{exp(token.logprob):.1%}", Text(others))
    return table


def _quoted_token(piece: bytes) -> str:
    """Return a token in quotes, so that its spaces and line ends are seen."""
    return repr(piece.decode("utf-8", "backslashreplace"))


def _author_text(finish: Finish) -> str:
    if finish.route == "UPSTREAM":
        return f"written by {finish.model or 'the large model'}"
    author = "nobody" if finish.route == "ABSTAINED" else "the model here"
    return f"written by {author}: {finish.route_reason}, see docs/routing.md"
