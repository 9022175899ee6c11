"""The build's own virtual environment: its tools, and later the agent's packages, from which the man pages are made."""

from __future__ import annotations

import hashlib
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from installer.build.build_steps import BuildFailed
from installer.build.tool_runner import ToolRunner


class BuildEnvironment:
    """A virtual environment that is made when its tools, its Python or its place change."""

    def __init__(self, folder: Path, project: Path, runner: ToolRunner) -> None:
        """Lie in `folder`; the tools are the extra `installer` of the project file."""
        self._folder, self._runner = folder, runner
        extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        self._tools: list[str] = extras["installer"]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self._folder / "bin/python"

    @property
    def python_version(self) -> str:
        """Such as "3.11"."""
        return f"{sys.version_info.major}.{sys.version_info.minor}"

    def program(self, name: str) -> Path:
        """Return where a program of it is."""
        return self._folder / "bin" / name

    def libgomp(self) -> Path:
        """Return GNU's OpenMP library, of a build that runs on any glibc: the one of this machine needs its own.

        Raises BuildFailed.
        """
        if found := next(self._folder.glob("lib/python*/site-packages/scikit_learn.libs/libgomp*"), None):
            return found
        raise BuildFailed(f"scikit-learn in {self._folder} brings no libgomp", "Look into its wheel.")

    def pip_wheel(self) -> Path:
        """Return the wheel of pip that the installer carries."""
        return next((self._folder / "carried").glob("pip-*.whl"))

    def make(self) -> None:
        """Make it, unless it is there. Raises BuildFailed."""
        if self._marked("tools", self._tools):
            return
        with self._runner.console.step("make the build's own environment"):
            self._runner.run([sys.executable, "-P", "-m", "venv", "--clear", self._folder])
            # Without dependencies: of scikit-learn only a library is used, and the others' are in the list.
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
        with self._runner.console.step("install what the man pages are made with"):
            install = [self.python, "-m", "uv", "pip", "install", "--python", self.python, "--offline", "--no-deps"]
            self._runner.run([*install, "--reinstall", "--no-cache", *wheels])
            self._mark("wheels", names)

    def _marked(self, what: str, content: Sequence[str]) -> bool:
        path = self._folder / f"made-{what}"
        return path.exists() and path.read_text(encoding="utf-8") == self._digest(content)

    def _mark(self, what: str, content: Sequence[str]) -> None:
        (self._folder / f"made-{what}").write_text(self._digest(content), encoding="utf-8")

    def _digest(self, content: Sequence[str]) -> str:
        """Return a digest of what is installed, and of what an environment does not survive: a move, another Python."""
        return hashlib.sha256("\0".join([*content, str(self._folder), sys.version]).encode()).hexdigest()
