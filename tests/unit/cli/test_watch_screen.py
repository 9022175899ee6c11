"""What a screen of 80 columns shows of a daemon."""

from __future__ import annotations

import dataclasses
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from edge_agent.cli.status import show
from edge_agent.cli.watch_history import TOTAL, RefusalCount, TaskRates, TransferRates, WatchSnapshot
from edge_agent.cli.watch_screen import (
    ASCII,
    ENGINE_COLUMNS,
    UNICODE,
    Glyphs,
    WatchDisplay,
    draw_screen,
    glyphs_for,
    remaining,
    task_state,
)
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
    UplinkDownloads,
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
RATES = {"pos-intent": TaskRates(124.2, 0.5, 0.125, 0.25, 0.0, 0.0001, 0.0123, 1.5), "": TaskRates(errors=0.25)}


def drawn(look: WatchSnapshot, columns: int = 80, lines: int | None = None, glyphs: Glyphs = UNICODE) -> str:
    """Return what a terminal of that size shows."""
    console = Console(width=columns, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(draw_screen(look, NOW, WatchDisplay(console, glyphs, 1.0, keys=True), lines))
    return captured.get()


def line(text: str, start: str) -> list[str]:
    return next(each.split() for each in text.splitlines() if each.startswith(start))


def with_status(**changes: Any) -> WatchSnapshot:
    return WatchSnapshot(dataclasses.replace(STATUS, **changes), RATES, 10.0)


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_a_frame_fits_the_screen(columns):
    """No line is longer than the screen, and at 80 columns names and figures stand whole, each row on one line."""
    text = drawn(WatchSnapshot(STATUS, RATES, 10.0, curves={"pos-intent": (None, 0.0, 1.0, 8.0)}), columns)
    assert max(map(len, text.splitlines())) <= columns
    row = ["pos-intent", "1.2.0", "ready", "124", "▁▂█", "88%", "25%", "12", "ms", "1.5", "s"]
    assert row == line(text, "pos-intent")
    assert ["llama-3f2a91bc", "ready", "cpu", "████████", "8/8", "3", "0", "412.0", "MB", "1"] == line(text, "llama")


@pytest.mark.parametrize(("state", "restarts"), [("STARTING", 0), ("BACKING_OFF", 12)])
@pytest.mark.parametrize("columns", [80, 72, 60, 45])
def test_a_header_stands_whole_or_not_at_all(columns: int, state: str, restarts: int):
    """A long state of an engine takes a column away rather than a letter of some headers."""
    engine = dataclasses.replace(ENGINE, state=state, restarts=restarts)
    header, row = (line(drawn(with_status(engines=(engine,)), columns), start) for start in ("engine", "llama"))
    assert ["engine", "state"] == header[:2]
    assert set(header) <= set(ENGINE_COLUMNS)
    assert "llama-3f2a91bc" == row[0]


def test_a_frame_says_what_needs_attention():
    """Refusals, examples given up, the uplink's problem, updates and warnings are shown."""
    refusals = (RefusalCount("pos-intent", "QUEUE_FULL", 12, 3, 0.5), RefusalCount("", "TASK_UNKNOWN", 2, 0, 90.0))
    text = " ".join(drawn(WatchSnapshot(STATUS, RATES, 10.0, refusals=refusals)).split())
    for said in (
        "edge-agent 0.1.0 serving, up 3 h",
        "refused pos-intent QUEUE_FULL 12, 3 in 10 s; TASK_UNKNOWN 2, 1 min ago",
        "5 kept, 1.0 kB; 2 with feedback; 1 sealed without a receipt, 2.0 kB; 3 given up",
        "offline, last contact 3 h ago; 9 segments, 100 bytes to go up; the bucket does not answer",
        "pos-intent to 1.2.0: probation for 0 s, watched for 50 calls",
        "It burns.",
        "q or Ctrl-C ends; every second; rates of the last 10 s",
    ):
        assert said in text


def test_one_segment_and_one_more_reason_are_one():
    """A number and its noun agree."""
    refusals = tuple(RefusalCount("", f"REASON_{at}", 9 - at, 0, None) for at in range(5))
    look = dataclasses.replace(with_status(uplink=dataclasses.replace(UPLINK, waiting_segments=1)), refusals=refusals)
    text = " ".join(drawn(look, columns=200).split())
    assert (True, True) == ("; 1 segment, 100 bytes to go up" in text, "1 more reason" in text)
    assert "1 more reasons" not in text


def test_a_frame_and_a_page_shorten_digests():
    """In updates, the uplink's problem and warnings: a whole digest would take a line, and nobody reads it out."""
    said = f"blobs/{'ab' * 32} is damaged"
    update = dataclasses.replace(UPDATES.tasks[0], message=said)
    problem = UplinkProblem("HASH_MISMATCH", said, "", "")
    look = with_status(
        updates=dataclasses.replace(UPDATES, problem=said, tasks=(update,)),
        uplink=dataclasses.replace(UPLINK, problems=(problem,)),
        warnings=(said,),
    )
    assert look.status is not None
    file = io.StringIO()
    show(Console(width=80, file=file), look.status, NOW)
    shown = drawn(look), file.getvalue()
    assert [(4, 0)] * 2 == [(each.count("abababababab…"), each.count("ab" * 7)) for each in shown]


def test_a_frame_shows_alarms_and_the_large_model():
    """What stands against a bundle, since when, and whether the large model can be asked; else not a word of it."""
    since = NOW - timedelta(hours=2)
    alarm = FieldAlarm("pos-intent", "ab", "errors", since, None, "people found 6 of 20 wrong", "", demoted=True)
    large = LargeModel(**{**KNOWN, **NOTHING, "affordable": False, "problem": "the cap is reached"})
    text = " ".join(drawn(with_status(alarms=(alarm,), large_model=large)).split())
    assert "alarm pos-intent, errors for 2 h: people found 6 of 20 wrong; in shadow because of it" in text
    assert "large model online, usually 640 ms, spent up; the cap is reached" in text
    assert "alarm" not in drawn(WatchSnapshot(STATUS))
    assert "large model" not in drawn(WatchSnapshot(STATUS))


def test_without_a_second_look_there_are_no_rates():
    """The first frame has dashes where rates come, and says so."""
    text = drawn(WatchSnapshot(STATUS))
    assert ["pos-intent", "1.2.0", "ready", "-", "-", "-", "-", "-"] == line(text, "pos-intent")
    assert "rates come with the next look" in text


def test_a_daemon_that_is_away_is_said_to_be():
    """When the daemon does not answer, that stands on top, with the time; what was known last stays below it."""
    text = drawn(WatchSnapshot(STATUS, problem="no daemon at unix:/run/x", silent_seconds=7.0))
    assert ["no", "answer", "no", "daemon", "at", "unix:/run/x"] == text.splitlines()[0].split()
    assert "for 7 s; asked again every time; the figures below are from before" in text
    assert "pos-intent" in text
    assert "pos-intent" not in drawn(WatchSnapshot(None, problem="no daemon at unix:/run/x"))


def test_a_person_without_the_rights_reads_what_to_do():
    """On the screen itself, whether the daemon was reached before or never."""
    remedy = "Have an administrator add you to the group of operators."
    for status in (STATUS, None):
        text = drawn(WatchSnapshot(status, problem="this user may not use /run/x/admin.sock", remedy=remedy))
        assert f"what to do {remedy}" in " ".join(text.split())


def test_a_restart_is_said():
    """Whoever watches reads that the daemon was started again meanwhile, and how often."""
    assert "restarted once since you watch" in " ".join(drawn(WatchSnapshot(STATUS, restarts=1)).split())
    assert "restarted 3 times since" in " ".join(drawn(WatchSnapshot(STATUS, restarts=3)).split())


@pytest.mark.parametrize(
    ("ready", "engine_state", "shown"),
    [(True, "READY", "ready"), (False, "STARTING", "starting"), (False, "BACKING_OFF", "backing off")],
)
def test_a_task_has_the_state_of_its_engine(ready: bool, engine_state: str, shown: str) -> None:
    """A task that does not answer shows what its engine does."""
    changed = with_status(
        tasks=(dataclasses.replace(TASK, ready=ready),), engines=(dataclasses.replace(ENGINE, state=engine_state),)
    )
    assert task_state(changed.status.tasks[0], changed.status).plain == shown


def test_transfers_show_bytes_rate_and_the_time_that_is_left():
    """Files on their way down, a bundle copied from a drive, and segments on their way up."""
    downloads = UplinkDownloads("ONLINE", "s3://x", None, None, None, 3, 210_000_000)
    going = dataclasses.replace(UPLINK, state="ONLINE", problems=(), downloads=downloads)
    copying = dataclasses.replace(UPDATES, copying="pos-intent 1.3.0", copied_bytes=50_000_000, total_bytes=100_000_000)
    look = dataclasses.replace(
        with_status(uplink=going, updates=copying), transfers=TransferRates(20.0, 3_500_000.0, 10_000_000.0)
    )
    text = " ".join(drawn(look).split())
    assert "download online; 3 files, 210.0 MB to come down, 3.5 MB/s, about 1 min left" in text
    assert "copying ████ pos-intent 1.3.0: 50.0 MB of 100.0 MB, 10.0 MB/s, about 5 s left" in text
    assert "upload online, last contact 3 h ago; 9 segments, 100 bytes to go up, 20 bytes/s, about 5 s left" in text
    assert ", standing still" == remaining(5, 0.0)
    assert "" == remaining(5, None)


def crowded(tasks: int, engines: int, warnings: int) -> WatchSnapshot:
    names = [f"task-{number}" for number in range(tasks)]
    rates = {name: TaskRates(float(number)) for number, name in enumerate(names)}
    return WatchSnapshot(
        dataclasses.replace(
            STATUS,
            tasks=tuple(dataclasses.replace(TASK, name=name) for name in names),
            engines=tuple(dataclasses.replace(ENGINE, name=f"llama-{number}") for number in range(engines)),
            warnings=tuple(f"Warning {number}: {'so long ' * 40}" for number in range(warnings)),
        ),
        {**rates, TOTAL: TaskRates(sum(map(float, range(tasks))))},
        10.0,
    )


@pytest.mark.parametrize("size", [(1, 1, 0), (6, 2, 1), (40, 1, 0), (3, 30, 2), (2, 2, 30), (40, 40, 40)])
def test_a_frame_of_any_site_fits_80_columns_and_24_lines(size: tuple[int, int, int]) -> None:
    """What does not fit is counted instead; the busiest tasks, the total, an engine and the last line stay."""
    text = drawn(crowded(*size), lines=24)
    shown = text.splitlines()
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80
    assert f"task-{size[0] - 1} " in text
    assert (size[0] > 1) == any(each.startswith("all ") for each in shown)
    assert any(each.startswith("llama-") for each in shown)
    assert "q or Ctrl-C ends" in shown[-1]


@pytest.mark.parametrize(("columns", "lines"), [(70, 20), (60, 18), (48, 14), (40, 14)])
def test_a_narrow_terminal_has_fewer_columns(columns: int, lines: int) -> None:
    """A window beside another one shows the same rows, with the figures that fit; a line is never folded over many."""
    shown = drawn(crowded(5, 2, 0), columns=columns, lines=lines).splitlines()
    assert len(shown) <= lines
    assert max(map(len, shown)) <= columns
    assert any(each.startswith("task-4") and "ready" in each for each in shown)


@pytest.mark.parametrize("lines", [1, 2, 5, 10])
def test_a_tiny_terminal_is_no_error(lines: int) -> None:
    """A window that somebody makes very small gets what is possible; the terminal cuts the rest."""
    assert drawn(crowded(5, 5, 5), columns=20, lines=lines)


def test_a_terminal_without_unicode_gets_ascii_alone():
    """Curves, bars and marks of what is left out have forms in ASCII."""
    look = dataclasses.replace(crowded(40, 2, 9), curves={"task-39": (None, 0.0, 4.0, 8.0)})
    text = drawn(look, lines=24, glyphs=ASCII)
    assert text.isascii()
    assert "_=#" in text
    assert "########" in text


@pytest.mark.parametrize(
    ("environ", "glyphs"),
    [
        ({"LANG": "en_GB.UTF-8"}, UNICODE),
        ({"LANG": "de_DE.utf8"}, UNICODE),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, ASCII),
        ({"LC_CTYPE": "en_US.UTF-8"}, UNICODE),
        ({"LC_ALL": "C", "LANG": "en_GB.UTF-8"}, ASCII),
        ({"LC_ALL": "C.UTF-8"}, UNICODE),
        ({"LANG": "de_DE.ISO-8859-1"}, ASCII),
        ({}, ASCII),
    ],
)
def test_the_locale_says_what_a_terminal_can_show(environ: dict[str, str], glyphs: Glyphs) -> None:
    """LC_CTYPE=C.UTF-8 alone is what Python sets where the locale is C, and does not count."""
    assert glyphs is glyphs_for(environ)


@pytest.mark.parametrize(
    ("running", "drawn_bar"), [(0, ""), (1, "█"), (4, "████"), (8, "████████"), (9, "████████"), (3, "███")]
)
def test_a_bar_shows_how_busy_an_engine_is(running: int, drawn_bar: str) -> None:
    """The bar has eight cells for the engine's places, and is never longer."""
    row = line(drawn(with_status(engines=(dataclasses.replace(ENGINE, running=running),))), "llama")
    assert [*([drawn_bar] if drawn_bar else []), f"{running}/8"] == row[3 : 4 + bool(drawn_bar)]
