"""docs/rollouts.png: the progress of a rollout, the spread of a bad bundle, and the traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from benchmarks.fleet.simulation import Outcome, RolloutWaves
from benchmarks.fleet.sites import DAY

_INK, _GREY, _BLUE, _ORANGE, _GREEN, _RED = "#222222", "#9a9a9a", "#2b6cb0", "#dd6b20", "#2f855a", "#c53030"
_DPI = 150


@dataclass(frozen=True)
class RolloutPictureData:
    """What is drawn."""

    spread: Mapping[str, tuple[RolloutWaves, Outcome]]
    """By name: rollouts of a good bundle."""
    bad: Sequence[tuple[str, str, Outcome]]
    """Kind of harm, what was done about it, what came of it."""
    reactions: Mapping[str, Sequence[tuple[float, int]]]
    """By name of waves: hours until the halt, and sites reached."""
    traffic: Mapping[str, Sequence[float]]
    """By name: bytes per site on each day."""


def draw(path: Path, shown: RolloutPictureData) -> None:
    """Write the picture."""
    figure = Figure(figsize=(13, 9.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15, wspace=0.02, hspace=0.04)  # type: ignore[union-attr, call-arg]
    spread, bad, reactions, traffic = figure.subplots(2, 2).flat
    _spread(spread, shown)
    _bad(bad, shown)
    _reactions(reactions, shown)
    _traffic(traffic, shown)
    for axes in (spread, bad, reactions, traffic):
        _frame(axes)
    # Without the version of matplotlib in the file, the same numbers give the same bytes.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _spread(axes: Axes, shown: RolloutPictureData) -> None:
    for (name, (waves, outcome)), colour in zip(shown.spread.items(), (_BLUE, _GREEN, _ORANGE), strict=True):
        days = [at / DAY for at in outcome.switched]
        shares = [(number + 1) / outcome.sites for number in range(len(days))]
        axes.step([0, *days, 14], [0, *shares, shares[-1]], where="post", color=colour, linewidth=1.8, label=name)
        steps = [*waves.steps, (14, waves.steps[-1][1])]
        axes.step(
            [day for day, _ in steps],
            [share / 100 for _, share in steps],
            where="post",
            color=_GREY,
            linewidth=0.9,
            linestyle=":",
        )
    axes.set(xlim=(0, 14), ylim=(0, 1.02), xlabel="days since the plan was published", ylabel="sites that switched")
    axes.set_title("A good bundle spreads (dotted: what the waves allow)", fontsize=11, loc="left")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(loc="lower right", fontsize=9, frameon=False)


def _bad(axes: Axes, shown: RolloutPictureData) -> None:
    ticks, y, seen = {}, 0.0, ""
    for harm, done, outcome in shown.bad:
        if harm != seen:
            axes.text(11, y - 0.85, harm, fontsize=9, fontweight="bold", color=_INK, va="center")
            y, seen = y - 1.6, harm
        sites, hours = len(outcome.harmed), outcome.bad_seconds / 3600
        axes.barh(y, sites, height=0.62, color=_RED if "at once" in done else _ORANGE if "nobody" in done else _GREEN)
        text = f"{sites:,} sites, {hours:,.0f} h"
        axes.annotate(text, (sites, y), (5, 0), textcoords="offset points", va="center", fontsize=9)
        ticks[y] = done
        y -= 1
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set(xscale="log", xlim=(10, 300_000), ylim=(y, -0.3), xlabel="sites that answered with it")
    axes.xaxis.set_major_locator(FixedLocator([10, 100, 1000, 10_000]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_title("A bad bundle: sites that answer with it, for how many hours in all", fontsize=11, loc="left")


def _reactions(axes: Axes, shown: RolloutPictureData) -> None:
    for (name, points), colour in zip(shown.reactions.items(), (_BLUE, _ORANGE), strict=True):
        hours, sites = zip(*points, strict=True)
        axes.plot(hours, sites, color=colour, marker="o", markersize=4, linewidth=1.8, label=f"waves over {name}")
    axes.set(yscale="log", ylim=(50, 13_000), xlabel="hours from the first recommendation to the halt")
    axes.set_ylabel("sites that answered with it")
    axes.xaxis.set_major_locator(FixedLocator([0, 6, 12, 24, 36, 48]))
    axes.yaxis.set_major_locator(FixedLocator([100, 1000, 10_000]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_title("What it costs to think it over: errors that probation sees", fontsize=11, loc="left")
    axes.legend(loc="lower right", fontsize=9, frameon=False)


def _traffic(axes: Axes, shown: RolloutPictureData) -> None:
    for (name, values), colour in zip(shown.traffic.items(), (_ORANGE, _BLUE, _GREY), strict=True):
        axes.step([*range(len(values)), len(values)], [*values, values[-1]], where="post", color=colour, label=name)
    axes.set(
        xlim=(0, 14),
        ylim=(1e5, 1e8),
        yscale="log",
        xlabel="days since the plan was published",
        ylabel="bytes per site and day",
    )
    axes.yaxis.set_major_formatter(FuncFormatter(_bytes))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("What a site moves", fontsize=11, loc="left")
    axes.legend(loc="upper right", fontsize=9, frameon=False)


def _bytes(value: float, _: object) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"


def _frame(axes: Axes) -> None:
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9, colors=_INK)
