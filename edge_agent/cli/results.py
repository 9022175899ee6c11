"""What classify, extract and embed print: one row or one JSON object for each input, whether it failed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from edge_agent.cli.exits import Exit, exit_code
from edge_agent.cli.output import out, plain, print_json, print_trimmed, table
from edge_agent.client import Answer, Classification, Extraction, Failure

_A = TypeVar("_A", bound=Answer)
_INPUT_SHOWN_MAX = 500  # characters in a table; --json has all of it


@dataclass(frozen=True)
class Form(Generic[_A]):
    """How the answers of one kind of task look."""

    key: str
    """Of an answer in JSON."""
    columns: tuple[str, ...]
    """Between the input, and the milliseconds and the note."""
    cells: Callable[[_A], Sequence[RenderableType]]
    """What stands in them."""
    note: Callable[[_A], Text]
    right: tuple[str, ...] = ()


def show(found: Iterable[tuple[str, _A | Failure]], form: Form[_A], as_json: bool) -> Exit:
    """Print every result; return the exit code of the first input that failed, or OK."""
    code = Exit.OK
    made = table("input", *form.columns, "ms", "note", right=(*form.right, "ms"), wrap=("input", "note", *form.columns))
    try:
        for text, result in found:
            if isinstance(result, Failure):
                code = code or exit_code(result.reason)
            if as_json:
                key = "error" if isinstance(result, Failure) else form.key
                print_json({"input": text, key: plain(result)})
            else:
                made.add_row(Text(_shown(text)), *_row(result, form))
    finally:  # What was answered before a batch failed is shown.
        if made.row_count:
            print_trimmed(out(), made)
    return code


def _shown(text: str) -> str:
    if len(text) <= _INPUT_SHOWN_MAX:
        return text
    return f"{text[:_INPUT_SHOWN_MAX]}… ({len(text):,} characters)"


def _row(result: _A | Failure, form: Form[_A]) -> list[RenderableType]:
    if isinstance(result, Failure):
        return [*("-" for _ in form.columns), "", _failure(result)]
    return [*form.cells(result), f"{result.timings.total_ms:.0f}", form.note(result)]


def _failure(failure: Failure) -> RenderableType:
    said = Text(f"{failure.reason}: {failure.message}", style="red")
    return Group(said, Text(f"what to do: {failure.remedy}", style="red")) if failure.remedy else said


def _word(word: str, result: Classification | Extraction) -> str:
    """Write why an answer is less than it could be; with the p-value where that is the reason."""
    said = word.lower().replace("_", " ")
    return (
        f"{said} (p = {result.p_value:.3f})" if word == "OUT_OF_DISTRIBUTION" and result.p_value is not None else said
    )


def note(result: Classification | Extraction) -> Text:
    """Say what to know about an answer that has a confidence."""
    notes = [f"by {result.model}"] if result.model else []
    below = result.threshold and not result.confidence >= result.threshold
    notes += [f"below the threshold {result.threshold:.2f}"] if below else []
    if result.threshold is None and "SCORES_VARY" not in result.degraded:
        notes.append("not calibrated")
    notes += [_word(word, result) for word in result.degraded]
    return Text(", ".join(notes), style="yellow" if result.below_threshold else "")
