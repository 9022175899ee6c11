"""Looks at the sizes of spool and outbox; never into them."""

from __future__ import annotations

import time
from pathlib import Path

from edge_agent.client import ExamplesStatus
from edge_agent.doctor.examples import NOT_KEPT, ExamplesFacts
from edge_agent.doctor.probes.place import look
from edge_agent.doctor.probes.serving import Case


def examples(case: Case) -> ExamplesFacts | None:
    """Take the daemon's numbers, else those of the disk; None = this site keeps nothing."""
    config = case.place.config
    said = case.status.examples if case.status else None
    spool = look(config.state_dir / "spool.db")
    warnings = case.status.warnings if case.status else ()
    problems = tuple(each for each in warnings if each.startswith(NOT_KEPT))
    if said is None and not spool.kind and not problems:
        return None
    count, size, oldest = _sealed(config.outbox / "segments")
    numbers = said or ExamplesStatus({}, {}, spool.size, size, count, "", {})
    return ExamplesFacts(
        spool_bytes=numbers.spool_bytes,
        spool_bytes_max=config.examples.spool_bytes_max,
        outbox_bytes=numbers.outbox_bytes,
        outbox_bytes_max=config.examples.outbox_bytes_max,
        segments=numbers.outbox_segments,
        oldest_seconds=oldest,
        counters=numbers.counters,
        problems=problems,
        leaves="upstream" in config.examples.collect.values(),
    )


def _sealed(folder: Path) -> tuple[int, int, float | None]:
    """Return how many segments wait, their bytes, and how long the oldest has waited, in seconds."""
    sealed = [look(path) for path in folder.glob("*.age")]
    oldest = min((file.changed for file in sealed), default=None)
    return len(sealed), sum(file.size for file in sealed), None if oldest is None else time.time() - oldest
