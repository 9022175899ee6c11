"""Templates: their filters, what every page needs, and what a request carries. Templates escape every value."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from edge_agent import __version__
from edge_agent.formatting import count, count_of, format_bytes, format_duration, percent
from edge_agent.report.report_page import render_commands
from edge_agent.web.daemon_access import DaemonConnections
from edge_agent.web.request_guard import GuardSettings, Principal

FORM_FIELDS_MAX = 20


def duration_since(since: datetime, now: datetime) -> str:
    """Return how long ago a time was."""
    return format_duration((now - since).total_seconds())


def enum_words(name: str) -> str:
    """Return the name of an enumeration's value as words: ROLLED_BACK is "rolled back"."""
    return name.lower().replace("_", " ")


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(
    commands=render_commands,
    count=count,
    counted=count_of,
    percent=percent,
    bytes=format_bytes,
    since=duration_since,
    words=enum_words,
)
_TEMPLATES.globals.update(version=__version__)


def principal_of(request: Request) -> Principal:
    """Return who sent a request that passed the guard."""
    principal: Principal = request.scope["principal"]
    return principal


def daemon_of(request: Request) -> DaemonConnections:
    """Return the connections to the daemon."""
    connections: DaemonConnections = request.app.state.daemon
    return connections


def guard_settings_of(request: Request) -> GuardSettings:
    """Return the settings of the request guard."""
    settings: GuardSettings = request.app.state.guard
    return settings


async def read_form(request: Request) -> dict[str, str]:
    """Read the fields of a form; the last value of a repeated field counts. Raises HTTPException: too many fields."""
    return {key: values[-1] for key, values in (await read_fields(request, FORM_FIELDS_MAX)).items()}


async def read_fields(request: Request, fields_max: int) -> dict[str, list[str]]:
    """Read the fields of a form with all their values, empty ones too. Raises HTTPException: more than `fields_max`."""
    body = (await request.body()).decode(errors="replace")
    try:
        return parse_qs(body, keep_blank_values=True, max_num_fields=fields_max)
    except ValueError:
        raise HTTPException(422, f"the form has more than {fields_max} fields") from None


def render_page(request: Request, template: str, context: Mapping[str, Any], status: int = 200) -> HTMLResponse:
    """Fill in a page, or a part of one, with the principal and the page key that its forms send."""
    principal: Principal | None = request.scope.get("principal")
    shared = {
        "principal": principal,
        "page_key": guard_settings_of(request).signer.page_key(principal.identity) if principal else "",
        "path": f"/{request.url.path.lstrip('/')}",  # a browser takes //NAME for another site
        "now": datetime.now(UTC),
    }
    return HTMLResponse(_TEMPLATES.get_template(template).render({**shared, **context}), status)
