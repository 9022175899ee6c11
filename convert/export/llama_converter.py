"""llama.cpp's own converter, of the same release that the agent runs.

It is not on PyPI, but in the source archive of llama-cpp-python, together with a gguf library that differs from the one
on PyPI of the same version. So `setup` builds both from the pinned archive once, into a folder of their own, and every
conversion is a process with that folder on its path. Afterwards no network is needed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.pipeline.stage import Progress
from edge_agent.durable import atomic_files
from edge_agent.errors import FileMissing, HashMismatch, ModelLoadFailed, RequirementUnmet

VERSION = "0.3.36"
"""Version of llama-cpp-python, as pinned in pyproject.toml."""
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
"""SHA-256 of its source archive on PyPI."""
CACHE_VARIABLE = "EDGE_CONVERT_CACHE"
HF_SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
_INSIDE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
_NEEDED = ("conversion/", "gguf-py/", "pyproject.toml", "README.md", "LICENSE")
_STEPS = 4


@dataclass(frozen=True)
class GgufConverter:
    """An installed converter."""

    scripts: Path
    """The folder with HF_SCRIPT and LORA_SCRIPT."""
    library: Path
    """The folder with the gguf package that they need."""

    def run(self, script: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run one of the scripts."""
        path = os.pathsep.join([str(self.scripts), str(self.library)])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        environment["TQDM_DISABLE"] = "1"  # so that the last line is the error
        command = [sys.executable, str(self.scripts / script), *arguments]
        return subprocess.run(  # noqa: S603 - the converter that was set up
            command, capture_output=True, text=True, errors="replace", check=False, env=environment
        )


def cache_folder(given: Path | None = None) -> Path:
    """Return the folder of the converter: the given one, $EDGE_CONVERT_CACHE, or the user's cache."""
    if given is not None:
        return given
    own = os.environ.get(CACHE_VARIABLE)
    user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own) if own else Path(user, "edge-convert")


def find(checkout: Path | None = None, cache: Path | None = None) -> GgufConverter:
    """Return the converter: that of a llama.cpp checkout if one is given, else the one that `setup` made.

    Raises:
        FileMissing: the checkout has no converter.
        RequirementUnmet: `setup` has not run.
    """
    if checkout is not None:
        if not (checkout / HF_SCRIPT).is_file():
            raise FileMissing(f"{checkout} has no {HF_SCRIPT}", remedy="Name a checkout of llama.cpp.")
        return GgufConverter(checkout, checkout / "gguf-py")
    site = _site(cache_folder(cache))
    if not (site / HF_SCRIPT).is_file():
        raise RequirementUnmet(
            f"llama.cpp's converter is not set up: {site} does not exist",
            remedy="Run 'edge-convert setup' once, with network; later runs need none.",
        )
    return GgufConverter(site, site)


def setup(cache: Path | None = None, archive: Path | None = None, progress: Progress = lambda *_: None) -> Path:
    """Build the converter unless it exists, and return its folder.

    `archive` is the source archive if it was downloaded by other means; its hash is checked too.

    Raises:
        HashMismatch: the archive is not the pinned one.
        RequirementUnmet: pip cannot download or build a package.
    """
    site = _site(cache_folder(cache))
    if (site / HF_SCRIPT).is_file():
        return site
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=".setup-") as name:
        folder = Path(name)
        progress("downloading the source archive of llama-cpp-python", 0, _STEPS)
        source = archive or download(folder)
        _check(source)
        progress("unpacking llama.cpp's converter", 1, _STEPS)
        tree = _unpack(source, folder / "source")
        progress("building it", 2, _STEPS)
        wheels = folder / "wheels"
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(tree), str(tree / "gguf-py"))
        progress("installing it", 3, _STEPS)
        made = folder / "site"
        files = [str(wheel) for wheel in sorted(wheels.glob("*.whl"))]
        _pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(made), *files)
        made.replace(site)
    progress("installing it", _STEPS, _STEPS)
    return site


def _site(cache: Path) -> Path:
    return cache / f"llama-cpp-python-{VERSION}"


def download(folder: Path) -> Path:
    """Download the source archive into a folder, and check its hash.

    pip runs its build script for the metadata, which takes a minute. Raises RequirementUnmet.
    """
    wanted = folder / "requirements.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    only_source = ("--no-binary", "llama-cpp-python")
    _pip("download", "--no-deps", *only_source, "--require-hashes", "--dest", str(folder), "-r", str(wanted))
    return folder / f"llama_cpp_python-{VERSION}.tar.gz"


def _check(archive: Path) -> None:
    if not archive.is_file():
        raise FileMissing(f"{archive} does not exist", remedy="Name the source archive of llama-cpp-python.")
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise HashMismatch(
            f"{archive} is not the source archive of llama-cpp-python {VERSION}: its sha256 is {found}",
            remedy=f"Download llama_cpp_python-{VERSION}.tar.gz from PyPI.",
        )


def _unpack(archive: Path, target: Path) -> Path:
    """Unpack the files of the converter, about 1% of the archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.removeprefix(_INSIDE)
            top = "/" not in inside and inside.endswith(".py")
            if member.name.startswith(_INSIDE) and (top or inside.startswith(_NEEDED)):
                tar.extract(member, target, filter="data")
    return target / _INSIDE


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - pip
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise RequirementUnmet(
            f"'pip {arguments[0]}' failed: {lines[0][:300] if lines else 'it printed no error'}",
            remedy="The setup needs the network, or --archive with the file. Configure a proxy in pip.",
        )


def last_error(done: subprocess.CompletedProcess[str]) -> str:
    """Return the line with a script's error."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(("ERROR", "NotImplementedError", "FileNotFoundError"))]
    return (named or lines or ["it printed no error"])[-1]


def check_done(done: subprocess.CompletedProcess[str], out: Path) -> None:
    """Raise ModelLoadFailed if a script did not write its file, OSError if the disk is full."""
    if done.returncode != 0 or not out.is_file():
        atomic_files.require_free_space(out)
        said = f"llama.cpp's converter failed: {last_error(done)[:500]}"
        raise ModelLoadFailed(said, remedy="docs/architectures.md lists the architectures that work.")
