"""A benchmark's exit code: 0 only if it measured something and every bar is met."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bars import Bar, printed, quotient

ROOT = Path(__file__).parents[3]
MET, MISSED = Bar("met", 1.0, 1.0, "lower"), Bar("missed", 1.0, 2.0, "higher")
BENCHMARK = """
import signal, sys
from benchmarks.bars import Bar, main, option, run_sections
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
def started():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        print("stopped the daemon", file=sys.stderr)
SECTIONS = {"first": lambda: [Bar("first", 1, 1, "higher")], "second": lambda: SECOND}
sys.exit(main(lambda: run_sections(SECTIONS)))
"""


def ended(second: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark of two sections as a process until it ends."""
    command = [sys.executable, "-c", BENCHMARK.replace("SECOND", second), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("bars", "code"),
    [
        pytest.param([MET], 0, id="met"),
        pytest.param([Bar("reported", math.nan, None, "lower")], 0, id="reported"),
        pytest.param([MET, MISSED, MET], 1, id="one of several missed"),
        pytest.param([MET, Bar("nothing", math.nan, 1.0, "lower")], 1, id="not a number"),
        pytest.param([MET, Bar("nothing", math.nan, 1.0, "higher")], 1, id="not a number, higher"),
        pytest.param([MET, Bar("no limit", 1.0, math.nan, "lower")], 1, id="a limit that is not a number"),
        pytest.param([MET, Bar("never", math.inf, 1.0, "lower")], 1, id="infinite"),
        pytest.param([MET, Bar("by nothing", math.inf, 1.0, "higher")], 1, id="infinite, higher"),
        pytest.param([], 1, id="nothing measured"),
    ],
)
def test_benchmark_succeeds_only_if_it_has_bars_and_all_are_met(
    capsys: pytest.CaptureFixture[str], bars: list[Bar], code: int
) -> None:
    """A benchmark fails if it has no bars, or if a figure or its limit is not finite; it prints each bar as standard
    JSON."""
    assert code == printed(lambda: bars, as_json=True)
    out, err = capsys.readouterr()
    found = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [bar.bar for bar in bars] == [row["bar"] for row in found]
    assert [bar.value if math.isfinite(bar.value) else None for bar in bars] == [row["value"] for row in found]
    assert bool(bars) != ("Nothing was measured" in err)


def test_interrupted_benchmark_keeps_the_bars_printed_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends a benchmark with exit code 130 and the message `stopped`; the bars measured until then are
    printed."""

    def stopped() -> Iterator[Bar]:
        yield MET
        raise KeyboardInterrupt

    assert 130 == printed(stopped, as_json=False)
    out, err = capsys.readouterr()
    assert (1, "stopped\n") == (len(out.splitlines()), err)


@pytest.mark.parametrize(
    ("second", "arguments", "code", "shown"),
    [
        pytest.param('[Bar("second", 1, 1, "higher")]', (), 0, 2, id="all met"),
        pytest.param('[Bar("second", 0, 1, "higher")]', (), 1, 2, id="missed"),
        pytest.param('[Bar("second", 0, 1, "higher")]', ("--only", "first"), 0, 1, id="the missed one not asked for"),
        pytest.param("1 / 0", (), 1, 1, id="a section dies"),
        pytest.param("[]", ("--only", "second"), 1, 0, id="a section measures nothing"),
        pytest.param("[]", ("--only", "third"), 1, 0, id="no such section"),
        pytest.param("[]", ("--only",), 1, 0, id="no section named"),
        pytest.param("[]", ("--only", "--json"), 1, 0, id="an option in place of a section"),
        pytest.param("1 / 0", ("--help",), 0, 0, id="help measures nothing"),
    ],
)
def test_benchmark_process_reports_failed_and_empty_sections(
    second: str, arguments: tuple[str, ...], code: int, shown: int
) -> None:
    """A benchmark process ends with exit code 1 if a bar is missed or a section fails, measures nothing or does not
    exist; it still shows the other bars."""
    done = ended(second, *arguments)
    bars = [line for line in done.stdout.splitlines() if line.endswith((" ok", " MISSED"))]
    assert (code, shown) == (done.returncode, len(bars))


def test_sigint_ends_a_benchmark_with_exit_code_130() -> None:
    """SIGINT during a section ends the benchmark with exit code 130 and without a traceback."""
    done = ended("signal.raise_signal(signal.SIGINT)")
    assert (130, "stopped\n") == (done.returncode, done.stderr)


def test_sigterm_stops_the_daemons_of_a_benchmark() -> None:
    """SIGTERM runs the cleanup of each open block, such as stopping a daemon, and ends the benchmark with exit code
    143."""
    done = ended("started()")
    assert (143, "stopped the daemon\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [((), "7"), (("--cases", "9"), "9"), (("--json", "--cases", "-1"), "-1")],
)
def test_option_takes_the_next_argument_or_its_default(arguments: tuple[str, ...], value: str) -> None:
    """`option` returns the argument that follows the option, or the default if the option is not given."""
    done = ended('[Bar(option("--cases", "7"), 1, 1, "higher")]', *arguments)
    assert value in done.stdout


def test_quotient_with_a_non_positive_divisor_meets_no_bar() -> None:
    """A quotient is infinite if its divisor is zero or negative, so a low or negative ratio cannot meet a bar by
    mistake."""
    assert (0.5, math.inf, math.inf) == (quotient(1.0, 2.0), quotient(1.0, 0.0), quotient(1.0, -0.1))
    assert not Bar("added", quotient(1.0, -0.1), 1.35, "lower").ok
