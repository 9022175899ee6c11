"""The pages of redaction: a trial of a text, and the judgement of texts drawn by the random audit.

A tried text is sent to the daemon and shown again; it is stored nowhere. A text of the audit is shown
with its original, which the daemon keeps until it is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge_agent.client import AsyncAdminClient, ReplacedSpan
from edge_agent.client.operator_reports import DEFAULT_TYPE, RedactionAuditText, missed_values, named_values
from edge_agent.web.daemon_access import CALL_SECONDS_MAX
from edge_agent.web.rendering import daemon_of, read_fields, read_form, render_page

EXAMPLE = (
    "Patient Anna Meyer, born 3 May 1971, lives at 12 Rose Lane, York YO1 7HG; call 01904 551 234."
    " She takes ramipril 5 mg."
)
TRY_SECONDS_MAX = 12.0
DIGITS_MAX = 19
JUDGED_FIELDS_MAX = 5_000
"""Fields of a judged text: one for each replaced value that is not personal, and a few others."""
OFFERED_TYPES = (
    "NAME", "ADDRESS", "PHONE", "EMAIL", "BIRTH_DATE", "NATIONAL_ID", "RECORD", "ACCOUNT", "CARD", "PASSPORT",
    "DRIVING_LICENCE", "PLATE", "URL", "IP_ADDRESS",
)  # fmt: skip
"""Types of a missed value that the form offers; a person may write another one."""


@dataclass(frozen=True)
class TextPart:
    """A part of a text: plain, or a value in the colour of its source."""

    text: str
    source: str = ""
    """rules, model or both; empty = it was not replaced."""
    placeholder: str = ""
    rule: str = ""
    score: str = ""
    number: int = 0
    """Index of the value among the replaced ones."""


async def show_form(request: Request) -> Response:
    """Show the form with an example."""
    return render_page(request, "redaction.html", {"text": EXAMPLE, "trial": None, "before": (), "after": ()})


async def try_text(request: Request) -> Response:
    """Show a text before and after redaction."""
    text = (await read_form(request)).get("text", "").replace("\r\n", "\n")
    if not text.strip():
        raise HTTPException(422, "the text is empty")
    trial = await _operator_client(request).try_redaction(text, timeout_seconds=TRY_SECONDS_MAX)
    before, after = parts_before(trial.spans, text), parts_after(trial.spans, text)
    return render_page(request, "redaction.html", {"text": text, "trial": trial, "before": before, "after": after})


async def show_audit(request: Request) -> Response:
    """Show the first waiting text after the row in the query, and the audit's results so far."""
    return await _audit_page(request, _whole_number(request.query_params.get("after", "0")))


async def judge_text(request: Request) -> Response:
    """Store a person's judgement of a text, and show the next text."""
    form = await read_fields(request, JUDGED_FIELDS_MAX)
    fields = {name: values[-1].replace("\r\n", "\n") for name, values in form.items()}
    operator, row = _operator_client(request), _whole_number(fields.get("row", ""))
    texts = await operator.redaction_audit(after=max(row - 1, 0), count=1, timeout_seconds=CALL_SECONDS_MAX)
    if [fields.get("prediction_id", "")] != [each.prediction_id for each in texts]:
        return PlainTextResponse("This text was judged or deleted meanwhile. Skip it to see the next one.", 409)
    label = fields.get("label", "").strip() or DEFAULT_TYPE
    try:
        missed = missed_values(texts[0], named_values(fields.get("values", "")), label)
    except ValueError as error:
        return PlainTextResponse(f"{error}. Write it as the text has it.", 422)
    wrong = [_whole_number(index) for index in form.get("wrong", ())]
    await operator.judge_redaction(texts[0].prediction_id, missed, wrong, timeout_seconds=CALL_SECONDS_MAX)
    return await _audit_page(request, row)


async def _audit_page(request: Request, after: int) -> Response:
    texts = await _operator_client(request).redaction_audit(after=after, count=1, timeout_seconds=CALL_SECONDS_MAX)
    text: RedactionAuditText | None = texts[0] if texts else None
    status = await _operator_client(request).status(timeout_seconds=CALL_SECONDS_MAX)
    context = {
        "text": text,
        "before": parts_before(text.spans, text.text) if text else [],
        "after": parts_after(text.spans, text.text) if text else [],
        "state": status.redaction,
        "types": OFFERED_TYPES,
        "skipped": after > 0,
    }
    return render_page(request, "redaction_audit.html", context)


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < DIGITS_MAX):
        raise HTTPException(422, "a row of the audit and an index of a value are whole numbers")
    return int(text)


def _operator_client(request: Request) -> AsyncAdminClient:
    return daemon_of(request).require_operator()


def parts_before(spans: Sequence[ReplacedSpan], text: str) -> list[TextPart]:
    """Return the original text in parts, each value marked with its source."""
    return _parts(spans, text, lambda span: text[span.start : span.end])


def parts_after(spans: Sequence[ReplacedSpan], text: str) -> list[TextPart]:
    """Return the redacted text in parts, each placeholder marked with its source."""
    return _parts(spans, text, lambda span: span.placeholder)


def _parts(spans: Sequence[ReplacedSpan], text: str, text_of_span: Callable[[ReplacedSpan], str]) -> list[TextPart]:
    parts, end = [], 0
    for number, span in enumerate(spans):
        score = f"{span.score:.2f}" if span.by_model else ""
        parts.append(TextPart(text[end : span.start]))
        parts.append(TextPart(text_of_span(span), span.source, span.placeholder, span.rule, score, number))
        end = span.end
    return [part for part in (*parts, TextPart(text[end:])) if part.text]


ROUTES = [
    Route("/redaction", show_form),
    Route("/redaction", try_text, methods=["POST"]),
    Route("/redaction/audit", show_audit),
    Route("/redaction/audit", judge_text, methods=["POST"]),
]
