"""The folder of a payload: what every Python needs in common/, what one needs beside it, and the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from installer.build.archive import InstallerLabel
from installer.build.llama_recipe import GLIBC_MAX
from installer.build.wheelhouse import Wheelhouse, locked


def lay_wheels(payload: Path, houses: Sequence[Wheelhouse], agent: Path) -> None:
    """Copy the wheels, those that all take once, and write which ones each installs."""
    every = set.intersection(*({wheel.name for wheel in house.wheels} for house in houses)) | {agent.name}
    common = payload / "common/wheels"
    common.mkdir(parents=True)
    for house in houses:
        folder = payload / f"python{house.python}"
        (folder / "wheels").mkdir(parents=True)
        wheels = (*house.wheels, agent)
        for wheel in wheels:
            shutil.copyfile(wheel, (common if wheel.name in every else folder / "wheels") / wheel.name)
        (folder / "lock.txt").write_text(locked(wheels), encoding="utf-8")


def write_manifest(
    payload: Path, houses: Sequence[Wheelhouse], label: InstallerLabel, commit: str, tests: Sequence[Sequence[str]]
) -> None:
    """Write what setup has to know before it begins; `tests` are what it runs before it switches."""
    about = {
        "version": label.version,
        "variant": label.variant,
        "machine": label.machine,
        "commit": commit,
        "glibc": ".".join(map(str, GLIBC_MAX)),
        "installed_bytes": {house.python: house.installed_bytes() for house in houses},
        "tests": tests,
    }
    (payload / "common/manifest.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
