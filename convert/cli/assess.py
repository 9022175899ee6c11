"""`edge-convert assess`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from convert import pipeline
from convert.cli import screen
from convert.report.made import plural
from edge_agent.cli.terminal import Rows, write_exactly

_PAIRS_SHOWN_MAX = 10


def command(
    collected: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where 'edge-convert collect' writes.")],
    task: Annotated[str, typer.Option(metavar="NAME", help="The task.")],
    target: Annotated[
        float, typer.Option(min=0.0001, max=0.9999, help="Wanted: a sure answer is wrong at most so often.")
    ] = 0.05,
    delta: Annotated[
        float, typer.Option(min=0.0001, max=0.9999, help="The chance that this is not kept after all.")
    ] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say whether what was collected of a task suffices to train and to calibrate, and what is missing.

    docs/training-data.md explains the marks.

    Example: [bold]edge-convert assess collected --task pos-intent --target 0.02[/bold]
    """
    assess = pipeline.load("convert.assess")  # needs the extra, which other commands do without
    found = assess.assess(collected, task, assess.Risk(target, delta))
    if as_json:
        write_exactly(json.dumps(found.plain(), ensure_ascii=False))
        return
    console = screen.out()
    console.print(f"{task}: {found.examples} examples, {found.reviewed} reviewed, {found.usable} usable to learn from")
    console.print(f"mark {found.mark}: {assess.MARKS.get(found.mark, 'too few for anything but reading them')}")
    console.print(
        f"{found.duplicates} duplicates in {found.clusters} groups of texts;"
        f" {found.contradictions} texts with more than one truth"
    )
    _print_labels(console, found)
    _print_reviewers(console, found)
    console.print(_promised(found))
    if found.audit.answers:
        console.print(_audited(found))
    console.print(_verdict(found, assess.READY_ROWS_MIN))


def _print_labels(console: Console, found: Any) -> None:
    if not found.labels:
        return
    table = Rows("label", "usable", title=f"labels, as varied as {found.labels_even:.1f} equally frequent ones")
    for label, rows in found.labels.items():
        table.add_row(label, f"{rows}{'  few' if label in found.short else ''}")
    console.print(table)


def _print_reviewers(console: Console, found: Any) -> None:
    console.print(f"{found.reviewed_twice} examples with several reviewers, {found.conflicts} in conflict")
    for pair in found.pairs[:_PAIRS_SHOWN_MAX]:
        console.print(f"  {pair.one} and {pair.other} agree on {pair.agreed} of {pair.predictions}")


def _verdict(found: Any, rows_min: int) -> str:
    if found.ready:
        return "ready: enough to fine-tune, calibrate and test a first model"
    lacking = [f"{rows_min - found.usable} more usable examples"] if found.usable < rows_min else []
    lacking += [f"more of {', '.join(found.short)}"] if found.short else []
    return f"not ready for a first model: it takes {', and '.join(lacking)}"


def _promised(found: Any) -> str:
    promise, right = found.promise, found.right
    if not found.audit_reviews:
        return (
            f"of the random audit nothing is reviewed ({found.audit_unreviewed} wait), so there is no threshold to"
            " prove yet: other reviews say nothing of all answers"
        )
    seen = (
        f"of all answers {right.low:.1%} to {right.high:.1%} are right, by {found.audit_reviews} reviews of the random"
        f" audit ({found.audit_unreviewed} wait); "
    )
    if not promise.reviews:
        return f"{seen}none has a confidence, so there is no threshold to prove yet"
    wanted = f"a risk of {promise.target:.2%} (delta {promise.delta:.2%})"
    if promise.threshold is not None:
        return f"{seen}{wanted} is proved from confidence {promise.threshold:.2f} on, {promise.coverage:.1%} of them"
    if promise.reviews_needed is None:
        return f"{seen}{wanted} is out of reach by more reviews of this model"
    return f"{seen}{wanted} takes about {max(promise.reviews_needed - promise.reviews, 1)} more reviews of it"


def _audited(found: Any) -> str:
    audit, right = found.audit, found.audit.right
    who = f"{audit.by_people} judged by people, {audit.by_opinion} only by the large model, which may be wrong, too"
    seen = f"of {plural(audit.answers, 'sure answer')} drawn at random {right.low:.1%} to {right.high:.1%} are right"
    over = "; that is above the wanted risk" if 1 - right.high > found.promise.target else ""
    return f"{seen}, an estimate: {who}{over}"
