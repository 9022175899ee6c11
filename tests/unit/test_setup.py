"""scripts/setup --quick installs requirements from pyproject.toml, none of which needs a compiler."""

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


def test_quick_setup_installs_everything_but_llama_cpp():
    """The list is made from pyproject.toml without llama-cpp-python, which would be compiled."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["web"]
    [found] = [name for name in wanted if name.startswith("llama-cpp-python")]
    printed = run_function("dependencies", "dependencies").splitlines()
    assert [each for each in wanted if each != found] == printed


def test_requirement_has_the_bounds_of_pyproject():
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
def test_progress_bar_uses_the_count_of_the_build(tmp_path, log, said):
    """The bar uses ninja's steps or make's percentage; before the first there is none."""
    (tmp_path / "setup.log").write_text(log)
    assert said == run_function("compiled", "compiled", log=str(tmp_path / "setup.log")).strip()


def test_path_of_python_may_contain_a_blank(tmp_path):
    """PYTHON names one interpreter."""
    linked = tmp_path / "my tools/python3"
    linked.parent.mkdir()
    linked.symlink_to(Path(sys.executable).resolve())
    assert f"{linked}\n" == run_function("find_python", "find_python", PYTHON=str(linked))


def test_length_of_the_progress_bar():
    """Thirty cells represent the whole build."""
    assert f"[{'#' * 15}{'.' * 15}] " == run_function("bar", "bar 96 of 193 compiled".replace("96", "97"))


@pytest.mark.parametrize(
    "script",
    sorted(path.name for path in (ROOT / "scripts").iterdir() if ".venv/bin" in path.read_text(encoding="utf-8")),
)
def test_every_script_sets_up_the_environment_if_needed(script: str):
    """Each script runs in a fresh clone, as CONTRIBUTING.md promises."""
    text = (ROOT / "scripts" / script).read_text(encoding="utf-8")
    assert script == "setup" or "scripts/setup" in text
