"""`edge-agent review`: people judge captured answers, and erase them."""

from __future__ import annotations

import string
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Annotated, Literal

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.output import out
from edge_agent.client import Prediction, ReviewClient
from edge_agent.errors.base import user_name

ACCEPT, REJECT, SKIP, ERASE, QUIT = "\n", "!", "-", "#", "."
# One key for each label, in the task's order; the keys above are neither letters nor digits.
KEYS = "123456789" + string.ascii_lowercase
Stream = Enum("Stream", {name: name for name in ("all", "audit", "uncertain", "diverse", "new")})  # type: ignore[misc]
ALL = Stream("all")
STREAMS = {
    "AUDIT": "  drawn at random",
    "UNCERTAIN": "  uncertain",
    "DIVERSE": "  some of each label",
    "NEW": "  out of distribution",
}
Outcome = Literal["judged", "erased", "skipped"]
LABEL_KINDS = ("CLASSIFY", "DECIDE")
CORRECTIONS = {"EXTRACT": "the right JSON object", "GENERATE": "the right text"}


def review(
    ctx: typer.Context,
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="Only this task, or TASK/QUESTION for one question of it.")
    ] = "",
    reviewer: Annotated[
        str, typer.Option(metavar="NAME", help="Reviewer; without it the user's name, also through sudo.")
    ] = "",
    confidence_max: Annotated[
        float | None,
        typer.Option(metavar="P", min=0, max=1, help="Only answers with this confidence at most; no audit."),
    ] = None,
    stream: Annotated[
        Stream,
        typer.Option(
            help="Only answers drawn at random (audit), uncertain, diverse in label, or out of distribution (new)."
        ),
    ] = ALL,
) -> None:
    """Confirm or correct answers: one key for each label.

    Every second answer was drawn at random: this audit estimates the quality of all answers. Between them come the
    least confident answers, and some of each label. Do not skip a difficult audit answer: it comes back.

    Enter accepts, a letter or digit corrects, ! rejects, - skips, # erases, . ends. Each verdict is on the disk before
    the next answer is shown.

    Example: [bold]edge-agent review pos-intent --confidence-max 0.8[/bold]
    """
    reviewer_name = reviewer or user_name()
    counts = Counter[Outcome]()
    with target_of(ctx).reviewer() as client:
        stream_name = "" if stream is ALL else stream.value
        for prediction in client.queue(task, confidence_max=confidence_max, stream=stream_name):
            _print_prediction(out(), prediction)
            outcome = _ask_verdict(client, prediction, reviewer_name)
            if outcome is None:
                break
            counts[outcome] += 1
        else:
            out().print("Nothing more to review.")
    erased = f", {counts['erased']} erased" if counts["erased"] else ""
    out().print(f"{counts['judged']} judged{erased}.")


def _print_prediction(console: Console, prediction: Prediction) -> None:
    console.print()
    has_teacher = prediction.teacher_answer is not None
    confidence = "" if has_teacher else _confidence(prediction)
    title = f"{prediction.subject} ({prediction.answer_time:%Y-%m-%d %H:%M}{confidence})"
    console.print(Text.assemble((title, "bold"), (STREAMS.get(prediction.review_stream, ""), "cyan")))
    if prediction.instructions:
        console.print(Text.assemble(("  asked   ", "dim"), prediction.instructions))
    console.print(Text.assemble(("  input   ", "dim"), prediction.input))
    author = (f"  by {prediction.teacher_model or 'the large model'}", "dim") if has_teacher else ""
    console.print(Text.assemble(("  answer  ", "dim"), prediction.output, author))
    if has_teacher and prediction.local_answer is not None:
        console.print(Text.assemble(("  local   ", "dim"), prediction.local_answer, (_confidence(prediction), "dim")))
    keys = ["Enter accept", *(f"{key} {label}" for key, label in _choices(prediction).items())]
    if prediction.kind in CORRECTIONS:
        keys.append(f"1 type {CORRECTIONS[prediction.kind]}")
    for line in lines_of_keys([*keys, "! reject", "- skip", "# erase", ". end"], console.width):
        console.print(Text(line, style="dim"))


def lines_of_keys(keys: Sequence[str], cells: int) -> Iterator[str]:
    """Return the keys in lines of at most `cells`; a key and its action stay on one line."""
    line = ""
    for key in keys:
        longer = f"{line}   {key}" if line else f"  {key}"
        if line and cell_len(longer) > cells:
            yield line
            longer = f"  {key}"
        line = longer
    yield line


def _confidence(prediction: Prediction) -> str:
    if prediction.confidence is None:
        return ""
    if prediction.threshold is None:
        return f", {prediction.confidence:.2f} no threshold"
    p_value_text = "" if prediction.p_value is None else f", p = {prediction.p_value:.3f}"
    return f", {prediction.confidence:.2f}{' unsure' if prediction.below_threshold else ''}{p_value_text}"


def _choices(prediction: Prediction) -> dict[str, str]:
    return dict(zip(KEYS, prediction.labels, strict=False)) if prediction.kind in LABEL_KINDS else {}


def _ask_verdict(client: ReviewClient, prediction: Prediction, reviewer: str) -> Outcome | None:
    """Read keys until one fits; return what was done with the answer, None = end."""
    choices = _choices(prediction)
    for key in _read_keys():
        if key == QUIT:
            return None
        if key == SKIP:
            return "skipped"
        if key == ERASE:
            ids = client.erase_answer(prediction.prediction_id).same_text_ids
            out().print("  erased", style="green")
            if ids:
                hint = f"'edge-agent erase {ids[0]} --all-questions'"
                out().print(f"  other questions keep the text: {hint}", style="yellow")
            return "erased"
        if key == REJECT:
            client.reject(prediction.prediction_id, _prompt("why, or the label that is missing? "), reviewer=reviewer)
            return "judged"
        if key == ACCEPT or choices.get(key) == prediction.output:
            client.accept(prediction.prediction_id, reviewer=reviewer)
            out().print("  accepted", style="green")
            return "judged"
        is_typed = key == "1" and prediction.kind in CORRECTIONS
        if value := _prompt(f"{CORRECTIONS[prediction.kind]}: ") if is_typed else choices.get(key):
            client.correct(prediction.prediction_id, value, reviewer=reviewer)
            out().print(Text.assemble(("  corrected: ", "green"), value))
            return "judged"
        out().print("  No such key here.")
    return None


def _prompt(prompt: str) -> str:
    out().print(f"  {prompt}", end="")
    return sys.stdin.readline().rstrip("\n")


def _read_keys() -> Iterator[str]:
    """Yield single keys from a terminal, lines from anything else (the first character of each)."""
    while True:
        if sys.stdin.isatty():
            key = typer.getchar()
            yield "\n" if key == "\r" else key
        else:
            line = sys.stdin.readline()
            if not line:
                return
            yield line[0]
