"""What scripts/bench llm has measured, as docs/performance.md shows it."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.llama import goals, page
from benchmarks.llama.comparing import Figure, Goal, Pair, compared, reported
from benchmarks.llama.picture import draw

MACHINE = Figure("processor cores", 2, None, "higher", {"processor": "A processor", "cores": "2", "memory": "24 GiB"})
TOLD = Figure("threads of each side", 2, None, "higher", {"llama-server": "-t 2", "kv_type": "f16"}, "Q4_0")


def line(goal: Goal, ours: float, theirs: float, model: str = "Q4_0") -> str:
    return json.dumps(compared(goal, [Pair(ours, theirs)] * 3, model).plain())


LINES = "\n".join(
    [
        *(json.dumps(figure.plain()) for figure in (MACHINE, TOLD)),
        line(goals.GENERATE[8], 500, 600),
        line(goals.EXTRACT, 90, 200),
        line(goals.SHORT_PROMPT, 20, 30),
        line(goals.EXTRACT, 130, 200, "Q8_0"),
    ]
)


def test_the_tables_have_a_row_for_each_bar_and_a_column_for_each_model() -> None:
    """With limit and interval; what misses its limit is bold, what was not measured is empty."""
    text = page.section(page.parse(LINES), [])
    assert "|  | must be | `Q4_0` | `Q8_0` |" in text
    assert "| extract 4 fields, p50 | ≤ 0.6 | 0.45 (0.45 to 0.45) | **0.65 (0.65 to 0.65)** |" in text
    assert "| generate 100 tokens, 8 streams | CI ≥ 0.95 (1.05) | **0.83 (0.83 to 0.83)** |  |" in text
    assert "| extract 4 fields, p50 | ms | 90 : 200 | 130 : 200 |" in text
    assert "ms; theirs is the few-shot prompt | 20 : 30 |" in text


def test_what_the_same_kernels_leaves_has_a_table_of_its_own() -> None:
    """No limit is for it, and the first table and the chart keep to llama-server as it is published."""
    same = json.dumps(reported(compared(goals.EXTRACT, [Pair(130, 150)] * 3, "Q4_0")).plain())
    rows = page.parse(f"{LINES}\n{same}")
    assert page.ratios(rows) == page.ratios(page.parse(LINES))
    assert "| extract 4 fields, p50 | 0.87 (0.87 to 0.87) |  |" in page.section(rows, [])
    assert "agent's kernels" not in page.section(page.parse(LINES), []), "nothing of the kind was measured"


def test_another_machine_has_a_column() -> None:
    """Its medians are held to the same limits; what was not measured there is empty."""
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


def test_figures_that_are_compared_with_nothing_have_a_table() -> None:
    """A row for each figure and a column for each model; without such figures there is no table."""
    tokens = [
        Figure("tokens of the prefix", value, None, "higher", {}, model)
        for model, value in (("Q4_0", 234), ("Q8_0", 0.00924))
    ]
    text = page.section(page.parse("\n".join([LINES, *(json.dumps(each.plain()) for each in tokens)])), [])
    assert "|  | `Q4_0` | `Q8_0` |\n| --- | --- | --- |\n| tokens of the prefix | 234 | 0.00924 |" in text
    assert "Further figures" not in page.section(page.parse(LINES), [])


def test_the_page_has_what_is_kept_of_other_machines() -> None:
    """Each ratio of each of them stands in the row of its bar, and every bar is one that is compared."""
    lines = page.PAGE.read_text(encoding="utf-8").splitlines()
    for at, other in enumerate(page.machines()):
        for bar, value in other["ratios"].items():
            (cells, *_) = [line.split("|")[1:-1] for line in lines if line.startswith(f"| {bar} |")]
            assert f"{value:.2f}" == cells[at - len(page.machines())].strip(" *")


def test_the_page_says_what_it_was_measured_on() -> None:
    """The machine, and how both sides were set up."""
    text = page.section(page.parse(LINES), [])
    assert "\nMachine: A processor, 2 cores, 24 GiB, " in text
    assert "`Q4_0`: the engine has kv_type f16; llama-server `-t 2`." in text


def test_models_with_the_same_settings_share_a_sentence() -> None:
    """A model with other settings has its own."""
    others = [replace(TOLD, model="Q8_0"), replace(TOLD, model="F16", about={**TOLD.about, "kv_type": "q8_0"})]
    text = page.section(page.parse("\n".join([LINES, *(json.dumps(each.plain()) for each in others)])), [])
    assert "\n`Q4_0`, `Q8_0`: the engine has kv_type f16; llama-server `-t 2`.\n" in text
    assert "\n`F16`: the engine has kv_type q8_0; llama-server `-t 2`.\n" in text


@pytest.mark.parametrize(("load", "told"), [("0.3", False), ("7.5", True)])
def test_the_page_says_that_other_work_ran(load: str, told: bool) -> None:
    """Where the machine was not left alone."""
    busy = replace(MACHINE, about={**MACHINE.about, "load": load})
    text = page.section(page.parse(f"{LINES}\n{json.dumps(busy.plain())}"), [])
    assert told == (f"load average {load} when it began" in text)


def test_of_a_bar_that_was_measured_twice_the_last_one_counts() -> None:
    """A part that was run again is written behind the rest."""
    rows = page.ratios(page.parse(f"{LINES}\n{line(goals.EXTRACT, 80, 200)}"))
    assert [0.4, 0.65] == [row["value"] for row in rows if row["bar"] == goals.EXTRACT.bar]


def test_what_could_not_be_measured_is_no_figure() -> None:
    """It is null in the output of the benchmark, and misses its limit."""
    text = page.section(page.parse(f"{LINES}\n{line(goals.EXTRACT, math.nan, 200)}"), [])
    assert "| extract 4 fields, p50 | ≤ 0.6 | **nan (nan to nan)** | **0.65 (0.65 to 0.65)** |" in text


def test_only_what_stands_between_the_marks_is_written() -> None:
    """And writing it again changes nothing."""
    before = f"# Title\n{page.BEGIN}old\n{page.END}the rest\n"
    after = page.inserted(before, "new\n")
    assert f"# Title\n{page.BEGIN}new\n{page.END}the rest\n" == after == page.inserted(after, "new\n")


def test_the_chart_shows_what_is_compared_with_llama_server(tmp_path: Path) -> None:
    """Each bar and each model by its name, nothing that is compared with ourselves; the same file each time."""
    rows = page.ratios(page.parse(LINES))
    draw(tmp_path / "one.svg", rows)
    draw(tmp_path / "two.svg", rows)
    shown = " ".join(ET.parse(tmp_path / "one.svg").getroot().itertext())
    assert all(words in shown for words in (goals.EXTRACT.bar, goals.GENERATE[8].bar, "Q4_0", "Q8_0", "0.65"))
    assert goals.SHORT_PROMPT.bar not in shown
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
