"""The virtual environment of the build: its tools, and later the agent's packages, which generate the man pages."""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from installer.build.build_steps import BuildFailed
from installer.build.tool_runner import ToolRunner


class BuildEnvironment:
    """A virtual environment that is made again when its tools, its Python or its path change."""

    def __init__(self, folder: Path, project: Path, runner: ToolRunner) -> None:
        """Use `folder`; the tools are the extra `installer` of the project file."""
        self._folder, self._runner = folder, runner
        extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        self._tools: list[str] = extras["installer"]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self._folder / "bin/python"

    @property
    def python_version(self) -> str:
        """For example "3.11"."""
        return f"{sys.version_info.major}.{sys.version_info.minor}"

    def program(self, name: str) -> Path:
        """Return the path of one of its programs."""
        return self._folder / "bin" / name

    def libgomp(self) -> Path:
        """Return GNU's OpenMP library from a build for any glibc: this machine's library needs this machine's glibc.

        Raises BuildFailed.
        """
        if found := next(self._folder.glob("lib/python*/site-packages/scikit_learn.libs/libgomp*"), None):
            return found
        raise BuildFailed(f"scikit-learn in {self._folder} has no libgomp", "Look into its wheel.")

    def pip_wheel(self) -> Path:
        """Return the wheel of pip that the installer carries."""
        return next((self._folder / "carried").glob("pip-*.whl"))

    def make(self) -> None:
        """Make the environment, unless it is current. Raises BuildFailed."""
        if self._marked("tools", self._tools):
            return
        with self._runner.console.step("make the environment of the build"):
            self._runner.run([sys.executable, "-P", "-m", "venv", "--clear", self._folder])
            # No dependencies: only a library of scikit-learn is used, and the list has those of the other tools.
            self._runner.run(
                [self.python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", *self._tools]
            )
            [pip] = (tool for tool in self._tools if tool.startswith("pip"))
            download = [self.python, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
            self._runner.run([*download, "--dest", self._folder / "carried", pip])
            self._mark("tools", self._tools)

    def install(self, wheels: Sequence[Path]) -> None:
        """Install wheels without a network. Raises BuildFailed."""
        names = [wheel.name for wheel in wheels]
        if self._marked("wheels", names):
            return
        with self._runner.console.step("install the packages that generate the man pages"):
            install = [self.python, "-m", "uv", "pip", "install", "--python", self.python, "--offline", "--no-deps"]
            self._runner.run([*install, "--reinstall", "--no-cache", *wheels])
            self._mark("wheels", names)

    def _marked(self, what: str, content: Sequence[str]) -> bool:
        path = self._folder / f"made-{what}"
        return path.exists() and path.read_text(encoding="utf-8") == self._digest(content)

    def _mark(self, what: str, content: Sequence[str]) -> None:
        (self._folder / f"made-{what}").write_text(self._digest(content), encoding="utf-8")

    def _digest(self, content: Sequence[str]) -> str:
        """Return a digest of the content, the path and the Python: a moved environment does not work."""
        return hashlib.sha256("\0".join([*content, str(self._folder), sys.version]).encode()).hexdigest()
