"""Overhead of the gateway: seven questions by `/v1/decisions`, compared with a label by its chat API.

The models compute nothing, so that what is measured is what HTTP adds: the p50 of a call over HTTP less the p50 of the
same call over gRPC, for `/v1/decisions` and Decide, and for `/v1/chat/completions` and Classify. All four take turns,
asked by one process that does nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, median, quotient
from benchmarks.deciding.encoder_questions import SIZES, task_question
from benchmarks.deciding.http_caller import TEXT
from tests.support.bundles import echo_bundle
from tests.support.gateway_site import GatewaySite, gateway_site

TURNS_A_ROUND = 100
ADDED_MAX = 2.0


def measure(rounds: int) -> Iterator[Bar]:
    """Start a daemon and its gateway, and a process that asks both."""
    questions = [task_question(name, size) for name, size in SIZES.items()]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        label = echo_bundle(folder / "label", "label", labels=tuple(questions[0]["labels"]))
        desk = echo_bundle(folder / "desk", "desk", "decide", task={"questions": questions}, weights=b"desk")
        with gateway_site(folder / "site", label, desk) as site:
            taken = _taken(site, questions, rounds * TURNS_A_ROUND)
    p50 = {name: 1000 * median(seconds) for name, seconds in taken.items()}
    for name, value in p50.items():
        yield Bar(f"{name}, ms p50", value, None, "lower")
    decisions, chat = p50["HTTP decisions"] - p50["gRPC Decide"], p50["HTTP chat"] - p50["gRPC Classify"]
    yield Bar("HTTP decisions, added to gRPC Decide, ms p50", decisions, None, "lower")
    yield Bar("HTTP chat, added to gRPC Classify, ms p50", chat, None, "lower")
    yield Bar("added by HTTP: decisions / chat", quotient(decisions, chat), ADDED_MAX, "lower")


def _taken(site: GatewaySite, questions: list[dict[str, Any]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each call, by its name."""
    asked = {"model": "desk", "input": TEXT, "questions": list(map(_asked, questions))}
    chat = {"model": "label", "messages": [{"role": "user", "content": TEXT}]}
    plan = {
        "socket": site.daemon.inference,
        "address": site.console.address,
        "token": site.token,
        "turns": turns,
        "calls": {
            "gRPC Classify": {"method": "classify", "task": "label"},
            "HTTP chat": {"path": "/v1/chat/completions", "body": chat},
            "gRPC Decide": {"method": "decide", "task": "desk"},
            "HTTP decisions": {"path": "/v1/decisions", "body": asked},
        },
    }
    command = [sys.executable, "-m", "benchmarks.deciding.http_caller"]
    ended = subprocess.run(command, input=json.dumps(plan), stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own module
    found: dict[str, list[float]] = json.loads(ended.stdout)
    return found


def _asked(question: dict[str, Any]) -> dict[str, Any]:
    """Return a task's question as the API asks it."""
    asked = {key: question[key] for key in ("type", "name", "instructions")}
    options = {"choices": [{"value": label} for label in question["labels"]]}
    return asked | (options if question["type"] == "choice" else {})
