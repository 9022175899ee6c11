"""The setup of structlog: JSON lines for journald, colours for a terminal. Inputs and outputs are never logged."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from edge_agent.config import LogConfig
from edge_agent.errors.base import printable_event

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(config: LogConfig) -> None:
    """Send log events to standard error in the configured format and level."""
    pretty = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    final_processors: list[structlog.typing.Processor] = (
        # Not its own way of showing exceptions, which prints local variables: inputs, keys.
        [
            structlog.processors.format_exc_info,
            printable_event,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if pretty
        else [structlog.processors.format_exc_info, _escape_surrogates, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *final_processors,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[config.level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _escape_surrogates(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape lone surrogates, as in a file name that is not UTF-8: strict JSON parsers reject the whole line."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = value.encode(errors="backslashreplace").decode()
    return event
