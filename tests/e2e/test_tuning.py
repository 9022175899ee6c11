"""Tuning of llama.cpp settings for this machine: measured by the engine, stored by the daemon, shown in status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent.client import Engine
from tests.support import bundles
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

SECONDS_MAX = 60.0
MEASURED = ("measured", "put off")
"""The second on a machine that is busy."""


def details_of(daemon: RunningDaemon) -> dict[str, str]:
    """Return the status details of the only engine once it is loaded."""

    def engines() -> list[Engine]:
        with daemon.admin() as admin:
            return list(admin.status().engines)

    eventually_sync(lambda: ["READY"] == [engine.state for engine in engines()], SECONDS_MAX)
    return engines()[0].details


@pytest.mark.release
def test_tuned_settings_are_reused_on_same_machine(tmp_path: Path) -> None:
    """The first load measures settings, unless the machine is busy; the next load reuses those of settings.json, and
    measures again if they are for another processor. With `tune: false` nothing is measured."""
    bundle = bundles.smollm2_bundle(tmp_path / "talk", "generate")
    tuning = {"engine": {"tune": True, "cpu_threads": 1}}
    with RunningDaemon(tmp_path, **tuning) as daemon:
        daemon.install(bundle)
        first = details_of(daemon)
    kept = daemon.state_dir / "settings.json"
    assert first["tuned"] in MEASURED
    assert (first["tuned"] == "measured") == kept.exists()
    named = f"{bundles.manifest_of(bundle).artifacts[0].sha256} f16 1"
    assert not kept.exists() or list(json.loads(kept.read_text())) == [named]
    wanted = {**first, "bulk_rows": "128", "tuning": "as somebody found"}
    kept.write_text(json.dumps({named: wanted}))
    with RunningDaemon(tmp_path, **tuning) as daemon:
        found = details_of(daemon)
    assert ("remembered", "128", "as somebody found") == (found["tuned"], found["bulk_rows"], found["tuning"])
    kept.write_text(json.dumps({named: {**wanted, "tuned_for": "another processor"}}))
    with RunningDaemon(tmp_path, **tuning) as daemon:
        assert details_of(daemon)["tuned"] in MEASURED
    with RunningDaemon(tmp_path) as daemon:
        assert "off" == details_of(daemon)["tuned"]
