"""Schemas over the limits and invalid schemas in a real child: each is an error, and the child neither hangs nor
dies."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from edge_agent.engine import protocol
from edge_agent.formats.manifest import SCHEMA
from tests.support import record_schemas, tiny_gguf
from tests.support.children import spawned

STEP_SECONDS_MAX = 60.0
QUICK, ALL = 12, 150


def manifest_bytes(schema: Any) -> bytes:
    """Return a manifest with this schema, unchecked, as from an untrusted source."""
    limits = {"input_tokens_max": 60, "output_tokens_max": 300}
    task = {"name": "t", "kind": "extract", "record_schema": schema, "limits": limits}
    weights = {"role": "weights", "path": "w", "sha256": "0" * 64, "size_bytes": 1}
    engine = {"context_tokens": 384}
    plain = {"schema": SCHEMA, "version": "1.0.0", "runtime": "llama", "task": task}
    return json.dumps({**plain, "artifacts": [weights], "engine": engine}).encode()


async def said(events: asyncio.Queue[Any]) -> Any:
    """Return the next message of the child that is not a heartbeat."""
    async with asyncio.timeout(STEP_SECONDS_MAX):
        while isinstance(event := await events.get(), protocol.Heartbeat):
            pass
    return event


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [QUICK, pytest.param(ALL, marks=pytest.mark.release)])
async def test_no_schema_ends_the_child(tmp_path: Path, seeds: int) -> None:
    """One child handles all schemas: each is refused, fails with a message or returns a record, and the child is alive
    at the end."""
    events: asyncio.Queue[Any] = asyncio.Queue()
    child = await spawned(events.put_nowait, events.put_nowait)
    weights = str(tiny_gguf.write(tmp_path / "w.gguf"))
    outcomes = set()
    try:
        child.send(
            protocol.LoadRequest(runtime="llama", weights=weights, context_tokens=384, readable=(str(tmp_path),))
        )
        assert isinstance(await said(events), protocol.ChildReady)
        for maker in (record_schemas.sensible, record_schemas.hostile, record_schemas.broken):
            for seed in range(seeds):
                schema = maker(random.Random(seed))
                child.send(protocol.AttachRequest(digest="d", manifest=manifest_bytes(schema), paths={}))
                attached = await said(events)
                outcomes.add(getattr(attached, "reason", "attached"))
                if not isinstance(attached, protocol.BundleAttached):
                    continue
                child.send(protocol.JobRequest(job_id="j", digest="d", text="two lamps"))
                end = await said(events)
                assert isinstance(end, protocol.JobResult | protocol.FailureReport), (maker, seed, end)
                assert isinstance(json.loads(end.record), dict) if isinstance(end, protocol.JobResult) else end.message
                child.send(protocol.DetachRequest(digest="d"))
        child.send(protocol.Ping())
        assert isinstance(await said(events), protocol.Pong)
    finally:
        child.kill()
        await child.wait_until_gone()
    assert {"attached", "MANIFEST_INVALID", "MODEL_LOAD_FAILED"} == outcomes
