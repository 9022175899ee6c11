"""A site with memory for one version of a model but not for two: the whole daemon with a real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_agent.client import CallFailed, Classification
from tests.support.bundles import smollm2_bundle, write
from tests.support.daemon import RunningDaemon

# Two jobs of 512 tokens on SmolLM2 take about 250 MB; an engine of its own each, by another context.
CAP_BYTES = 390 * 10**6
CONTEXTS = {"1.0.0": 512, "1.1.0": 520, "1.2.0": 528}
LIMITS = {"limits": {"input_tokens_max": 400, "output_tokens_max": 1}}


def settings(swap: str) -> dict[str, Any]:
    return {"engine": {"memory_bytes_max": CAP_BYTES, "sequences_max": 2, "swap": swap}}


def version(folder: Path, number: str) -> Path:
    """Write a version of the task that needs its own engine."""
    engine = {"context_tokens": CONTEXTS[number]}
    return smollm2_bundle(folder / number, version=number, engine=engine, task=LIMITS)


def answers(daemon: RunningDaemon) -> str:
    """Return the version that answers."""
    with daemon.client() as client:
        [answer] = client.classify("pos-intent", ["I want my money back"], timeout_seconds=60)
    assert isinstance(answer, Classification)
    return answer.bundle.version


def refused(daemon: RunningDaemon, bundle: Path) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        daemon.install(bundle)
    return caught.value


@pytest.mark.release
def test_memory_for_one_version_refuses_or_pauses(tmp_path: Path) -> None:
    """With `swap: overlap` a second version is refused with the memory figures and the remedy `swap: pause`. With
    `swap: pause` it replaces the first, and a version that does not load is rolled back."""
    old, new, broken = (version(tmp_path, number) for number in CONTEXTS)
    with RunningDaemon(tmp_path / "site", **settings("overlap")) as daemon:
        daemon.install(old)
        failed = refused(daemon, new)
        assert ("FAILED_PRECONDITION", "MEMORY_SHORT") == (failed.code, failed.reason)
        assert "swap: pause" in failed.remedy
        needed, available = (int(failed.metadata[f"{name}_bytes"]) for name in ("needed", "available"))
        assert f"needs {needed / 1e6:.1f} MB" in failed.message
        assert f"{available / 1e6:.1f} MB is available" in failed.message
        with daemon.admin() as admin:
            [engine] = admin.status().engines
        assert str(CAP_BYTES) == engine.details["memory_limit_bytes"]
        reckoned = int(engine.details["memory_estimated_bytes"])
        assert engine.resident_bytes <= reckoned < CAP_BYTES
        assert available == pytest.approx(CAP_BYTES - engine.resident_bytes, abs=20 * 2**20)
        assert "1.0.0" == answers(daemon)
    with RunningDaemon(tmp_path / "site", **settings("pause")) as daemon:
        daemon.install(new)
        assert "1.1.0" == answers(daemon)
        about = json.loads((broken / "manifest.json").read_bytes())
        failed = refused(daemon, write(broken, about, {}, {"weights": ("model.gguf", b"GGUF" + bytes(1000))}))
        assert "MODEL_LOAD_FAILED" == failed.reason
        assert "1.1.0" == answers(daemon)
        paused = [line for line in daemon.log.read_text().splitlines() if '"task_pauses"' in line]
        assert ["1.0.0", "1.1.0"] == [json.loads(line)["version"] for line in paused]
