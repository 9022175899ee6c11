"""The versions of what the agent needs, in the environment that runs this: `python -m tests.support.tested_versions`.

It writes them to installer/build/versions.txt, from which scripts/setup and scripts/build-installer take them.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from installer.build.wheelhouse import VERSIONS

BUILT_HERE = "llama-cpp-python"
_HEAD = """\
# The versions of the agent's dependencies that the tests ran with: scripts/setup installs these, and the installer
# carries them. After an upgrade and a run of the tests, 'python -m tests.support.tested_versions' writes this file.
"""


def installed() -> dict[str, str]:
    """Return the version of everything that edge-agent with its console needs here."""
    found: dict[str, str] = {}
    pending = [("edge-agent-appliance", frozenset({"web"}))]
    while pending:
        name, extras = pending.pop()
        for needed in _needs(name, extras):
            key = canonicalize_name(needed.name)
            if key not in found or needed.extras:
                found[key] = importlib.metadata.version(needed.name)
                pending.append((needed.name, frozenset(needed.extras)))
    del found[BUILT_HERE]
    return found


def _needs(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(name) or ():
        needed = Requirement(line)
        markers = [needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)] if needed.marker else [True]
        if any(markers):
            yield needed


def listed() -> dict[str, str]:
    """Return the versions of the file."""
    lines = VERSIONS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


if __name__ == "__main__":
    VERSIONS.write_text(
        _HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(installed().items())), encoding="utf-8"
    )
