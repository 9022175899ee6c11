"""`edge-convert assess`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from convert.cli import dataset, progress_output
from convert.cli.dataset import Encoder, RankLabels
from convert.pipeline.stage import load_module
from edge_agent.cli.terminal import EscapedTable, errors, write_exactly
from edge_agent.formatting import counted

_PAIRS_SHOWN_MAX = 10
LABEL_ERRORS_MAX = 100
"""Rows of the JSON."""


@dataclass
class AssessCommand:
    """Report whether the collected examples of a task suffice to train and calibrate, and what is missing.

    Reviews of any bundle's answers count as training data. Accuracy and risk are estimated for one bundle: the newest,
    unless --version names another.

    A decide task is assessed question by question; --task NAME/QUESTION assesses one.

    docs/training-data.md explains the levels.

    Example: [bold]edge-convert assess collected --task pos-intent --target 0.02[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    collected: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that 'edge-convert collect' writes.")]
    task: Annotated[str, typer.Option(metavar="NAME", help="The task.")]
    target: Annotated[
        float,
        typer.Option(
            min=0.0001,
            max=0.9999,
            help="Target risk: largest acceptable share of wrong answers among the confident ones.",
        ),
    ] = 0.05
    delta: Annotated[
        float,
        typer.Option(min=0.0001, max=0.9999, help="Accepted probability that the risk exceeds the target."),
    ] = 0.1
    version: dataset.Version = ""
    site: dataset.Sites = None
    since: dataset.Since = None
    until: dataset.Until = None
    new_label: dataset.NewLabels = None
    label_errors: RankLabels = True
    encoder: Encoder = None
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False

    def __post_init__(self) -> None:
        """Run the command."""
        scopes = load_module("convert.dataset.example_scope")  # needs the extra, unlike other commands
        names = scopes.questions_of(self.collected, self.task.partition("/")[0])
        asked = [self.task] if "/" in self.task else names
        # Like `calibrate`: delta is divided among the questions of a task.
        reports = {name: self._assess(name, self.delta / len(names)) for name in asked}
        if self.as_json:
            [plain] = reports.values() if [self.task] == asked else [{"task": self.task, "questions": reports}]
            write_exactly(json.dumps(plain, ensure_ascii=False))

    def _assess(self, task: str, delta: float) -> dict[str, Any]:
        """Assess a task, or one question; print it, or return it for JSON."""
        assess = load_module("convert.dataset.assessment")  # likewise
        scope = dataset.scope_of(self.version, self.site, self.since, self.until, self.new_label)
        found = assess.assess(self.collected, task, assess.Risk(self.target, delta), scope)
        labels = _ranked(self.collected, task, scope, self.encoder) if self.label_errors else None
        if self.as_json:
            ranked = labels.plain(LABEL_ERRORS_MAX) if labels else None
            return {**found.plain(), "label_errors": ranked}
        _print(progress_output.out(), found, assess.MARKS, assess.READY_ROWS_MIN)
        if labels:
            dataset.print_label_errors(labels)
        return {}


def _ranked(collected: Path, task: str, scope: Any, encoder: Path | None) -> Any:
    choice = load_module("convert.dataset.selection").DatasetSelection(
        collected, task, "reviewed", shares={"all": 1.0}, scope=scope
    )
    with progress_output.bar() as advance:
        return load_module("convert.dataset.label_review").rank(choice, encoder, advance)


def _print(console: Console, found: Any, marks: dict[int, str], rows_min: int) -> None:
    console.print(
        f"{found.task}: {counted(found.examples, 'example')}, {found.reviewed} reviewed, {found.usable} usable to learn"
        " from"
    )
    left_out = found.scope.collected - found.examples
    if left_out:
        console.print(f"left out: {left_out} of other versions, sites or days")
    console.print(f"level {found.mark}: {marks.get(found.mark, 'too few for anything but reading them')}")
    console.print(
        f"{counted(found.duplicates, 'duplicate')} in {counted(found.clusters, 'group')} of texts;"
        f" {counted(found.contradictions, 'text')} with conflicting labels"
    )
    _print_labels(console, found)
    _print_reviewers(console, found)
    _print_bundles(console, found.scope)
    for message in dataset.rejected_reasons(found.scope):
        console.print(message, markup=False)
    console.print(_guarantee_sentence(found))
    if found.unjudged:
        console.print(
            f"left out of this share: {counted(found.unjudged, 'review')} of a large model's answer that do not show"
            " whether the local answer was right"
        )
    if found.audit.answers:
        console.print(_audit_sentence(found))
    console.print(_verdict(found, rows_min))
    for message in dataset.wrong_clocks(found.scope):
        errors().print(Text.assemble(("warning: ", "yellow"), message))


def _print_bundles(console: Console, scope: Any) -> None:
    """Show which bundle's answers are judged, if several bundles answered."""
    if len(scope.bundles) < 2:
        return
    table = EscapedTable(
        "version", "bundle", "examples", "reviewed", "judged", title="bundles that answered, the newest first"
    )
    for each in scope.bundles:
        judged = "yes" if each.judged else "no"
        table.add_row(each.version, each.digest[:12], str(each.examples), str(each.reviewed), judged)
    console.print(table)
    if scope.judged_by_default:
        console.print("the newest is judged, the others only give training data; --version judges another, or all")


def _print_labels(console: Console, found: Any) -> None:
    if not found.labels:
        return
    table = EscapedTable("label", "usable", title=f"labels, as varied as {found.labels_even:.1f} equally frequent ones")
    for label, rows in found.labels.items():
        table.add_row(label, f"{rows}{'  few' if label in found.short else ''}")
    console.print(table)


def _print_reviewers(console: Console, found: Any) -> None:
    console.print(f"{counted(found.reviewed_twice, 'example')} with several reviewers, {found.conflicts} in conflict")
    for pair in found.pairs[:_PAIRS_SHOWN_MAX]:
        console.print(f"  {pair.one} and {pair.other} agree on {pair.agreed} of {pair.predictions}")


def _verdict(found: Any, rows_min: int) -> str:
    if found.ready:
        return "ready: enough to fine-tune, calibrate and test a first model"
    lacking = [counted(rows_min - found.usable, "more usable example")] if found.usable < rows_min else []
    lacking += [f"more of {', '.join(found.short)}"] if found.short else []
    return f"not ready for a first model: it needs {', and '.join(lacking)}"


def _guarantee_sentence(found: Any) -> str:
    promise, right = found.promise, found.right
    if not found.audit_reviews:
        return (
            f"no local answer of the random audit is reviewed ({found.audit_unreviewed} wait), so no threshold can be"
            " proved yet: other reviews do not represent all answers"
        )
    seen = (
        f"{right.low:.1%} to {right.high:.1%} of all answers are right, by {found.audit_reviews} reviews of the random"
        f" audit ({found.audit_unreviewed} wait); "
    )
    if not promise.reviews:
        return f"{seen}no answer has a confidence, so no threshold can be proved yet"
    promised = f"a risk of {promise.target:.2%} (delta {promise.delta:.2%})"
    if promise.threshold is not None:
        return (
            f"{seen}{promised} is proved from confidence {promise.threshold:.2f} on, which {promise.coverage:.1%}"
            " of the answers reach"
        )
    if promise.reviews_needed is None:
        return f"{seen}more reviews of this model will not prove {promised}"
    more = counted(max(promise.reviews_needed - promise.reviews, 1), "more review")
    return f"{seen}{promised} needs about {more} of the audit"


def _audit_sentence(found: Any) -> str:
    audit, right = found.audit, found.audit.right
    who = f"{audit.by_people} judged by people, {audit.by_opinion} only by the large model, which can be wrong too"
    seen = (
        f"{right.low:.1%} to {right.high:.1%} of {counted(audit.answers, 'confident answer')} drawn at random are right"
    )
    over = "; that is above the target risk" if 1 - right.high > found.promise.target else ""
    return f"{seen}, an estimate: {who}{over}"
