"""`edge-convert dataset`; and what `assess` shares: the scope of examples, and the ranking of label errors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from convert.cli import progress_output
from convert.dataset import row_formats
from convert.pipeline.stage import load_module
from convert.report.run_summary import percent
from edge_agent.cli.terminal import EscapedTable, errors, say
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

_DAY = ["%Y-%m-%d"]
_CLOCKS_SHOWN_MAX = 5

Version = Annotated[
    str,
    typer.Option(
        "--version",
        metavar="VERSION",
        help="Only answers of this bundle: a version, the start of a digest, or 'all' for every bundle.",
    ),
]
Sites = Annotated[list[str] | None, typer.Option("--site", metavar="NAME", help="Only this site. Repeatable.")]
Since = Annotated[
    datetime | None, typer.Option(metavar="YYYY-MM-DD", formats=_DAY, help="Only answers from this day on, UTC.")
]
Until = Annotated[
    datetime | None,
    typer.Option(metavar="YYYY-MM-DD", formats=_DAY, help="Only answers up to and including this day, UTC."),
]
NewLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--new-label",
        metavar="LABEL[=REASON]",
        help="A label that the bundle does not have: it is right for answers that people rejected with this reason, or"
        " with the label as the reason. Repeatable.",
    ),
]
RankLabels = Annotated[
    bool, typer.Option("--label-errors/--no-label-errors", help="Rank labels that are likely wrong.")
]
Encoder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Compare texts by the vectors of this checkpoint, instead of by letters and words."
    ),
]
_LABELS_SHOWN_MAX = 10
_REASONS_SHOWN_MAX = 10
_TEXT_CHARACTERS_MAX = 60


def scope_of(
    version: str, sites: list[str] | None, since: datetime | None, until: datetime | None, new_labels: list[str] | None
) -> Any:
    """Return the scope that those options mean."""
    scope = load_module("convert.dataset.example_scope")  # needs the extra, unlike other commands
    days = (each.date() if each else None for each in (since, until))
    return scope.ExampleScope(version, tuple(sites or ()), *days, tuple(map(_new_label, new_labels or ())))


def _new_label(option: str) -> tuple[str, str]:
    """Return the reason of rejections, and the label that is right for them."""
    label, _, reason = option.partition("=")
    label = label.strip()
    if not label:
        raise InvalidRequest(f"--new-label {option} names no label", remedy="Write LABEL, or LABEL=REASON.")
    return reason.strip() or label, label


def wrong_clocks(scoped: Any) -> Iterator[str]:
    """Yield a sentence for each site with a wrong clock, and its effect."""
    for each in scoped.clocks[:_CLOCKS_SHOWN_MAX]:
        yield (
            f"the clock of {each.site} is wrong: {counted(each.examples, 'example')} up to {counted(each.days, 'day')}"
            " newer than the time when they were taken in. They count as the oldest; --since and --until exclude them"
        )
    if left_out := max(0, len(scoped.clocks) - _CLOCKS_SHOWN_MAX):
        yield f"{counted(left_out, 'more site')} with a wrong clock; --json names them"


def rejected_reasons(scoped: Any) -> Iterator[str]:
    """Yield a sentence with the reasons of rejections that have no right answer yet."""
    if not scoped.reject_reasons:
        return
    shown = list(scoped.reject_reasons.items())[:_REASONS_SHOWN_MAX]
    left_out = len(scoped.reject_reasons) - len(shown)
    listed = ", ".join(f"{reason[:_TEXT_CHARACTERS_MAX]!r} {count}" for reason, count in shown)
    yield (
        f"rejected without a right answer, by reason: {listed}{f', and {left_out} other reasons' if left_out else ''}."
        " --new-label LABEL=REASON makes them rows of a label that the bundle does not have"
    )


def name_versions(bundles: Sequence[Any]) -> str:
    """Name bundles with their number of examples; a digest only where a version has several."""
    versions = Counter(bundle.version for bundle in bundles)
    return ", ".join(
        f"{each.version}{f' {each.digest[:12]}' if versions[each.version] > 1 else ''} ({each.examples})"
        for each in bundles
    )


def print_label_errors(ranking: Any) -> None:
    """Print the estimate, the first rows, and the command that sends them to reviewers."""
    console = progress_output.out()
    unjudged = f"; {ranking.unjudged} of rare labels cannot be judged" if ranking.unjudged else ""
    vectors = "letters and words" if ranking.vectors == "n-grams" else f"the vectors of {ranking.vectors}"
    console.print(
        f"labels: about {ranking.estimated} of {ranking.judged} are likely wrong, by a linear classifier on {vectors}"
        f" out of fold, which agrees with {percent(ranking.agreement)}{unjudged}"
    )
    if not ranking.rows:
        return
    table = EscapedTable(
        "text", "label", "", "more likely", "", title="an estimate: each is a question, not a correction"
    )
    for row in ranking.rows[:_LABELS_SHOWN_MAX]:
        is_cut = len(row.text) > _TEXT_CHARACTERS_MAX
        text = f"{row.text[:_TEXT_CHARACTERS_MAX]}{'…' if is_cut else ''}"
        given_share, suggested_share = percent(row.given_probability, 0), percent(row.suggested_probability, 0)
        table.add_row(text, row.given, given_share, row.suggested, suggested_share)
    console.print(table)
    total = f"{counted(len(ranking.rows), 'row')} in all; " if len(ranking.rows) > _LABELS_SHOWN_MAX else ""
    console.print(f"{total}to have them reviewed: 'edge-convert dataset --format label-studio --which label-errors'")


Form = Enum("Form", {form: form for form in (*row_formats.FORMATS, "label-studio")})  # type: ignore[misc]
Answers = Enum("Answers", {"reviewed": "reviewed", "sure": "sure", "opinions": "opinions"})
SplitBy = Enum("SplitBy", {"time": "time", "site": "site"})
LABEL_ERRORS_MAX = 500
"""Rows of label-errors.json."""
_REASONS = {
    "not_wanted": "without the review that this format needs",
    "contradicted": "with conflicting labels",
    "duplicates": "equal or nearly equal to another",
    "leaking": "nearly equal to one in another split",
    "not_drawn": "from the test's days or sites, but not drawn by the random audit",
    "out_of_scope": "of other versions, sites or days than asked for",
    "machine_labelled": "from the test's days or sites, but labelled by a model",
}
Placeholders = Enum("Placeholders", {"fill": "fill", "keep": "keep"})
Which = Enum(
    "Which", {"unreviewed": "unreviewed", "audit": "audit", "conflicts": "conflicts", "label-errors": "label-errors"}
)
_WITHOUT_LABEL_SHARE_MAX = 0.05
"""Above this share of audited answers without a right answer, a warning names what the sample does not represent."""
_UNREVIEWED_SHARE_MAX = 0.1
"""Above this share of unreviewed audited answers, a warning says that the random sample can be biased."""


@dataclass
class DatasetCommand:
    """Make training data from collected examples: TRL's formats, text and label, or tasks for Label Studio.

    Each text appears once, and neither a text nor its near duplicates appear in two splits. The test split has the
    newest period or, with --split site, sites that training never saw. Examples that are left out are counted.
    Calibration and test take only answers that the random audit of a site drew and people labelled. Each row names the
    source of its label. Labels of a model are for training only.

    Placeholders of redacted values, such as [CARD_1], are filled with made-up values of their type, because the model
    will read texts with real ones. text-spans gives the places of a record's values in the text.

    A correction can only name a label of the bundle. Answers that people rejected, with a label that it lacks as
    the reason, become rows of it with --new-label.

    label-studio writes the examples that most need a review; 'edge-convert collect --label-studio FILE' imports the
    answers.

    docs/training-data.md shows an example of each format.

    Example: [bold]edge-convert dataset collected --task pos-intent --format text-label --out data[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    collected: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where 'edge-convert collect' writes.")]
    task: Annotated[str, typer.Option(metavar="NAME", help="The task.")]
    form: Annotated[Form, typer.Option("--format", help="Format of the rows.")]
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to create.")]
    version: Version = ""
    site: Sites = None
    since: Since = None
    until: Until = None
    new_label: NewLabels = None
    answers: Annotated[
        Answers,
        typer.Option(
            help="Source of the labels: people only, also confident answers of the model, or also teacher labels of"
            " the large model."
        ),
    ] = Answers.reviewed
    split: Annotated[SplitBy, typer.Option(help="Split by time, or by site.")] = SplitBy.time
    shares: Annotated[str, typer.Option(metavar="SPLIT=SHARE,…", help="The splits and their shares, oldest first.")] = (
        "train=0.65,calibration=0.19,test=0.16"
    )
    seed: Annotated[
        str, typer.Option(metavar="TEXT", help="Seed for dividing the sites and for the made-up values.")
    ] = "1"
    placeholders: Annotated[
        Placeholders, typer.Option(help="Fill placeholders with made-up values, or keep them unchanged.")
    ] = Placeholders.fill
    locale: Annotated[
        str, typer.Option(metavar="LOCALE,…", help="Locales of the made-up values; one is drawn for each row.")
    ] = "en_US"
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD=KIND",
            help="How to fill placeholders that a site defined: PATIENT=name, LOYALTY=LC########. Repeatable.",
        ),
    ] = None
    which: Annotated[Which, typer.Option(help="label-studio: which examples to review.")] = Which.unreviewed
    rows_max: Annotated[int, typer.Option(metavar="N", min=1, help="label-studio: largest number of tasks.")] = 500
    label_errors: RankLabels = True
    encoder: Encoder = None
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False

    def __post_init__(self) -> None:
        """Run the command."""
        if self.form.value != "label-studio":
            self._write()
        elif self.which.value == "label-errors":
            self._write_label_error_tasks()
        else:
            self._write_review_tasks()

    def _write_review_tasks(self) -> None:
        review = load_module("convert.dataset.assessment")  # needs the extra, unlike other commands
        selection = review.ReviewSelection(self.collected, self.task, self.which.value, self.rows_max, self._scope())
        count = review.write(selection, self.out, force=self.force)
        say(
            f"{counted(count, 'task')} in {self.out / review.TASKS_NAME}; the labelling interface is"
            f" {review.INTERFACE_NAME}"
        )

    def _write_label_error_tasks(self) -> None:
        selection = load_module("convert.dataset.selection")
        choice = selection.DatasetSelection(self.collected, self.task, self.answers.value, scope=self._scope())
        review = load_module("convert.dataset.label_review")
        count = review.write_tasks(rank_labels(choice, self.encoder), self.out, self.rows_max, force=self.force)
        say(
            f"{counted(count, 'task')} in {self.out / review.TASKS_NAME}, the least probable label first; the"
            f" labelling interface is {review.INTERFACE_NAME}"
        )

    def _write(self) -> None:
        write = load_module("convert.dataset.dataset_files")  # likewise
        purpose = write.purpose_of(self.form.value, self.answers.value)
        shares = _shares(self.shares)
        scope = self._scope()
        choice = write.DatasetSelection(self.collected, self.task, purpose, self.split.value, shares, self.seed, scope)
        locales = tuple(name.strip() for name in self.locale.split(","))
        surrogates = write.SurrogateSettings(self.placeholders.value, locales, _kinds(self.surrogate or []))
        summary = write.write(choice, self.form.value, self.out, force=self.force, surrogates=surrogates)
        for split, count in summary.rows.items():
            say(f"{self.out / split}.jsonl: {counted(count, 'row')}")
        for line in (
            _left_out_line(asdict(summary.left_out)),
            *_span_lines(summary.spans),
            *_surrogate_lines(summary.surrogates),
            _sources_line(summary.label_sources),
            *_bundle_lines(summary),
            *rejected_reasons(summary.scope),
        ):
            say(line)
        clocks, unknown = wrong_clocks(summary.scope), _unknown_type_warnings(summary.surrogates)
        for message in (*clocks, *unknown, *_audit_warnings(summary.audit, summary.sites)):
            _warn(message)
        ranking = rank_labels(choice, self.encoder) if self.label_errors else None
        if ranking is not None:
            review = load_module("convert.dataset.label_review")
            review.write_report(ranking, self.out / review.LABEL_ERRORS_NAME, LABEL_ERRORS_MAX)
            print_label_errors(ranking)
        empty = [split for split, count in summary.rows.items() if not count]
        if empty:
            _warn(
                f"{', '.join(empty)} without a row: collect more, or name fewer splits or other shares with --shares."
            )

    def _scope(self) -> Any:
        return scope_of(self.version, self.site, self.since, self.until, self.new_label)


def _warn(message: str) -> None:
    errors().print(Text.assemble(("warning: ", "yellow"), message))


def _unknown_type_warnings(counts: dict[str, Any]) -> Iterator[str]:
    """Warn of placeholders that were filled with codes because their type is not known."""
    if words := counts.get("fallback"):
        advice = f"name one, as in --surrogate {next(iter(words))}=name"
        yield f"placeholders {', '.join(words)} were filled with codes, since their type is not known: {advice}"


def _sources_line(label_sources: dict[str, dict[str, int]]) -> str:
    """Return the sources of the labels, the most frequent first."""
    counts: Counter[str] = Counter()
    for split_counts in label_sources.values():
        counts.update(split_counts)
    return f"labels: {', '.join(f'{count} {source}' for source, count in counts.most_common())}"


def _bundle_lines(summary: Any) -> Iterator[str]:
    """If several bundles answered, yield which ones, and whose unreviewed answers are taken."""
    scope = summary.scope
    if len(scope.bundles) < 2:
        return
    if scope.judged_by_default or not scope.passed_over:
        versions = name_versions(scope.bundles)
        yield f"answered by {len(scope.bundles)} versions: {versions}; --version selects one"
    if summary.purpose == "sure" and scope.judged_by_default:
        newest = name_versions(scope.judged)
        yield f"of answers that nobody reviewed only those of the newest, {newest}, are taken; --version all takes more"


def rank_labels(choice: Any, encoder: Path | None) -> Any:
    """Rank the labels of a selection, with a progress bar; None if they cannot be judged."""
    review = load_module("convert.dataset.label_review")
    with progress_output.bar() as advance:
        return review.rank(choice, encoder, advance)


def _left_out_line(counts: dict[str, int]) -> str:
    """Return how many of the examples were left out, and why."""
    reasons = [f"{number} {_REASONS[reason]}" for reason, number in counts.items() if reason in _REASONS and number]
    return f"left out of {counted(counts['examples'], 'example')}: {', '.join(reasons) or 'none'}"


def _audit_warnings(audit: Any, sites: Any) -> Iterator[str]:
    """Warn of what makes the audited rows less than a random sample of all answers."""
    if not audit.labelled and set(audit.used) & {"calibration", "test"}:
        yield (
            "no answer of the random audit has a label from people, so nothing can be calibrated or tested on: review"
            " the audit first ('edge-agent review', or --format label-studio --which audit)."
        )
    elif audit.unreviewed > _UNREVIEWED_SHARE_MAX * audit.drawn:
        yield (
            f"{audit.unreviewed} of {audit.drawn} answers of the random audit are not reviewed: the reviewed part is a"
            " random sample only if nobody chose it."
        )
    if audit.without_label > _WITHOUT_LABEL_SHARE_MAX * audit.drawn:
        yield (
            f"{audit.without_label} of {audit.drawn} answers of the random audit have no right answer, since people"
            " rejected them without one, or differ: what is proved on the others does not cover such inputs."
        )
    if sites.audit_lost:
        lost = counted(sites.audit_lost, "answer")
        yield f"the sites gave up {lost} of the random audit because 'spool_bytes_max' left no room for them."


def _span_lines(spans: dict[str, Any]) -> Iterator[str]:
    """Yield how many records were left out because a value has no certain place in the text."""
    if spans.get("rows_left_out"):
        reasons = (
            f"{problem.replace('_', ' ')}: {', '.join(f'{name} ({number})' for name, number in fields.items())}"
            for problem, fields in spans["left_out"].items()
        )
        yield f"{counted(spans['rows_left_out'], 'record')} without spans left out; {'; '.join(reasons)}"


def _surrogate_lines(counts: dict[str, Any]) -> Iterator[str]:
    for key, description in (
        ("filled", "placeholders filled with made-up values"),
        ("kept", "placeholders kept"),
        ("raw", "left, since the caller's text has them"),
        ("not_found_again", "filled with values that redaction would not find there"),
    ):
        if counts.get(key):
            yield f"{description}: {', '.join(f'{word} {number}' for word, number in counts[key].items())}"


def _kinds(options: list[str]) -> dict[str, str]:
    pairs = [re.fullmatch(r"([A-Z][A-Z0-9_]{0,40})=(.+)", each) for each in options]
    if not all(pairs):
        wrong = next(each for each, pair in zip(options, pairs, strict=True) if not pair)
        remedy = "Write the word of the placeholder, in capitals, and a kind: --surrogate PATIENT=name."
        raise InvalidRequest(f"--surrogate {wrong} is not understood", remedy=remedy)
    return {pair[1]: pair[2] for pair in pairs if pair}


def _shares(option: str) -> dict[str, float]:
    pairs = re.findall(r"(?:^|,)([a-z]\w*)=(\d*\.?\d+)(?=,|$)", option)
    shares = {name: float(share) for name, share in pairs if float(share)}
    if len(shares) != option.count(",") + 1:
        remedy = "Write them as train=0.8,test=0.2: different names of letters, shares above 0."
        raise InvalidRequest(f"--shares {option} is not understood", remedy=remedy)
    return shares
