"""docs/performance.svg: how the engine compares, bar by bar and model by model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_INK, _GREY, _LIMIT = "#222222", "#8a8a8a", "#c53030"
_COLOURS = ("#2b6cb0", "#2f855a", "#dd6b20", "#6b46c1", "#b83280")
_TICKS = (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5)
_TITLES = {
    "higher": "Throughput: ours / llama-server, to the right is better",
    "lower": "Waiting: ours / llama-server, to the left is better",
}
_ROW_INCHES = 0.62
_DASHED: dict[str, Any] = {"color": _LIMIT, "linewidth": 1.4, "linestyle": (0, (3, 2))}

Row = dict[str, Any]


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw the comparison with llama-server."""
    beside = [row for row in rows if row["than"] == "llama-server"]
    panels = [found for better in _TITLES if (found := [row for row in beside if row["better"] == better])]
    with mpl.rc_context({"svg.hashsalt": "edge-agent", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = _figure(panels, list(dict.fromkeys(row["model"] for row in beside)))
        # Without a date in it, the same numbers give the same file.
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _figure(panels: Sequence[Sequence[Row]], models: Sequence[str]) -> Figure:
    heights = [len({row["bar"] for row in found}) for found in panels]
    figure = Figure(figsize=(10, 1.6 + _ROW_INCHES * (sum(heights) + len(heights))), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_facecolor("white")
    axes = figure.subplots(len(panels), 1, height_ratios=[height + 0.8 for height in heights], squeeze=False)
    for found, each in zip(panels, axes.flat, strict=True):
        _panel(each, found, models)
        each.set_title(_TITLES[found[0]["better"]], fontsize=11, loc="left", color=_INK)
    figure.legend(handles=_legend(models), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _panel(axes: Axes, rows: Sequence[Row], models: Sequence[str]) -> None:
    bars = list(dict.fromkeys(row["bar"] for row in rows))
    for row in rows:
        y = -bars.index(row["bar"]) - 0.2 * (models.index(row["model"]) - (len(models) - 1) / 2)
        colour = _COLOURS[models.index(row["model"]) % len(_COLOURS)]
        axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="round", alpha=0.55)
        axes.plot(row["value"], y, "o", color=colour, markersize=5.5)
        at = axes.get_yaxis_transform()  # beside the panel, where nothing is drawn
        axes.text(1.01, y, f"{row['value']:.2f}", color=colour, fontsize=8, va="center", transform=at)
    _limits(axes, {row["bar"]: row["limit"] for row in rows}, bars)
    axes.axvline(1, color=_GREY, linewidth=1)
    axes.set_yticks([-place for place in range(len(bars))], bars, fontsize=9)
    axes.set(xscale="log", ylim=(-len(bars) + 0.45, 0.55), xlim=_span(rows))
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=_INK, left=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _limits(axes: Axes, limits: dict[str, float | None], bars: Sequence[str]) -> None:
    for bar, limit in limits.items():
        if limit is not None:
            y = -bars.index(bar)
            axes.plot([limit, limit], [y - 0.38, y + 0.38], **_DASHED)


def _legend(models: Sequence[str]) -> list[Line2D]:
    dots = [
        Line2D([], [], color=_COLOURS[place % len(_COLOURS)], marker="o", markersize=5.5, linewidth=2.2, label=model)
        for place, model in enumerate(models)
    ]
    return [*dots, Line2D([], [], label="what it must reach", **_DASHED)]


def _span(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the bounds of the axis: all that is drawn, with some room around it."""
    drawn = [row[end] for row in rows for end in ("low", "high", "limit") if row[end]] + [1.0]
    low, high = math.log(min(drawn)), math.log(max(drawn))
    margin = 0.08 * max(high - low, 0.3)
    return math.exp(low - margin), math.exp(high + margin)
