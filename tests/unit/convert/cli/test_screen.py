"""The progress output of a run, and the text of evaluations and comparisons."""

import io
from typing import Any

import pytest
from rich.console import Console

from convert.cli import progress_output
from convert.report.comparison import comparison
from convert.report.markdown import evaluation
from edge_agent.cli.terminal import Terminal
from tests.support.report_cases import EVALUATE, share

COMPARISON: dict[str, Any] = {
    "bundles": ["pos 1.0.0 aaaa", "pos 1.1.0 bbbb"],
    "rows": 400,
    "same_answer": share(0.9, 0.03),
    "agreement": share(0.85, 0.03),
    "first": {"accuracy": share(0.8, 0.04)},
    "second": {"accuracy": share(0.86, 0.03)},
    "only_first": 8,
    "only_second": 32,
    "differences": {"accuracy": share(0.06, 0.03) | {"p_value": 0.0002, "p_adjusted": 0.0008}},
    "better": ["accuracy"],
    "worse": [],
    "latency_ms": {"first": {"p50": 20.0}, "second": {"p50": 12.5}},
}


def test_run_prints_a_line_for_each_stage_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    """Without a terminal, the output has the notes of the stages and no progress bar."""
    with progress_output.stages() as shown:
        shown.note("prepare", "runs")
        shown.progress("reading", 1, 2)
        shown.progress("reading", 2, 2)
        shown.note("prepare", "done in 0.1 s, peak memory 3 MB")
        shown.note("data", "A [bold]warning[/bold] is written as it is.")
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "prepare   runs",
        "prepare   done in 0.1 s, peak memory 3 MB",
        "data      A [bold]warning[/bold] is written as it is.",
    ]
    assert captured.err == ""


def test_progress_bar_shows_the_current_step():
    """On a terminal the bar shows the text of the current step; brackets in it are not markup."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress_output.bar(terminal) as advance:
        advance("training", 5, 10)
        advance("training", 10, 10)
        advance("measuring", 0, 0)
        advance("measuring [x]", 3, 4)
    drawn = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "measuring [x]" in drawn


def test_progress_without_a_terminal_is_one_line_per_minute():
    """Half an hour of training writes 30 lines, each with the elapsed time, the step and the count."""
    log, now = io.StringIO(), 0.0
    with progress_output.bar(Terminal(file=log), monotonic=lambda: now) as advance:
        for step in range(1, 1801):
            now = float(step)
            advance(f"training: epoch 1, loss 0.5, {1800 - step} s left [x]", step, 1800)
    lines = log.getvalue().splitlines()
    assert "1 min 00 s: training: epoch 1, loss 0.5, 1740 s left [x], 60 of 1800" == lines[0]
    assert 30 == len(lines)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "| right answers | 80.0% (76.0 to 84.0) | 86.0% (83.0 to 89.0) | 6.0% (3.0 to 9.0) | 0.0008 |"),
        ({}, "Both give the same answer on 90.0% (95% interval 87.0% to 93.0%)"),
        ({}, "Only the first is right on 8 rows, only the second on 32."),
        ({}, "The second is better in right answers; the difference is statistically significant."),
        ({}, "A median answer takes 20.0 ms from the first and 12.5 ms from the second."),
        ({"better": []}, "No difference between the two is statistically significant."),
        (
            {"better": [], "worse": ["accuracy", "coverage"]},
            "The second is worse in right answers and confident answers; the difference is statistically significant.",
        ),
        ({"latency_ms": {"first": {}, "second": {}}}, "A median answer takes nan ms"),
        ({"cosine": {"mean": 0.98}}, "The vectors of 400 rows have a mean cosine of 0.98."),
    ],
)
def test_comparison_reports_the_better_bundle_or_no_significance(changed: dict[str, Any], said: str):
    """A comparison shows both accuracies, the rows that only one bundle answers correctly, the significance and the
    latencies."""
    assert said in comparison(COMPARISON | changed)


def test_evaluation_text_has_accuracy_warnings_and_tables():
    """The text of an evaluation has the bundle's name, its accuracy, its warnings and its tables."""
    text = evaluation("pos 1.0.0", EVALUATE)
    assert text.startswith("# pos 1.0.0\n\nIt is right on 83.8%")
    assert "## Warnings\n\n- 1 test row got no answer (INPUT_TOO_LONG) and counts as wrong." in text
    assert "| refund | 44 | 95.0% (90.0 to 100.0) | 90.9% (85.9 to 95.9) | 93.0% (88.0 to 98.0) |" in text


def test_evaluation_text_has_fields_and_neighbours():
    """An evaluation shows the accuracy of each record field, and the share of nearest texts with the same label for
    vectors."""
    assert "| city | 90.0% (95% interval 80.0% to 100.0%) |" in evaluation(
        "a", {"rows": 1, "fields": {"city": share(0.9, 0.1)}}
    )
    assert "The nearest other text has the same label for 70.0%" in evaluation(
        "a", {"rows": 1, "neighbours": share(0.7, 0.1)}
    )
