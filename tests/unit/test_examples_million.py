"""A million queued examples: memory stays flat, and what is due is found without reading them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.queued_examples import GROWTH_MIB_MAX, fill


@pytest.mark.release
def test_a_million_waiting_examples_cost_no_memory(tmp_path: Path):
    """From the twenty thousandth to the last, and while a segment is sealed and the queue is looked at."""
    filled = fill(tmp_path, 1_000_000)
    assert 1_000_000 == filled.kept
    assert filled.growth_mib < GROWTH_MIB_MAX
    assert filled.seconds < 10
