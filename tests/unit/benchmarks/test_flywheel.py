"""The parts of the flywheel benchmark: its data, oracle, sums, chart and bars."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks.flywheel import figures, goods, oracle
from benchmarks.flywheel.commands import Commands, ProgressLog, StepFailed
from benchmarks.flywheel.figures import Call, Figures, block, sum_up
from benchmarks.flywheel.goods import Row
from benchmarks.flywheel.loop import fresh
from benchmarks.flywheel.oracle import Oracle
from benchmarks.flywheel.picture import draw, spans
from benchmarks.resampling import RESAMPLES, Population, broken_max, resample
from convert.calibrate.threshold import Risk
from convert.package import bundle_assembly
from convert.pipeline.recipe import read
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.client import FieldAlarm, FieldSeries
from edge_agent.client.operator_reports import FieldAgreement, Share
from edge_agent.formats.manifest import parse

ROWS = [Row(f"text {number}", ("fish", "bread", "fruit")[number % 3]) for number in range(2000)]
RIGHT = Call(right=True, large_right=True, local=True, abstained=False, local_label="fish", large_label="fish")
WRONG_HERE = RIGHT._replace(right=False, local_label="bread")
ASKED = RIGHT._replace(local=False, local_label="bread")


def walked() -> Figures:
    """Return made-up figures of a flywheel run."""
    found = Figures("goods", "an oracle")
    for mode, calls in (
        ("bootstrap", [ASKED] * 100),
        ("shadow", [ASKED] * 50),
        ("hybrid", [RIGHT] * 90 + [ASKED] * 10),
    ):
        found.blocks.append(block(mode, calls, 0.1))
        found.modes[mode] = sum_up(calls, 0.1)
    return found


def test_flywheel_run_empties_only_folders_of_earlier_runs(tmp_path: Path):
    """The flywheel benchmark empties a folder that is new, empty or from an earlier run, and refuses a file or a folder
    with other files."""
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        work = fresh(tmp_path / name)
        (work / "left").touch()
        assert not (fresh(work) / "left").exists()
    (tmp_path / "home").mkdir()
    precious = tmp_path / "home" / "thesis.tex"
    precious.touch()
    for taken in (precious.parent, precious):
        with pytest.raises(StepFailed, match="name a new folder"):
            fresh(taken)
    command = [sys.executable, "-m", "benchmarks.flywheel", "--work", precious.parent]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert (1, False) == (done.returncode, "logs:" in done.stdout + done.stderr)
    assert precious.exists()


def test_oracle_errs_at_its_error_rate_and_reproducibly():
    """The oracle answers the given share of rows wrongly, its wrong answers cover all labels of the task, and it gives
    the same answers each time."""
    said = Oracle(ROWS, 0.06).answers()
    wrong = [row for row in ROWS if said[row.text] != row.label]
    assert 0.04 < len(wrong) / len(ROWS) < 0.08
    assert {"fish", "bread", "fruit"} == {said[row.text] for row in wrong}
    assert said == Oracle(ROWS, 0.06).answers()
    assert all(said == row.label for row, said in zip(ROWS, Oracle(ROWS, 0.0).answers().values(), strict=True))


def test_oracle_process_serves_until_its_block_ends(tmp_path: Path):
    """The oracle process reports its address on 127.0.0.1 and logs its answers; it serves until the `with` block
    ends."""
    with oracle.running(Oracle(ROWS[:3], 0.0), tmp_path) as address:
        assert address.startswith("http://127.0.0.1:")
    assert 3 == len((tmp_path / "oracle.jsonl").read_text().splitlines())


def test_oracle_with_an_invalid_error_rate_does_not_start(tmp_path: Path):
    """An oracle whose error rate is not a number ends before it serves, and the step fails."""
    with pytest.raises(StepFailed, match="oracle"), oracle.running(Oracle([], float("nan")), tmp_path):
        pass


@pytest.mark.slow
def test_goods_data_are_unique_reproducible_and_free_of_pii(tmp_path: Path):
    """The goods data have 16 labels, no text twice, no text that redaction changes, and the same order each time."""
    rows = goods.rows(tmp_path / "raw")
    assert (16, len(rows)) == (len(goods.labels(rows)), len({row.text for row in rows}))
    redactor = Redactor()
    assert [] == [row for row in rows if redactor.start().text(row.text) != row.text]
    assert rows == goods.rows(tmp_path / "again")


def test_task_definition_makes_a_bundle_without_a_model(tmp_path: Path):
    """The task definition assembles into a bundle for the large-model runtime without artifacts, and edge-convert can
    read the recipe."""
    task = goods.write_definition(tmp_path / "task", ["fish", "bread"])
    made = bundle_assembly.assemble(bundle_assembly.AssembleRequest(task.parent, {}, tmp_path / "bundle"))
    manifest = parse((made.path / "manifest.json").read_bytes())
    assert ("upstream", ("fish", "bread"), ()) == (manifest.runtime, tuple(manifest.task.labels), manifest.artifacts)
    recipe = read(goods.write_recipe(tmp_path / "recipe", ["fish", "bread"], tmp_path))
    assert ("full", str(tmp_path / "train.jsonl")) == (recipe.finetune.method, recipe.data.train)


def test_calls_are_summed_by_accuracy_agreement_and_cost():
    """`sum_up` computes the accuracy, the local share, the agreement with the large model and the cost of a list of
    calls."""
    found = sum_up([RIGHT, RIGHT, WRONG_HERE, ASKED], 0.25)
    assert (0.75, 1.0, 0.75) == (found.accuracy, found.large_accuracy, found.local_share)
    assert (1 / 3, 2, 0.25) == (pytest.approx(found.local_wrong_share), found.agreed, found.cost)
    assert (8, 0.5) == (found.plus(found).calls, found.plus(found).cost)
    assert 0.0 == sum_up([ASKED], 0).local_wrong_share
    assert {"calls": 4, "accuracy": 0.75, "local_wrong_share": 0.3333}.items() <= found.plain().items()


def test_figures_survive_a_json_round_trip():
    """The figures that --json prints can be parsed back into equal figures and contain each block and mode."""
    plain = json.loads(json.dumps(walked().plain()))
    assert walked() == figures.parse(plain)
    assert ["bootstrap", "shadow", "hybrid"] == [each["mode"] for each in plain["blocks"]] == [*plain["modes"]]


def test_site_figures_are_read_from_its_monitoring_data():
    """The shadow comparisons of all labels, the number of answers and the alarm texts are read from a site's monitoring
    series."""
    then = datetime(2026, 11, 25, tzinfo=UTC)
    pairs = [("audit", "", 1, 1), ("shadow", "fish", 9, 10), ("shadow", "", 350, 400)]
    agreement = tuple(FieldAgreement(name, label, Share(a, b, a / b, 0, 1)) for name, label, a, b in pairs)
    alarm = FieldAlarm("goods", "d", "opinions", then, None, "the promise is broken", "look", False)
    parts = {each.name: () for each in fields(FieldSeries)}
    given = {"agreement": agreement, "alarms": (alarm,), "totals": {"answers": 1400}}
    found = figures.told(FieldSeries(**{**parts, **given}))
    assert {"agreed": 350, "compared": 400, "answers": 1400, "alarms": ["the promise is broken"]} == found


@pytest.mark.parametrize("name", ["chart.png", "chart.svg"])
def test_chart_shows_the_modes_by_number_of_calls(tmp_path: Path, name: str):
    """The chart is drawn as PNG and SVG; each mode spans the range of its calls."""
    drawn = walked()
    ends = list(itertools.accumulate(each.calls for each in drawn.blocks))
    assert [("bootstrap", 0, 100), ("shadow", 100, 150), ("hybrid", 150, 250)] == spans(drawn.blocks, ends)
    draw(tmp_path / name, drawn)
    assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.slow
def test_failed_command_is_reported_with_its_output(tmp_path: Path):
    """A command with an unexpected exit code raises an error with the command line and its output; the log has each
    command."""
    commands = Commands(tmp_path, ProgressLog())
    with pytest.raises(StepFailed, match=r"(?s)'edge-convert keys show nowhere' ended with 2:.*nowhere"):
        commands.convert("keys", "show", "nowhere")
    commands.convert("keys", "show", "nowhere", codes=(0, 2))
    assert 2 == (tmp_path / "commands.log").read_text().count("$ edge-convert keys show nowhere\n")


def test_failed_stage_has_no_duration():
    """Only completed stages are listed with their duration."""
    screen = ProgressLog()
    with screen.stage("one", "well"):
        screen.line("a figure")
    with pytest.raises(StepFailed), screen.stage("two", "badly"):
        raise StepFailed("it failed")
    assert ["one"] == [*screen.seconds]


@pytest.mark.slow
def test_threshold_rule_holds_its_risk_guarantee_when_resampled():
    """On resampled calibrations of a model with honest confidences, the threshold rule breaks the target no more often
    than delta and two standard errors allow; the naive rule breaks it more often."""
    rng = np.random.default_rng(3)
    best = rng.uniform(0.5, 1.0, 1500)
    truth = (rng.uniform(size=1500) > best).astype(np.int64)
    population = Population(np.log(np.stack([best, 1 - best + 1e-9], axis=1)), truth)
    risk = Risk(0.1, 0.1)
    found = resample(population, risk, 300)
    assert found.broken <= broken_max(risk) < found.naive
    assert 0 < found.covered < found.oracle < 1
    assert broken_max(risk) == pytest.approx(0.1 + 2 * (0.09 / RESAMPLES) ** 0.5, abs=1e-4)
