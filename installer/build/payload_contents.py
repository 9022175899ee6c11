"""The folder of a payload: common/ for every Python, a folder for each Python, and the manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from installer.build.archive import InstallerLabel
from installer.build.llama_recipe import GLIBC_MAX
from installer.build.wheelhouse import Wheelhouse, locked


def lay_wheels(payload: Path, wheelhouses: Sequence[Wheelhouse], agent: Path) -> None:
    """Copy the wheels, shared ones only once, and write the list that each Python installs."""
    shared = set.intersection(*({wheel.name for wheel in wheelhouse.wheels} for wheelhouse in wheelhouses)) | {
        agent.name
    }
    common = payload / "common/wheels"
    common.mkdir(parents=True)
    for wheelhouse in wheelhouses:
        folder = payload / f"python{wheelhouse.python}"
        (folder / "wheels").mkdir(parents=True)
        wheels = (*wheelhouse.wheels, agent)
        for wheel in wheels:
            shutil.copyfile(wheel, (common if wheel.name in shared else folder / "wheels") / wheel.name)
        (folder / "lock.txt").write_text(locked(wheels), encoding="utf-8")


def write_manifest(
    payload: Path, wheelhouses: Sequence[Wheelhouse], label: InstallerLabel, commit: str, tests: Sequence[Sequence[str]]
) -> None:
    """Write the manifest for setup; `tests` are the commands that it runs before the switch to the program."""
    about = {
        "version": label.version,
        "variant": label.variant,
        "machine": label.machine,
        "commit": commit,
        "glibc": ".".join(map(str, GLIBC_MAX)),
        "installed_bytes": {wheelhouse.python: wheelhouse.installed_bytes() for wheelhouse in wheelhouses},
        "tests": tests,
    }
    (payload / "common/manifest.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
