"""Writes the output of scripts/bench llm --json into docs/performance.md, as tables and a chart.

What was measured on other machines, and of which the medians alone are kept, is in machines.json: a column each.

python -m benchmarks.llama.page FILE
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.llama.comparing import ALIKE
from benchmarks.llama.picture import draw

MACHINES = Path(__file__).with_name("machines.json")
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, CHART = DOCS / "performance.md", DOCS / "performance.svg"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
TOLD = ("threads", "context_cells", "kv_type", "flash_attention", "bulk_rows", "tuned", "cpu_variant")

LOAD_QUIET = 1.0
"""Beyond it somebody else computed when the measurement began."""

MEASURED = ("value", "low", "high", "ours", "theirs")

Row = dict[str, Any]


def main(measured: Path) -> None:
    """Write both."""
    rows = parse(measured.read_text(encoding="utf-8"))
    PAGE.write_text(inserted(PAGE.read_text(encoding="utf-8"), section(rows, machines())), encoding="utf-8")
    draw(CHART, ratios(rows))


def parse(lines: str) -> list[Row]:
    """Read the output of the benchmark, of one run or of several in a row: of a bar the last one counts."""
    found = {(row.get("model", ""), row["bar"]): _numbers(row) for row in map(json.loads, lines.splitlines())}
    return list(found.values())


def _numbers(row: Row) -> Row:
    """Return a row in which NaN stands for what could not be measured, which is null in JSON."""
    return {name: math.nan if each is None and name in MEASURED else each for name, each in row.items()}


def ratios(rows: Sequence[Row]) -> list[Row]:
    """Return the comparisons, but for those that `alike` has."""
    return [row for row in rows if "low" in row and not row["bar"].endswith(ALIKE)]


def alike(rows: Sequence[Row]) -> list[Row]:
    """Return the comparisons with a llama-server that has the same kernels."""
    return [{**row, "bar": row["bar"].removesuffix(ALIKE)} for row in rows if row["bar"].endswith(ALIKE)]


def inserted(page: str, text: str) -> str:
    """Return a page with another text between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + text + END + after


def machines() -> list[Row]:
    """Return the stored results of other machines."""
    kept: list[Row] = json.loads(MACHINES.read_text(encoding="utf-8"))
    return kept


def section(rows: Sequence[Row], others: Sequence[Row]) -> str:
    """Return the results of this and other machines as Markdown."""
    models = list(dict.fromkeys(row["model"] for row in ratios(rows)))
    bars = list(dict.fromkeys(row["bar"] for row in ratios(rows)))
    at = {(row["model"], row["bar"]): row for row in ratios(rows)}
    held = [_held(_first(at, models, bar), [at.get((m, bar)) for m in models], others) for bar in bars]
    sides = [[bar, _sides(at, models, bar), *(_both(at.get((m, bar))) for m in models)] for bar in bars]
    names = [f"`{model}`" for model in models]
    return "\n".join(
        [
            f"![ours / llama-server for each kind of work, with intervals and limits]({CHART.name})",
            "",
            *_machine(rows),
            "",
            "Ours / theirs: the median of the pairs and its 95% confidence interval. **Bold**: misses its limit.",
            *map(_about, others),
            "",
            *_table(["", "must be", *names, *(other["name"] for other in others)], held),
            "",
            *_engine(rows, models),
            "The first table as it was measured: ours : theirs, medians.",
            "",
            *_table(["", "unit", *names], sides),
            "",
            *_figures(rows, models, others),
            "",
        ]
    )


def _engine(rows: Sequence[Row], models: Sequence[str]) -> list[str]:
    """Return the table of the ratios with the same kernels on both sides; empty if none was measured."""
    at = {(row["model"], row["bar"]): row for row in alike(rows)}
    if not at:
        return []
    found = [[bar, *(_ratio(at.get((m, bar))) for m in models)] for bar in dict.fromkeys(bar for _, bar in at)]
    said = "Compared with a llama-server that has the agent's kernels too: the gain of the engine without the kernels."
    return [said, "", *_table(["", *(f"`{model}`" for model in models)], found), ""]


def _machine(rows: Sequence[Row]) -> list[str]:
    about: dict[str, str] = next((row["about"] for row in rows if row["bar"] == "processor cores"), {})
    words = [f"Machine: {about.get('processor', '?')}, {about.get('cores', '?')} cores, {about.get('memory', '?')}"]
    words += [f"{about.get('system', '?')}; llama.cpp: {about.get('llama.cpp', '?')}."]
    lines = [", ".join(words)]
    if (load := float(about.get("load", 0))) > LOAD_QUIET:
        lines += ["", f"**Other work ran meanwhile** (load average {load:g} when it began): the ratios are rough."]
    settings: dict[str, list[str]] = {}
    for row in rows:
        if row["bar"] == "threads of each side":
            engine = ", ".join(f"{name} {row['about'][name]}" for name in TOLD if name in row["about"])
            sides = f"the engine has {engine}; llama-server `{row['about']['llama-server']}`."
            settings.setdefault(sides, []).append(f"`{row['model']}`")
    for sides, models in settings.items():
        lines += ["", f"{', '.join(models)}: {sides}"]
    return lines


def _about(other: Row) -> str:
    return f"Column {other['name']}: `{other['model']}` on another machine, {other['machine']}; medians."


def _held(row: Row, found: Sequence[Row | None], others: Sequence[Row]) -> list[str]:
    """Return the row of a bar in the first table."""
    return [row["bar"], _limit(row), *map(_ratio, found), *elsewhere(row, others)]


def elsewhere(row: Row, others: Sequence[Row]) -> list[str]:
    """Return a bar's cells of other machines, judged by the limit of the row; empty if it was not measured there."""
    cells = []
    for other in others:
        value, limit = other["ratios"].get(row["bar"]), row["limit"]
        missed = None not in (value, limit) and (value > limit if row["better"] == "lower" else value < limit)
        shown = "" if value is None else f"{value:.2f}"
        cells.append(f"**{shown}**" if missed else shown)
    return cells


def _first(at: dict[tuple[str, str], Row], models: Sequence[str], bar: str) -> Row:
    return next(at[model, bar] for model in models if (model, bar) in at)


def _limit(row: Row) -> str:
    if row["limit"] is None:
        return "reported"
    sign = "≤" if row["better"] == "lower" else "≥"
    stretch = f" ({row['stretch']:g})" if row["stretch"] else ""
    return f"{'CI ' * row['by_interval']}{sign} {row['limit']:g}{stretch}"


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    value = f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
    return value if row["ok"] else f"**{value}**"


def _sides(at: dict[tuple[str, str], Row], models: Sequence[str], bar: str) -> str:
    row = _first(at, models, bar)
    than = "" if row["than"] == "llama-server" else f"; theirs is the {row['than']}"
    return f"{row['unit']}{than}"


def _both(row: Row | None) -> str:
    return "" if row is None else f"{_rounded(row['ours'])} : {_rounded(row['theirs'])}"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _figures(rows: Sequence[Row], models: Sequence[str], others: Sequence[Row]) -> list[str]:
    """Return the table of the figures without a comparison; empty if there are none."""
    at = _told(rows) | {(each["name"], bar): f"{value:g}" for each in others for bar, value in each["figures"].items()}
    if not at:
        return []
    names = [each["name"] for each in others]
    found = [
        [bar, *(at.get((column, bar), "") for column in (*models, *names))] for bar in dict.fromkeys(b for _, b in at)
    ]
    return ["Further figures:", "", *_table(["", *(f"`{model}`" for model in models), *names], found)]


def _told(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    about = ("processor cores", "threads of each side")
    return {
        (row["model"], row["bar"]): f"{row['value']:.3g}"
        for row in rows
        if "low" not in row and row["bar"] not in about
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
