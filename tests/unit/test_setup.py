"""scripts/setup --quick: what it installs comes from pyproject.toml, and nothing in it needs a compiler."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SETUP = (ROOT / "scripts" / "setup").read_text(encoding="utf-8")


def run_function(name: str, call: str, **variables: str) -> str:
    """Run a function of scripts/setup alone."""
    [body] = re.findall(rf"(?ms)^{name}\(\) {{.*?^}}|^{name}\(\) {{[^\n]*}}$", SETUP)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{body}\n{call}"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_quick_set_up_installs_what_the_agent_and_its_console_need_but_llama():
    """The list is made from pyproject.toml: llama.cpp alone is left out, which '.[web]' would compile afterwards."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["web"]
    [found] = [name for name in wanted if name.startswith("llama-cpp-python")]
    printed = run_function("dependencies", "dependencies").splitlines()
    assert [each for each in wanted if each != found] == printed


def test_a_requirement_is_bounded_as_pyproject_bounds_it():
    """A name becomes the requirement with its bounds, and never that of a longer name."""
    assert ["onnx>=1.18", "safetensors>=0.5"] == run_function("bounded", "bounded onnx safetensors").splitlines()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("== build\n[1/193] Building C object\n[12/193] Building CXX object\n", "12 of 193 compiled"),
        ("[  7%] Building CXX object\n", "7 of 100 % compiled"),
        ("Collecting llama-cpp-python\n", ""),
    ],
)
def test_the_bar_of_the_build_counts_what_is_compiled(tmp_path, log, said):
    """It is the build's own count: of ninja's steps, or make's percent; before the first there is none."""
    (tmp_path / "setup.log").write_text(log)
    assert said == run_function("compiled", "compiled", log=str(tmp_path / "setup.log")).strip()


def test_a_python_is_one_path_whatever_is_in_it(tmp_path):
    """PYTHON names one interpreter, also where its path has a blank."""
    linked = tmp_path / "my tools/python3"
    linked.parent.mkdir()
    linked.symlink_to(Path(sys.executable).resolve())
    assert f"{linked}\n" == run_function("find_python", "find_python", PYTHON=str(linked))


def test_the_bar_is_as_long_as_what_is_done():
    """Thirty cells stand for all that there is to compile."""
    assert f"[{'#' * 15}{'.' * 15}] " == run_function("bar", "bar 96 of 193 compiled".replace("96", "97"))


@pytest.mark.parametrize(
    "script",
    sorted(path.name for path in (ROOT / "scripts").iterdir() if ".venv/bin" in path.read_text(encoding="utf-8")),
)
def test_a_script_that_needs_the_environment_makes_it_first(script: str):
    """In a fresh clone each of them runs, as CONTRIBUTING.md promises."""
    text = (ROOT / "scripts" / script).read_text(encoding="utf-8")
    assert script == "setup" or "scripts/setup" in text
