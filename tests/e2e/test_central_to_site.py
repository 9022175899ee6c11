"""A release of the real publisher on its way to incoming/: a reader with the keys verifies the files that the uplink
downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.publish import repository_reader
from convert.publish.repository_storage import FolderStorage
from edge_agent.errors import EdgeAgentError
from edge_agent.formats import manifest
from edge_agent.formats.repository_metadata import root_name
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.update_cases import UpdateCase


def mirrored(central: CentralTeam, case: UpdateCase) -> dict[str, bytes]:
    """Run the uplink once, and return the downloaded files without the roots."""
    case.once()
    return {key: raw for key, raw in case.arrived().items() if not key.endswith(".root.json")}


def published(central: CentralTeam) -> dict[str, bytes]:
    """Return the files in the central team's repository, without roots, old versions and bundles."""
    held = central.held
    keys = [f"metadata/{held.roles()[role].signed.version}.{role}.json" for role in ("snapshot", "targets", "plan")]
    found = {key: (central.folder / key).read_bytes() for key in (*keys, "metadata/timestamp.json")}
    [plan] = [target.hashes["sha256"] for target in held.roles()["plan"].signed.targets.values()]
    return {**found, f"blobs/{plan}": (central.folder / "blobs" / plan).read_bytes()}


@pytest.fixture
def central(tmp_path: Path) -> CentralTeam:
    """Return a central team with one bundle in its plan."""
    made = CentralTeam(tmp_path / "central")
    digest = made.publish(echo_bundle(tmp_path / "bundle", weights=b"weights of the first"))
    made.plan(made.offering(digest))
    return made


def test_uplink_mirrors_published_release(central: CentralTeam, tmp_path: Path):
    """The uplink downloads metadata and plan, then a requested manifest, then its files; it does the same for the next
    release with a new root."""
    case = UpdateCase(tmp_path / "site", str(central.folder))
    case.want(root_version=1)
    assert published(central) == mirrored(central, case)
    [digest] = central.held.bundles()
    raw = (central.folder / "blobs" / digest).read_bytes()
    case.want(raw, root_version=1)
    assert raw == mirrored(central, case)[f"blobs/{digest}"]
    files = [(each.sha256, each.size_bytes) for each in manifest.parse(raw).artifacts]
    case.want_sizes([(digest, len(raw)), *files], root_version=1)
    mirrored(central, case)
    assert b"weights of the first" == (case.incoming / "blobs" / files[0][0]).read_bytes()
    central.rotate_root()
    case.want(root_version=1)
    after = mirrored(central, case)
    assert published(central).items() <= after.items()
    root = central.held.root.signed.version
    assert (central.folder / "metadata" / root_name(root)).read_bytes() == case.arrived()[f"metadata/{root_name(root)}"]


def test_downloaded_folder_is_a_valid_repository(central: CentralTeam, tmp_path: Path):
    """The downloaded folder alone passes the repository reader's checks of signatures and hashes, and a changed file
    fails them."""
    case = UpdateCase(tmp_path / "site", str(central.folder))
    case.once()
    there, here = central.held, repository_reader.require(FolderStorage(case.incoming), central.root_bytes)
    assert there.plan == here.plan
    assert there.bundles() == here.bundles()
    (case.incoming / "metadata" / "timestamp.json").write_bytes(b"{}")
    with pytest.raises(EdgeAgentError):
        repository_reader.require(FolderStorage(case.incoming), central.root_bytes)
