"""The table of `edge-agent decide` in a narrow terminal."""

from __future__ import annotations

import io

from rich.cells import cell_len
from rich.console import Console

from edge_agent.cli.batch_inference import decision_table
from edge_agent.client import BundleRef, Decision, DecisionAnswer, Timings

COLUMNS = 80


def answer(
    question: str, *options: tuple[str, float], score: float | None = None, reason: str = "NOT_CALIBRATED"
) -> DecisionAnswer:
    return DecisionAnswer(
        prediction_id="p",
        bundle=BundleRef("desk", "1.0.0", "ab" * 32),
        route="LOCAL",
        device="",
        degraded=(),
        input_tokens=1,
        output_tokens=0,
        timings=Timings(0, 0, 0),
        question=question,
        type="SCORE" if score is not None else "CHOICE",
        label=options[0][0],
        probabilities=options,
        score=score,
        confidence=options[0][1],
        threshold=None,
        below_threshold=True,
        no_threshold_reason=reason,
        calibrated=False,
        confident=False,
        label_mass=1.0,
    )


def lines(*answers: DecisionAnswer) -> list[str]:
    console = Console(file=io.StringIO(), width=COLUMNS, color_system=None)
    console.print(decision_table(Decision(answers)))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_each_option_is_shown_next_to_its_probability_bar() -> None:
    """The table shows each option next to its bar. A long label is cut there and printed in full in the first column;
    no line is wider than the terminal, also with wide characters."""
    long, mood = "wants to speak with the manager of the shop now", "🙂 zufrieden"
    shown = lines(
        answer("what-the-customer-wants-from-the-shop", (long, 0.6), ("exchange", 0.3), ("other", 0.1)),
        answer("mood", (mood, 0.5), ("😡 日本語の怒り", 0.4), ("😐", 0.1), score=0.6),
    )
    bars = [line[line.index(" 0.") + 1 :] for line in shown if "█" in line]
    assert ["0.60 ██████     wants to speak …  not calibrated", "0.30 ███        exchange"] == bars[:2]
    assert "0.50 █████      🙂 zufrieden      not calibrated" == bars[3]
    assert "0.40 ████       😡 日本語の怒り" == bars[4]
    assert COLUMNS >= max(map(cell_len, shown))
    assert "what-the-customer-wants-from-the-shop" in shown
    assert long in " ".join(line[2:32].strip() for line in shown)


def test_escape_sequences_in_labels_are_not_printed() -> None:
    """The table removes terminal escape sequences from a bundle's labels."""
    assert not any("\x1b" in line for line in lines(answer("colour", ("\x1b[31mred", 1.0))))


def test_calibration_without_threshold_is_not_called_uncalibrated() -> None:
    """A question whose calibration proved no threshold is shown as "calibrated, no threshold", because its
    probabilities are calibrated."""
    shown = " ".join(" ".join(line.split()) for line in lines(answer("q", ("a", 1.0), reason="NONE_PROVED")))
    assert "not calibrated" not in shown
    assert "calibrated, no threshold" in shown
