"""`edge-agent redact --try`: what redaction finds in a text, by rules and by the model of the site."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.inputs import as_text
from edge_agent.cli.output import AsJson, out, print_json, table
from edge_agent.client import RedactionTrial

STYLES = {"rules": "black on cyan", "model": "black on magenta", "both": "black on green"}
SHOWN_CHARACTERS_MAX = 60


def run(
    ctx: typer.Context,
    text: Annotated[str, typer.Option("--try", metavar="TEXT", help="The text; '-' reads standard input.")],
    as_json: AsJson = False,
) -> None:
    """Try what redaction finds in a text: the values by source, and the text before and after.

    The daemon reads the text as it reads what it captures or sends: by the rules of the site and by the model that
    'task' under 'redaction' in agent.yaml names. Nothing of the text is kept.

    Example: [bold]edge-agent redact --try 'Call Anna Meyer on 020 7946 0958'[/bold]
    """
    given = as_text(sys.stdin.buffer.read(), "standard input") if text == "-" else text
    with target_of(ctx).admin() as admin:
        tried = admin.try_redaction(given)
    if as_json:
        print_json(tried, indent=2)
        return
    console = out()
    if tried.spans:
        console.print(_found(tried, given))
        console.print()
    console.print(Text.assemble(("before  ", "bold"), marked(tried, given)))
    console.print(Text.assemble(("after   ", "bold"), tried.redacted))
    console.print(_legend(tried))


def marked(tried: RedactionTrial, text: str) -> Text:
    """Return the text with each value in the colour of its source."""
    made = Text(text)
    for span in tried.spans:
        made.stylize(STYLES[span.source], span.start, span.end)
    return made


def _found(tried: RedactionTrial, text: str) -> object:
    rows = table("value", "becomes", "found by", "rule or type", "probability", right=("probability",))
    for span in tried.spans:
        source, value = span.source, text[span.start : span.end]
        shown = value if len(value) <= SHOWN_CHARACTERS_MAX else f"{value[: SHOWN_CHARACTERS_MAX - 1]}…"
        score = f"{span.score:.2f}" if span.by_model else "-"
        rows.add_row(Text(shown), Text(span.placeholder), Text(source, STYLES[source]), Text(span.rule), Text(score))
    return rows


def _legend(tried: RedactionTrial) -> Text:
    reads = f"read by the rules and by {tried.model}" if tried.model else "read by the rules alone"
    if tried.held_because:
        return Text(f"{reads}: {tried.held_because}", style="yellow")
    return Text(reads if tried.spans else f"nothing was found; {reads}", style="dim")
