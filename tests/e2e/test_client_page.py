"""The examples of docs/client.md run as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.tls_site import TlsSite

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
SECONDS_MAX = 60


@pytest.mark.slow
def test_every_snippet_of_client_page_runs(tmp_path: Path) -> None:
    """All snippets of docs/client.md run in order in one program with warnings as errors, on sockets and over TLS."""
    site = TlsSite(tmp_path / "tls")
    site.client("till-3", "infer", "feedback")
    examples = {"examples": {"collect": {"pos-intent": "local"}, "disk_reserve_bytes": 0}}
    with RunningDaemon(tmp_path / "site", **site.settings(), **examples) as daemon:
        labels = ("refund", "hours", "other")
        daemon.install(
            echo_bundle(tmp_path / "pos-intent", "pos-intent", labels=labels),
            echo_bundle(tmp_path / "assistant", "assistant", "generate"),
            echo_bundle(tmp_path / "front-desk", "front-desk", "decide"),
        )
        snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        program = "\n".join(snippets).replace("/run/edge-agent", str(daemon.run_dir))
        program = program.replace("shop.example:9443", site.address)
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=site.folder,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
    assert (0, "") == (ended.returncode, ended.stderr), ended.stderr
    assert "TASK_UNKNOWN\n" in ended.stdout
    assert len(snippets) == len(re.findall(r"^## ", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
