"""The wheel that is installed holds the files that the program reads, not its modules alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
NOT_INSTALLED = (".py", ".pyi", ".pyc")


def test_every_file_beside_the_modules_is_in_the_wheel():
    """A pattern of pyproject.toml matches each, and each pattern matches a file."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["edge_agent"]
    package = ROOT / "edge_agent"
    needed = {path for path in package.rglob("*") if path.is_file() and path.suffix not in NOT_INSTALLED}
    found = {pattern: set(package.glob(pattern)) for pattern in patterns}
    assert set() == needed - set().union(*found.values())
    assert [] == [pattern for pattern, paths in found.items() if not paths]
