"""The wheels of a program, resolved once for each Python, with the hash of each file."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from installer.build.build_environment import BuildEnvironment
from installer.build.build_steps import BuildFailed
from installer.build.llama_recipe import GLIBC_MAX
from installer.build.tool_runner import ToolRunner

VERSIONS = Path(__file__).with_name("versions.txt")
"""The versions that the tests ran with; python -m tests.support.tested_versions writes it."""
_PINNED = re.compile(r"(?m)^([\w.-]+==[\w.]+)(?= |$)")
_SETTING = re.compile(r"(?m)^(?:global|install|download|:env:)\.([\w-]+)='(.*)'$")
PYTHONS = ("3.11", "3.12", "3.13")
COMPILED_SHARE = 1.35
"""Size of a program relative to the content of its wheels: compiled Python code and whole disk blocks come on top."""


@dataclass(frozen=True)
class Wheelhouse:
    """The wheels for one Python."""

    python: str
    wheels: tuple[Path, ...]

    def with_wheel(self, wheel: Path) -> Wheelhouse:
        """Return a copy with one more wheel."""
        return replace(self, wheels=(*self.wheels, wheel))

    def installed_bytes(self) -> int:
        """Estimate the size of the installed program."""
        content = sum(item.file_size for wheel in self.wheels for item in zipfile.ZipFile(wheel).infolist())
        return int(content * COMPILED_SHARE)


class WheelhouseBuilder:
    """Resolves and downloads the wheels of a program, for one Python after another."""

    def __init__(self, needs: Sequence[str], folder: Path, environment: BuildEnvironment, runner: ToolRunner) -> None:
        """Keep the wheels of each Python in a folder below `folder`."""
        self._needs, self._folder = needs, folder
        self._environment, self._runner = environment, runner

    def gather(self, version: str) -> Wheelhouse:
        """Download the missing wheels for one Python. Raises BuildFailed."""
        folder = self._folder / version
        folder.mkdir(parents=True, exist_ok=True)
        with self._runner.console.step(f"gather the wheels for Python {version}"):
            resolved = self._resolve(version, folder)
            fetch = [self._environment.python, "-m", "pip", "download", *_tags(version), "--require-hashes"]
            fetch += ["-r", resolved, "-d", folder]
            try:
                self._runner.run([*fetch, "--no-index", "--find-links", folder])  # those of an earlier build
            except BuildFailed:
                self._runner.run(fetch)
        names = {_requirement(wheel): wheel for wheel in sorted(folder.glob("*.whl"))}
        return Wheelhouse(version, tuple(names[name] for name in _PINNED.findall(resolved.read_text(encoding="utf-8"))))

    def _resolve(self, version: str, folder: Path) -> Path:
        """Write the resolved versions with the hashes of all their files, if an input of the resolution has changed."""
        needs, resolved, key = (folder / name for name in ("needs.in", "resolved.txt", "resolved.key"))
        platform = f"x86_64-manylinux_{GLIBC_MAX[0]}_{GLIBC_MAX[1]}"
        options = ["--python-version", version, "--python-platform", platform, "--only-binary", ":all:"]
        options += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
        text = "".join(f"{need}\n" for need in self._needs)
        content = "\0".join([text, VERSIONS.read_text(encoding="utf-8"), *options])
        fingerprint = hashlib.sha256(content.encode()).hexdigest()
        if not (resolved.exists() and key.exists() and key.read_text(encoding="utf-8") == fingerprint):
            needs.write_text(text, encoding="utf-8")
            compile_command = [self._environment.python, "-m", "uv", "pip", "compile", needs, "--constraint", VERSIONS]
            configured = index_settings(self._runner.run([self._environment.python, "-m", "pip", "config", "list"]))
            self._runner.run([*compile_command, *options, "--output-file", resolved], configured)
            key.write_text(fingerprint, encoding="utf-8")
        return resolved


def index_settings(listed: str) -> dict[str, str]:
    """Return uv's environment for the index that `pip config list` shows: uv does not read pip's configuration."""
    found = dict(_SETTING.findall(listed))  # the last one wins, as with pip
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}
    return {names[name]: " ".join(value.split("\\n")).strip() for name, value in found.items() if name in names}


def locked(wheels: Iterable[Path]) -> str:
    """Return the requirements for pip: each wheel by name, version and hash."""
    return "".join(sorted(f"{_requirement(wheel)} --hash=sha256:{digest(wheel)}\n" for wheel in wheels))


def _tags(version: str) -> list[str]:
    """Return pip's options for the wheels of another Python on another machine."""
    number = version.replace(".", "")
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MAX[1], 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    target = ["--implementation=cp", f"--python-version={version}", f"--abi=cp{number}", "--abi=abi3", "--abi=none"]
    target += map("--platform={}".format, platforms)
    return ["--only-binary", ":all:", "--no-deps", "--quiet", "--disable-pip-version-check", *target]


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _requirement(wheel: Path) -> str:
    """Return for example "grpcio==1.81.1"."""
    name, version = wheel.name.split("-")[:2]
    return f"{name.replace('_', '-').lower()}=={version}"
