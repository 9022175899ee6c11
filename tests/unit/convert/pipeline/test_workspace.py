"""What a stage reads, as hashes: content counts, place and time do not."""

import os
from pathlib import Path
from typing import Any

import pytest

from convert.pipeline import workspace
from convert.pipeline.execution import STAGES, PipelineStage, inputs_of
from convert.pipeline.recipe import ExportSection, FinetuneSection, SourceSection
from convert.pipeline.workspace import StageRecord
from edge_agent.errors import FileMissing
from tests.support.recipes import ready_classifier, recipe_of


def quiet(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""


def folder(path: Path, **files: str) -> Path:
    """Write files into a folder; two underlines stand for a slash, one for a dot."""
    for name, content in files.items():
        file = path / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return path


def test_a_folder_counts_by_names_and_content(tmp_path: Path):
    """A copy elsewhere is the same; another name, content or place inside is not."""
    first = workspace.fingerprint_path(folder(tmp_path / "a", config_json="{}", sub__w="1"), quiet)
    assert workspace.fingerprint_path(folder(tmp_path / "b", config_json="{}", sub__w="1"), quiet) == first
    others = [
        folder(tmp_path / "c", config_json="{}", sub__w="2"),
        folder(tmp_path / "d", config_json="{}", sub__v="1"),
        folder(tmp_path / "e", config_json="{}", w="1"),
        folder(tmp_path / "f", config_json="{}"),
    ]
    assert first not in {workspace.fingerprint_path(other, quiet) for other in others}


def test_time_and_what_is_no_content_do_not_count(tmp_path: Path):
    """Touching a file, a version history and compiled Python change nothing; a link counts as what it leads to."""
    path = folder(tmp_path / "a", w="1")
    first = workspace.fingerprint_path(path, quiet)
    os.utime(path / "w", (0, 0))
    for name in (".git", "__pycache__"):
        (path / name).mkdir()
        (path / name / "x").write_text("x")
    assert workspace.fingerprint_path(path, quiet) == first
    folder(tmp_path / "b", w="1")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "w").symlink_to(tmp_path / "b" / "w")
    assert workspace.fingerprint_path(tmp_path / "linked", quiet) == first


def test_a_place_that_is_not_there_is_named(tmp_path: Path):
    """The error is about the recipe."""
    with pytest.raises(FileMissing, match="none does not exist") as raised:
        workspace.fingerprint_path(tmp_path / "none", quiet)
    assert raised.value.remedy == "Correct the path in the recipe."


def test_what_is_unfinished_goes_with_the_lock(tmp_path: Path):
    """Also where Ctrl-C comes while the folder of a stage is made, before anybody knows of it."""

    def interrupted() -> None:
        with workspace.Workspace(tmp_path / "work").locked():
            (tmp_path / "work" / ".partial-prepare-1").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [".lock"] == [path.name for path in (tmp_path / "work").iterdir()]


def test_reading_is_shown(tmp_path: Path):
    """Weights take a while to hash: each file is said before it is read."""
    seen: list[str] = []
    workspace.fingerprint_path(folder(tmp_path / "a", w="1", v="2"), lambda what, _done, _total: seen.append(what))
    assert seen == ["reading v", "reading w"]


def test_changes_are_named():
    """What is new, gone or other is listed; what stayed is not."""
    assert workspace.changed_inputs({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}) == ["a", "b", "d"]


def test_what_a_stage_left_is_its_files_and_its_report(tmp_path: Path):
    """Either changes the hash; the order of a report's keys does not."""
    left = folder(tmp_path / "a", w="1")

    def of(where: Path, report: dict[str, Any]) -> str:
        return workspace.fingerprint_output(where, report, lambda *_: None)

    assert of(left, {"a": 1, "b": 2}) == of(folder(tmp_path / "b", w="1"), {"b": 2, "a": 1})
    assert 3 == len({of(left, {"a": 1}), of(left, {"a": 2}), of(folder(tmp_path / "c", w="2"), {"a": 1})})


def test_versions_are_those_installed():
    """A library that is not there counts as that, so that installing it runs its stages again."""
    found = workspace.library_versions(["numpy", "no-such-library"])
    assert found["version of no-such-library"] == "not installed"
    assert found["version of numpy"][0].isdigit()


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ((), set()),
        (("source",), {"source.checkpoint"}),
        (("train", "importance"), {"data.train", "data.importance"}),
        (("task",), {"task"}),
        (("task.yaml",), {"task.yaml"}),
    ],
)
def test_each_thing_a_stage_names_becomes_an_input(tmp_path: Path, files: tuple[str, ...], names: set[str]):
    """Beside them stand the version of edge-convert and the sections and stages of its line."""
    recipe = recipe_of(tmp_path)
    folder(tmp_path / "m", config_json="{}")
    before = {"first": StageRecord("first", {"a": "1"}, 0.0, 0, {})}
    found = inputs_of(PipelineStage("m", ("first",), ("risk",), files), recipe, before, quiet)
    assert set(found) == {"version of edge-convert", "recipe: risk", "stage first", *names}


def test_the_task_counts_by_what_it_does(tmp_path: Path):
    """Provenance and version do not run a training again; a label does."""
    recipe, step = recipe_of(tmp_path), PipelineStage("m", (), (), ("task",))
    first = inputs_of(step, recipe, {}, quiet)
    task = tmp_path / "task.yaml"
    task.write_text(task.read_text().replace("1.0.0", "2.0.0") + "provenance: {base: another}\n")
    assert inputs_of(step, recipe, {}, quiet) == first
    task.write_text(task.read_text().replace("other]", "others]"))
    assert inputs_of(step, recipe, {}, quiet) != first


def test_a_ready_graph_that_is_trained_further_is_prepared_again(tmp_path: Path):
    """`prepare` takes a graph as it is, or reads its weights back for training, and the source does not tell which."""
    recipe = recipe_of(tmp_path)
    ready = ready_classifier(tmp_path / "ready")
    taken = recipe.model_copy(update={"source": SourceSection(onnx=str(ready))})
    trained = taken.model_copy(update={"finetune": FinetuneSection(method="full")})
    inputs = [inputs_of(STAGES["prepare"], each, {}, quiet) for each in (taken, trained, taken)]
    assert inputs[0] != inputs[1]
    assert inputs[0] == inputs[2]


def test_a_changed_checkout_of_llama_cpp_exports_again(tmp_path: Path):
    """Of a checkout that the recipe names, the converter counts, by content; without one nothing does."""
    recipe, step = recipe_of(tmp_path), PipelineStage("m", (), (), ("converter",))
    assert set(inputs_of(step, recipe, {}, quiet)) == {"version of edge-convert"}
    checkout = folder(tmp_path / "llama", convert_py="1", conversion__base_py="1", ggml__ggml_c="1")
    recipe = recipe.model_copy(update={"export": ExportSection(llama_cpp=str(checkout))})
    first = inputs_of(step, recipe, {}, quiet)
    (checkout / "ggml" / "ggml.c").write_text("2")
    assert inputs_of(step, recipe, {}, quiet) == first
    (checkout / "conversion" / "base.py").write_text("2")
    assert inputs_of(step, recipe, {}, quiet) != first
    assert "converter" in STAGES["export"].files


def test_the_table_of_stages_is_in_order():
    """A stage reads only stages above it, sections of a recipe, and files by names that are known; where it reads rows,
    what redacts them belongs to its libraries."""
    names, splits = list(STAGES), {"train", "importance", "calibration", "test"}
    files = {"source", "converter", "task", "cutoff", "task.yaml", "outliers", *splits}
    for name, step in STAGES.items():
        assert set(step.after) <= set(names[: names.index(name)]), name
        assert set(step.files) <= files, name
        assert step.libraries, name
        reads_rows = bool(splits & set(step.files))
        assert not reads_rows or {"Faker", "python-stdnum", "phonenumbers"} <= set(step.libraries), name
    assert names[0] == "prepare"
    assert names[-1] == "assemble"
