"""Fingerprints of the inputs of a stage: content counts, location and time do not."""

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
    """Ignore progress."""


def folder(path: Path, **files: str) -> Path:
    """Write files into a folder; in names two underscores stand for a slash, one for a dot."""
    for name, content in files.items():
        file = path / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return path


def test_fingerprint_covers_names_and_content(tmp_path: Path):
    """A copy of a folder has the same fingerprint; another file name, content or location inside gives another one."""
    first = workspace.fingerprint_path(folder(tmp_path / "a", config_json="{}", sub__w="1"), quiet)
    assert workspace.fingerprint_path(folder(tmp_path / "b", config_json="{}", sub__w="1"), quiet) == first
    others = [
        folder(tmp_path / "c", config_json="{}", sub__w="2"),
        folder(tmp_path / "d", config_json="{}", sub__v="1"),
        folder(tmp_path / "e", config_json="{}", w="1"),
        folder(tmp_path / "f", config_json="{}"),
    ]
    assert first not in {workspace.fingerprint_path(other, quiet) for other in others}


def test_fingerprint_ignores_times_git_and_caches(tmp_path: Path):
    """File times, .git and __pycache__ do not change a fingerprint, and a symbolic link counts as its target."""
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


def test_fingerprint_of_a_missing_path_is_an_error(tmp_path: Path):
    """A path of the recipe that does not exist is refused by name."""
    with pytest.raises(FileMissing, match="none does not exist") as raised:
        workspace.fingerprint_path(tmp_path / "none", quiet)
    assert raised.value.remedy == "Correct the path in the recipe."


def test_partial_folders_are_removed_with_the_lock(tmp_path: Path):
    """If Ctrl-C arrives while a stage's folder is made, the partial folder is removed when the lock is released."""

    def interrupted() -> None:
        with workspace.Workspace(tmp_path / "work").locked():
            (tmp_path / "work" / ".partial-prepare-1").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [".lock"] == [path.name for path in (tmp_path / "work").iterdir()]


def test_hashing_shows_each_file(tmp_path: Path):
    """Progress names each file before it is hashed."""
    seen: list[str] = []
    workspace.fingerprint_path(folder(tmp_path / "a", w="1", v="2"), lambda what, _done, _total: seen.append(what))
    assert seen == ["reading v", "reading w"]


def test_changed_inputs_are_listed():
    """New, removed and changed inputs are listed, unchanged ones are not."""
    assert workspace.changed_inputs({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}) == ["a", "b", "d"]


def test_output_fingerprint_covers_files_and_report(tmp_path: Path):
    """A stage's output fingerprint changes with its files and its report, but not with the order of the report's
    keys."""
    left = folder(tmp_path / "a", w="1")

    def of(where: Path, report: dict[str, Any]) -> str:
        return workspace.fingerprint_output(where, report, lambda *_: None)

    assert of(left, {"a": 1, "b": 2}) == of(folder(tmp_path / "b", w="1"), {"b": 2, "a": 1})
    assert 3 == len({of(left, {"a": 1}), of(left, {"a": 2}), of(folder(tmp_path / "c", w="2"), {"a": 1})})


def test_library_versions_include_missing_libraries():
    """A library that is not installed is recorded as such, so that its installation runs the stages that use it
    again."""
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
def test_stage_inputs_have_the_declared_files(tmp_path: Path, files: tuple[str, ...], names: set[str]):
    """The inputs of a stage are its declared files, sections and stages, and the version of edge-convert."""
    recipe = recipe_of(tmp_path)
    folder(tmp_path / "m", config_json="{}")
    before = {"first": StageRecord("first", {"a": "1"}, 0.0, 0, {})}
    found = inputs_of(PipelineStage("m", ("first",), ("risk",), files), recipe, before, quiet)
    assert set(found) == {"version of edge-convert", "recipe: risk", "stage first", *names}


def test_task_fingerprint_ignores_version_and_provenance(tmp_path: Path):
    """Version and provenance in task.yaml do not change the input `task`; a label does."""
    recipe, step = recipe_of(tmp_path), PipelineStage("m", (), (), ("task",))
    first = inputs_of(step, recipe, {}, quiet)
    task = tmp_path / "task.yaml"
    task.write_text(task.read_text().replace("1.0.0", "2.0.0") + "provenance: {base: another}\n")
    assert inputs_of(step, recipe, {}, quiet) == first
    task.write_text(task.read_text().replace("other]", "others]"))
    assert inputs_of(step, recipe, {}, quiet) != first


def test_finetune_of_an_onnx_source_runs_prepare_again(tmp_path: Path):
    """Adding `finetune` to a recipe with an ONNX source changes the inputs of `prepare`, which then reads the weights
    back."""
    recipe = recipe_of(tmp_path)
    ready = ready_classifier(tmp_path / "ready")
    taken = recipe.model_copy(update={"source": SourceSection(onnx=str(ready))})
    trained = taken.model_copy(update={"finetune": FinetuneSection(method="full")})
    inputs = [inputs_of(STAGES["prepare"], each, {}, quiet) for each in (taken, trained, taken)]
    assert inputs[0] != inputs[1]
    assert inputs[0] == inputs[2]


def test_changed_llama_cpp_converter_runs_export_again(tmp_path: Path):
    """A change to the converter in the recipe's llama.cpp checkout changes the inputs of `export`; a change to other
    sources does not."""
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


def test_table_of_stages_is_in_order():
    """Each stage reads only earlier stages and known files, and a stage that reads rows declares the libraries that
    redact them."""
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
