"""The wheels that a program is made of: resolved once for each Python, with the hash of every file."""

from __future__ import annotations

import hashlib
import re
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from installer.build.build_steps import BuildFailed, python, run, step
from installer.build.llama_recipe import GLIBC_MAX

_PINNED = re.compile(r"(?m)^([\w.-]+==[\w.]+)(?= |$)")
PYTHONS = ("3.11", "3.12", "3.13")
COMPILED_SHARE = 1.35
"""What a program takes beside its wheels' content: what Python compiles of it, and whole blocks of the disk."""


@dataclass(frozen=True)
class Wheelhouse:
    """The folder of wheels for one Python."""

    python: str
    wheels: tuple[Path, ...]

    def installed_bytes(self) -> int:
        """Return about what the installed program takes."""
        content = sum(item.file_size for wheel in self.wheels for item in zipfile.ZipFile(wheel).infolist())
        return int(content * COMPILED_SHARE)


def gather(version: str, engine: Path, project: Path, cache: Path, log: Path) -> Wheelhouse:
    """Fetch what the project needs under one Python, beside `engine`, llama.cpp's wheel. Raises BuildFailed."""
    started = time.monotonic()
    folder = cache / "wheelhouse" / version
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "resolved.txt"
    _resolve(version, engine, project, wanted, log)
    fetch = python("-m", "pip", "download", *_tags(version), "--require-hashes", "-r", wanted, "-d", folder)
    try:
        run([*fetch, "--no-index", "--find-links", str(folder)], log)  # those of an earlier build
    except BuildFailed:
        run(fetch, log)
    names = {_named(wheel): wheel for wheel in sorted(folder.glob("*.whl"))}
    fetched = [names[name] for name in _PINNED.findall(wanted.read_text(encoding="utf-8"))]
    step(f"gathered {len(fetched)} wheels for Python {version}", started)
    return Wheelhouse(version, (*fetched, engine))


def _resolve(version: str, engine: Path, project: Path, wanted: Path, log: Path) -> None:
    """Write which versions, with the hashes of all their files: those that the tests here run with."""
    tested = wanted.with_name("tested.txt")
    frozen = run(python("-m", "pip", "freeze", "--exclude-editable"), log)
    tested.write_text("\n".join(_PINNED.findall(frozen)), encoding="utf-8")
    options = [
        "--extra",
        "web",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--only-binary",
        ":all:",
        "--quiet",
    ]
    options += ["--python-version", version, "--python-platform", f"x86_64-manylinux_{GLIBC_MAX[0]}_{GLIBC_MAX[1]}"]
    places = ["--find-links", engine.parent, "--no-emit-package", "llama-cpp-python", "--constraint", tested]
    command = ["-m", "uv", "pip", "compile", project / "pyproject.toml", *options, *places, "--output-file", wanted]
    run(python(*command), log)


def locked(wheels: Iterable[Path]) -> str:
    """Write what pip installs: each wheel by name, version and hash."""
    return "".join(sorted(f"{_named(wheel)} --hash=sha256:{digest(wheel)}\n" for wheel in wheels))


def _tags(version: str) -> list[str]:
    """Tell pip which wheels another Python on another machine takes."""
    number = version.replace(".", "")
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MAX[1], 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    whose = ["--implementation=cp", f"--python-version={version}", f"--abi=cp{number}", "--abi=abi3", "--abi=none"]
    whose += map("--platform={}".format, platforms)
    return ["--only-binary", ":all:", "--no-deps", "--quiet", "--disable-pip-version-check", *whose]


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named(wheel: Path) -> str:
    """Return such as "grpcio==1.81.1"."""
    name, version = wheel.name.split("-")[:2]
    return f"{name.replace('_', '-').lower()}=={version}"
