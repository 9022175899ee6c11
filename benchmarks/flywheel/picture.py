"""docs/flywheel.png: share, accuracy and cost of local and large-model answers, from the first call."""

from __future__ import annotations

import itertools
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.flywheel.figures import BLOCK_CALLS, Block, Figures

_INK, _BLUE, _ORANGE, _GREEN = "#222222", "#2b6cb0", "#dd6b20", "#2f855a"
_SHADES = {"bootstrap": "#fdf3e7", "shadow": "#eef2f7", "hybrid": "#eaf5ee"}
_SMOOTHED_BLOCKS = 3
_DPI = 150


def draw(path: Path, figures: Figures) -> None:
    """Write the picture."""
    figure = Figure(figsize=(11, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    local, right, cost = figure.subplots(3, 1, sharex=True)
    ends = list(itertools.accumulate(block.calls for block in figures.blocks))
    _local(local, figures, ends)
    _right(right, figures, ends)
    _cost(cost, figures, ends)
    for axes in (local, right, cost):
        _frame(axes, figures.blocks, ends)
    _name_modes(local, figures, ends)
    # Without the version of matplotlib in the file, the same numbers give the same bytes.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None} if path.suffix == ".png" else None)


def _local(axes: Axes, figures: Figures, ends: list[int]) -> None:
    shares = [block.local_share for block in figures.blocks]
    axes.fill_between([0, *ends], [shares[0], *shares], step="pre", color=_GREEN, alpha=0.25, linewidth=0)
    axes.step([0, *ends], [shares[0], *shares], where="pre", color=_GREEN, linewidth=1.8)
    axes.set(ylim=(0, 1.02), ylabel="answered here")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    share = figures.modes["hybrid"].local_share
    axes.annotate(
        f"{share:.0%}",
        (ends[-1], share),
        (6, 0),
        textcoords="offset points",
        color=_GREEN,
        fontweight="bold",
        va="center",
        annotation_clip=False,
    )


def _right(axes: Axes, figures: Figures, ends: list[int]) -> None:
    for name, colour, style in (("accuracy", _BLUE, "-"), ("large_accuracy", _ORANGE, "--")):
        values = [float(getattr(block, name)) for block in figures.blocks]
        label = "what callers got" if name == "accuracy" else "the large model alone"
        axes.plot(ends, _smooth(values), color=colour, linestyle=style, linewidth=1.8, label=label)
    axes.set(ylim=(0.85, 1.0), ylabel=f"right answers\n(mean of {_SMOOTHED_BLOCKS * BLOCK_CALLS} calls)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(loc="lower left", fontsize=9, frameon=False, ncols=2)


def _cost(axes: Axes, figures: Figures, ends: list[int]) -> None:
    spent = [0.0, *itertools.accumulate(block.cost for block in figures.blocks)]
    first = figures.modes["bootstrap"]
    alone = [first.cost / first.calls * calls for calls in (0, ends[-1])]
    axes.plot([0, *ends], spent, color=_BLUE, linewidth=1.8, label="spent")
    axes.plot(
        [0, ends[-1]], alone, color=_ORANGE, linestyle="--", linewidth=1.4, label="the large model for every call"
    )
    axes.set(ylim=(0, None), xlim=(0, ends[-1]), ylabel="cost so far", xlabel="calls since the site began")
    axes.legend(loc="upper left", fontsize=9, frameon=False)
    for mode, begin, end in spans(figures.blocks, ends):
        found = figures.modes[mode]
        said = f"{1000 * found.cost / found.calls:.2f} for\n1,000 calls"
        axes.text(
            (begin + end) / 2, 0.06, said, ha="center", fontsize=9, color=_INK, transform=axes.get_xaxis_transform()
        )


def _smooth(values: list[float]) -> list[float]:
    windows = [values[max(0, at - _SMOOTHED_BLOCKS + 1) : at + 1] for at in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def spans(blocks: list[Block], ends: list[int]) -> list[tuple[str, int, int]]:
    """Return each mode with the calls at which it begins and ends."""
    found, begin = [], 0
    for mode, group in itertools.groupby(zip(blocks, ends, strict=True), lambda pair: pair[0].mode):
        end = list(group)[-1][1]
        found.append((mode, begin, end))
        begin = end
    return found


def _frame(axes: Axes, blocks: list[Block], ends: list[int]) -> None:
    for mode, begin, end in spans(blocks, ends):
        axes.axvspan(begin, end, color=_SHADES[mode], zorder=0, linewidth=0)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _name_modes(axes: Axes, figures: Figures, ends: list[int]) -> None:
    """Write over each mode its name, and within it what happened there."""
    shadow = figures.modes["shadow"]
    happened = {
        "bootstrap": f"the large model answers,\nan expert reviews {figures.modes['bootstrap'].calls:,} answers",
        "shadow": f"both answer and\nagree in {shadow.agreed / shadow.calls:.0%}",
        "hybrid": f"what is answered here\nis right in {1 - figures.modes['hybrid'].local_wrong_share:.1%}",
    }
    for mode, begin, end in spans(figures.blocks, ends):
        middle = (begin + end) / 2
        axes.text(middle, 1.05, mode, ha="center", fontsize=11, fontweight="bold", color=_INK)
        axes.text(middle, 0.5, happened[mode], ha="center", va="center", fontsize=9, color=_INK)
