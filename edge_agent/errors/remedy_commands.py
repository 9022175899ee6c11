"""The commands of ours that remedies quote, as the person has to type them who reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_OURS = re.compile(r"(?<![\w/-])(?<!sudo )edge-agent (?=[a-z])(?!serve\b|help\b|demo\b|run\b|version\b)")
_QUOTED = re.compile(r"'[^'\n]+'")


def commands_with_sudo(command: str) -> str:
    """Return a command line in which those of ours that need another user's rights begin with sudo."""
    return _OURS.sub("sudo edge-agent ", command)


def with_sudo(text: str) -> str:
    """Return a sentence in which the commands of ours that it quotes begin with sudo."""
    return _QUOTED.sub(lambda found: "'" + commands_with_sudo(found[0][1:]), text)


def works_by_sudo(environment: Mapping[str, str], user_id: int) -> bool:
    """Tell whether a person runs this program through sudo: then another command of ours needs it too."""
    return user_id == 0 and environment.get("SUDO_UID", "0") != "0"


def first_task_remedy(site: str) -> str:
    """Return how the first task comes to a machine; `site` is its id, empty before it is enrolled."""
    if site:
        return (
            "'edge-agent media import' brings tasks from the USB drive of the central team, and"
            " 'edge-agent install PATH' installs a bundle."
        )
    return (
        "This machine is not enrolled: 'edge-agent enrol FILE' enrols it with the file of the central team, and"
        " 'edge-agent media import' then brings tasks from the USB drive. 'edge-agent install PATH' installs a bundle"
        " without a signature only where 'allow_unsigned' under 'store' in agent.yaml is true."
    )
