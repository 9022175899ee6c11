"""The edge-convert commands init, run and the stages, and the exit codes of docs/exit-codes.md."""

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
    """Run a command; return its exit code and its output with single spaces."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_invalid_choice_is_answered_with_the_valid_choices():
    """`edge-convert renew` with an unknown role names the valid ones, without the exception's own wording."""
    code, said = edge_convert("renew", "nosuch", "--repo", "updates", "--keys", "keys")
    assert (2, True) == (code, "'nosuch' is not one of 'root'" in said)
    assert "Value error" not in said


@pytest.mark.slow
def test_onnx_runtime_telemetry_is_off(tmp_path: Path):
    """edge-convert turns off ONNX Runtime's telemetry before loading it: no thread starts and no file with a machine id
    is written."""
    loads = "from convert.cli import root; root(); import onnxruntime; print(len(os.listdir('/proc/self/task')))"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    del environment["ORT_DISABLE_TELEMETRY"]
    command = [sys.executable, "-c", f"import os; {loads}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "1\n" == done.stdout
    assert [] == list(tmp_path.iterdir())


def test_init_writes_a_valid_recipe_and_recommends_a_model_type(tmp_path: Path):
    """The task is named after the folder; the output recommends an encoder or a decoder, with the reason."""
    folder = tmp_path / "My Task_1"
    code, said = edge_convert("init", str(folder), "--labels", "refund, price,other")
    assert code == 0
    assert "for runtime onnx. Recommended: an encoder. For a closed set of labels" in said
    written = recipe.read(folder)
    assert written.path(written.task).read_text().count("name: my-task-1") == 1
    assert '["refund", "price", "other"]' in (folder / "task.yaml").read_text()
    assert "Recommended: a decoder" in edge_convert("init", str(tmp_path / "g"), "--kind", "generate")[1]


def test_init_keeps_existing_files_without_force(tmp_path: Path):
    """`edge-convert init` refuses a folder with a task.yaml and replaces it only with --force."""
    (tmp_path / "task.yaml").write_text("mine")
    code, said = edge_convert("init", str(tmp_path))
    assert code == 2
    assert "has a task.yaml already what to do: Name another folder, or replace it with --force." in said
    assert not (tmp_path / "recipe.yaml").exists()
    assert edge_convert("init", str(tmp_path), "--force")[0] == 0


def test_init_into_a_symlink_loop_is_an_error(tmp_path: Path):
    """`edge-convert init` ends with code 3 and the system's error, without a traceback."""
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    code, said = edge_convert("init", str(loop), "--kind", "classify")
    assert (3, True) == (code, "error: " in said), said


def test_read_error_of_a_drive_names_what_to_check():
    """An I/O error without a file name ends with code 3 and the advice to check the disk; /proc/self/mem raises one on
    every machine."""
    code, said = edge_convert("run", "/proc/self/mem")
    assert (3, True) == (code, "error: Input/output error what to do: Check the disk or drive" in said), said


def test_argument_that_is_not_utf_8_is_refused_before_any_work(tmp_path: Path):
    """Libraries that write the files do not accept such a name, so `edge-convert init` refuses it and writes
    nothing."""
    code, said = edge_convert("init", str(tmp_path / "a\udcff"))
    assert (2, True, []) == (code, r"is not UTF-8" in said, list(tmp_path.iterdir())), said


def test_every_stage_is_a_command():
    """--help lists run, init and each stage, and the help of each has more than 200 characters."""
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
def test_bad_input_ends_with_its_exit_code_and_a_remedy(tmp_path: Path, write: dict[str, str], code: int, said: str):
    """`edge-convert run` prints the error with its remedy and without a traceback."""
    with contextlib.suppress(ManifestInvalid):  # the file is there, which is what counts
        recipe_of(tmp_path, **write)
    got, text = edge_convert("run", str(tmp_path))
    assert got == code
    assert said in text
    assert "error: " in text


def test_missing_recipe_is_named(tmp_path: Path):
    """The error names the missing recipe and the command that writes one."""
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
def test_exit_codes_match_the_documentation(error: type, code: int):
    """The class of an error determines the exit code, and docs/exit-codes.md has a row for each code."""
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
def test_assemble_runs_without_the_convert_extra(tmp_path: Path):
    """The demo makes its bundles on a machine without torch; `edge-convert run` there names the extra to install."""
    made = without_extra("assemble", "examples/echo", "--out", tmp_path / "echo")
    assert made.returncode == 0, made.stderr
    recipe_of(tmp_path)
    (tmp_path / "m").mkdir()
    refused = without_extra("run", tmp_path)
    assert refused.returncode == 3
    assert "needs the package" in refused.stderr
    assert "what to do: Install the extra 'convert': in a clone, pip install '.[convert]'" in refused.stderr


@pytest.mark.parametrize(("old", "new"), [("stick", "media"), ("site-kit", "enrolment-file")])
def test_command_runs_under_its_name_of_version_0_1(old: str, new: str) -> None:
    """The old name is hidden from the help, runs the same command, and prints a note with the new name."""
    code, said = edge_convert(old, "--help")
    assert (0, True) == (code, f"note: '{old}' is now called '{new}'" in said)
    listed = edge_convert("--help")[1]
    assert (True, False) == (f"│ {new} " in listed, f"│ {old} " in listed)
