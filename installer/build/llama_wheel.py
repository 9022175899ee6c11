"""The wheel of llama.cpp: built by the recipe, once, then trimmed to what is loaded and measured."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from installer.build import elf_dependencies
from installer.build.build_steps import BuildFailed, need, python, run, step
from installer.build.llama_recipe import GLIBC_HEADER, GLIBC_MAX, HEADERS, BuildRecipe

LIBRARIES = "llama_cpp/lib"
OPENED = {"libllama.so", "libggml.so"}
BACKEND = re.compile(r"libggml-(?!base)[\w-]+\.so")
NOT_NEEDED = ("lib", "lib64", "include", "share")
"""Folders beside the package: second copies of its libraries, and what only builds against them."""


def wheel(recipe: BuildRecipe, cache: Path, log: Path) -> Path:
    """Return the wheel, from the cache if it was built before. Raises BuildFailed."""
    kept = cache / recipe.key
    if not any(kept.glob("*.whl")):
        need(recipe.tools)
        started = time.monotonic()
        _build(recipe, kept, log)
        step(f"built {recipe.key}", started)
    return next(kept.glob("*.whl"))


def _build(recipe: BuildRecipe, kept: Path, log: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".building-") as name:
        folder = Path(name)
        for header in HEADERS:  # a path without spaces or surprises, in every compiler's command line
            shutil.copyfile(header, folder / header.name)
        # --no-cache-dir: pip would hand out an earlier build for this machine, whatever cmake is told.
        build = python("-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--no-binary", "llama-cpp-python")
        run(
            [*build, "--wheel-dir", str(folder / "built"), f"llama-cpp-python=={recipe.version}"],
            log,
            recipe.environment(folder),
        )
        trimmed = trim(next((folder / "built").glob("*.whl")), folder, log)
        kept.mkdir(parents=True, exist_ok=True)
        trimmed.replace(kept / trimmed.name)


def trim(built: Path, folder: Path, log: Path) -> Path:
    """Return a wheel without second copies, with the OpenMP library that it needs. Raises BuildFailed."""
    run(python("-m", "wheel", "unpack", built, "--dest", folder / "unpacked"), log)
    tree = next((folder / "unpacked").iterdir())
    for name in NOT_NEEDED:
        shutil.rmtree(tree / name, ignore_errors=True)
    for path in [*second_copies(tree / LIBRARIES), *second_copies(tree / "bin")]:
        path.unlink()
    shutil.copyfile(openmp(), tree / LIBRARIES / "libgomp.so.1")
    check(tree)
    run(python("-m", "wheel", "pack", tree, "--dest-dir", folder), log)
    return next(folder.glob("*.whl"))


def second_copies(libraries: Path) -> Iterator[Path]:
    """Yield libraries that nothing asks for: a wheel has no links, so each name of a library is a copy of it.

    Python opens two by their short names; the others are asked for by the names that libraries need, or are backends.
    """
    paths = sorted(libraries.glob("*.so*"))
    asked = {name for path in paths for name in elf_dependencies.read_dependencies(path).needed} | OPENED
    yield from (path for path in paths if path.name not in asked and not BACKEND.fullmatch(path.name))


def openmp() -> Path:
    """Return GNU's OpenMP library, of a build that runs on any glibc: the one of this machine needs its own."""
    files = importlib.metadata.files("scikit-learn") or []
    return next(Path(str(path.locate())) for path in files if path.name.startswith("libgomp"))


def check(tree: Path) -> None:
    """Raise BuildFailed when a library would not run on the oldest system, or would load what others may write."""
    for path in sorted(tree.rglob("*.so*")):
        asked = elf_dependencies.read_dependencies(path)
        if asked.glibc > GLIBC_MAX:
            said = f"{path.name} needs glibc {'.'.join(map(str, asked.glibc))}"
            raise BuildFailed(said, f"Extend {GLIBC_HEADER.name}: Debian 12 has glibc {'.'.join(map(str, GLIBC_MAX))}.")
        strange = [folder for folder in asked.folders if not folder.startswith("$ORIGIN")]
        if strange:
            said = f"{path.name} looks for libraries in {', '.join(strange)}, a folder of the machine that built it"
            raise BuildFailed(said, "Look at CMAKE_INSTALL_RPATH in llama.cpp's build.")
