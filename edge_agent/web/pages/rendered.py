"""Filling in templates. Whatever comes from outside is escaped by the templates themselves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from edge_agent import __version__
from edge_agent.formatting import format_bytes
from edge_agent.report.number_format import count, counted, percent
from edge_agent.report.report_page import render_commands
from edge_agent.web import words
from edge_agent.web.daemon import Daemon
from edge_agent.web.gate import Rules
from edge_agent.web.visitors import Visitor

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(
    render_commands=render_commands,
    count=count,
    counted=counted,
    percent=percent,
    sized=format_bytes,
    lasting=words.lasting,
    word=words.word,
)
_TEMPLATES.globals.update(version=__version__)


def visitor_of(request: Request) -> Visitor:
    """Return who was let in."""
    found: Visitor = request.scope["visitor"]
    return found


def daemon_of(request: Request) -> Daemon:
    """Return the daemon."""
    found: Daemon = request.app.state.daemon
    return found


def rules_of(request: Request) -> Rules:
    """Return what the gate goes by."""
    found: Rules = request.app.state.rules
    return found


def fragment(template: str, facts: Mapping[str, Any]) -> str:
    """Fill in a part of a page."""
    return _TEMPLATES.get_template(template).render(facts)


def page(request: Request, template: str, facts: Mapping[str, Any], status: int = 200) -> HTMLResponse:
    """Fill in a page, or a part of one that sends changes: both need to know who looks, and the page's key."""
    visitor: Visitor | None = request.scope.get("visitor")
    shared = {
        "visitor": visitor,
        "page_key": rules_of(request).seal.page_key(visitor.identity) if visitor else "",
        "path": request.url.path,
        "now": datetime.now(UTC),
    }
    return HTMLResponse(fragment(template, {**shared, **facts}), status)
