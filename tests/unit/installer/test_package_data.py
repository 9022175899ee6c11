"""The wheel contains the data files that the program reads as well as its modules."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
NOT_INSTALLED = (".py", ".pyi", ".pyc")


def test_wheel_includes_every_data_file():
    """A package-data pattern of pyproject.toml matches each data file of edge_agent, and each pattern matches a
    file."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["edge_agent"]
    package = ROOT / "edge_agent"
    needed = {path for path in package.rglob("*") if path.is_file() and path.suffix not in NOT_INSTALLED}
    found = {pattern: set(package.glob(pattern)) for pattern in patterns}
    assert set() == needed - set().union(*found.values())
    assert [] == [pattern for pattern, paths in found.items() if not paths]
