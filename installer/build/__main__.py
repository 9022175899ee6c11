"""Makes the installer: one file that installs Edge Agent without a network.

Needs a network, git, gcc, g++ and binutils; everything else goes into a separate environment in .cache/installer.
First it downloads about 430 MB. Then it compiles llama.cpp for every kind of x86-64 processor: 305 objects, together
10 to 20 minutes of one core of an AMD EPYC, divided by the number of cores. It shows how many objects are compiled, and
estimates the remaining time on this machine.

You can stop it at any time: the same command continues with the next object. Once llama.cpp is compiled, a build takes
about a minute and needs no network. The installer contains the versions that the tests ran with:
installer/build/versions.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_agent import __version__
from installer.build import archive, payload_contents, shared_files
from installer.build.build_environment import BuildEnvironment
from installer.build.build_steps import KEPT, BuildFailed, StepConsole, need, need_space
from installer.build.llama_recipe import GPU, BuildRecipe
from installer.build.llama_wheel import LlamaWheel
from installer.build.tool_runner import BuildInterrupted, ToolRunner, ending_all_children
from installer.build.wheelhouse import PYTHONS, Wheelhouse, WheelhouseBuilder

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "pyproject.toml"
ENGINE = "llama-cpp-python"
SPACE_BYTES = 3_000_000_000
"""Most disk space that a first build uses."""
SPACE_AGAIN_BYTES = 1_500_000_000
TESTS = (
    ("-m", "edge_agent.cli", "--version"),
    ("-c", "import grpc, onnxruntime, tokenizers, cryptography, numpy; print('ONNX Runtime', onnxruntime.__version__)"),
    ("-c", "import re2, pyrage, obstore, llguidance, uvloop, zstandard; print('libraries load')"),
    (
        "-c",
        "from edge_agent.engine.runtimes.llama import llama_backends as b; b.load();"
        " print('llama.cpp for', b.cpu_variant())",
    ),
)
"""Tests that setup runs before it switches to the new program: they load all compiled code once."""


class InstallerBuild:
    """One run of the command: first the downloads, then the compilation, then the file."""

    def __init__(self, gpu: str, cache: Path, console: StepConsole) -> None:
        """Build the variant for `gpu`, or for processors alone when it is empty."""
        self._runner = ToolRunner(cache / "build.log", console)
        self._label = archive.InstallerLabel(__version__, gpu or "cpu")
        project = _project()
        needs = [*project["dependencies"], *project["optional-dependencies"]["web"]]
        self._needs = [need for need in needs if not need.startswith(ENGINE)]
        self._recipe, self._gpu, self._cache = recipe_for(gpu), gpu, cache
        self._environment = BuildEnvironment(cache / "environment", PROJECT, self._runner)
        self._engine = LlamaWheel(self._recipe, cache, self._environment, self._runner)

    def run(self, out: Path) -> Path:
        """Make the installer; return the file. Raises BuildFailed, BuildInterrupted, OSError."""
        console = self._runner.console
        console.say(f"Building {self._label.file_name}; the log is {self._runner.log}")
        commit = commit_of(ROOT)  # before the long steps
        need_space(self._cache, SPACE_AGAIN_BYTES if self._engine.built else SPACE_BYTES)
        self._environment.make()
        self._engine.fetch()
        wheelhouses = self._gather()
        engine = self._engine.build()
        with _staging(self._cache / "staging") as staging:
            agent = self._agent_wheel(staging / "agent")
            payload = staging / "payload"
            with console.step(f"pack {self._label.file_name}"):
                self._fill(payload, [wheelhouse.with_wheel(engine) for wheelhouse in wheelhouses], agent, commit)
                out.mkdir(parents=True, exist_ok=True)
                archive.write(out / self._label.file_name, payload, self._label)
        return out / self._label.file_name

    def _gather(self) -> list[Wheelhouse]:
        """Gather the wheels for each Python, and install those that generate the man pages."""
        needs = [*self._needs, *self._engine.requirements()]
        builder = WheelhouseBuilder(needs, self._cache / "wheelhouse", self._environment, self._runner)
        wheelhouses = {version: builder.gather(version) for version in PYTHONS}
        here = self._environment.python_version
        self._environment.install((wheelhouses.get(here) or builder.gather(here)).wheels)
        return list(wheelhouses.values())

    def _fill(self, payload: Path, wheelhouses: list[Wheelhouse], agent: Path, commit: str) -> None:
        payload_contents.lay_wheels(payload, wheelhouses, agent)
        shutil.copyfile(self._environment.pip_wheel(), payload / "common" / self._environment.pip_wheel().name)
        share = payload / "common/share"
        shared_files.fill(share, ROOT, self._gpu)
        self._runner.run([self._environment.python, "-m", "installer.build.man_pages", share / "man"], folder=ROOT)
        archive.setup_program(payload / "common/setup.pyz")
        payload_contents.write_manifest(payload, wheelhouses, self._label, commit, TESTS)

    def _agent_wheel(self, folder: Path) -> Path:
        """Build edge-agent's own wheel from a copy of the files that git tracks."""
        source = folder / "source"
        for name in _git("ls-files", "edge_agent", "pyproject.toml", "README.md", "LICENSE").splitlines():
            if (ROOT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, source / name)
        project = (source / "pyproject.toml").read_text(encoding="utf-8")
        # The toolkit stays with the central team.
        (source / "pyproject.toml").write_text(re.sub(r"(?m)^edge-convert = .*\n", "", project), encoding="utf-8")
        pip = [self._environment.python, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
        with self._runner.console.step("build edge-agent's own wheel"):
            self._runner.run([*pip, "--wheel-dir", folder, source])
        return next(folder.glob("*.whl"))


def recipe_for(gpu: str) -> BuildRecipe:
    """Return the recipe for the version of llama-cpp-python that the project pins."""
    [version] = (need.partition("==")[2] for need in _project()["dependencies"] if need.startswith(f"{ENGINE}=="))
    return BuildRecipe(version, gpu)


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return project


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Make an empty folder, and remove it when the block ends; a folder left by a killed build is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _git(*arguments: str, checkout: Path = ROOT) -> str:
    """Return what git prints. Raises BuildFailed."""
    command = ["git", "-C", str(checkout), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode != 0:
        message = f"git cannot read {checkout}: {done.stderr.strip()}"
        raise BuildFailed(message, "Build in a clone of the repository, as the user who owns it.")
    return done.stdout


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout, with a plus sign if it has uncommitted changes. Raises BuildFailed."""
    commit = _git("rev-parse", "--short=12", "HEAD", checkout=checkout).strip()
    return commit + ("+" if _git("status", "--porcelain", checkout=checkout).strip() else "")


@contextlib.contextmanager
def _exclusive_lock(path: Path, console: StepConsole) -> Iterator[None]:
    """Wait until no other build runs in this checkout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say("another build is running here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fail(message: str, remedy: str) -> int:
    sys.stderr.write(f"error: {message}\nwhat to do: {remedy}\n")
    return 1


def main() -> int:
    """Run the command."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="scripts/build-installer", description=__doc__, formatter_class=formatter)
    gpus = [name for name in GPU if name]
    parser.add_argument("--gpu", choices=gpus, default="", help="also carry the code for a GPU")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", metavar="DIR", help="folder of the file (default: dist/)"
    )
    arguments = parser.parse_args()
    started, console = time.monotonic(), StepConsole()
    cache = ROOT / ".cache/installer"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        need(recipe_for(arguments.gpu).tools)
        with ending_all_children(), _exclusive_lock(ROOT / ".cache/installer.lock", console):
            path = InstallerBuild(arguments.gpu, cache, console).run(arguments.out)
    except BuildInterrupted as stop:
        sys.stderr.write(f"stopped. {KEPT}\n")
        return 128 + stop.number
    except BuildFailed as error:
        return _fail(error.message, error.remedy)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror}{where}", f"{'Free some space. ' if full else ''}{KEPT}")
    console.say(f"{path}: {path.stat().st_size / 1e6:.0f} MB, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
