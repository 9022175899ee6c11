"""The commands of the factory: init, run and the stages, and the exit codes of docs/exit-codes.md."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convert.cli import app, code_of
from convert.pipeline import recipe
from convert.pipeline.execution import STAGES
from edge_agent.errors import (
    DiskFull,
    InvalidRequest,
    ManifestInvalid,
    MemoryShort,
    ModelFailed,
    QueueFull,
    RequirementUnmet,
    StateDirInUse,
)
from tests.support.recipes import TRAIN, recipe_of

ROOT = Path(__file__).parents[4]


def edge_convert(*arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code and all that it wrote, with single spaces."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_a_word_that_is_no_choice_is_answered_with_the_choices():
    """Without the name of the exception by which the library found it."""
    code, said = edge_convert("renew", "nosuch", "--repo", "updates", "--keys", "keys")
    assert (2, True) == (code, "'nosuch' is not one of 'root'" in said)
    assert "Value error" not in said


@pytest.mark.slow
def test_no_report_goes_to_the_vendor_of_onnx_runtime(tmp_path: Path):
    """What a command has set before it loads ONNX Runtime keeps it from naming and reporting this machine."""
    loads = "from convert.cli import root; root(); import onnxruntime; print(len(os.listdir('/proc/self/task')))"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    del environment["ORT_DISABLE_TELEMETRY"]
    command = [sys.executable, "-c", f"import os; {loads}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "1\n" == done.stdout
    assert [] == list(tmp_path.iterdir())


def test_init_writes_a_recipe_that_reads_and_recommends(tmp_path: Path):
    """The task is named after the folder; the advice says encoder or decoder and why."""
    folder = tmp_path / "My Task_1"
    code, said = edge_convert("init", str(folder), "--labels", "refund, price,other")
    assert code == 0
    assert "for runtime onnx. Recommended: an encoder. For a closed set of labels" in said
    written = recipe.read(folder)
    assert written.path(written.task).read_text().count("name: my-task-1") == 1
    assert '["refund", "price", "other"]' in (folder / "task.yaml").read_text()
    assert "Recommended: a decoder" in edge_convert("init", str(tmp_path / "g"), "--kind", "generate")[1]


def test_init_replaces_nothing_unasked(tmp_path: Path):
    """A recipe that is there stays, unless told otherwise."""
    (tmp_path / "task.yaml").write_text("mine")
    code, said = edge_convert("init", str(tmp_path))
    assert code == 2
    assert "has a task.yaml already what to do: Name another folder, or replace it with --force." in said
    assert not (tmp_path / "recipe.yaml").exists()
    assert edge_convert("init", str(tmp_path), "--force")[0] == 0


def test_init_names_a_link_to_itself(tmp_path: Path):
    """As the system does, without a traceback."""
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    code, said = edge_convert("init", str(loop), "--kind", "classify")
    assert (3, True) == (code, "error: " in said), said


def test_a_drive_that_fails_is_reported_with_where_to_look():
    """Reading an open file raises an error without a name; this file of the system does it on every machine."""
    code, said = edge_convert("run", "/proc/self/mem")
    assert (3, True) == (code, "error: Input/output error what to do: Check the disk or drive" in said), said


def test_an_argument_that_is_not_text_is_refused_before_any_work(tmp_path: Path):
    """Libraries that write the files take no such name; before, the command found out after its work."""
    code, said = edge_convert("init", str(tmp_path / "a\udcff"))
    assert (2, True, []) == (code, r"is not UTF-8" in said, list(tmp_path.iterdir())), said


def test_every_stage_is_a_command():
    """--help names run, init and each stage of the table, and every command explains itself."""
    said = edge_convert("--help")[1]
    for name in ("init", "run", *STAGES):
        assert f" {name} " in said
        assert len(edge_convert(name, "--help")[1]) > 200


@pytest.mark.parametrize(
    ("write", "code", "said"),
    [
        ({"sections": "fintune: {}"}, 2, "unknown key 'fintune' what to do: Did you mean 'finetune'?"),
        ({"test": TRAIN}, 2, "3 texts are in both the train and the test split"),
        ({}, 2, "what to do:"),
    ],
)
def test_bad_input_ends_with_its_code_and_what_to_do(tmp_path: Path, write: dict[str, str], code: int, said: str):
    """The error stands on standard error, without a traceback."""
    with contextlib.suppress(ManifestInvalid):  # the file is there, which is what counts
        recipe_of(tmp_path, **write)
    got, text = edge_convert("run", str(tmp_path))
    assert got == code
    assert said in text
    assert "error: " in text


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path):
    """The error says how to get one."""
    code, said = edge_convert("prepare", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "none.yaml does not exist what to do: Name a recipe.yaml; 'edge-convert init' writes one." in said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest, 2),
        (ManifestInvalid, 2),
        (ModelFailed, 1),
        (DiskFull, 3),
        (MemoryShort, 3),
        (StateDirInUse, 3),
        (RequirementUnmet, 3),
        (QueueFull, 4),
    ],
)
def test_exit_codes_are_those_of_the_document(error: type, code: int):
    """The family of an error decides; docs/exit-codes.md has a row for each code."""
    assert code_of(error) == code
    assert f"\n| {code} |" in (ROOT / "docs" / "exit-codes.md").read_text()


WITHOUT_EXTRA = """
import sys, tomllib

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

absent = {"torch", "transformers", "peft", "optimum", "onnx", "onnx_ir", "safetensors", "sentencepiece", "scipy",
          "matplotlib", "openai", "duckdb", "pyarrow", "gguf"}
sys.meta_path.insert(0, Absent())
from convert.cli import main
main()
"""
"""Runs edge-convert as if the convert extra were not installed."""


def without_extra(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command where the convert extra is not installed."""
    command = [sys.executable, "-c", WITHOUT_EXTRA, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_assembling_by_hand_needs_no_extra(tmp_path: Path):
    """The demo makes its bundles on a machine without torch; a recipe there says what to install."""
    made = without_extra("assemble", "examples/echo", "--out", tmp_path / "echo")
    assert made.returncode == 0, made.stderr
    recipe_of(tmp_path)
    (tmp_path / "m").mkdir()
    refused = without_extra("run", tmp_path)
    assert refused.returncode == 3
    assert "needs the package" in refused.stderr
    assert "what to do: Install the extra 'convert': in a clone, pip install '.[convert]'" in refused.stderr


@pytest.mark.parametrize(("old", "new"), [("stick", "media"), ("site-kit", "enrolment-file")])
def test_a_command_of_version_0_1_runs_under_its_old_name(old: str, new: str) -> None:
    """The old name is hidden from the help, runs the same command, and notes the name of today."""
    code, said = edge_convert(old, "--help")
    assert (0, True) == (code, f"note: '{old}' is now called '{new}'" in said)
    listed = edge_convert("--help")[1]
    assert (True, False) == (f"│ {new} " in listed, f"│ {old} " in listed)
