"""The audit of redaction on the command line: a person marks what remains, and rows for the next bundle are written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.client import AdminClient
from edge_agent.client.redaction_results import (
    DEFAULT_TYPE,
    SEPARATOR,
    MissedSpan,
    RedactionAuditText,
    ReplacedSpan,
    missed_values,
    named_values,
)
from edge_agent.errors import InvalidRequest

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
