"""`edge-agent status --code` and `--qr`: the summary of a site, and that other decoders can read it."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from edge_agent.cli import site_code
from edge_agent.cli.site_code import print_code, summarize
from edge_agent.client import BundleRef, FieldAlarm, Status, TaskUpdate, UpdatesStatus
from edge_agent.formats.state_code import PREFIX, SiteSummary, TaskSummary, decode, encode
from tests.unit.cli.test_watch_screen import ENGINE, NOW, STATUS, TASK

MINUTES = int(NOW.timestamp() // 60)
UTF8 = {"LANG": "C.UTF-8"}


def site(**changes: object) -> Status:
    return dataclasses.replace(STATUS, site="shop-12", updates=None, uplink=None, **changes)


def printed(print_it, **settings: object) -> list[str]:
    console = Console(file=io.StringIO(), width=80, **{"color_system": None, **settings})
    print_it(console)
    return console.file.getvalue().splitlines()


def test_summary_has_only_names_versions_and_states() -> None:
    """The summary contains site, versions, states, alarms and updates of the tasks; tasks with an alarm or without an
    answer come first."""
    alarm = FieldAlarm("b", "ab", "errors", NOW, None, "people found 6 of 20 wrong", "", demoted=True)
    ref = BundleRef("c", "2.0.0", "cd" * 32)
    update = TaskUpdate("c", None, None, ref, "FETCHING", NOW, "", "1 file still to come", 0)
    tasks = tuple(dataclasses.replace(TASK, name=name, ready=name != "d") for name in ("a", "b", "c", "d"))
    starting = dataclasses.replace(ENGINE, state="STARTING", tasks=("d",))
    status = dataclasses.replace(
        site(tasks=tasks, alarms=(alarm,), engines=(starting,)), updates=UpdatesStatus("stable", 1, "", (update,))
    )
    expected = (
        TaskSummary("b", "1.2.0", "ready", alarms=("errors",)),
        TaskSummary("d", "1.2.0", "starting"),
        TaskSummary("c", "1.2.0", "ready", "fetching", "2.0.0"),
        TaskSummary("a", "1.2.0", "ready"),
    )
    assert SiteSummary("shop-12", "0.1.0", MINUTES, True, "", expected) == summarize(status, NOW)


def test_printed_groups_can_be_decoded() -> None:
    """The groups typed from the screen without their numbers decode to the summary, and fit 80 columns."""
    lines = printed(lambda console: print_code(console, site(), NOW))
    groups = " ".join(line.partition(":")[2] for line in lines[1:-2])
    assert summarize(site(), NOW) == decode(groups)
    assert "State of shop-12, 2026-01-02 12:00 UTC" in lines[0]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("tasks", [1, 40])
@pytest.mark.parametrize("color", [None, "truecolor"])
def test_qr_code_fits_the_terminal_and_is_readable(tasks: int, color: str | None) -> None:
    """The QR code fits 80 columns and 23 lines with and without colours, and the independent decoder ZXing reads the
    same state from it."""
    numpy = pytest.importorskip("numpy")
    zxing = pytest.importorskip("zxingcpp", reason="the independent decoder of the extra 'test' is not installed")
    full = site(tasks=tuple(dataclasses.replace(TASK, name=f"task-{number}") for number in range(tasks)))
    lines = printed(lambda console: site_code.print_qr(console, full, NOW, UTF8))
    assert (True, True) == (len(lines) <= 23, max(map(len, lines)) <= 80)
    drawn = site_code.half_blocks(site_code.qr_modules(PREFIX + encode(summarize(full, NOW))), inverted=color is None)
    if color is None:
        assert drawn == [line.ljust(len(drawn[0])) for line in lines[:-1]]
    light = 255 if color is None else 0
    halves = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
    pixels = [[light if halves[each][half] else 255 - light for each in line] for line in drawn for half in (0, 1)]
    picture = numpy.kron(numpy.array(pixels, dtype=numpy.uint8), numpy.ones((6, 6), dtype=numpy.uint8))
    (found,) = zxing.read_barcodes(picture)
    assert summarize(full, NOW).tasks[0] == decode(found.text).tasks[0]
    assert tasks == len(decode(found.text).tasks) + decode(found.text).tasks_left_out


def test_ascii_terminal_gets_groups_instead_of_a_qr_code() -> None:
    """With LANG=C, `--qr` prints the groups in ASCII and the command that prints the QR code nevertheless."""
    lines = printed(lambda console: site_code.print_qr(console, site(), NOW, {"LANG": "C"}))
    assert "\n".join(lines).isascii()
    assert "LC_ALL=C.UTF-8 edge-agent status --qr" in " ".join(lines)
    assert any(line.startswith("State of shop-12") for line in lines)
