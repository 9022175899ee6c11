"""Labels that are likely wrong: the options of `assess` and `dataset`, and what they show."""

from pathlib import Path
from typing import Annotated, Any

import typer

from convert.cli import screen
from convert.report.made import percent, plural
from edge_agent.cli.terminal import EscapedTable

RankLabels = Annotated[
    bool, typer.Option("--label-errors/--no-label-errors", help="Rank the labels that are likely wrong.")
]
Encoder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Compare texts by this checkpoint instead of by their letters and words."),
]
_SHOWN_MAX = 10
_TEXT_CHARACTERS_MAX = 60


def show(found: Any) -> None:
    """Print the estimate, the first rows, and how people come to look at them."""
    console = screen.out()
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
    for row in found.rows[:_SHOWN_MAX]:
        cut = len(row.text) > _TEXT_CHARACTERS_MAX
        text = f"{row.text[:_TEXT_CHARACTERS_MAX]}{'…' if cut else ''}"
        own, other = percent(row.given_probability, 0), percent(row.suggested_probability, 0)
        table.add_row(text, row.given, own, row.suggested, other)
    console.print(table)
    more = f"{plural(len(found.rows), 'row')} in all; " if len(found.rows) > _SHOWN_MAX else ""
    console.print(f"{more}to have people look: 'edge-convert dataset --format label-studio --which label-errors'")


def _by(vectors: str) -> str:
    return "a linear classifier on " + ("letters and words" if vectors == "n-grams" else f"the vectors of {vectors}")
