"""The reference client refuses each attack of tests/support/repository_attacks.py, and accepts the original."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, RepositoryError

from edge_agent.errors import PlanInvalid
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.repository_attacks import ATTACKS, AttackedRepository
from tests.support.tuf_client import Client

HANGS = {"a pipe", "a link to a device", "an endless timestamp", "an endless snapshot", "a folder"}
"""The reference client's way to files, in the test, is a plain read."""


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - HANGS))
def test_reference_client_refuses_each_attack(tmp_path: Path, name: str):
    """The reference client refuses each attack on the newest repository, and accepts the repository without it."""
    central = CentralTeam(tmp_path)
    digest = central.publish(echo_bundle(tmp_path / "bundle"))
    older = central.copy(tmp_path / "older")
    central.plan(central.offering(digest))
    client = Client(tmp_path / "cache", central.root_bytes)
    client.refresh(central.folder)
    newest = central.publish(echo_bundle(tmp_path / "newest", version="2.0.0"))
    central.plan(central.offering(newest))
    hostile = AttackedRepository(central, central.copy(tmp_path / "hostile"), older)
    ATTACKS[name].make(hostile)
    with pytest.raises((RepositoryError, DownloadError, PlanInvalid, AssertionError)):
        client.refresh(hostile.folder)
    ATTACKS[name].mend(central)
    assert {newest} == client.refresh(central.folder).bundles
