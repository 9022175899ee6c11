"""`edge-agent redact`: what redaction finds in a text, by rules and by the model of the site, and what it misses.

In the audit, a person marks what remains in redacted texts; rows for the next bundle are written from it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.inputs import as_text
from edge_agent.cli.output import AsJson, out, print_json, table
from edge_agent.client import AdminClient, RedactionTrial
from edge_agent.client.operator_reports import (
    DEFAULT_TYPE,
    SEPARATOR,
    MissedSpan,
    RedactionAuditText,
    ReplacedSpan,
    missed_values,
    named_values,
)
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

STYLES = {"rules": "black on cyan", "model": "black on magenta", "both": "black on green"}
SKIP, STOP = "s", "q"
PAGE_TEXTS = 20


def marked(spans: Sequence[ReplacedSpan], text: str) -> Text:
    """Return a text with each replaced value in the colour of its source."""
    made = Text(text)
    for span in spans:
        made.stylize(STYLES[span.source], span.start, span.end)
    return made


def judge_texts(admin: AdminClient, console: Console) -> None:
    """Show each text that waits, and ask what remains of it."""
    judged, after = 0, 0
    while texts := admin.redaction_audit(after=after, count=PAGE_TEXTS):
        for each in texts:
            after = each.row
            _show_text(console, each)
            missed = _asked_spans(console, each)
            if missed == STOP:
                console.print(f"Judged {judged}.")
                return
            if not isinstance(missed, str):
                admin.judge_redaction(each.prediction_id, missed, _asked_wrong(each))
                judged += 1
    console.print(f"Judged {judged}; no other text waits.")


def _asked_spans(console: Console, text: RedactionAuditText) -> list[MissedSpan] | str:
    """Ask what remains of a text, again if the text does not have it; return it, or SKIP or STOP."""
    while True:
        answer = _asked_values()
        if answer in (SKIP, STOP):
            return answer
        try:
            return list(_spans_of(text, answer))
        except ValueError as error:
            console.print(Text(f"{error}. Write it as the text has it.", style="yellow"))


def training_row(text: RedactionAuditText) -> dict[str, Any]:
    """Return an audited text as a row of format text-spans: what was rightly replaced, and what was missed."""
    wrong = set(text.wrong)
    spans = [
        (span.start, span.end, re.sub(r"^\[|_\d+\]$", "", span.placeholder))
        for place, span in enumerate(text.spans)
        if place not in wrong
    ]
    spans += [(each.start, each.end, each.label) for each in text.missed]
    joined: list[dict[str, Any]] = []
    for start, end, label in sorted(spans):
        if joined and start < joined[-1]["end"]:
            joined[-1]["end"] = max(joined[-1]["end"], end)
        else:
            joined.append({"start": start, "end": end, "label": label})
    return {"text": text.text, "spans": joined, "family": text.prediction_id}


def export_rows(admin: AdminClient, path: Path) -> int:
    """Write every judged text with a missed value as a row, to a new file of mode 0600; return how many.

    Raises:
        InvalidRequest: the file exists or cannot be written, which is found before anything is asked.
            A call that fails leaves no file.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidRequest(f"{path} exists", remedy="Name a new file.") from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}", remedy="Name another file.") from None
    rows, after = 0, 0
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
            while texts := admin.redaction_audit(judged=True, after=after, count=PAGE_TEXTS):
                file.writelines(json.dumps(training_row(text), ensure_ascii=False) + "\n" for text in texts)
                rows, after = rows + len(texts), texts[-1].row
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return rows


def _show_text(console: Console, text: RedactionAuditText) -> None:
    console.print(Text.assemble(("original  ", "bold"), marked(text.spans, text.text)))
    console.print(Text.assemble(("kept      ", "bold"), text.redacted))
    for place, span in enumerate(text.spans, 1):
        console.print(Text(f"  {place}. {text.text[span.start : span.end]} -> {span.placeholder}"))


def _asked_values() -> str:
    return str(
        typer.prompt(
            f"Values that remain, with '{SEPARATOR}' between; nothing = none, {SKIP} = skip, {STOP} = stop",
            default="",
            show_default=False,
        )
    ).strip()


def _spans_of(text: RedactionAuditText, answer: str) -> Iterator[MissedSpan]:
    if found := missed_values(text, named_values(answer), DEFAULT_TYPE):
        label = str(typer.prompt("Their type", default=DEFAULT_TYPE)).strip()
        yield from (replace(each, label=label) for each in found)


def _asked_wrong(text: RedactionAuditText) -> list[int]:
    if not text.spans:
        return []
    while True:
        answer = str(typer.prompt("Numbers of what is not personal; nothing = none", default="", show_default=False))
        numbers = [int(number) for number in re.findall(r"[0-9]{1,9}", answer)]
        if all(1 <= number <= len(text.spans) for number in numbers):
            return [number - 1 for number in numbers]


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
            judge_texts(admin, out())
        elif export is not None:
            written = export_rows(admin, export)
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
