"""Asks a daemon over gRPC, as a device would."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.strangers.bundles import Row
from benchmarks.strangers.figures import Asked
from edge_agent.client import Classification, Failure
from tests.support.daemon import RunningDaemon

_AT_ONCE = 32


def ask(bundle: Path, task: str, sets: Mapping[str, Sequence[Row]]) -> dict[str, list[Asked]]:
    """Serve a bundle in a daemon of its own, and return what it answers to each set of rows."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder))
        daemon.start_seconds_max = 300.0
        with daemon:
            daemon.install(bundle)
            return {name: _answers(daemon, task, rows) for name, rows in sets.items()}


def _answers(daemon: RunningDaemon, task: str, rows: Sequence[Row]) -> list[Asked]:
    found: list[Asked] = []
    with daemon.client() as client:
        for at in range(0, len(rows), _AT_ONCE):
            some = rows[at : at + _AT_ONCE]
            said = client.classify(task, [row.text for row in some], timeout_seconds=120.0)
            found += [_asked(*pair) for pair in zip(some, said, strict=True)]
    return found


def _asked(row: Row, said: Classification | Failure) -> Asked:
    if isinstance(said, Failure):  # a letter that the tokenizer does not know: no answer, so none that is confident
        return Asked(row.text, row.label, "", confident=False, p_value=0.0)
    # A bundle without a gate holds nothing up.
    p_value = 1.0 if said.p_value is None else said.p_value
    return Asked(row.text, row.label, said.label, not said.below_threshold, p_value)
