"""`edge-agent erase`, `privacy report` and `redact`: erasure, reports on personal data, and the audit of redaction.

In the audit, a person marks the values that redaction missed; `--export` writes training rows for the next bundle.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.output import (
    AsJson,
    YesOption,
    confirm,
    err,
    out,
    plain,
    print_done,
    print_facts,
    print_json,
    print_trimmed,
)
from edge_agent.cli.terminal import table
from edge_agent.client import AdminClient, RedactionTrial
from edge_agent.client.operator_reports import (
    DEFAULT_TYPE,
    SEPARATOR,
    ErasedValues,
    MissedSpan,
    RedactionAuditText,
    ReplacedSpan,
    SitePrivacy,
    missed_values,
    named_values,
)
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

app = typer.Typer(no_args_is_help=True, help="Show figures about personal data, without any text.")
STANDARD_INPUT = "-"
_ERASURES_SHOWN = 10
_COUNT_KINDS = ("captured", "replaced", "sent", "erased", "retention")
_NUMBERS = (*_COUNT_KINDS, "kept", "waiting")


def erase(
    ctx: typer.Context,
    prediction_id: Annotated[
        str, typer.Argument(metavar="PREDICTION_ID", help="One answer; each answer has a prediction_id.")
    ] = "",
    value: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VALUE",
            help="A name, address or number: erase every answer that contains it. Repeatable. '-' reads one value a"
            " line from standard input, or asks for it: then it is neither in the list of processes nor in the history"
            " of the shell.",
        ),
    ] = None,
    all_questions: Annotated[
        bool,
        typer.Option(
            "--all-questions", help="With PREDICTION_ID: also the answers to other questions about the same text."
        ),
    ] = False,
    yes: YesOption = False,
    as_json: AsJson = False,
) -> None:
    """Erase one answer, or all that concerns a person (--value), here and on the central side.

    With --value: every answer that concerns a person, also those that wait to be sent, and those that have left; the
    next segment tells the central side which ones to erase, and 'edge-agent privacy report' shows when its receipt is
    back. It finds values that redaction has replaced, and values in texts that are still stored here.

    Asks for confirmation, since an erased answer cannot be restored. A script gives --yes: without a terminal and
    without --yes the command refuses.

    Example: [bold]edge-agent erase --value -[/bold]
    """
    if bool(prediction_id) == bool(value):
        raise typer.BadParameter("name a PREDICTION_ID, or --value", param_hint="PREDICTION_ID")
    if value:
        _erase_values(ctx, _values(value), yes=yes, as_json=as_json)
        return
    _erase_answer(ctx, prediction_id, all_questions=all_questions, yes=yes, as_json=as_json)


@app.command()
def report(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show what was captured, replaced, kept, sent and erased: by task, rule and model, without any text.

    Example: [bold]edge-agent privacy report[/bold]
    """
    with target_of(ctx).admin() as admin:
        privacy, model = admin.privacy_report(), admin.status().redaction
    if as_json:
        print_json({**plain(privacy), "redaction_model": plain(model)}, indent=2)
        return
    console, days = out(), sorted(privacy.retention_days.items())
    _show_tasks(console, privacy)
    _show_rules(console, privacy)
    console.print()
    no_retention = "no task has one: see 'retention_days' in agent.yaml"
    retention = ", ".join(f"{task} {number:g} days" for task, number in days) or no_retention
    kept = f"{privacy.digests} digests of replaced values, of {privacy.digests_max}, for {privacy.digest_days:g} days"
    print_facts(console, {"retention": retention, "findable": kept})
    _show_erasures(console, privacy)
    if model:
        waiting = f"{counted(model.waiting, 'answer')} held until the redaction model has read them"
        console.print(waiting, style="yellow" if model.waiting else "")


def _erase_answer(ctx: typer.Context, prediction_id: str, *, all_questions: bool, yes: bool, as_json: bool) -> None:
    others = ", and those of the answers to other questions about the same text," if all_questions else ""
    consequence = (
        f"The input, the answer and the feedback of {prediction_id}{others} are deleted, here and, if they have left"
        " this site, on the central side. There is no way back."
    )
    confirm("Erase it?", consequence, yes=yes)
    with target_of(ctx).reviewer() as client:
        erasure = client.erase_answer(prediction_id, all_questions=all_questions)
    if as_json:
        print_json({"prediction_id": prediction_id, "all_questions": all_questions, **plain(erasure)}, indent=2)
        return
    number = len(erasure.same_text_ids)
    others = f"{counted(number, 'answer')} to other questions about the same text"
    addition = f", with {others}" if all_questions and number else ""
    local_text = f"Erased here{addition}" if erasure.was_kept else "It is not stored here, or no longer"
    central = (
        "the next segment tells the central side to erase it"
        if erasure.tombstoned
        else "nothing of it has left this site"
    )
    print_done(ctx, f"{local_text}; {central}.")
    if number and not all_questions:
        err().print(
            f"{others} {'is' if number == 1 else 'are'} still here. To erase the text:"
            f" 'edge-agent erase {erasure.same_text_ids[0]} --all-questions'.",
            style="yellow",
        )


def _values(arguments: list[str]) -> list[str]:
    """Return the values; where one is '-', read them."""
    values = [value for value in arguments if value != STANDARD_INPUT]
    if STANDARD_INPUT not in arguments:
        return values
    if sys.stdin.isatty():
        return [*values, getpass.getpass("Value (not shown): ", stream=sys.stderr)]
    lines = (line.strip() for line in sys.stdin)
    return [*values, *filter(None, lines)]


def _erase_values(ctx: typer.Context, values: list[str], *, yes: bool, as_json: bool) -> None:
    with target_of(ctx).admin() as admin:
        matches = admin.erase_values(values, dry_run=True)
        if not matches.found:
            _print_erasure(ctx, matches, as_json=as_json)
            return
        tasks = ", ".join(f"{task} {number}" for task, number in sorted(matches.tasks.items()))
        kept = f"{matches.kept_here} are kept here ({tasks})" if matches.kept_here else "none is kept here any more"
        consequence = (
            f"{counted(matches.found, 'answer')} found: {matches.found_by_digest} by values that redaction replaced,"
            f" {matches.found_by_text} by plain text. {kept}; {matches.sent} have left this site, and the central side"
            " is told to erase them. There is no way back."
        )
        confirm(f"Erase {'it' if matches.found == 1 else 'them'}?", consequence, yes=yes)
        _print_erasure(ctx, admin.erase_values(values), as_json=as_json)
        if not as_json and any(erasure.confirmed < erasure.told for erasure in admin.privacy_report().erasures):
            err().print("'edge-agent privacy report' shows when the receipt of the central side is back.", style="dim")


def _print_erasure(ctx: typer.Context, erasure: ErasedValues, *, as_json: bool) -> None:
    if as_json:
        print_json(erasure, indent=2)
    elif not erasure.found:
        out().print(
            "Nothing found. A value that no rule replaced is found only while its text is kept here; 'edge-agent"
            " privacy report' shows for how long replaced values are found."
        )
    else:
        message = (
            f"the next segment tells the central side to erase {erasure.told}"
            if erasure.told
            else "nothing has left this site"
        )
        print_done(ctx, f"{counted(erasure.erased, 'answer')} erased here; {message}. Erasure {erasure.erasure}.")


def _show_tasks(console: Console, privacy: SitePrivacy) -> None:
    totals: Counter[tuple[str, str]] = Counter()
    for entry in privacy.counts:
        totals[entry.task or "(not known)", entry.what] += entry.number
    kept_and_waiting = {entry.task: (entry.kept, entry.waiting) for entry in privacy.held}
    rows = table("task", *_NUMBERS, right=_NUMBERS, wrap=("task",))
    for task in sorted({task for task, _ in totals} | set(kept_and_waiting)):
        numbers = [*(totals[task, kind] for kind in _COUNT_KINDS), *kept_and_waiting.get(task, (0, 0))]
        rows.add_row(task, *map(str, numbers))
    print_trimmed(console, rows)


def _show_rules(console: Console, privacy: SitePrivacy) -> None:
    rules: Counter[str] = Counter()
    for entry in privacy.counts:
        if entry.what == "replaced":
            rules[entry.name] += entry.number
    if not rules:
        return
    console.print()
    rows = table("replaced by", "values", right=("values",))
    for rule, number in rules.most_common():
        rows.add_row(rule, str(number))
    print_trimmed(console, rows)


def _show_erasures(console: Console, privacy: SitePrivacy) -> None:
    if not privacy.erasures:
        return
    console.print()
    rows = table("erasure", "when", "erased here", "told", "receipt", right=("erasure", "erased here", "told"))
    for each in privacy.erasures[:_ERASURES_SHOWN]:
        receipt = f"{each.confirmed} of {each.told} are back" if each.told else "not needed"
        when = f"{each.erase_time:%Y-%m-%d %H:%M} UTC"
        rows.add_row(str(each.number), when, str(each.erased), str(each.told), receipt)
    print_trimmed(console, rows)
    if len(privacy.erasures) > _ERASURES_SHOWN:
        console.print(f"{len(privacy.erasures) - _ERASURES_SHOWN} earlier ones: --json lists them.")


STYLES = {"rules": "black on cyan", "model": "black on magenta", "both": "black on green"}
SKIP, STOP = "s", "q"
PAGE_TEXTS = 20


def highlight_spans(spans: Sequence[ReplacedSpan], text: str) -> Text:
    """Return a text with each replaced value in the colour of its source."""
    highlighted = Text(text)
    for span in spans:
        highlighted.stylize(STYLES[span.source], span.start, span.end)
    return highlighted


def judge_texts(admin: AdminClient, console: Console) -> None:
    """Show each waiting text, and ask for missed values."""
    judged, last_row = 0, 0
    while texts := admin.redaction_audit(after=last_row, count=PAGE_TEXTS):
        for audit_text in texts:
            last_row = audit_text.row
            console.print(Text.assemble(("original  ", "bold"), highlight_spans(audit_text.spans, audit_text.text)))
            console.print(Text.assemble(("kept      ", "bold"), audit_text.redacted))
            for number, span in enumerate(audit_text.spans, 1):
                console.print(Text(f"  {number}. {audit_text.text[span.start : span.end]} -> {span.placeholder}"))
            missed = _ask_missed_spans(console, audit_text)
            if missed == STOP:
                console.print(f"Judged {judged}.")
                return
            if not isinstance(missed, str):
                admin.judge_redaction(audit_text.prediction_id, missed, _ask_wrong_spans(audit_text))
                judged += 1
    console.print(f"Judged {judged}; no other text waits.")


def _ask_missed_spans(console: Console, text: RedactionAuditText) -> list[MissedSpan] | str:
    """Ask for the missed values, again if the text does not contain them; return them, or SKIP or STOP."""
    question = f"Values that remain, with '{SEPARATOR}' between; nothing = none, {SKIP} = skip, {STOP} = stop"
    while True:
        answer = str(typer.prompt(question, default="", show_default=False)).strip()
        if answer in (SKIP, STOP):
            return answer
        try:
            spans = missed_values(text, named_values(answer), DEFAULT_TYPE)
            label = str(typer.prompt("Their type", default=DEFAULT_TYPE)).strip() if spans else ""
            return [replace(span, label=label) for span in spans]
        except ValueError as error:
            console.print(Text(f"{error}. Write it as the text has it.", style="yellow"))


def training_row(text: RedactionAuditText) -> dict[str, Any]:
    """Return an audited text as a row of format text-spans: rightly replaced and missed values."""
    wrong = set(text.wrong)
    spans = [
        (span.start, span.end, re.sub(r"^\[|_\d+\]$", "", span.placeholder))
        for index, span in enumerate(text.spans)
        if index not in wrong
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
    rows, last_row = 0, 0
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
            while texts := admin.redaction_audit(judged=True, after=last_row, count=PAGE_TEXTS):
                file.writelines(json.dumps(training_row(text), ensure_ascii=False) + "\n" for text in texts)
                rows, last_row = rows + len(texts), texts[-1].row
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return rows


def _ask_wrong_spans(text: RedactionAuditText) -> list[int]:
    if not text.spans:
        return []
    while True:
        answer = str(typer.prompt("Numbers of what is not personal; nothing = none", default="", show_default=False))
        numbers = [int(number) for number in re.findall(r"[0-9]{1,9}", answer)]
        if all(1 <= number <= len(text.spans) for number in numbers):
            return [number - 1 for number in numbers]


SHOWN_CHARACTERS_MAX = 60


def redact(
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
            rows_written = export_rows(admin, export)
            out().print(
                f"Wrote {counted(rows_written, 'row')} to {export}. These are original texts: keep them at the site."
            )
        else:
            from edge_agent.cli.inputs import as_text  # noqa: PLC0415

            sample_text = as_text(sys.stdin.buffer.read(), "standard input") if text == "-" else text or ""
            _show_trial(admin.try_redaction(sample_text), sample_text, as_json=as_json)


def _show_trial(trial: RedactionTrial, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(trial, indent=2)
        return
    console = out()
    if trial.spans:
        columns = ("value", "becomes", "found by", "rule or type", "probability")
        rows = table(*columns, right=("probability",), wrap=("value",))
        for span in trial.spans:
            source, value = span.source, text[span.start : span.end]
            shortened = value if len(value) <= SHOWN_CHARACTERS_MAX else f"{value[: SHOWN_CHARACTERS_MAX - 1]}…"
            found_by, score = Text(source, STYLES[source]), f"{span.score:.2f}" if span.by_model else "-"
            rows.add_row(Text(shortened), Text(span.placeholder), found_by, Text(span.rule), Text(score))
        print_trimmed(console, rows)
        console.print()
    console.print(Text.assemble(("before  ", "bold"), highlight_spans(trial.spans, text)))
    console.print(Text.assemble(("after   ", "bold"), trial.redacted))
    readers = f"read by the rules and by {trial.model}" if trial.model else "read by the rules alone"
    if trial.held_because:
        console.print(Text(f"{readers}: {trial.held_because}", style="yellow"))
    else:
        console.print(Text(readers if trial.spans else f"nothing was found; {readers}", style="dim"))
