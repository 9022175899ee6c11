"""The parts of the flywheel: its data, its oracle, its sums, what the picture and the bars are made of."""

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
from benchmarks.flywheel.commands import Commands, Screen, StepFailed
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
    """Return the figures of a walk that nobody has walked."""
    found = Figures("goods", "an oracle")
    for mode, calls in (
        ("bootstrap", [ASKED] * 100),
        ("shadow", [ASKED] * 50),
        ("hybrid", [RIGHT] * 90 + [ASKED] * 10),
    ):
        found.blocks.append(block(mode, calls, 0.1))
        found.modes[mode] = sum_up(calls, 0.1)
    return found


def test_a_walk_empties_only_what_a_walk_has_left(tmp_path: Path):
    """A folder that is new, empty or of a walk is emptied; one with other things in it is refused, and a file is."""
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


def test_the_oracle_errs_as_often_as_it_should_and_always_alike():
    """Its errors are labels of the task, spread over all of them, and the same in every process."""
    said = Oracle(ROWS, 0.06).answers()
    wrong = [row for row in ROWS if said[row.text] != row.label]
    assert 0.04 < len(wrong) / len(ROWS) < 0.08
    assert {"fish", "bread", "fruit"} == {said[row.text] for row in wrong}
    assert said == Oracle(ROWS, 0.06).answers()
    assert all(said == row.label for row, said in zip(ROWS, Oracle(ROWS, 0.0).answers().values(), strict=True))


def test_the_oracle_is_a_process_that_ends_with_whoever_started_it(tmp_path: Path):
    """It says where it serves, and nothing is left of it."""
    with oracle.running(Oracle(ROWS[:3], 0.0), tmp_path) as address:
        assert address.startswith("http://127.0.0.1:")
    assert 3 == len((tmp_path / "oracle.jsonl").read_text().splitlines())


def test_an_oracle_that_does_not_start_is_an_error(tmp_path: Path):
    """A share that is none ends it before it serves."""
    with pytest.raises(StepFailed, match="oracle"), oracle.running(Oracle([], float("nan")), tmp_path):
        pass


@pytest.mark.slow
def test_the_data_are_real_and_come_in_the_same_order(tmp_path: Path):
    """16 groups with enough descriptions each, none twice, and nothing in them that redaction would change."""
    rows = goods.rows(tmp_path / "raw")
    assert (16, len(rows)) == (len(goods.labels(rows)), len({row.text for row in rows}))
    redactor = Redactor()
    assert [] == [row for row in rows if redactor.start().text(row.text) != row.text]
    assert rows == goods.rows(tmp_path / "again")


def test_the_definition_of_the_task_makes_a_bundle_without_a_model(tmp_path: Path):
    """Its labels and its words are what the large model is told; the recipe is one that edge-convert reads."""
    task = goods.write_definition(tmp_path / "task", ["fish", "bread"])
    made = bundle_assembly.assemble(bundle_assembly.AssembleRequest(task.parent, {}, tmp_path / "bundle"))
    manifest = parse((made.path / "manifest.json").read_bytes())
    assert ("upstream", ("fish", "bread"), ()) == (manifest.runtime, tuple(manifest.task.labels), manifest.artifacts)
    recipe = read(goods.write_recipe(tmp_path / "recipe", ["fish", "bread"], tmp_path))
    assert ("full", str(tmp_path / "train.jsonl")) == (recipe.finetune.method, recipe.data.train)


def test_calls_are_summed_up():
    """Answers by model, their accuracy, agreement, and cost."""
    found = sum_up([RIGHT, RIGHT, WRONG_HERE, ASKED], 0.25)
    assert (0.75, 1.0, 0.75) == (found.accuracy, found.large_accuracy, found.local_share)
    assert (1 / 3, 2, 0.25) == (pytest.approx(found.local_wrong_share), found.agreed, found.cost)
    assert (8, 0.5) == (found.plus(found).calls, found.plus(found).cost)
    assert 0.0 == sum_up([ASKED], 0).local_wrong_share
    assert {"calls": 4, "accuracy": 0.75, "local_wrong_share": 0.3333}.items() <= found.plain().items()


def test_the_figures_are_json():
    """What --json prints can be read, and has every block and mode."""
    plain = json.loads(json.dumps(walked().plain()))
    assert walked() == figures.parse(plain)
    assert ["bootstrap", "shadow", "hybrid"] == [each["mode"] for each in plain["blocks"]] == [*plain["modes"]]


def test_what_the_site_counts_is_read():
    """Shadow pairs of all labels together, answers, and the alarms in words."""
    then = datetime(2026, 11, 25, tzinfo=UTC)
    pairs = [("audit", "", 1, 1), ("shadow", "fish", 9, 10), ("shadow", "", 350, 400)]
    agreement = tuple(FieldAgreement(name, label, Share(a, b, a / b, 0, 1)) for name, label, a, b in pairs)
    alarm = FieldAlarm("goods", "d", "opinions", then, None, "the promise is broken", "look", False)
    parts = {each.name: () for each in fields(FieldSeries)}
    given = {"agreement": agreement, "alarms": (alarm,), "totals": {"answers": 1400}}
    found = figures.told(FieldSeries(**{**parts, **given}))
    assert {"agreed": 350, "compared": 400, "answers": 1400, "alarms": ["the promise is broken"]} == found


@pytest.mark.parametrize("name", ["chart.png", "chart.svg"])
def test_the_picture_is_drawn(tmp_path: Path, name: str):
    """Three modes side by side, as long as their calls; the same figures give the same file."""
    drawn = walked()
    ends = list(itertools.accumulate(each.calls for each in drawn.blocks))
    assert [("bootstrap", 0, 100), ("shadow", 100, 150), ("hybrid", 150, 250)] == spans(drawn.blocks, ends)
    draw(tmp_path / name, drawn)
    assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.slow
def test_a_command_that_fails_says_what_it_was_and_what_it_said(tmp_path: Path):
    """The log has it too; a code that is expected is no failure."""
    commands = Commands(tmp_path, Screen())
    with pytest.raises(StepFailed, match=r"(?s)'edge-convert keys show nowhere' ended with 2:.*nowhere"):
        commands.convert("keys", "show", "nowhere")
    commands.convert("keys", "show", "nowhere", codes=(0, 2))
    assert 2 == (tmp_path / "commands.log").read_text().count("$ edge-convert keys show nowhere\n")


def test_a_failed_stage_has_no_time():
    """Only what was done is listed with its seconds."""
    screen = Screen()
    with screen.stage("one", "well"):
        screen.line("a figure")
    with pytest.raises(StepFailed), screen.stage("two", "badly"):
        raise StepFailed("it failed")
    assert ["one"] == [*screen.seconds]


@pytest.mark.slow
def test_the_rule_keeps_its_promise_on_a_population():
    """Resampled calibrations of a model with honest confidences break the target no oftener than delta allows."""
    rng = np.random.default_rng(3)
    best = rng.uniform(0.5, 1.0, 1500)
    truth = (rng.uniform(size=1500) > best).astype(np.int64)
    population = Population(np.log(np.stack([best, 1 - best + 1e-9], axis=1)), truth)
    risk = Risk(0.1, 0.1)
    found = resample(population, risk, 300)
    assert found.broken <= broken_max(risk) < found.naive
    assert 0 < found.covered < found.oracle < 1
    assert broken_max(risk) == pytest.approx(0.1 + 2 * (0.09 / RESAMPLES) ** 0.5, abs=1e-4)
