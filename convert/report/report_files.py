"""Writes report.json, report.md and its plots: reliability, risk against coverage, and the quantized candidates.

Every figure comes from the records of the stages; nothing is measured here. A section is left out if its stage did not
run or did not report its figures.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox
from scipy import stats

from convert.report import markdown
from convert.report.run_summary import JSON_NAME, TEXT_NAME, RunSummary, column, exact_percent, percent
from edge_agent.formatting import format_bytes

_INK, _GREY, _BLUE, _ORANGE, _GREEN = "#222222", "#9a9a9a", "#2b6cb0", "#dd6b20", "#2f855a"
_DPI = 150
_POINTS = "points"
"""Label of the points of the reliability plot until their number is known."""
CANDIDATES_NAME = "candidates.png"

Floats = npt.NDArray[np.float64]


def write_report(folder: Path, run: RunSummary) -> Path:
    """Write report.json, report.md and its plots into a folder; return the path of report.md. Raises OSError."""
    (folder / TEXT_NAME).write_text(markdown.markdown(run, draw_plots(folder, run)), encoding="utf-8")
    (folder / JSON_NAME).write_text(_json(run), encoding="utf-8")
    return folder / TEXT_NAME


def _json(run: RunSummary) -> str:
    plain: Mapping[str, Any] = {
        "task": run.task,
        "version": run.version,
        "recipe": run.recipe.model_dump(mode="json"),
        "data": asdict(run.data),
        "stages": {record.stage: asdict(record) for record in run.records},
        "seconds": round(run.seconds, 3),
        "memory_peak_bytes": run.memory_peak_bytes,
    }
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def draw_plots(folder: Path, run: RunSummary) -> list[str]:
    """Draw the plots whose figures the stages reported; return the names of the files."""
    names = []
    for plot, draw in PLOTS.items():
        # Plots of confidence come once for each question.
        for question in (run.questions if plot != CANDIDATES_NAME else []) or [""]:
            figure = draw(replace(run, question=question))
            if figure is not None:
                names.append(markdown.plot_of(plot, question))
                FigureCanvasAgg(figure)
                # Without the version of matplotlib in the file, the same numbers give the same bytes.
                figure.savefig(folder / names[-1], dpi=_DPI, metadata={"Software": None})
    return names


def reliability(run: RunSummary) -> Figure | None:
    """Draw the share of right answers against the confidence, before and after the temperature."""
    measured = run.report("calibrate").get("reliability")
    if not measured or not measured["before"]["bins"]:
        return None
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    question = "Is the confidence the probability of a right answer?"
    figure.suptitle(_question_title(run, question), color=_INK, fontsize=12)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_reliability(left, "without temperature", measured["before"])
    temperature = run.report("calibrate")["temperature"]
    message = "as served: no temperature was kept" if temperature == 1 else f"divided by temperature {temperature:.2f}"
    _draw_reliability(right, message, measured["after"])
    left.set_ylabel("right answers")
    # The counts are here and not at the points, because the bins have about the same number of rows.
    rows = [each["rows"] for when in ("before", "after") for each in measured[when]["bins"]]
    counts = f"{min(rows)}" if min(rows) == max(rows) else f"{min(rows)} to {max(rows)}"
    _legend_below(figure, right, columns=3, points=f"{counts} answers of similar confidence")
    return figure


def _question_title(run: RunSummary, title: str) -> str:
    """Return a title with the question that a plot is about, where there are several."""
    return f"{run.question}: {title}" if run.question else title


def _draw_reliability(axes: Axes, title: str, measured: Mapping[str, Any]) -> None:
    bins = measured["bins"]
    confidence = np.array(column(bins, "confidence"))
    right = np.array([[each["right"][key] for key in ("low", "value", "high")] for each in bins])
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfect calibration")
    axes.vlines(confidence, right[:, 0], right[:, 2], color=_ORANGE, linewidth=1.5, zorder=2, label="95% interval")
    axes.scatter(confidence, right[:, 1], s=36, color=_BLUE, zorder=3, label=_POINTS)
    error = measured["calibration_error"]
    message = f"calibration error {percent(error['value'])} ({percent(error['low'])} to {percent(error['high'])})"
    axes.set_title(f"{title}\n{message}", fontsize=10, color=_INK)
    note = textwrap.wrap(measured.get("note", ""), 60)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.06), xlabel="\n".join(["confidence", *note]))
    _format_shares(axes)


def _legend_below(figure: Figure, axes: Axes, columns: int = 1, points: str = "") -> None:
    """Put the legend of some axes below all axes; `points` describes the points."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [points if label == _POINTS else label for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def risk_coverage(run: RunSummary) -> Figure | None:
    """Draw the share of wrong answers among the confident ones against coverage, with the tested thresholds.

    Tests run from left to right. Tested thresholds are marked, with the largest share that passes at each. Thresholds
    after the first failed one were not tested, and are grey.
    """
    calibrate = run.report("calibrate")
    if not calibrate.get("walk"):
        return None
    rows, errors = np.array(column(calibrate["walk"], "rows")), np.array(column(calibrate["walk"], "errors"))
    coverage, risk = rows / calibrate["rows"]["threshold"], errors / rows
    target, verdicts = calibrate["target_risk"], np.array(column(calibrate["walk"], "verdict"))
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots()
    tested = np.isin(verdicts, ("passed", "failed"))
    axes.plot(coverage, risk, color=_GREY, linewidth=1, zorder=1, label="observed; grey: not tested")
    axes.axhline(target, color=_ORANGE, linewidth=1.2, linestyle="--", label=f"target, {exact_percent(target)}")
    if tested.any():
        _draw_tested_thresholds(axes, calibrate, coverage, risk)
    top = min(1.0, 1.25 * max(target, risk[coverage > 0.05].max(initial=0)))
    axes.set(xlim=(0, 1.02), ylim=(-0.02 * top, top), xlabel="confident answers", ylabel="wrong among the confident")
    axes.set_title(_question_title(run, _risk_coverage_title(calibrate)), fontsize=11, color=_INK)
    _format_shares(axes)
    _legend_below(figure, axes, columns=2)
    return figure


def _draw_tested_thresholds(axes: Axes, calibrate: Mapping[str, Any], coverage: Floats, risk: Floats) -> None:
    walk, target = calibrate["walk"], calibrate["target_risk"]
    verdicts, rows = np.array(column(walk, "verdict")), np.array(column(walk, "rows"))
    tested = np.flatnonzero(np.isin(verdicts, ("passed", "failed")))
    errors_max = stats.binom.ppf(calibrate["delta"], rows, target)
    errors_max -= stats.binom.cdf(errors_max, rows, target) > calibrate["delta"]
    label = f"largest share that passes: {exact_percent(target)} with {exact_percent(1 - calibrate['delta'])} certainty"
    axes.plot(coverage[tested], (errors_max / rows)[tested], color=_BLUE, linewidth=1.5, marker="_", label=label)
    first, last = walk[tested[0]], walk[tested[-1]]
    caption = f"first tested, {first['threshold']:g}"
    axes.scatter(
        coverage[tested[:1]], risk[tested[:1]], s=120, facecolors="none", edgecolors=_INK, zorder=2, label=caption
    )
    for verdict, colour, caption in (
        ("passed", _GREEN, "tested from left to right, passed"),
        ("failed", _ORANGE, f"failed, {last['threshold']:g}: the test ends"),
    ):
        points = verdicts == verdict
        if points.any():
            axes.scatter(coverage[points], risk[points], color=colour, s=22, zorder=3, label=caption)
    if calibrate["threshold"] is not None:
        axes.axvline(calibrate["coverage"], color=_GREEN, linewidth=1, label=f"threshold, {calibrate['threshold']:g}")


def _risk_coverage_title(calibrate: Mapping[str, Any]) -> str:
    step = next((each for each in calibrate["walk"] if each["threshold"] == calibrate["threshold"]), None)
    if step is None:
        return "No threshold reaches the target risk: every answer escalates"
    wrong = percent(step["errors"] / step["rows"])
    confident = f"From {calibrate['threshold']:g} on {percent(calibrate['coverage'])} are confident"
    return f"{confident}; {wrong} of these were wrong"


def candidates(run: RunSummary) -> Figure | None:
    """Draw agreement with the full-precision model against latency; the area of a circle is the size of the file."""
    measured = run.report("quantize").get("candidates")
    if not measured or "agreement" not in measured[0]:
        return None
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    largest = max(column(measured, "size_bytes"))
    for candidate in measured:
        agreement, colour = candidate["agreement"], _colour(candidate, run)
        x, y, area = candidate["latency_ms"]["p50"], agreement["value"], (2 * _radius(candidate, largest)) ** 2
        axes.vlines([x], [agreement["low"]], [agreement["high"]], color=colour, linewidth=1)
        axes.scatter([x], [y], s=area, color=colour, alpha=0.75, edgecolors="white")
    least = run.recipe.budget.agreement_min
    axes.axhline(least, color=_ORANGE, linewidth=1.2, linestyle="--", label=f"budget, {exact_percent(least)}")
    low = min(least, *column(column(measured, "agreement"), "low"))
    slowest = max(column(column(measured, "latency_ms"), "p50"))
    axes.set(xlim=(0, 1.3 * slowest), ylim=(low - 0.15 * (1.02 - low), 1 + 0.1 * (1.02 - low)))
    axes.set(xlabel="median time of an answer, ms", ylabel="same answer as at full precision")
    axes.set_title("Candidates: speed, size and agreement (green: chosen; grey: outside the budget)", fontsize=11)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    _draw_frame(axes)
    _legend_below(figure, axes)
    _label_candidates(figure, axes, measured)
    return figure


def _label_candidates(figure: Figure, axes: Axes, candidates: Sequence[Mapping[str, Any]]) -> None:
    """Write name and size next to each circle, at the first place without another text or circle."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    largest = max(column(candidates, "size_bytes"))
    occupied: list[Bbox] = []
    for candidate in candidates:
        x, y = axes.transData.transform((candidate["latency_ms"]["p50"], candidate["agreement"]["value"]))
        radius = _radius(candidate, largest) * figure.dpi / 72
        occupied.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    for candidate in candidates:
        point = (candidate["latency_ms"]["p50"], candidate["agreement"]["value"])
        caption = f"{candidate['name']}\n{format_bytes(candidate['size_bytes'])}"
        radius = _radius(candidate, largest) + 6
        notes = []
        for distance in range(6):
            for across, up in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1)):
                offset = (across * radius, up * (radius + 8) * (1 + distance))
                side = {1: "left", 0: "center", -1: "right"}[across]
                notes.append((offset, side))
        for offset, side in notes:
            note = axes.annotate(
                caption, point, offset, textcoords="offset points", ha=side, va="center", fontsize=8, color=_INK
            )
            box = note.get_window_extent()
            if axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max) and not box.count_overlaps(occupied):
                break
            note.remove()
        occupied.append(box)


def _radius(candidate: Mapping[str, Any], largest: int) -> float:
    """Return the radius of a candidate's circle, in points."""
    return float((60 + 900 * candidate["size_bytes"] / largest) ** 0.5 / 2)


def _colour(candidate: Mapping[str, Any], run: RunSummary) -> str:
    if candidate["name"] == run.report("quantize").get("chosen"):
        return _GREEN
    return _BLUE if candidate.get("inside_budget") else _GREY


PLOTS: dict[str, Callable[[RunSummary], Figure | None]] = {
    "reliability.png": reliability,
    "risk-coverage.png": risk_coverage,
    CANDIDATES_NAME: candidates,
}


def _format_shares(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    _draw_frame(axes)


def _draw_frame(axes: Axes) -> None:
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
