"""The section of docs/performance.md that shows the results of scripts/bench llm."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.llama import goals, page
from benchmarks.llama.comparing import ComparisonGoal, Figure, MeasuredPair, compared, reported
from benchmarks.llama.picture import draw

MACHINE = Figure("processor cores", 2, None, "higher", {"processor": "A processor", "cores": "2", "memory": "24 GiB"})
TOLD = Figure("threads of each side", 2, None, "higher", {"llama-server": "-t 2", "kv_type": "f16"}, "Q4_0")


def line(goal: ComparisonGoal, ours: float, theirs: float, model: str = "Q4_0") -> str:
    return json.dumps(compared(goal, [MeasuredPair(ours, theirs)] * 3, model).plain())


LINES = "\n".join(
    [
        *(json.dumps(figure.plain()) for figure in (MACHINE, TOLD)),
        line(goals.GENERATE[8], 500, 600),
        line(goals.EXTRACT, 90, 200),
        line(goals.SHORT_PROMPT, 20, 30),
        line(goals.EXTRACT, 130, 200, "Q8_0"),
    ]
)


def test_tables_have_a_row_per_bar_and_a_column_per_model() -> None:
    """The tables show each bar's limit and interval; a figure that misses its limit is bold, and a cell without a
    measurement is empty."""
    text = page.section(page.parse(LINES), [])
    assert "|  | must be | `Q4_0` | `Q8_0` |" in text
    assert "| extract 4 fields, p50 | ≤ 0.6 | 0.45 (0.45 to 0.45) | **0.65 (0.65 to 0.65)** |" in text
    assert "| generate 100 tokens, 8 streams | CI ≥ 0.95 (1.05) | **0.83 (0.83 to 0.83)** |  |" in text
    assert "| extract 4 fields, p50 | ms | 90 : 200 | 130 : 200 |" in text
    assert "ms; theirs is the few-shot prompt | 20 : 30 |" in text


def test_comparison_with_the_same_kernels_has_its_own_table() -> None:
    """Ratios against a llama-server with the agent's kernels are in a separate table without limits; the first table
    and the chart cover the published llama-server only."""
    same = json.dumps(reported(compared(goals.EXTRACT, [MeasuredPair(130, 150)] * 3, "Q4_0")).plain())
    rows = page.parse(f"{LINES}\n{same}")
    assert page.ratios(rows) == page.ratios(page.parse(LINES))
    assert "| extract 4 fields, p50 | 0.87 (0.87 to 0.87) |  |" in page.section(rows, [])
    assert "agent's kernels" not in page.section(page.parse(LINES), []), "nothing of the kind was measured"


def test_figures_of_another_machine_have_a_column() -> None:
    """The medians of another machine have a column with the same limits; cells without a measurement are empty."""
    other = {"name": "AVX2", "model": "Q4_0", "machine": "a slow one", "figures": {"Python, microseconds": 145}}
    text = page.section(
        page.parse(LINES), [{**other, "ratios": {goals.EXTRACT.bar: 0.62, goals.GENERATE[8].bar: 1.19}}]
    )
    assert "Column AVX2: `Q4_0` on another machine, a slow one; medians." in text
    assert "|  | must be | `Q4_0` | `Q8_0` | AVX2 |" in text
    assert "| 0.45 (0.45 to 0.45) | **0.65 (0.65 to 0.65)** | **0.62** |" in text
    assert "| **0.83 (0.83 to 0.83)** |  | 1.19 |" in text
    assert "| reported | 0.67 (0.67 to 0.67) |  |  |" in text
    assert "|  | `Q4_0` | `Q8_0` | AVX2 |" in text
    assert "| Python, microseconds |  |  | 145 |" in text


def test_figures_without_a_comparison_have_their_own_table() -> None:
    """Figures without a comparison have a table with a row per figure and a column per model; without such figures the
    table does not exist."""
    tokens = [
        Figure("tokens of the prefix", value, None, "higher", {}, model)
        for model, value in (("Q4_0", 234), ("Q8_0", 0.00924))
    ]
    text = page.section(page.parse("\n".join([LINES, *(json.dumps(each.plain()) for each in tokens)])), [])
    assert "|  | `Q4_0` | `Q8_0` |\n| --- | --- | --- |\n| tokens of the prefix | 234 | 0.00924 |" in text
    assert "Further figures" not in page.section(page.parse(LINES), [])


def test_page_contains_the_stored_ratios_of_other_machines() -> None:
    """docs/performance.md shows each stored ratio of another machine in the row of its bar."""
    lines = page.PAGE.read_text(encoding="utf-8").splitlines()
    for at, other in enumerate(page.machines()):
        for bar, value in other["ratios"].items():
            (cells, *_) = [line.split("|")[1:-1] for line in lines if line.startswith(f"| {bar} |")]
            assert f"{value:.2f}" == cells[at - len(page.machines())].strip(" *")


def test_page_names_the_machine_and_the_settings() -> None:
    """The page names the machine and the settings of both sides."""
    text = page.section(page.parse(LINES), [])
    assert "\nMachine: A processor, 2 cores, 24 GiB, " in text
    assert "`Q4_0`: the engine has kv_type f16; llama-server `-t 2`." in text


def test_models_with_the_same_settings_share_a_sentence() -> None:
    """Models with the same settings share one sentence; a model with other settings has its own."""
    others = [replace(TOLD, model="Q8_0"), replace(TOLD, model="F16", about={**TOLD.about, "kv_type": "q8_0"})]
    text = page.section(page.parse("\n".join([LINES, *(json.dumps(each.plain()) for each in others)])), [])
    assert "\n`Q4_0`, `Q8_0`: the engine has kv_type f16; llama-server `-t 2`.\n" in text
    assert "\n`F16`: the engine has kv_type q8_0; llama-server `-t 2`.\n" in text


@pytest.mark.parametrize(("load", "told"), [("0.3", False), ("7.5", True)])
def test_page_reports_a_high_load_average(load: str, told: bool) -> None:
    """The page reports the load average at the start if other programs kept the machine busy."""
    busy = replace(MACHINE, about={**MACHINE.about, "load": load})
    text = page.section(page.parse(f"{LINES}\n{json.dumps(busy.plain())}"), [])
    assert told == (f"load average {load} when it began" in text)


def test_last_measurement_of_a_bar_counts() -> None:
    """If a bar was measured twice, the later line counts, because a repeated part is appended to the output."""
    rows = page.ratios(page.parse(f"{LINES}\n{line(goals.EXTRACT, 80, 200)}"))
    assert [0.4, 0.65] == [row["value"] for row in rows if row["bar"] == goals.EXTRACT.bar]


def test_figure_that_could_not_be_measured_misses_its_limit() -> None:
    """A figure that is null in the output of the benchmark is shown as a bold `nan`."""
    text = page.section(page.parse(f"{LINES}\n{line(goals.EXTRACT, math.nan, 200)}"), [])
    assert "| extract 4 fields, p50 | ≤ 0.6 | **nan (nan to nan)** | **0.65 (0.65 to 0.65)** |" in text


def test_only_the_text_between_the_markers_is_replaced() -> None:
    """Inserting the section replaces only the text between the markers, and a second insertion changes nothing."""
    before = f"# Title\n{page.BEGIN}old\n{page.END}the rest\n"
    after = page.inserted(before, "new\n")
    assert f"# Title\n{page.BEGIN}new\n{page.END}the rest\n" == after == page.inserted(after, "new\n")


def test_chart_shows_only_comparisons_with_llama_server(tmp_path: Path) -> None:
    """The chart names each bar and model that is compared with llama-server and no comparison with the agent itself;
    the same figures produce the same file."""
    rows = page.ratios(page.parse(LINES))
    draw(tmp_path / "one.svg", rows)
    draw(tmp_path / "two.svg", rows)
    shown = " ".join(ET.parse(tmp_path / "one.svg").getroot().itertext())
    assert all(words in shown for words in (goals.EXTRACT.bar, goals.GENERATE[8].bar, "Q4_0", "Q8_0", "0.65"))
    assert goals.SHORT_PROMPT.bar not in shown
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
