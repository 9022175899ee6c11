"""The reference client refuses each attack of tests/support/repository_attacks.py, and accepts the original."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, RepositoryError

from edge_agent.errors import PlanInvalid
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import Centre
from tests.support.repository_attacks import ATTACKS, Hostile
from tests.support.tuf_client import Client

HANGS = {"a pipe", "a link to a device", "an endless timestamp", "an endless snapshot", "a folder"}
"""The reference client's way to files, in the test, is a plain read."""


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - HANGS))
def test_the_reference_client_refuses(tmp_path: Path, name: str):
    """It has seen the plan before the newest; each attack is made of the newest one, which it takes afterwards."""
    centre = Centre(tmp_path)
    digest = centre.publish(echo_bundle(tmp_path / "bundle"))
    older = centre.copy(tmp_path / "older")
    centre.plan(centre.offering(digest))
    client = Client(tmp_path / "cache", centre.root_bytes)
    client.refresh(centre.folder)
    newest = centre.publish(echo_bundle(tmp_path / "newest", version="2.0.0"))
    centre.plan(centre.offering(newest))
    hostile = Hostile(centre, centre.copy(tmp_path / "hostile"), older)
    ATTACKS[name].make(hostile)
    with pytest.raises((RepositoryError, DownloadError, PlanInvalid, AssertionError)):
        client.refresh(hostile.folder)
    ATTACKS[name].mend(centre)
    assert {newest} == client.refresh(centre.folder).bundles
