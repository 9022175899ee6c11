"""The screen of `edge-agent watch` in 80 columns and in smaller terminals."""

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
RATES = {"pos-intent": TaskRates(124.2, 0.5, 0.875, 0.25, 0.0, 0.0001, 0.0123, 1.5), "": TaskRates(errors=0.25)}


def drawn(look: WatchSnapshot, columns: int = 80, lines: int | None = None, glyphs: Glyphs = UNICODE) -> str:
    """Return the text that a terminal of this size shows."""
    console = Console(width=columns, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(draw_screen(look, NOW, WatchDisplay(console, glyphs, 1.0, keys=True), lines))
    return captured.get()


def line(text: str, start: str) -> list[str]:
    return next(each.split() for each in text.splitlines() if each.startswith(start))


def with_status(**changes: Any) -> WatchSnapshot:
    return WatchSnapshot(dataclasses.replace(STATUS, **changes), RATES, 10.0)


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_frame_fits_the_width_of_the_screen(columns):
    """No line is wider than the screen, and at 80 columns each row is on one line with complete names and figures."""
    text = drawn(WatchSnapshot(STATUS, RATES, 10.0, curves={"pos-intent": (None, 0.0, 1.0, 8.0)}), columns)
    assert max(map(len, text.splitlines())) <= columns
    row = ["pos-intent", "1.2.0", "ready", "124", "▁▂█", "88%", "25%", "12", "ms", "1.5", "s"]
    assert row == line(text, "pos-intent")
    assert ["llama-3f2a91bc", "ready", "cpu", "████████", "8/8", "3", "0", "412.0", "MB", "1"] == line(text, "llama")


@pytest.mark.parametrize(("state", "restarts"), [("STARTING", 0), ("BACKING_OFF", 12)])
@pytest.mark.parametrize("columns", [80, 72, 60, 45])
def test_column_is_dropped_rather_than_its_header_cut(columns: int, state: str, restarts: int):
    """If an engine's state is long or the terminal narrow, whole columns are dropped, and no header is cut."""
    engine = dataclasses.replace(ENGINE, state=state, restarts=restarts)
    header, row = (line(drawn(with_status(engines=(engine,)), columns), start) for start in ("engine", "llama"))
    assert ["engine", "state"] == header[:2]
    assert set(header) <= set(ENGINE_COLUMNS)
    assert "llama-3f2a91bc" == row[0]


def test_frame_shows_refusals_problems_and_warnings():
    """The screen shows refusals, evicted examples, the uplink's problem, updates and warnings."""
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


def test_singular_noun_follows_the_number_one():
    """A number and its noun agree: "1 segment", "1 more reason"."""
    refusals = tuple(RefusalCount("", f"REASON_{at}", 9 - at, 0, None) for at in range(5))
    look = dataclasses.replace(with_status(uplink=dataclasses.replace(UPLINK, waiting_segments=1)), refusals=refusals)
    text = " ".join(drawn(look, columns=200).split())
    assert (True, True) == ("; 1 segment, 100 bytes to go up" in text, "1 more reason" in text)
    assert "1 more reasons" not in text


def test_watch_and_status_shorten_digests():
    """`watch` and `status` shorten digests in updates, the uplink's problem and warnings, because a full digest would
    take a line."""
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


def test_frame_shows_alarms_and_the_large_model():
    """The screen shows the alarms of a bundle with their age and the state of the large model, and neither if there is
    none."""
    since = NOW - timedelta(hours=2)
    alarm = FieldAlarm("pos-intent", "ab", "errors", since, None, "people found 6 of 20 wrong", "", demoted=True)
    large = LargeModel(**{**KNOWN, **NOTHING, "affordable": False, "problem": "the cap is reached"})
    text = " ".join(drawn(with_status(alarms=(alarm,), large_model=large)).split())
    assert "alarm pos-intent, errors for 2 h: people found 6 of 20 wrong; in shadow because of it" in text
    assert "large model online, usually 640 ms, spent up; the cap is reached" in text
    assert "alarm" not in drawn(WatchSnapshot(STATUS))
    assert "large model" not in drawn(WatchSnapshot(STATUS))


def test_first_frame_has_no_rates():
    """The first screen shows dashes instead of rates, and that they appear with the next poll."""
    text = drawn(WatchSnapshot(STATUS))
    assert ["pos-intent", "1.2.0", "ready", "-", "-", "-", "-", "-"] == line(text, "pos-intent")
    assert "rates come with the next look" in text


def test_frame_reports_a_daemon_that_does_not_answer():
    """If the daemon does not answer, the first line reports the problem and its duration, and the last known figures
    stay below it."""
    text = drawn(WatchSnapshot(STATUS, problem="no daemon at unix:/run/x", silent_seconds=7.0))
    assert ["no", "answer", "no", "daemon", "at", "unix:/run/x"] == text.splitlines()[0].split()
    assert "for 7 s; asked again every time; the figures below are from before" in text
    assert "pos-intent" in text
    assert "pos-intent" not in drawn(WatchSnapshot(None, problem="no daemon at unix:/run/x"))


def test_frame_shows_the_remedy_for_missing_rights():
    """The screen shows the remedy of a failed poll, whether the daemon was reached before or not."""
    remedy = "Have an administrator add you to the group of operators."
    for status in (STATUS, None):
        text = drawn(WatchSnapshot(status, problem="this user may not use /run/x/admin.sock", remedy=remedy))
        assert f"what to do {remedy}" in " ".join(text.split())


def test_frame_counts_restarts_of_the_daemon():
    """The screen shows how often the daemon was restarted since the watch began."""
    assert "restarted once since you watch" in " ".join(drawn(WatchSnapshot(STATUS, restarts=1)).split())
    assert "restarted 3 times since" in " ".join(drawn(WatchSnapshot(STATUS, restarts=3)).split())


@pytest.mark.parametrize(
    ("ready", "engine_state", "shown"),
    [(True, "READY", "ready"), (False, "STARTING", "starting"), (False, "BACKING_OFF", "backing off")],
)
def test_task_that_is_not_ready_shows_its_engines_state(ready: bool, engine_state: str, shown: str) -> None:
    """A task that is not ready has the state of its engine."""
    changed = with_status(
        tasks=(dataclasses.replace(TASK, ready=ready),), engines=(dataclasses.replace(ENGINE, state=engine_state),)
    )
    assert task_state(changed.status.tasks[0], changed.status).plain == shown


def test_transfers_show_bytes_rate_and_remaining_time():
    """Downloads, copies from a drive and uploads show bytes, rate and remaining time; a transfer without progress is
    reported as standing still."""
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
def test_frame_of_any_site_fits_80_columns_and_24_lines(size: tuple[int, int, int]) -> None:
    """A screen of 80 columns and 24 lines keeps the busiest task, the total, an engine and the last line; the other
    rows are left out."""
    text = drawn(crowded(*size), lines=24)
    shown = text.splitlines()
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80
    assert f"task-{size[0] - 1} " in text
    assert (size[0] > 1) == any(each.startswith("all ") for each in shown)
    assert any(each.startswith("llama-") for each in shown)
    assert "q or Ctrl-C ends" in shown[-1]


@pytest.mark.parametrize(("columns", "lines"), [(70, 20), (60, 18), (48, 14), (40, 14)])
def test_narrow_terminal_shows_fewer_columns(columns: int, lines: int) -> None:
    """A narrow terminal shows the same rows with fewer columns, and no line is folded."""
    shown = drawn(crowded(5, 2, 0), columns=columns, lines=lines).splitlines()
    assert len(shown) <= lines
    assert max(map(len, shown)) <= columns
    assert any(each.startswith("task-4") and "ready" in each for each in shown)


@pytest.mark.parametrize("lines", [1, 2, 5, 10])
def test_tiny_terminal_is_not_an_error(lines: int) -> None:
    """A terminal of 20 columns and 1 to 10 lines still gets a screen."""
    assert drawn(crowded(5, 5, 5), columns=20, lines=lines)


def test_terminal_without_unicode_gets_only_ascii():
    """Curves, bars and ellipses are drawn in ASCII for a terminal without Unicode."""
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
def test_locale_selects_unicode_or_ascii(environ: dict[str, str], glyphs: Glyphs) -> None:
    """The locale's encoding selects the glyphs; LC_CTYPE=C.UTF-8 with LANG=C selects ASCII, because Python sets it if
    the locale is C."""
    assert glyphs is glyphs_for(environ)


@pytest.mark.parametrize(
    ("running", "drawn_bar"), [(0, ""), (1, "█"), (4, "████"), (8, "████████"), (9, "████████"), (3, "███")]
)
def test_bar_shows_how_busy_an_engine_is(running: int, drawn_bar: str) -> None:
    """An engine's bar has at most eight cells, filled in proportion to its running calls."""
    row = line(drawn(with_status(engines=(dataclasses.replace(ENGINE, running=running),))), "llama")
    assert [*([drawn_bar] if drawn_bar else []), f"{running}/8"] == row[3 : 4 + bool(drawn_bar)]
