"""Files that come with a program in addition to its code: those of systemd/, and the API for devices."""

from __future__ import annotations

import shutil
from pathlib import Path


def share_path(name: str, gpu: str) -> str:
    """Return the path of a file of systemd/ in a program's share/ folder; empty if this variant does not contain it."""
    match name.split("."):
        case ["agent", "yaml"]:
            return name
        case [_, "yaml"]:
            return f"etc/{name}"
        case [stem, "sysusers" | "tmpfiles" as kind, "conf"]:
            return f"{kind}/{stem}.conf"
        case [stem, "gpu", "conf"]:
            return f"systemd/{stem}.service.d/50-gpu.conf" if gpu else ""
    return f"systemd/{name}"


def fill(share: Path, root: Path, gpu: str) -> None:
    """Copy the files of this variant from a checkout."""
    for source in sorted((root / "proto").glob("edge_agent/v1/*.proto")):  # for devices: /opt/edge-agent/current/share
        copied = share / source.relative_to(root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copied)
    for source in sorted((root / "systemd").iterdir()):
        if target := share_path(source.name, gpu):
            (share / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, share / target)
