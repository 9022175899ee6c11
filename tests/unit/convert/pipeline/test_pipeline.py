"""The pipeline with stages of a few bytes: what runs again, and what a stage that ends badly leaves behind."""

import json
from pathlib import Path

import pytest

from convert.pipeline.execution import ResourceMeter, RunDisplay, run, tree_resident_bytes
from convert.pipeline.recipe import Recipe
from convert.pipeline.stage import load_module
from convert.pipeline.workspace import StageRecord, Workspace
from edge_agent.errors import DiskFull, FileMissing, InvalidRequest, RequirementUnmet, StateDirInUse
from tests.support.mounts import tmpfs
from tests.support.pipeline_stages import STAGES
from tests.support.recipes import TRAIN, recipe_of, text_label


def bring(recipe: Recipe, until: str = "", *, again: bool = False) -> tuple[list[StageRecord], list[tuple[str, str]]]:
    """Run, and return the records and what was said, without the warnings on data."""
    said: list[tuple[str, str]] = []
    screen = RunDisplay(note=lambda stage, line: said.append((stage, line)))
    records = run(recipe, until, again=again, display=screen, stages=STAGES)
    return records, [(stage, line.split(" in ")[0]) for stage, line in said if stage != "data"]


def test_stages_run_once_in_order(tmp_path: Path):
    """Each stage sees the folders of those before it; a second run does nothing."""
    recipe = recipe_of(tmp_path)
    records, said = bring(recipe)
    assert [record.stage for record in records] == ["first", "cross", "last"]
    assert records[2].report == {"read": ["half", "rows", "rows", "stage.json", "stage.json"]}
    assert said == [(stage, line) for stage in STAGES for line in ("runs", "done")]
    again, said = bring(recipe)
    assert again == records
    assert {line for _, line in said} == {"up to date"}
    assert records[0].seconds >= 0
    assert records[0].memory_peak_bytes > 10_000_000


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            "train",
            {
                "first": "runs again because of changes: data.train",
                "cross": "runs again because of changes: stage first",
            },
        ),
        ("finetune", {"cross": "runs again because of changes: recipe: finetune"}),  # and it leaves what it left before
        ("risk", {"last": "runs again because of changes: recipe: risk"}),
        ("task", {"last": "runs again because of changes: task.yaml"}),
        (
            "cutoff",
            {
                "cross": "runs again because of changes: task.redaction",
                "last": "runs again because of changes: task.yaml",
            },
        ),
        ("test", {}),
        ("work moved", {}),
    ],
)
def test_a_change_runs_what_depends_on_it_and_says_why(tmp_path: Path, change: str, expected: dict[str, str]):
    """What does not read the changed thing stays; the place of things does not matter."""
    bring(recipe_of(tmp_path))
    changed = {
        "train": {"train": TRAIN + text_label(("Hello", "other"))},
        "test": {"test": text_label(("x", "refund"), ("y", "price"))},
        "finetune": {"sections": "finetune: {method: head, epochs: 3}"},
        "risk": {"sections": "risk: {target: 0.2}"},
    }.get(change, {})
    recipe = recipe_of(tmp_path, **changed)
    added = {"task": "provenance: {base: something else}\n", "cutoff": "redaction: {cutoff: 0.2}\n"}.get(change)
    if added:
        task = tmp_path / "task.yaml"
        task.write_text(task.read_text() + added)
    if change == "work moved":
        (tmp_path / "work").rename(tmp_path / "elsewhere")
        recipe = recipe.model_copy(update={"work": "elsewhere"})
    _, said = bring(recipe)
    ran = {stage: line for stage, line in said if line.startswith("runs")}
    assert {stage: ran[stage] for stage in expected} == expected
    assert ran.keys() <= {"first", "cross", "last"} if change == "train" else ran.keys() == expected.keys()


def test_one_stage_can_be_asked_for_and_again(tmp_path: Path):
    """A stage brings those before it up to date, and runs anew only when asked to."""
    recipe = recipe_of(tmp_path)
    assert [stage for stage, line in bring(recipe, "cross")[1] if line == "runs"] == ["first", "cross"]
    assert bring(recipe, "cross")[1] == [("first", "up to date"), ("cross", "up to date")]
    assert bring(recipe, "cross", again=True)[1] == [("first", "up to date"), ("cross", "runs"), ("cross", "done")]
    with pytest.raises(InvalidRequest, match="there is no stage 'crass'") as raised:
        bring(recipe, "crass")
    assert raised.value.remedy == "The stages are: first, cross, last."


def test_a_stage_that_leaves_something_else_brings_what_reads_it_to_run_again(tmp_path: Path):
    """What counts is what a stage left, not what it read: after `--again` nothing stands over the weights before."""
    recipe = recipe_of(tmp_path)
    bring(recipe)
    (tmp_path / "wish").write_text("choose anew")
    bring(recipe, "cross", again=True)
    assert bring(recipe)[1] == [
        ("first", "up to date"),
        ("cross", "up to date"),
        ("last", "runs again because of changes: stage cross"),
        ("last", "done"),
    ]


def test_records_of_version_0_1_are_read_and_what_follows_runs_again(tmp_path: Path):
    """They say nothing of what a stage left: the stage stays, and those that read it run once more."""
    recipe = recipe_of(tmp_path)
    bring(recipe)
    for stage in ("first", "cross"):
        path = tmp_path / "work" / stage / "stage.json"
        plain = json.loads(path.read_text())
        del plain["output"]
        path.write_text(json.dumps(plain))
    assert [("first", "up to date"), ("cross", "runs again because of changes: stage first")] == bring(recipe)[1][:2]
    assert {line for _, line in bring(recipe)[1]} == {"up to date"}


@pytest.mark.parametrize(
    ("wish", "error"),
    [("fail", InvalidRequest), ("interrupt", KeyboardInterrupt), ("no package", ModuleNotFoundError)],
)
def test_a_stage_that_ends_badly_leaves_nothing_and_the_next_run_goes_on(tmp_path: Path, wish: str, error: type):
    """Neither half a result stays, nor is what was done before lost."""
    recipe = recipe_of(tmp_path)
    (tmp_path / "wish").write_text(wish)
    with pytest.raises(error):
        bring(recipe)
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [".lock", "first"]
    (tmp_path / "wish").write_text("")
    assert bring(recipe)[1][0] == ("first", "up to date")


def test_an_older_result_stays_when_a_new_one_fails(tmp_path: Path):
    """A stage that runs again replaces its result when it is done, not before."""
    recipe = recipe_of(tmp_path)
    bring(recipe)
    (tmp_path / "wish").write_text("fail")
    with pytest.raises(InvalidRequest):
        bring(recipe, "cross", again=True)
    assert bring(recipe)[1] == [(stage, "up to date") for stage in STAGES]


@pytest.mark.parametrize("wish", ["fill", "fill and hide"])
def test_a_full_disk_is_said_whatever_the_library_said(tmp_path: Path, wish: str):
    """The error names the stage and what to do; with room again, the run goes on where it was."""
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        recipe = recipe_of(tmp_path).model_copy(update={"work": str(disk / "work")})
        (tmp_path / "wish").write_text(wish)
        with pytest.raises(DiskFull, match="became full in stage cross") as raised:
            bring(recipe)
        assert "Free some space" in raised.value.remedy
        assert sorted(path.name for path in (disk / "work").iterdir()) == [".lock", "first"]
        (tmp_path / "wish").write_text("")
        assert bring(recipe)[1][0] == ("first", "up to date")


def test_one_process_works_in_a_folder(tmp_path: Path):
    """A second run is refused with the process that is there."""
    recipe = recipe_of(tmp_path)
    with Workspace(tmp_path / "work").locked(), pytest.raises(StateDirInUse, match=r"process \d+\) is using") as raised:
        bring(recipe)
    assert "another 'work' folder" in raised.value.remedy


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": "first"}', '{"extra": 1}'])
def test_a_damaged_record_makes_its_stage_run_again(tmp_path: Path, content: str):
    """What a stage left is believed only when its record can be read."""
    recipe = recipe_of(tmp_path)
    bring(recipe)
    (tmp_path / "work" / "first" / "stage.json").write_text(content)
    assert bring(recipe)[1][0] == ("first", "runs")


def test_a_work_folder_keeps_what_is_not_of_a_run(tmp_path: Path):
    """`work` can name a folder that has other things: only unfinished work and plots of the report are removed."""
    recipe = recipe_of(tmp_path)
    work = tmp_path / "work"
    (work / "tmp").mkdir(parents=True)
    for name in ("tmp/thesis.txt", "holiday.png", "reliability-intent.png"):
        (work / name).write_text("mine")
    bring(recipe)
    assert (True, True, False) == tuple(
        (work / name).exists() for name in ("tmp/thesis.txt", "holiday.png", "reliability-intent.png")
    )


def test_a_folder_with_the_name_of_a_stage_is_not_replaced(tmp_path: Path):
    """It is refused before anything runs, and stays as it is."""
    recipe = recipe_of(tmp_path)
    mine = tmp_path / "work" / "cross" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InvalidRequest, match="is not the result of a stage"):
        bring(recipe)
    assert (True, False) == (mine.exists(), (tmp_path / "work" / "first").exists())


def test_data_is_checked_before_anything_runs(tmp_path: Path):
    """An overlap is found before hours of training."""
    with pytest.raises(InvalidRequest, match="are in both"):
        bring(recipe_of(tmp_path, test=TRAIN))
    assert not (tmp_path / "work").exists()
    recipe = recipe_of(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(FileMissing):
        bring(recipe)


def test_a_missing_package_is_named_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The factory without its extra says which package it lacks; a module of ours that is missing is a bug."""
    (tmp_path / "needs_torch.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequirementUnmet, match="needs the package a_package_that_is_not_there") as raised:
        load_module("needs_torch")
    assert "'.[convert]'" in raised.value.remedy
    with pytest.raises(ModuleNotFoundError):
        load_module("convert.no_such_stage")


def test_a_record_says_what_was_read(tmp_path: Path):
    """stage.json holds inputs by name, seconds, peak memory and the stage's own report."""
    bring(recipe_of(tmp_path))
    plain = json.loads((tmp_path / "work" / "last" / "stage.json").read_bytes())
    assert sorted(plain) == ["inputs", "memory_peak_bytes", "output", "report", "seconds", "stage"]
    assert sorted(plain["inputs"]) == [
        "recipe: risk",
        "stage cross",
        "stage first",
        "task.yaml",
        "version of edge-convert",
    ]


def test_a_meter_sees_memory_that_is_gone_again():
    """The peak counts, in this process and its children; a process that is gone has none."""
    with ResourceMeter() as meter:
        held = bytearray(80_000_000)
        for page in range(0, len(held), 4096):
            held[page] = 1
        at_least = len(held)
        assert tree_resident_bytes(2**22 + 1) == 0
        del held
    assert meter.memory_peak_bytes > at_least
