"""The page where a text can be tried: what redaction finds in it, by rules and by the model, and what is left of it.

The text is sent to the daemon and shown again; nothing of it is kept, here or there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_agent.client import RedactionTrial, ReplacedSpan
from edge_agent.web.rendering import daemon_of, read_form, render_page

EXAMPLE = (
    "Patient Anna Meyer, born 3 May 1971, lives at 12 Rose Lane, York YO1 7HG; call 01904 551 234."
    " She takes ramipril 5 mg."
)
TRY_SECONDS_MAX = 12.0


@dataclass(frozen=True)
class TextPart:
    """A part of a text: plain, or a value in the colour of what found it."""

    text: str
    source: str = ""
    """rules, model or both; empty = it was not replaced."""
    placeholder: str = ""
    rule: str = ""
    score: str = ""


async def show_form(request: Request) -> Response:
    """Show the form with an example."""
    return render_page(request, "redaction.html", {"text": EXAMPLE, "tried": None, "before": (), "after": ()})


async def try_text(request: Request) -> Response:
    """Show a text before and after."""
    daemon = daemon_of(request)
    assert daemon.operator is not None, "the guard refuses this page without the role admin"
    text = (await read_form(request)).get("text", "").replace("\r\n", "\n")
    if not text.strip():
        raise HTTPException(422, "the text is empty")
    tried = await daemon.operator.try_redaction(text, timeout_seconds=TRY_SECONDS_MAX)
    facts = {"text": text, "tried": tried, "before": parts_before(tried, text), "after": parts_after(tried, text)}
    return render_page(request, "redaction.html", facts)


def parts_before(tried: RedactionTrial, text: str) -> list[TextPart]:
    """Return the text in parts, each value marked with what found it."""
    return _parts(tried, text, lambda span: text[span.start : span.end])


def parts_after(tried: RedactionTrial, text: str) -> list[TextPart]:
    """Return what is left, each placeholder marked likewise."""
    return _parts(tried, text, lambda span: span.placeholder)


def _parts(tried: RedactionTrial, text: str, shown: Callable[[ReplacedSpan], str]) -> list[TextPart]:
    parts, end = [], 0
    for span in tried.spans:
        score = f"{span.score:.2f}" if span.by_model else ""
        parts.append(TextPart(text[end : span.start]))
        parts.append(TextPart(shown(span), span.source, span.placeholder, span.rule, score))
        end = span.end
    return [part for part in (*parts, TextPart(text[end:])) if part.text]


ROUTES = [
    Route("/redaction", show_form),
    Route("/redaction", try_text, methods=["POST"]),
]
