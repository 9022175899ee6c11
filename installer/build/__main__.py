"""The command `scripts/build-installer`."""

from __future__ import annotations

import argparse
import fcntl
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from edge_agent import __version__
from installer.build import archive, llama_wheel, payload_contents, shared_files
from installer.build.build_steps import BuildFailed, python, run, say, step
from installer.build.llama_recipe import GPU, BuildRecipe
from installer.build.wheelhouse import PYTHONS, gather

ROOT = Path(__file__).parent.parent.parent
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
"""What setup runs before the new program becomes the program: everything compiled is loaded once."""


def build(gpu: str, out: Path) -> Path:
    """Make the installer; return the file. Raises BuildFailed, OSError."""
    cache, label = ROOT / ".cache/installer", archive.InstallerLabel(__version__, gpu or "cpu")
    cache.mkdir(parents=True, exist_ok=True)
    log = cache / "build.log"
    log.write_text("", encoding="utf-8")
    say(f"Building {label.file_name}")
    engine = llama_wheel.wheel(BuildRecipe(_pinned(), gpu), cache, log)
    houses = [gather(version, engine, ROOT, cache, log) for version in PYTHONS]
    with tempfile.TemporaryDirectory(prefix="edge-agent-installer.") as name:
        agent = _agent_wheel(Path(name) / "agent", log)
        started, payload = time.monotonic(), Path(name) / "payload"
        payload_contents.lay_wheels(payload, houses, agent)
        run(
            python(
                "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "pip", "-d", payload / "common"
            ),
            log,
        )
        shared_files.fill(payload / "common/share", ROOT, gpu)
        archive.setup_program(payload / "common/setup.pyz")
        payload_contents.write_manifest(payload, houses, label, _commit(), TESTS)
        out.mkdir(parents=True, exist_ok=True)
        archive.write(out / label.file_name, payload, label)
        step(f"packed {label.file_name}", started)
    return out / label.file_name


def _pinned() -> str:
    """Return the version of llama-cpp-python that the project needs."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return next(str(need).partition("==")[2] for need in needs if need.startswith("llama-cpp-python=="))


def _agent_wheel(folder: Path, log: Path) -> Path:
    """Build edge-agent's own wheel from the files that git knows, beside the tree and not in it."""
    started = time.monotonic()
    source = folder / "source"
    for name in _git("ls-files", "edge_agent", "pyproject.toml", "README.md", "LICENSE").splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    project = (source / "pyproject.toml").read_text(encoding="utf-8")
    # The factory stays at the centre.
    (source / "pyproject.toml").write_text(re.sub(r"(?m)^edge-convert = .*\n", "", project), encoding="utf-8")
    run(python("-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source), log)
    step("built edge-agent's own wheel", started)
    return next(folder.glob("*.whl"))


def _git(*arguments: str) -> str:
    return subprocess.check_output(["git", "-C", str(ROOT), *arguments], text=True)  # noqa: S603, S607 - our own words


def _commit() -> str:
    """Return the commit that this is built from; with a plus sign if something is not committed."""
    return _git("rev-parse", "--short=12", "HEAD").strip() + ("+" if _git("status", "--porcelain").strip() else "")


def main() -> int:
    """Run the command."""
    parsing = argparse.ArgumentParser(prog="scripts/build-installer", description=__doc__)
    parsing.add_argument("--gpu", choices=[name for name in GPU if name], default="", help="also bring a GPU's code")
    parsing.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR", help="where to put the file (dist/)")
    given = parsing.parse_args()
    started = time.monotonic()
    try:
        with (ROOT / ".cache/installer.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = build(given.gpu, given.out)
    except BuildFailed as error:
        sys.stderr.write(f"error: {error.message}\nwhat to do: {error.remedy}\n")
        return 1
    say(f"{path}: {path.stat().st_size / 1e6:.0f} MB, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
