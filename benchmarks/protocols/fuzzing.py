"""Hostile requests to every call of the protocol, most of them to those that infer."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.bars import Bar
from tests.support.fuzzed_daemon import FuzzResults, fuzz, fuzzed
from tests.support.rpcs import METHODS

CALLS = [method for method in METHODS if method.containing_service.name == "GRPCInferenceService"]
CASES = 50_000
BEGIN = 40
"""Of the seeds; scripts/bench hardening begins at 0."""
SHARES = {"ModelInfer": 20, "ModelStreamInfer": 20}
"""Of the cases, where it is not 1."""
DEFECTS_SHOWN = 20
GROWTH_MB_MAX = 32.0


def measure(cases: int = CASES) -> list[Bar]:
    """Fuzz; print the findings on standard error."""
    found = FuzzResults()
    shares = {method.name: SHARES.get(method.name, 1) for method in CALLS}
    with tempfile.TemporaryDirectory() as path, fuzzed(Path(path)) as at:
        for method in CALLS:
            fuzz(at, method, -(-cases * shares[method.name] // (10 * sum(shares.values()))), BEGIN, found)
        before = at.resident_bytes()
        for method in CALLS:
            fuzz(at, method, -(-cases * shares[method.name] * 9 // (10 * sum(shares.values()))), BEGIN + 10, found)
        growth, well = at.resident_bytes() - before, at.well()
    for defect in (*found.defects[:DEFECTS_SHOWN], *filter(None, [well])):
        print(defect, file=sys.stderr)  # noqa: T201
    answered = sum(number for ended, number in found.ended.items() if ended.split()[1] == "OK")
    return [
        Bar("fuzzing: hostile requests", found.cases, cases, "higher"),
        Bar("fuzzing: messages in them, several on a stream", found.messages, cases, "higher"),
        Bar("fuzzing: of them answered", answered, cases / 50, "higher"),
        Bar("fuzzing: requests that showed a defect", len(found.defects), 0, "lower"),
        Bar("fuzzing: other callers disturbed", float(bool(well)), 0, "lower"),
        Bar("fuzzing: growth of the daemon, MB", growth / 2**20, GROWTH_MB_MAX, "lower"),
    ]
