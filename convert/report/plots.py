"""The plots of a report: reliability before and after the temperature, risk over coverage, the candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy import stats

from convert.report.made import Made, column, percent, size

_INK, _GREY, _BLUE, _ORANGE, _GREEN = "#222222", "#9a9a9a", "#2b6cb0", "#dd6b20", "#2f855a"
_DPI = 150


def write(folder: Path, made: Made) -> list[str]:
    """Draw what the stages reported enough for; return the names of the files."""
    drawn = []
    for name, draw in PLOTS.items():
        figure = draw(made)
        if figure is not None:
            FigureCanvasAgg(figure)
            # Without the version of the library in it, the same numbers give the same file.
            figure.savefig(folder / name, dpi=_DPI, metadata={"Software": None})
            drawn.append(name)
    return drawn


def reliability(made: Made) -> Figure | None:
    """Draw the share of right answers over the confidence, before and after the temperature."""
    found = made.report("calibrate").get("reliability")
    if not found or not found["before"]["bins"]:
        return None
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    figure.suptitle("Does the confidence say how often the answer is right?", color=_INK, fontsize=12)
    left, right = figure.subplots(1, 2, sharey=True)
    _reliability(left, "as the model says it", found["before"])
    _reliability(right, f"divided by temperature {made.report('calibrate')['temperature']:.2f}", found["after"])
    left.set_ylabel("right answers")
    return figure


def _reliability(axes: Axes, title: str, measured: Mapping[str, Any]) -> None:
    bins = measured["bins"]
    confidence, right = np.array(column(bins, "confidence")), np.array(column(bins, "right"))
    rows = np.array(column(bins, "rows"))
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="what it should be")
    axes.vlines(confidence, confidence, right, color=_ORANGE, linewidth=2, zorder=2)
    area = 30 + 250 * rows / rows.max()
    label = "answers of one tenth of confidence"
    axes.scatter(confidence, right, s=area, color=_BLUE, edgecolors="white", zorder=3, label=label)
    below = (right < confidence) | (right > 0.9)
    for x, y, count, down in zip(confidence, right, rows, below, strict=True):
        _note(axes, f"{count:.0f}", (x, y), (0, (11, -19)[int(down)]))
    axes.set_title(f"{title}\nmean gap {percent(measured['calibration_error'])}", fontsize=10, color=_INK)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.06), xlabel="confidence")
    _shares(axes)
    axes.legend(loc="upper left", fontsize=8, frameon=False, markerscale=0.5)


def risk_coverage(made: Made) -> Figure | None:
    """Draw the share of wrong answers among the sure ones over how many are sure, beside the most that passes the test.

    What was tested stands out, in green where it passed and in orange where it failed; the rest is grey.
    """
    found = made.report("calibrate")
    if not found.get("walk"):
        return None
    rows, errors = np.array(column(found["walk"], "rows")), np.array(column(found["walk"], "errors"))
    coverage, risk = rows / found["rows"]["threshold"], errors / rows
    target = found["target_risk"]
    most = stats.binom.ppf(found["delta"], rows, target)
    most -= stats.binom.cdf(most, rows, target) > found["delta"]
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(coverage, risk, color=_GREY, linewidth=1.5, zorder=2)
    able = most >= 0
    label = f"most that passes, to keep {percent(target, 0)} with {percent(1 - found['delta'], 0)} certainty"
    axes.plot(coverage[able], most[able] / rows[able], color=_BLUE, linewidth=1.5, drawstyle="steps-mid", label=label)
    axes.axhline(target, color=_ORANGE, linewidth=1.2, linestyle="--", label=f"target, {percent(target, 0)}")
    verdicts = np.array(column(found["walk"], "verdict"))
    for verdict, colour, words in (("passed", _GREEN, "tested and passed"), ("failed", _ORANGE, "tested and failed")):
        here = verdicts == verdict
        if here.any():
            axes.scatter(coverage[here], risk[here], color=colour, s=22, zorder=3, label=words)
    top = min(1.0, 1.25 * max(target, risk[coverage > 0.05].max(initial=0)))
    axes.set(
        xlim=(0, 1.02), ylim=(-0.02 * top, top), xlabel="answers that are sure", ylabel="wrong among them, as seen"
    )
    _mark_threshold(axes, found, top)
    _shares(axes)
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    return figure


def _mark_threshold(axes: Axes, found: Mapping[str, Any], top: float) -> None:
    step = next((each for each in found["walk"] if each["threshold"] == found["threshold"]), None)
    if step is None:
        axes.set_title("No threshold keeps the promise: always escalate", fontsize=12, color=_INK)
        return
    axes.set_title("What the threshold buys", fontsize=12, color=_INK)
    x, y = found["coverage"], step["errors"] / step["rows"]
    axes.axvline(x, color=_GREEN, linewidth=1)
    axes.scatter([x], [y], color=_GREEN, s=60, zorder=3)
    said = f"threshold {found['threshold']:.2f}\n{percent(x)} sure\n{percent(y)} of them wrong"
    offset, side = ((8, -8), "left") if x < 0.7 else ((-8, -8), "right")
    place: dict[str, Any] = {"textcoords": "offset points", "ha": side, "va": "top"}
    axes.annotate(said, (x, top), offset, color=_GREEN, fontsize=9, **place)


def candidates(made: Made) -> Figure | None:
    """Draw agreement with the full-precision model over latency, with the size of the file as the circle's."""
    found = made.report("quantize").get("candidates")
    if not found or "agreement" not in found[0]:
        return None
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    most = max(column(found, "size_bytes"))
    for each in found:
        _candidate(axes, each, most, _colour(each, made))
    least = made.recipe.budget.agreement_min
    axes.axhline(least, color=_ORANGE, linewidth=1.2, linestyle="--", label=f"budget, {percent(least, 0)}")
    low = min(least, *column(column(found, "agreement"), "low"))
    slowest = max(column(column(found, "latency_ms"), "p50"))
    axes.set(xlim=(0, 1.3 * slowest), ylim=(low - 0.15 * (1.02 - low), 1 + 0.1 * (1.02 - low)))
    axes.set(xlabel="median time of an answer, ms", ylabel="same answer as at full precision")
    axes.set_title("Fast, small and faithful: the candidates (green: chosen; grey: outside the budget)", fontsize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    _frame(axes)
    axes.legend(loc="lower right", fontsize=9, frameon=False)
    return figure


def _candidate(axes: Axes, each: Mapping[str, Any], most: int, colour: str) -> None:
    agreement = each["agreement"]
    x, y, area = each["latency_ms"]["p50"], agreement["value"], 60 + 900 * each["size_bytes"] / most
    axes.vlines([x], [agreement["low"]], [agreement["high"]], color=colour, linewidth=1)
    axes.scatter([x], [y], s=area, color=colour, alpha=0.75, edgecolors="white")
    radius = area**0.5 / 2  # in points, as offsets are
    _note(axes, f"{each['name']}\n{size(each['size_bytes'])}", (x, y), (radius + 6, -4), ha="left")


def _colour(each: Mapping[str, Any], made: Made) -> str:
    if each["name"] == made.report("quantize").get("chosen"):
        return _GREEN
    return _BLUE if each.get("inside_budget") else _GREY


PLOTS: dict[str, Callable[[Made], Figure | None]] = {
    "reliability.png": reliability,
    "risk-coverage.png": risk_coverage,
    "candidates.png": candidates,
}


def _shares(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)


def _note(axes: Axes, said: str, at: tuple[float, float], offset: tuple[float, float], ha: str = "center") -> None:
    axes.annotate(said, at, offset, textcoords="offset points", ha=ha, fontsize=8, color=_INK)
