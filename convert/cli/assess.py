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
        float, typer.Option(min=0.0001, max=0.9999, help="Accepted probability that the risk exceeds the target.")
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
        assessed = [self.task] if "/" in self.task else names
        # Like `calibrate`: delta is divided among the questions of a task.
        reports = {name: self._assess(name, self.delta / len(names)) for name in assessed}
        if self.as_json:
            [plain] = reports.values() if [self.task] == assessed else [{"task": self.task, "questions": reports}]
            write_exactly(json.dumps(plain, ensure_ascii=False))

    def _assess(self, task: str, delta: float) -> dict[str, Any]:
        """Assess a task, or one question; print it, or return it for JSON."""
        assess = load_module("convert.dataset.assessment")  # likewise
        scope = dataset.scope_of(self.version, self.site, self.since, self.until, self.new_label)
        assessment = assess.assess(self.collected, task, assess.Risk(self.target, delta), scope)
        ranking = None
        if self.label_errors:
            selection = load_module("convert.dataset.selection")
            choice = selection.DatasetSelection(self.collected, task, "reviewed", shares={"all": 1.0}, scope=scope)
            ranking = dataset.rank_labels(choice, self.encoder)
        if self.as_json:
            label_errors = ranking.plain(LABEL_ERRORS_MAX) if ranking else None
            return {**assessment.plain(), "label_errors": label_errors}
        _print(progress_output.out(), assessment, assess.MARKS, assess.READY_ROWS_MIN)
        if ranking:
            dataset.print_label_errors(ranking)
        return {}


def _print(console: Console, report: Any, marks: dict[int, str], rows_min: int) -> None:
    console.print(
        f"{report.task}: {counted(report.examples, 'example')}, {report.reviewed} reviewed, {report.usable} usable to"
        " learn from"
    )
    left_out = report.scope.collected - report.examples
    if left_out:
        console.print(f"left out: {left_out} of other versions, sites or days")
    console.print(f"level {report.mark}: {marks.get(report.mark, 'too few for anything but reading them')}")
    console.print(
        f"{counted(report.duplicates, 'duplicate')} in {counted(report.clusters, 'group')} of texts;"
        f" {counted(report.contradictions, 'text')} with conflicting labels"
    )
    _print_labels(console, report)
    console.print(f"{counted(report.reviewed_twice, 'example')} with several reviewers, {report.conflicts} in conflict")
    for pair in report.pairs[:_PAIRS_SHOWN_MAX]:
        console.print(f"  {pair.one} and {pair.other} agree on {pair.agreed} of {pair.predictions}")
    _print_bundles(console, report.scope)
    for message in dataset.rejected_reasons(report.scope):
        console.print(message, markup=False)
    console.print(_guarantee_sentence(report))
    if report.unjudged:
        console.print(
            f"left out of this share: {counted(report.unjudged, 'review')} of a large model's answer that do not show"
            " whether the local answer was right"
        )
    if report.audit.answers:
        console.print(_audit_sentence(report))
    console.print(_verdict(report, rows_min))
    for message in dataset.wrong_clocks(report.scope):
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


def _print_labels(console: Console, report: Any) -> None:
    if not report.labels:
        return
    table = EscapedTable(
        "label", "usable", title=f"labels, as varied as {report.labels_even:.1f} equally frequent ones"
    )
    for label, rows in report.labels.items():
        table.add_row(label, f"{rows}{'  few' if label in report.short else ''}")
    console.print(table)


def _verdict(report: Any, rows_min: int) -> str:
    if report.ready:
        return "ready: enough to fine-tune, calibrate and test a first model"
    needs = [counted(rows_min - report.usable, "more usable example")] if report.usable < rows_min else []
    needs += [f"more of {', '.join(report.short)}"] if report.short else []
    return f"not ready for a first model: it needs {', and '.join(needs)}"


def _guarantee_sentence(report: Any) -> str:
    promise, right = report.promise, report.right
    if not report.audit_reviews:
        return (
            f"no local answer of the random audit is reviewed ({report.audit_unreviewed} wait), so no threshold can be"
            " proved yet: other reviews do not represent all answers"
        )
    shares = (
        f"{right.low:.1%} to {right.high:.1%} of all answers are right, by {report.audit_reviews} reviews of the random"
        f" audit ({report.audit_unreviewed} wait); "
    )
    if not promise.reviews:
        return f"{shares}no answer has a confidence, so no threshold can be proved yet"
    risk = f"a risk of {promise.target:.2%} (delta {promise.delta:.2%})"
    if promise.threshold is not None:
        return (
            f"{shares}{risk} is proved from confidence {promise.threshold:.2f} on, which {promise.coverage:.1%}"
            " of the answers reach"
        )
    if promise.reviews_needed is None:
        return f"{shares}more reviews of this model will not prove {risk}"
    reviews_needed = counted(max(promise.reviews_needed - promise.reviews, 1), "more review")
    return f"{shares}{risk} needs about {reviews_needed} of the audit"


def _audit_sentence(report: Any) -> str:
    audit, right = report.audit, report.audit.right
    judges = f"{audit.by_people} judged by people, {audit.by_opinion} only by the large model, which can be wrong too"
    shares = (
        f"{right.low:.1%} to {right.high:.1%} of {counted(audit.answers, 'confident answer')} drawn at random are right"
    )
    warning = "; that is above the target risk" if 1 - right.high > report.promise.target else ""
    return f"{shares}, an estimate: {judges}{warning}"
