"""The sweep as tests share it out: calls of one service, a few at a time, each few against a daemon of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.cancelling.calls import CALLS, Call
from tests.support.cancelling.site import Site
from tests.support.cancelling.sweep import sweep

SWEPT_TOGETHER = 4
"""Calls in one test: a test that takes more than `faulthandler_timeout` has every thread's stack printed."""


def groups(swept: Callable[[str], bool]) -> list[Any]:
    """Return parameters of a test: the calls of each service that is to be swept, a few at a time."""
    services = sorted({call.service for call in CALLS if swept(call.service)})
    return [
        pytest.param(calls, id=f"{service.rpartition('.')[2]} {number}")
        for service in services
        for number, calls in enumerate(_batched([call for call in CALLS if call.service == service]), 1)
    ]


def _batched(calls: Sequence[Call]) -> list[Sequence[Call]]:
    return [calls[start : start + SWEPT_TOGETHER] for start in range(0, len(calls), SWEPT_TOGETHER)]


async def findings(folder: Path, calls: Sequence[Call], every: int = 1) -> tuple[int, list[str]]:
    """Sweep; return how many points were tried, and what was found."""
    points, found = 0, []
    async with Site(folder) as site:
        async for swept in sweep(site, calls, every):
            points += swept.points
            found += swept.findings
        await site.restart()
        found += await site.lost()
    return points, found
