"""The metadata versions that a site remembers, and the older signed metadata that it therefore refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tuf.api.metadata import MetaFile, Targets

from edge_agent.errors import UpdateOutdated, UpdateUntrusted
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.repository_attacks import AttackedRepository, drop_with_its_delegation
from tests.support.trust_cases import TrustingSite


@pytest.fixture
def central(tmp_path: Path) -> CentralTeam:
    """Return a central team with a bundle in its plan, version 2."""
    made = CentralTeam(tmp_path / "central")
    made.plan(made.offering(made.publish(echo_bundle(tmp_path / "bundle", "pos"))))
    return made


@pytest.fixture
def site(central: CentralTeam, tmp_path: Path) -> TrustingSite:
    """Return a site that accepts what the central team has published."""
    made = TrustingSite(tmp_path / "site", central.root_bytes)
    made.bring(central.folder)
    assert 2 == made.believe().plan_version
    return made


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder."""
    return Path(shutil.copytree(folder, to))


def test_snapshot_that_drops_or_lowers_a_role_is_refused(central, site, tmp_path):
    """A snapshot that no longer names a role is refused although it is signed; the site keeps its verified plan and
    remembered versions."""
    floors = site.store.trusted.floors()
    assert {"targets.json": 2, "plan.json": 2} == floors["snapshot"].listed
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), central.folder)
    drop_with_its_delegation(hostile)
    site.bring(hostile.folder)
    verified = site.again().believe()
    assert (2, "UPDATE_UNTRUSTED") == (verified.plan_version, verified.problem.reason)
    assert "no longer names plan.json, which it named when this site saw it last" in verified.problem.message
    assert floors == site.store.trusted.floors()
    site.bring(central.folder)
    assert site.believe().problem is None


def test_rollback_of_an_unused_role_is_refused(central, site, tmp_path):
    """The site refuses a lower version of any file that the snapshot names, also one that it does not read (TUF
    specification, section 5.5.5)."""
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), central.folder)

    def name(version: int | None) -> None:
        snapshot = hostile.read("snapshot")
        snapshot.signed.meta.pop("other.json", None)
        if version:
            snapshot.signed.meta["other.json"] = MetaFile(version)
        snapshot.signed.version += 1
        hostile.link("snapshot", hostile.sign("snapshot", snapshot))

    name(7)
    site.believe(hostile.folder)
    name(6)
    with pytest.raises(UpdateOutdated, match=r"its snapshot names other\.json 6, not 7"):
        site.believe(hostile.folder)
    name(None)
    with pytest.raises(UpdateUntrusted, match=r"no longer names other\.json"):
        site.believe(hostile.folder)
    name(8)
    site.believe(hostile.folder)
    central.rotate("online", restart_versions=True)  # whose snapshot never named it
    site.bring(central.folder)
    assert site.believe().problem is None


def test_timestamp_one_version_older_is_refused(central, site, tmp_path):
    """A site refuses a repository whose timestamp is one version older than the one that it has seen."""
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "newer"), central.folder)
    stamp = hostile.read("timestamp")
    stamp.signed.version += 1
    hostile.sign("timestamp", stamp)
    assert 2 == site.believe(hostile.folder).plan_version
    seen = stamp.signed.version
    with pytest.raises(UpdateOutdated, match=rf"timestamp {seen - 1}, not {seen}"):
        site.believe(copied(central.folder, tmp_path / "older"))


def test_second_timestamp_with_the_same_version_is_refused(central, site, tmp_path):
    """A site refuses a different timestamp with a version that it has seen, as a thief of the online key could make;
    the specification would ignore it."""
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), central.folder)
    stamp = hostile.read("timestamp")
    stamp.signed.expires = datetime(2099, 1, 1, tzinfo=UTC)
    hostile.sign("timestamp", stamp)
    with pytest.raises(UpdateUntrusted, match=r"has another timestamp \d+ than the one that this site has seen"):
        site.believe(hostile.folder)
    assert 2 == site.again().believe(copied(central.folder, tmp_path / "same")).plan_version


@pytest.mark.parametrize(("fits", "missing"), [(True, 0), (False, 1)])
def test_every_signed_hash_of_a_file_must_match(central, tmp_path, fits, missing):
    """If a bundle has a signed sha512 beside its sha256, a manifest that does not match it counts as missing."""
    (digest,) = central.held.bundles()
    raw = (central.folder / "blobs" / digest).read_bytes()
    hostile = AttackedRepository(central, copied(central.folder, tmp_path / "hostile"), central.folder)

    def name_sha512(targets: Targets) -> None:
        (target,) = targets.targets.values()
        target.hashes["sha512"] = hashlib.sha512(raw if fits else b"").hexdigest()

    hostile.forge("targets", name_sha512)
    site = TrustingSite(tmp_path / "site", central.root_bytes)
    assert missing == len(site.ingest.missing_files(hostile.folder, site.believe(hostile.folder), digest))


def test_remembered_versions_of_an_earlier_agent_are_read(central, site):
    """State of an earlier agent, which did not record the files that the snapshot named, is read, and completed at the
    next verification."""
    floors = site.store.trusted.floors()
    with closing(sqlite3.connect(site.config.state_dir / "state.db")) as database, database:
        for name, value in database.execute("SELECT name, value FROM trust").fetchall():
            older = {key: each for key, each in json.loads(value).items() if key not in ("listed", "sha256")}
            database.execute("UPDATE trust SET value = ? WHERE name = ?", (json.dumps(older), name))
    before = site.again().store.trusted.floors()
    assert ({}, "") == (before["snapshot"].listed, before["timestamp"].sha256)
    site.believe()
    assert floors == site.store.trusted.floors()
