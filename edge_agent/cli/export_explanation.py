"""Why an export of a drive holds no examples: what is collected, what may leave, and what waits for a person."""

from __future__ import annotations

import os
from collections.abc import Mapping

from edge_agent.client import ExamplesStatus


def explain_empty_export(examples: ExamplesStatus | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return why nothing was ready to leave, and what to do; `examples` None = no example is kept here."""
    if examples is None or not (examples.collect or sum(examples.retained.values())):
        return "No examples are kept here: 'examples.collect' in agent.yaml names no task"
    leaving = sorted(task for task, consent in examples.collect.items() if consent == "upstream")
    if not leaving:
        return (
            f"The examples of {', '.join(sorted(examples.collect))} stay on this machine: set the task to 'upstream' "
            "under 'examples.collect' in agent.yaml to let them leave"
        )
    if waiting := sum(examples.review_waiting.values()):
        return _unreviewed(waiting, "sudo " if environ.get("SUDO_USER") else "")
    if not sum(number for name, number in examples.retained.items() if name != "feedback"):
        return f"No answer of {', '.join(leaving)} has been kept yet"
    return "The central team has confirmed all examples that may leave"


def _unreviewed(waiting: int, sudo: str) -> str:
    answers = "1 answer waits" if waiting == 1 else f"{waiting} answers wait"
    return (
        f"{answers} for review, and none has been reviewed since the last export: "
        f"'{sudo}edge-agent review' shows them one by one; then export again"
    )
