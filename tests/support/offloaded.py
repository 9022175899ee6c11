"""A GGUF bundle in a separate engine, with settings for a GPU: prints its status and answers as JSON.

    python -m tests.support.offloaded FOLDER '{"device": "vulkan"}' TEXT...

Started as a process, so that the environment chooses llama.cpp's build and the driver, as on a site.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from edge_agent.config import EngineConfig
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import JobRequest
from edge_agent.formats import manifest
from tests.support import bundles

SECONDS_MAX = 1200.0
"""A driver in software compiles every kernel for the processor when it is first used."""


async def told(folder: Path, settings: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Load the bundle, make requests, and return the status and the answers."""
    config = EngineConfig(load_seconds_max=SECONDS_MAX, heartbeat_seconds_max=SECONDS_MAX, sequences_max=2, **settings)
    pool = EnginePool(config, lambda: None, [folder])
    about = bundles.manifest_of(folder)
    paths = {role: Path(path) for role, path in bundles.paths_of(folder).items()}
    try:
        await pool.attach("a", about, manifest.encode(about), paths)
        deadline = asyncio.get_running_loop().time() + SECONDS_MAX
        runs = [JobRequest(job_id=str(number), digest="a", text=text) for number, text in enumerate(texts)]
        answers = [await pool.answer(run, deadline) for run in runs]
        (engine,) = pool.statuses()
        return {
            "device": engine.device,
            "shortfalls": dict(engine.shortfalls),
            "details": dict(engine.details),
            "scores": [answer.result.scores for answer in answers],
            "computed": [answer.compute for answer in answers],
        }
    finally:
        await pool.stop()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(told(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]))))
