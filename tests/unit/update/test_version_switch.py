"""How a new version replaces the previous one: loaded beside it, or after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from edge_agent.errors import MemoryShort, ModelLoadFailed
from tests.support.activation_cases import DRAIN_SECONDS, Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Return an empty site."""
    made = Site(tmp_path)
    yield made
    await made.stop()


@pytest.fixture
async def paused(tmp_path: Path) -> AsyncIterator[Site]:
    """Return an empty site with `swap: pause`."""
    made = Site(tmp_path)
    await made.stop()
    made.start(swap="pause")
    yield made
    await made.stop()


async def test_overlap_without_memory_keeps_the_old_bundle(site: Site) -> None:
    """With too little memory for both bundles, the old one stays active and the remedy names `swap: pause`."""
    old = await site.install("1.0.0")
    site.short("1.1.0")
    with pytest.raises(MemoryShort, match="needs 2 MB; 1 MB is available") as caught:
        await site.install("1.1.0")
    assert "swap: pause" in caught.value.remedy
    assert {"available_bytes": "1000000"} == caught.value.metadata
    assert (old, {old}) == (site.active(), site.engines.attached)


@pytest.mark.parametrize("shared", [True, False])
async def test_remedy_names_pause_only_if_it_would_help(site: Site, shared: bool) -> None:
    """The error does not suggest `swap: pause` if no bundle is active or if pausing would stop no engine."""
    if shared:
        await site.install("1.0.0")
        site.engines.shared = True
    site.short("1.1.0")
    with pytest.raises(MemoryShort) as caught:
        await site.install("1.1.0")
    assert "swap: pause" not in caught.value.remedy


async def test_pause_stops_the_old_bundle_first(paused: Site) -> None:
    """With `swap: pause` the old bundle is drained and the health reported before the new one loads; then the pointer
    moves."""
    old = await paused.install("1.0.0")
    reports: list[int] = []
    paused.engines.on_attach = lambda: reports.append(paused.engines.reports)
    with structlog.testing.capture_logs() as logged:
        new = await paused.install("1.1.0")
    assert [("attach", old, ""), ("detach", old, old), ("attach", new, old)] == paused.engines.notes
    assert [DRAIN_SECONDS] == paused.engines.drains
    assert [2] == reports, "after the first install, and after the old one stopped"
    assert [("warning", "pos", "1.0.0")] == [
        (line["log_level"], line["task"], line["version"]) for line in logged if line["event"] == "task_pauses"
    ]
    assert (new, {new}) == (paused.active(), paused.engines.attached)


async def test_pause_attaches_the_old_bundle_again_after_a_failure(paused: Site) -> None:
    """If the new bundle does not load, the old one is attached again and kept, and the pointer stays."""
    old, new = await paused.install("1.0.0"), paused.broken("1.1.0")
    with pytest.raises(ModelLoadFailed):
        await paused.install("1.1.0")
    steps = [("detach", old, old), ("attach", new, old), ("attach", old, old)]
    assert steps == paused.engines.notes[1:]
    assert [False, False, True] == paused.engines.keeps
    assert (old, {old}) == (paused.active(), paused.engines.attached)


async def test_nothing_pauses_on_a_shared_engine(paused: Site) -> None:
    """If pausing would free no memory, the old bundle answers until the new one is ready."""
    old = await paused.install("1.0.0")
    paused.engines.shared = True
    new = await paused.install("1.1.0")
    assert [("attach", old, ""), ("attach", new, old), ("detach", old, new)] == paused.engines.notes
