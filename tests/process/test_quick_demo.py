"""`scripts/demo --quick` in a fresh clone, on a machine without a compiler: it sets itself up, answers and exits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILES = re.compile(r"(.*-)?(cc|c\+\+|gcc|g\+\+|c\d\d|cpp|clang|clang\+\+|ld|as|make|gmake|cmake|ninja)(-[\d.]+)?")
"""Names of programs that compile and link."""


def path_without_compilers(folder: Path) -> Path:
    """Fill a folder with links to all programs of this machine except compilers."""
    folder.mkdir()
    venv = Path(sys.executable).parent
    for place in map(Path, os.environ["PATH"].split(os.pathsep)):
        if place == venv or not place.is_dir():
            continue
        for program in place.iterdir():
            link = folder / program.name
            if not COMPILES.fullmatch(program.name) and not link.is_symlink():
                link.symlink_to(program)
    return folder


@pytest.mark.release
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_quick_demo_runs_in_a_fresh_clone_without_a_compiler(tmp_path):
    """The quick demo exits with 0, produces the bundles of both tasks, installs the console, and neither builds nor
    installs llama.cpp."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "CC")}
    environment |= {
        "PATH": str(path_without_compilers(tmp_path / "bin")),
        "PYTHON": str(Path(sys.executable).resolve()),
    }
    environment["PIP_FIND_LINKS"] = " ".join([environment.get("PIP_FIND_LINKS", ""), str(ROOT / ".cache" / "wheels")])
    look = ["bash", "-c", "type gcc g++ cc make cmake"]
    found = subprocess.run(look, env=environment, capture_output=True, check=False).stdout
    assert b"" == found
    done = subprocess.run(
        ["scripts/demo", "--quick"], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
    assert "scripts/demo continues with a language model" in done.stdout
    assert all((clone / ".cache" / "demo" / name / "manifest.json").is_file() for name in ("head", "desk-head"))
    console = [".venv/bin/python", "-c", "from edge_agent.web import console_server"]
    assert 0 == subprocess.run(console, cwd=clone, env=environment, check=False).returncode
    assert [] == [*(clone / ".cache" / "wheels").glob("llama*"), *(clone / ".venv").rglob("llama_cpp")]
