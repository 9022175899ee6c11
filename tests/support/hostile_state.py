"""Damaged files in the state directory: databases with changed bytes, and repositories of updates.

Like hostile_files.py, for formats whose reading takes a state directory. A repository is spoilt by somebody who has
only the way to the site, or by one who has the central team's keys too.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tuf.api.metadata import Metadata, MetaFile

from convert.publish import layout
from convert.publish.layout import PLAN, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from edge_agent.capture.capture_values import QUEUE_START, ReviewFilter, parse_review_item
from edge_agent.capture.spool import Spool
from edge_agent.formats.plan import FILE_NAME
from edge_agent.server import feedback
from edge_agent.store.bundle_store import Store
from edge_agent.update.metadata_chain import parse_root
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.hostile_bytes import documents, torn
from tests.support.hostile_files import Format
from tests.support.repository_attacks import AttackedRepository
from tests.support.site_cases import SiteCase, answered, judgement
from tests.support.store_cases import LIMITS, bundle
from tests.support.trust_cases import TrustingSite

ROLES = (TIMESTAMP, SNAPSHOT, TARGETS, PLAN, ROOT, FILE_NAME)
"""Whose files are spoilt."""


def formats(folder: Path) -> Iterator[Format]:
    """Yield the formats; `folder` is where their readers work."""
    yield _state_db(folder / "state-db")
    yield _spool_db(folder / "spool-db")
    central = CentralTeam(folder / "central")
    digest = central.publish(echo_bundle(folder / "bundle", weights=b"w"))
    central.plan(central.offering(digest))
    yield Format("root.json", documents(json.loads(central.root_bytes)), read_root, 2)
    yield repository(folder / "repository", central, digest)


def read_root(raw: bytes) -> None:
    try:
        parse_root(raw)
    except ValueError as error:
        # What it documents; its callers make an error with a remedy of it.
        assert str(error)


# --- databases --------------------------------------------------------------------------------------------------------


def _state_db(place: Path) -> Format:
    with_two = place / "sound"
    store = Store.open(with_two, LIMITS)
    for version in ("1.0.0", "2.0.0"):
        store.set_active(store.install(bundle(place / version, version, weights=b"w"), allow_unsigned=True)[0].digest)
    store.close()
    sound = (with_two / "state.db").read_bytes()

    def read(raw: bytes) -> None:
        (with_two / "state.db").write_bytes(raw)
        for suffix in ("-wal", "-shm"):
            (with_two / f"state.db{suffix}").unlink(missing_ok=True)
        opened = Store.open(with_two, LIMITS)
        try:
            for each in opened.bundles():
                opened.paths(each)
            opened.journal.rows()
            opened.trusted.roots()
            opened.trusted.floors()
        finally:
            opened.close()

    return Format("state.db", torn(sound), read, 1)


def _spool_db(place: Path) -> Format:
    site = SiteCase(place)
    site.keep(*map(answered, range(4)))
    site.judge(judgement(1))
    site.worker.seal_all()
    site.keep(*map(answered, range(4, 8)))
    site.worker.close()
    file = place / "state" / "spool.db"
    sound = file.read_bytes()

    def read(raw: bytes) -> None:
        file.write_bytes(raw)
        for suffix in ("-wal", "-shm"):
            file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
        worker = site.open()
        try:
            _look_at(worker.spool)
            worker.seal_all()
        finally:
            worker.close()

    return Format("spool.db", torn(sound), read, 1)


def _look_at(spool: Spool) -> None:
    spool.count_retained()
    for _, found in spool.review_page(ReviewFilter(include_reviewed=True), QUEUE_START, 100):
        feedback.prediction_message(parse_review_item(found), None)
    feedback.prediction_message(parse_review_item(spool.find_prediction("p-1")), None)


# --- repositories -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DamagedRepository:
    """The damage to a repository."""

    role: str
    """Of the file that was spoilt; "plan.json" is the plan itself."""
    raw: bytes
    """What is in its place."""
    stolen: bool
    """It was signed again, and so was what names it."""
    drive: bool
    """It was brought on a USB drive."""


def repository(place: Path, central: CentralTeam, digest: str) -> Format:
    place.mkdir()
    sound = AttackedRepository(central, central.folder, central.folder)
    site = TrustingSite(place / "site", central.root_bytes)

    def spoilt(role: str) -> st.SearchStrategy[DamagedRepository]:
        path = sound.plan_blob() if role == FILE_NAME else sound.path(role)
        cases = documents(json.loads(path.read_bytes())) | torn(path.read_bytes())
        return st.builds(DamagedRepository, st.just(role), cases, st.booleans(), st.booleans())

    def read(case: DamagedRepository) -> None:
        nonlocal site
        folder = _laid(case, central, place / "laid")
        if not case.drive:
            shutil.rmtree(site.incoming, ignore_errors=True)
            folder = folder.rename(site.incoming)
        before = _remembered(site)
        try:
            verified = site.believe(folder)
            assert case.stolen or {digest} == set(verified.bundles), "what nobody signed is believed"
            for each in verified.bundles:
                site.ingest.missing_files(folder, verified, each)
                site.ingest.admit(folder, each)
        finally:
            if before != _remembered(site):  # what was believed must not shield the next cases
                site = _anew(site, central)

    return Format("repository of updates", st.sampled_from(ROLES).flatmap(spoilt), read, 2)


def _remembered(site: TrustingSite) -> Any:
    return site.store.trusted.floors(), site.store.trusted.roots()


def _anew(site: TrustingSite, central: CentralTeam) -> TrustingSite:
    site.store.close()
    shutil.rmtree(site.config.state_dir)
    return TrustingSite(site.root_file.parent, central.root_bytes)


def _laid(case: DamagedRepository, central: CentralTeam, folder: Path) -> Path:
    """Write a repository with one damaged file."""
    shutil.rmtree(folder, ignore_errors=True)
    hostile = AttackedRepository(central, central.copy(folder), central.folder)
    if case.role == FILE_NAME and case.stolen:
        hostile.plan(case.raw)
    elif case.role == FILE_NAME:
        hostile.plan_blob().write_bytes(case.raw)
    elif case.stolen:
        _forge(case, hostile)
    else:
        hostile.path(case.role).write_bytes(case.raw)
    return folder


def _forge(case: DamagedRepository, hostile: AttackedRepository) -> None:
    """Sign the damaged file if it can be signed, and sign the metadata that name it to match."""
    version = hostile.read(case.role).signed.version + (case.role == ROOT)
    written = hostile.folder / layout.path_of(case.role, version)
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(case.raw)
        metadata.signed.version = version
        hostile.sign(case.role, metadata)
    except Exception:  # noqa: BLE001 - whatever it is, a site has to be able to say what is wrong with it
        written.write_bytes(case.raw)
    raw = written.read_bytes()
    named = MetaFile(version, len(raw), {"sha256": hashlib.sha256(raw).hexdigest()})
    if case.role in (TARGETS, PLAN):
        snapshot = hostile.read(SNAPSHOT)
        snapshot.signed.meta[f"{case.role}.json"] = named
        named = _described(hostile.sign(SNAPSHOT, snapshot))
    if case.role in (TARGETS, PLAN, SNAPSHOT):
        stamp = hostile.read(TIMESTAMP)
        stamp.signed.snapshot_meta = named
        hostile.sign(TIMESTAMP, stamp)


def _described(path: Path) -> MetaFile:
    raw = path.read_bytes()
    return layout.meta_file(Metadata.from_bytes(raw), raw)
