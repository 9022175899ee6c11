"""`edge-agent redact`: what redaction finds in a text, by rules and by the model of the site, and what it misses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli import redaction_audit
from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.inputs import as_text
from edge_agent.cli.output import AsJson, out, print_json, table
from edge_agent.cli.redaction_audit import STYLES, marked
from edge_agent.client import RedactionTrial
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

SHOWN_CHARACTERS_MAX = 60


def run(
    ctx: typer.Context,
    text: Annotated[
        str | None, typer.Option("--try", metavar="TEXT", help="The text; '-' reads standard input.")
    ] = None,
    audit: Annotated[bool, typer.Option("--audit", help="Judge the texts that the random audit has drawn.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write audited texts with missed values as training rows.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Try what redaction finds in a text, or audit what it has missed.

    With --try the daemon reads the text as it reads what it captures or sends: by the rules of the site and by the
    model that 'task' under 'redaction' in agent.yaml names. Nothing of the text is kept.

    With --audit it shows drawn texts with their originals ('audit_share' under 'redaction' in agent.yaml), and asks
    which personal values remain. --export writes those with missed values to a new file that only you can read. Its
    texts are originals: they stay at the site, unless made-up values replace the real ones.

    Example: [bold]edge-agent redact --try 'Call Anna Meyer on 020 7946 0958'[/bold]
    """
    if [text is not None, audit, export is not None].count(True) != 1:
        raise InvalidRequest("name one of --try, --audit and --export", remedy="edge-agent redact --help")
    with target_of(ctx).admin() as admin:
        if audit:
            redaction_audit.judge_texts(admin, out())
        elif export is not None:
            written = redaction_audit.export_rows(admin, export)
            out().print(
                f"Wrote {counted(written, 'row')} to {export}. These are original texts: keep them at the site."
            )
        else:
            given = as_text(sys.stdin.buffer.read(), "standard input") if text == "-" else text or ""
            _show(admin.try_redaction(given), given, as_json=as_json)


def _show(tried: RedactionTrial, given: str, *, as_json: bool) -> None:
    if as_json:
        print_json(tried, indent=2)
        return
    console = out()
    if tried.spans:
        console.print(_found(tried, given))
        console.print()
    console.print(Text.assemble(("before  ", "bold"), marked(tried.spans, given)))
    console.print(Text.assemble(("after   ", "bold"), tried.redacted))
    console.print(_legend(tried))


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
