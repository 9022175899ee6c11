"""The options that `assess` and `dataset` share: the scope of examples, and the ranking of likely label errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from convert.cli import progress_output
from convert.pipeline import execution
from convert.report.run_summary import percent, plural
from edge_agent.cli.terminal import EscapedTable
from edge_agent.errors import InvalidRequest

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
    version: str,
    sites: list[str] | None,
    since: datetime | None,
    until: datetime | None,
    new_labels: list[str] | None = None,
) -> Any:
    """Return the scope that those options mean."""
    scope = execution.load_module("convert.dataset.example_scope")  # needs the extra, unlike other commands
    days = (each.date() if each else None for each in (since, until))
    return scope.ExampleScope(version, tuple(sites or ()), *days, tuple(map(_new_label, new_labels or ())))


def _new_label(written: str) -> tuple[str, str]:
    """Return the reason of rejections, and the label that is right for them."""
    label, _, reason = written.partition("=")
    label = label.strip()
    if not label:
        raise InvalidRequest(f"--new-label {written} names no label", remedy="Write LABEL, or LABEL=REASON.")
    return reason.strip() or label, label


def clocks(scoped: Any) -> Iterator[str]:
    """Say which sites have a wrong clock, and what that changes."""
    for each in scoped.clocks[:_CLOCKS_SHOWN_MAX]:
        yield (
            f"the clock of {each.site} is wrong: {plural(each.examples, 'example')} up to {plural(each.days, 'day')}"
            " newer than the time when they were taken in. They count as the oldest; --since and --until exclude them"
        )
    if len(scoped.clocks) > _CLOCKS_SHOWN_MAX:
        yield f"the clocks of {len(scoped.clocks) - _CLOCKS_SHOWN_MAX} more sites are wrong as well; --json names them"


def rejected(scoped: Any) -> Iterator[str]:
    """Say why people rejected answers, for those that have no right answer yet."""
    if not scoped.reject_reasons:
        return
    shown = list(scoped.reject_reasons.items())[:_REASONS_SHOWN_MAX]
    more = len(scoped.reject_reasons) - len(shown)
    listed = ", ".join(f"{reason[:_TEXT_CHARACTERS_MAX]!r} {count}" for reason, count in shown)
    yield (
        f"rejected without a right answer, by reason: {listed}{f', and {more} other reasons' if more else ''}."
        " --new-label LABEL=REASON makes them rows of a label that the bundle does not have"
    )


def counted(bundles: Sequence[Any]) -> str:
    """Name bundles with their number of examples; a digest only where a version has several."""
    versions = Counter(bundle.version for bundle in bundles)
    return ", ".join(
        f"{each.version}{f' {each.digest[:12]}' if versions[each.version] > 1 else ''} ({each.examples})"
        for each in bundles
    )


def show(found: Any) -> None:
    """Print the estimate, the first rows, and how people come to look at them."""
    console = progress_output.out()
    unjudged = f"; {found.unjudged} of rare labels cannot be judged" if found.unjudged else ""
    console.print(
        f"labels: about {found.estimated} of {found.judged} are likely wrong, by {_by(found.vectors)} out of fold,"
        f" which agrees with {percent(found.agreement)}{unjudged}"
    )
    if not found.rows:
        return
    table = EscapedTable(
        "text", "label", "", "more likely", "", title="an estimate: each is a question, not a correction"
    )
    for row in found.rows[:_LABELS_SHOWN_MAX]:
        cut = len(row.text) > _TEXT_CHARACTERS_MAX
        text = f"{row.text[:_TEXT_CHARACTERS_MAX]}{'…' if cut else ''}"
        own, other = percent(row.given_probability, 0), percent(row.suggested_probability, 0)
        table.add_row(text, row.given, own, row.suggested, other)
    console.print(table)
    more = f"{plural(len(found.rows), 'row')} in all; " if len(found.rows) > _LABELS_SHOWN_MAX else ""
    console.print(f"{more}to have people look: 'edge-convert dataset --format label-studio --which label-errors'")


def _by(vectors: str) -> str:
    return "a linear classifier on " + ("letters and words" if vectors == "n-grams" else f"the vectors of {vectors}")
