"""The pipeline with tiny stages: which stages run again after a change, and what a failed stage leaves."""

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
    """Run the pipeline; return the records and the messages without warnings on data."""
    said: list[tuple[str, str]] = []
    screen = RunDisplay(note=lambda stage, line: said.append((stage, line)))
    records = run(recipe, until, again=again, display=screen, stages=STAGES)
    return records, [(stage, line.split(" in ")[0]) for stage, line in said if stage != "data"]


def test_stages_run_once_in_order(tmp_path: Path):
    """Stages run in order, each with the folders of the stages before it, and a second run does nothing."""
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
def test_change_runs_the_dependent_stages_again(tmp_path: Path, change: str, expected: dict[str, str]):
    """A change to data, a recipe section or the task runs the stages that read it again, with the reason; a moved work
    folder runs none."""
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


def test_run_until_a_stage(tmp_path: Path):
    """A stage can be requested by name: stages before it are brought up to date, it runs again only with `again`, and
    an unknown name is refused."""
    recipe = recipe_of(tmp_path)
    assert [stage for stage, line in bring(recipe, "cross")[1] if line == "runs"] == ["first", "cross"]
    assert bring(recipe, "cross")[1] == [("first", "up to date"), ("cross", "up to date")]
    assert bring(recipe, "cross", again=True)[1] == [("first", "up to date"), ("cross", "runs"), ("cross", "done")]
    with pytest.raises(InvalidRequest, match="there is no stage 'crass'") as raised:
        bring(recipe, "crass")
    assert raised.value.remedy == "The stages are: first, cross, last."


def test_stage_with_another_result_runs_its_readers_again(tmp_path: Path):
    """If a repeated stage gives another result, the stages that read it run again in the next run."""
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


def test_records_of_version_0_1_run_the_following_stages_again(tmp_path: Path):
    """Records of version 0.1 have no hash of the result: the first stage stays valid, and stages that read such results
    run once more."""
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
def test_failed_stage_leaves_nothing_and_the_next_run_continues(tmp_path: Path, wish: str, error: type):
    """A stage that fails or is interrupted leaves no partial result, and the next run continues after the stages that
    were done."""
    recipe = recipe_of(tmp_path)
    (tmp_path / "wish").write_text(wish)
    with pytest.raises(error):
        bring(recipe)
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [".lock", "first"]
    (tmp_path / "wish").write_text("")
    assert bring(recipe)[1][0] == ("first", "up to date")


def test_previous_result_stays_if_a_rerun_fails(tmp_path: Path):
    """A stage that runs again replaces its result only when it is done, so a failure keeps the previous one."""
    recipe = recipe_of(tmp_path)
    bring(recipe)
    (tmp_path / "wish").write_text("fail")
    with pytest.raises(InvalidRequest):
        bring(recipe, "cross", again=True)
    assert bring(recipe)[1] == [(stage, "up to date") for stage in STAGES]


@pytest.mark.parametrize("wish", ["fill", "fill and hide"])
def test_full_disk_is_reported_for_any_library_error(tmp_path: Path, wish: str):
    """If the disk becomes full, the error names the stage and the remedy, whichever error a library raised, and the
    next run continues."""
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        recipe = recipe_of(tmp_path).model_copy(update={"work": str(disk / "work")})
        (tmp_path / "wish").write_text(wish)
        with pytest.raises(DiskFull, match="became full in stage cross") as raised:
            bring(recipe)
        assert "Free some space" in raised.value.remedy
        assert sorted(path.name for path in (disk / "work").iterdir()) == [".lock", "first"]
        (tmp_path / "wish").write_text("")
        assert bring(recipe)[1][0] == ("first", "up to date")


def test_second_process_in_a_work_folder_is_refused(tmp_path: Path):
    """A second run in the same work folder is refused with the id of the process that uses it."""
    recipe = recipe_of(tmp_path)
    with Workspace(tmp_path / "work").locked(), pytest.raises(StateDirInUse, match=r"process \d+\) is using") as raised:
        bring(recipe)
    assert "another 'work' folder" in raised.value.remedy


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stage": "first"}', '{"extra": 1}'])
def test_damaged_record_runs_its_stage_again(tmp_path: Path, content: str):
    """A stage whose stage.json cannot be read runs again."""
    recipe = recipe_of(tmp_path)
    bring(recipe)
    (tmp_path / "work" / "first" / "stage.json").write_text(content)
    assert bring(recipe)[1][0] == ("first", "runs")


def test_unrelated_files_in_the_work_folder_are_kept(tmp_path: Path):
    """A run removes only its unfinished work and plots of the report from the work folder; other files stay."""
    recipe = recipe_of(tmp_path)
    work = tmp_path / "work"
    (work / "tmp").mkdir(parents=True)
    for name in ("tmp/thesis.txt", "holiday.png", "reliability-intent.png"):
        (work / name).write_text("mine")
    bring(recipe)
    assert (True, True, False) == tuple(
        (work / name).exists() for name in ("tmp/thesis.txt", "holiday.png", "reliability-intent.png")
    )


def test_unrelated_folder_with_a_stage_name_is_refused(tmp_path: Path):
    """A folder that has the name of a stage but is not its result is refused before any stage runs, and stays
    unchanged."""
    recipe = recipe_of(tmp_path)
    mine = tmp_path / "work" / "cross" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InvalidRequest, match="is not the result of a stage"):
        bring(recipe)
    assert (True, False) == (mine.exists(), (tmp_path / "work" / "first").exists())


def test_data_is_checked_before_the_first_stage(tmp_path: Path):
    """Splits that overlap and missing files are refused before the first stage runs."""
    with pytest.raises(InvalidRequest, match="are in both"):
        bring(recipe_of(tmp_path, test=TRAIN))
    assert not (tmp_path / "work").exists()
    recipe = recipe_of(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(FileMissing):
        bring(recipe)


def test_missing_package_is_named_with_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If a package of the conversion extra is missing, the error names it and the extra; a missing module of the
    project itself is a ModuleNotFoundError."""
    (tmp_path / "needs_torch.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequirementUnmet, match="needs the package a_package_that_is_not_there") as raised:
        load_module("needs_torch")
    assert "'.[convert]'" in raised.value.remedy
    with pytest.raises(ModuleNotFoundError):
        load_module("convert.no_such_stage")


def test_stage_record_has_inputs_and_measurements(tmp_path: Path):
    """stage.json has the inputs by name, the hash of the output, seconds, peak memory and the stage's report."""
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


def test_meter_measures_peak_memory():
    """The meter reports the peak memory of a process after memory was freed; a process that does not exist uses
    none."""
    with ResourceMeter() as meter:
        held = bytearray(80_000_000)
        for page in range(0, len(held), 4096):
            held[page] = 1
        at_least = len(held)
        assert tree_resident_bytes(2**22 + 1) == 0
        del held
    assert meter.memory_peak_bytes > at_least
