"""Operators' calls cancelled at every await: the larger half of the sweep, in a file for a separate worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.cancelling.calls import Call
from tests.support.cancelling.groups import findings, groups
from tests.support.cancelling.site import ADMIN

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("calls", groups(lambda service: service == ADMIN))
async def test_operator_calls_can_be_cancelled_at_every_await(tmp_path: Path, calls: Sequence[Call]):
    """Operators' calls can be cancelled at every await: nothing blocks, leaks or is lost."""
    points, found = await findings(tmp_path, calls)
    assert [] == found
    assert points >= 3 * len(calls)
