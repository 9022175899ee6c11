"""What is available, and the refusal with its numbers."""

from __future__ import annotations

import pytest

from edge_agent.engine.memory_need import MemoryNeed
from edge_agent.errors import MemoryShort

MB = 10**6
NEED = MemoryNeed(weights=100 * MB, copies=50 * MB, cache=30 * MB, compute=20 * MB, process=60 * MB)


def test_what_fits_is_not_refused() -> None:
    """A need up to what is available passes; 0 means that nobody measured."""
    NEED.check(260 * MB)
    NEED.check(0)
    NEED.check(0, wanted=10**12)


def test_a_refusal_has_all_numbers() -> None:
    """The sentence adds up for people, the metadata holds bytes for programs, and the remedy names what to change."""
    with pytest.raises(MemoryShort) as caught:
        NEED.check(259 * MB)
    assert (
        "the model needs 260.0 MB of memory (weights 100.0 MB + repacked copies 50.0 MB + key-value cache 30.0 MB + "
        "compute 20.0 MB + process 60.0 MB); 259.0 MB is available"
    ) == caught.value.message
    parts = {"weights": 100, "copies": 50, "cache": 30, "compute": 20, "process": 60, "adapters": 0}
    sizes = {**parts, "needed": 260, "available": 259}
    assert {f"{name}_bytes": str(size * MB) for name, size in sizes.items()} == caught.value.metadata
    assert "memory_bytes_max" in caught.value.remedy


def test_what_the_bundle_asks_for_counts_as_well() -> None:
    """A manifest that asks for more than the reckoning finds is taken at its word."""
    NEED.check(300 * MB, wanted=300 * MB)
    with pytest.raises(MemoryShort, match=r"the bundle asks for 300\.0 MB of memory; 299\.0 MB is available"):
        NEED.check(299 * MB, wanted=300 * MB)


def test_status_shows_both_numbers() -> None:
    """The details hold the whole need and the limit that it was held against, in bytes."""
    assert {"memory_estimated_bytes": "260000000", "memory_limit_bytes": "7"} == NEED.details(7)
