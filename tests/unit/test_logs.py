"""The format of log events, and which are shown."""

import contextlib
import io
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import structlog

from edge_agent import logs
from edge_agent.config import LogConfig

ESCAPE = "\x1b["
SEVERITIES = ["debug", "info", "warning", "error"]


class Screen(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def written(config: LogConfig, say: Callable[[structlog.typing.FilteringBoundLogger], object], to: io.StringIO) -> str:
    """Return what arrives at standard error when an event is logged."""
    with contextlib.redirect_stderr(to):
        logs.configure(config)
        say(structlog.get_logger("test"))
    return to.getvalue()


def events(text: str) -> list[dict[str, object]]:
    """Read JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("log_format", ["auto", "json"])
def test_without_a_terminal_events_are_json_lines(log_format):
    """Each event is one line of JSON with its level, its time in UTC and its values."""
    before = datetime.now(UTC)
    text = written(
        LogConfig(format=log_format), lambda log: log.info("started", task="till\nx", count=3), io.StringIO()
    )
    (event,) = events(text)
    at = datetime.fromisoformat(str(event.pop("timestamp")))
    assert {"event": "started", "level": "info", "task": "till\nx", "count": 3} == event
    assert before <= at <= datetime.now(UTC)


def test_a_file_name_that_is_not_utf8_leaves_the_line_valid_json():
    """Parsers of log shippers reject a lone surrogate, and with it the whole event."""
    name = os.fsdecode(b"K\xfcche.gguf")
    text = written(LogConfig(format="json"), lambda log: log.info("refused", path=name, task="Küche"), io.StringIO())
    assert ("K\\udcfcche.gguf", "Küche") == (events(text)[0]["path"], events(text)[0]["task"])


def test_json_can_be_chosen_on_a_terminal():
    """The format json holds on a terminal too."""
    assert "started" == events(written(LogConfig(format="json"), lambda log: log.info("started"), Screen()))[0]["event"]


@pytest.mark.parametrize(
    ("log_format", "screen", "coloured"),
    [("auto", Screen, True), ("console", Screen, True), ("console", io.StringIO, False)],
)
def test_console_format_is_readable(log_format, screen, coloured):
    """On a terminal events are coloured text; the format console in a file has no colours."""
    text = written(LogConfig(format=log_format), lambda log: log.info("started", task="till"), screen())
    assert coloured == (ESCAPE in text)
    assert "started" in text
    assert "till" in text
    assert "{" not in text


@pytest.mark.parametrize("level", SEVERITIES)
def test_events_below_the_level_are_hidden(level):
    """Events below the configured level are not written."""

    def say(log: structlog.typing.FilteringBoundLogger) -> None:
        for severity in SEVERITIES:
            getattr(log, severity)("event")

    text = written(LogConfig(level=level, format="json"), say, io.StringIO())
    assert SEVERITIES[SEVERITIES.index(level) :] == [event["level"] for event in events(text)]


def test_an_exception_is_one_json_line():
    """The traceback of a logged exception is a value of its event, not lines of its own."""

    def say(log: structlog.typing.FilteringBoundLogger) -> None:
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError:
            log.exception("failed")

    (event,) = events(written(LogConfig(), say, io.StringIO()))
    assert "error" == event["level"]
    assert "ZeroDivisionError: by zero" in str(event["exception"])
    assert "Traceback" in str(event["exception"])


def test_traceback_shows_no_values():
    """A logged exception shows where it was raised, and no values of variables."""

    def say(log: structlog.typing.FilteringBoundLogger) -> None:
        text = "card 4111".replace("card", "number")
        try:
            raise ZeroDivisionError(len(text))
        except ZeroDivisionError:
            log.exception("failed")

    text = written(LogConfig(format="console"), say, Screen())
    assert "ZeroDivisionError: 11" in text
    assert "number 4111" not in text


def test_values_are_escaped_on_a_terminal():
    """A value cannot clear the screen or start a line; a traceback keeps its lines."""

    def say(log: structlog.typing.FilteringBoundLogger) -> None:
        try:
            raise ValueError("bad\x1b[2J\nlabel")
        except ValueError:
            log.exception("failed", task="till\x1b[2J\nerror", count=3)

    text = written(LogConfig(format="console"), say, io.StringIO())
    assert ESCAPE not in text
    assert r"task=till\x1b[2J\nerror" in text.replace("'", "")
    assert "ValueError: bad\\x1b[2J\nlabel" in text


def test_every_level_of_the_configuration_is_known():
    """Each level that agent.yaml takes has its severity."""
    assert SEVERITIES == list(logs.LEVELS)
    assert sorted(logs.LEVELS.values()) == list(logs.LEVELS.values())


def test_a_traceback_on_a_terminal_shows_no_variables():
    """The values of variables may be inputs, so only the lines of a traceback are shown."""

    def fail(log: structlog.typing.FilteringBoundLogger) -> None:
        secret_text = "my card is 4711"
        try:
            raise ValueError(len(secret_text))
        except ValueError:
            log.exception("failed")

    shown = written(LogConfig(format="console"), fail, Screen())
    assert (True, False) == ("ValueError: 15" in shown, "4711" in shown)
