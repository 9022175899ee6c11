"""The lines of `status` about the large model and deferred escalations."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from edge_agent.cli import status
from edge_agent.client import LargeModel

NOTHING: dict[str, Any] = {
    "waiting": {"deferred": 0, "audit": 0},
    "waiting_seconds": 0.0,
    "opinions": 0,
    "given_up": {},
}
KNOWN: dict[str, Any] = {
    "online": True,
    "affordable": True,
    "model": "large-1",
    "problem_reason": "",
    "problem": "",
    "usual_ms": 640.0,
    "day_micros": 310_000,
    "month_micros": 4_100_000,
    "day_micros_max": 2_000_000,
    "month_micros_max": 0,
    "tasks": ("pos-intent",),
}
FIRST = "large model large-1: online, usually 640 ms; today 0.31 of 2.00, this month 4.10"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"waiting": {}}, []),
        ({"opinions": 118}, ["  asked later: 118 answered"]),
        (
            {"waiting": {"deferred": 41, "audit": 0}, "waiting_seconds": 7400.0},
            ["  asked later: 41 put off, the oldest 2 h ago"],
        ),
        (
            {"waiting": {"deferred": 4, "audit": 2}, "waiting_seconds": 7.0, "opinions": 9, "given_up": {"lost": 1}},
            ["  asked later: 4 put off and 2 to audit, the oldest 7 s ago; 9 answered; 1 lost"],
        ),
    ],
)
def test_status_shows_deferred_escalations(changes, said):
    """`status` prints how many deferred escalations and audits wait and since when, how many were answered and lost;
    without any it prints no such line."""
    written = io.StringIO()
    status.show_large_model(Console(file=written, width=120), LargeModel(**{**KNOWN, **NOTHING, **changes}))
    assert [FIRST, *said] == written.getvalue().splitlines()
