"""What a screen of 80 columns shows of a daemon."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from edge_agent.cli.status_watch import Snapshot, TaskRates, draw_frame
from edge_agent.client import (
    BundleRef,
    Engine,
    ExamplesStatus,
    FieldAlarm,
    LargeModel,
    Status,
    Task,
    TaskUpdate,
    UpdatesStatus,
    UplinkProblem,
    UplinkStatus,
)
from tests.unit.cli.test_status import KNOWN, NOTHING

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
REF = BundleRef("pos-intent", "1.2.0", "ab" * 32)
TASK = Task("pos-intent", "CLASSIFY", REF, (), 512, 0, 32, True, True, 0.8)
ENGINE = Engine(
    "llama-3f2a91bc", "llama", "READY", 7, 412_000_000, 11, 0, "", ("pos-intent",), "cpu", {}, running=8, running_max=8
)
EXAMPLES = ExamplesStatus({"dropped_disk": 3}, {"routine": 5, "feedback": 2}, 1000, 2000, 1, "e", {})
UPLINK = UplinkStatus(
    "OFFLINE", "s3://x", None, NOW - timedelta(hours=3), None, 4, 9, 100, 0, 0, 1.0,
    (UplinkProblem("UPSTREAM_DOWN", "the bucket does not answer", "", ""),), None,
)  # fmt: skip
UPDATES = UpdatesStatus(
    "stable", 4, "", (TaskUpdate("pos-intent", REF, None, REF, "PROBATION", NOW, "", "watched for 50 calls", 0),)
)
STATUS = Status(
    "0.1.0", NOW - timedelta(hours=3), True, 10**8, (TASK,), (ENGINE,), ("It burns.",), 0, 10**9,
    EXAMPLES, UPDATES, UPLINK,
)  # fmt: skip
RATES = {"pos-intent": TaskRates(124.2, 0.5, 0.125, 0.0, 0.0001, 0.0123, 1.5), "": TaskRates(errors=0.25)}


def drawn(look: Snapshot, columns: int = 80) -> str:
    """Return what a terminal of that width shows."""
    console = Console(width=columns, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(draw_frame(look, NOW))
    return captured.get()


def line(text: str, start: str) -> list[str]:
    return next(each.split() for each in text.splitlines() if each.startswith(start))


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_a_frame_fits_the_screen(columns):
    """No line is longer than the screen, and at 80 columns names and figures stand whole, each row on one line."""
    text = drawn(Snapshot(STATUS, RATES, 10.0), columns)
    assert max(map(len, text.splitlines())) <= columns
    row = ["pos-intent", "1.2.0", "yes", "124", "12", "ms", "1.5", "s", "0.1", "ms", "12%", "0.50"]
    assert row == line(text, "pos-intent")
    assert ["llama-3f2a91bc", "ready", "cpu", "████████", "8/8", "3", "0", "412.0", "MB", "1"] == line(text, "llama")


def test_a_frame_says_what_needs_attention():
    """Calls of tasks that are not installed, examples given up, the uplink's problem, updates, warnings are shown."""
    text = " ".join(drawn(Snapshot(STATUS, RATES, 10.0)).split())
    for said in (
        "edge-agent 0.1.0 serving, up 3 h",
        "not installed 0.25",
        "5 kept, 1.0 kB; 2 with feedback; 1 sealed without a receipt, 2.0 kB; 3 given up",
        "offline, last contact 3 h ago; 9 to go up; the bucket does not answer",
        "pos-intent to 1.2.0: probation, watched for 50 calls",
        "It burns.",
        "of the last 10 s",
    ):
        assert said in text


def test_a_frame_shows_alarms_and_the_large_model():
    """What stands against a bundle, since when, and whether the large model can be asked; else not a word of it."""
    since = NOW - timedelta(hours=2)
    alarm = FieldAlarm("pos-intent", "ab", "errors", since, None, "people found 6 of 20 wrong", "", demoted=True)
    large = LargeModel(**{**KNOWN, **NOTHING, "affordable": False, "problem": "the cap is reached"})
    text = " ".join(drawn(Snapshot(dataclasses.replace(STATUS, alarms=(alarm,), large_model=large), {}, 0.0)).split())
    assert "alarm pos-intent, errors for 2 h: people found 6 of 20 wrong; in shadow because of it" in text
    assert "large model online, usually 640 ms, spent up; the cap is reached" in text
    assert "alarm" not in drawn(Snapshot(STATUS, {}, 0.0))
    assert "large model" not in drawn(Snapshot(STATUS, {}, 0.0))


def test_without_a_second_look_there_are_no_rates():
    """The first frame has dashes where rates come, and says so."""
    text = drawn(Snapshot(STATUS, {}, 0.0))
    assert ["pos-intent", "1.2.0", "yes", "-", "-", "-", "-", "-", "-"] == line(text, "pos-intent")
    assert "rates come with the next look" in text


def test_a_daemon_that_is_away_is_said_to_be():
    """When the daemon does not answer, that stands on top; what was known last stays below it."""
    text = drawn(Snapshot(STATUS, {}, 0.0, "no daemon at unix:/run/x"))
    assert ["no", "answer", "no", "daemon", "at", "unix:/run/x"] == text.splitlines()[0].split()
    assert "from before" in text
    assert "pos-intent" in text
    assert "pos-intent" not in drawn(Snapshot(None, {}, 0.0, "no daemon at unix:/run/x"))


@pytest.mark.parametrize(
    ("running", "bar"), [(0, ""), (1, "█"), (4, "████"), (8, "████████"), (9, "████████"), (3, "███")]
)
def test_a_bar_shows_how_busy_an_engine_is(running: int, bar: str) -> None:
    """The bar has eight cells for the engine's places, and is never longer."""
    engine: Any = dataclasses.replace(ENGINE, running=running)
    row = line(drawn(Snapshot(dataclasses.replace(STATUS, engines=(engine,)), {}, 0.0)), "llama")
    assert [*([bar] if bar else []), f"{running}/8"] == row[3 : 4 + bool(bar)]
