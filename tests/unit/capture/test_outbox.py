"""Sealing and receipts, and files that are missing, changed, forged or of another time."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.capture.outbox import load_site_key
from edge_agent.capture.spool_worker import SpoolWorker
from edge_agent.capture.text_redaction import build_redactor
from edge_agent.errors import DiskFull, DocumentInvalid, SignatureInvalid, StateDirUnwritable, StoreDamaged
from edge_agent.formats import segment, status_object
from edge_agent.formats.status_object import SiteUpdates
from tests.support.examples import SITE_KEY
from tests.support.site_cases import SiteCase, answered, judgement, read_outbox

SURE = {"confidence": 0.95, "sure": True}


@pytest.fixture
def site(tmp_path) -> SiteCase:
    return SiteCase(tmp_path)


def test_waiting_records_are_sealed_in_a_chain(site):
    """Records are sealed into numbered segments; later feedback is a record of its own."""
    site.keep(answered(1))
    site.worker.seal_all()
    site.judge(judgement(1))
    site.keep(answered(2))
    site.worker.seal_all()
    assert {1: ["prediction:p-1"], 2: ["prediction:p-2", "feedback:f-1"]} == {
        sequence: [record.record_id for record in records] for sequence, records in site.segments().items()
    }


def test_time_until_sealing_continues_over_restarts(site):
    """The hour until records are sealed is counted in seconds of running, over restarts."""
    for number in range(4):
        site.keep(answered(number))
        site.clock.running += 1700
        site.worker.spool.save_clock()
        site.reopen().do_housekeeping()
    assert {1: 3} == {sequence: len(records) for sequence, records in site.segments().items()}


def test_no_record_is_sealed_twice(site):
    """Sealing again, or without records, makes no segment."""
    site.keep(answered(1))
    assert (1, 0, 0) == (site.worker.seal_all(), site.worker.seal_all(), site.reopen().seal_all())


def test_unreadable_outbox_raises_an_error_with_a_remedy(site):
    """An outbox folder that was replaced by a file raises StateDirUnwritable."""
    shutil.rmtree(site.config.outbox / "segments")
    (site.config.outbox / "segments").write_text("")
    with pytest.raises(StateDirUnwritable, match=r"cannot use .*segments") as refused:
        site.worker.write_status()
    assert "edge-agent doctor" in refused.value.remedy


def test_local_consent_is_never_sealed(tmp_path):
    """With consent 'local' neither predictions nor their feedback are sealed."""
    site = SiteCase(tmp_path, collect={"pos-intent": "local"})
    site.keep(answered(1))
    site.judge(judgement(1))
    assert 0 == site.worker.seal_all()
    assert [] == site.files()


def test_routine_answers_are_sampled(tmp_path):
    """The configured share of routine answers is sealed with that share in the record; others are sealed once they are
    corrected."""
    site = SiteCase(tmp_path, routine_share=0.25)
    site.keep(*(answered(n, **SURE) for n in range(400)))
    site.worker.seal_all()
    sealed = site.records()
    assert 60 < len(sealed) < 140
    assert {("routine", 0.25)} == {(record.kept.because, record.kept.share) for record in sealed.values()}
    missing = next(n for n in range(400) if f"prediction:p-{n}" not in sealed)
    site.judge(judgement(missing))
    site.worker.seal_all()
    assert ("reviewed", 1.0) == tuple(vars(site.records()[f"prediction:p-{missing}"].kept).values())


def test_segment_size_is_limited(tmp_path):
    """Many records make many segments, none much larger than the limit."""
    site = SiteCase(tmp_path, segment_bytes_max=2**16)
    site.keep(*(answered(n, text="refund " * 100) for n in range(300)))
    assert site.worker.seal_all() > 4
    assert 300 == len(site.records())


def test_records_wait_until_they_are_old_or_many(tmp_path):
    """Records are sealed automatically after an hour or with enough bytes."""
    site = SiteCase(tmp_path, segment_bytes_max=2**16)
    site.keep(answered(1))
    site.clock.running += 60
    site.worker.do_housekeeping()
    assert [] == site.files()
    site.clock.running += 3600
    site.worker.do_housekeeping()
    assert 1 == len(site.segments())
    site.keep(*(answered(n, text="refund " * 100) for n in range(2, 90)))
    site.clock.running += 60
    site.worker.do_housekeeping()
    assert len(site.segments()) > 1


def test_a_full_outbox_makes_records_wait(tmp_path):
    """If the outbox is full, sealing raises DiskFull and no sealed segment is deleted."""
    site = SiteCase(tmp_path, outbox_bytes_max=2**20, segment_bytes_max=2**20)
    (site.config.outbox / "segments" / f"{'0' * 16}-0000000001.age").write_bytes(bytes(2**20))
    site.keep(answered(1))
    with pytest.raises(DiskFull, match="the outbox holds"):
        site.worker.seal_all()
    (site.config.outbox / "segments" / f"{'0' * 16}-0000000001.age").unlink()
    assert 1 == site.worker.seal_all()


def test_a_receipt_deletes_what_it_covers(site):
    """A receipt deletes the segments that it covers; later ones stay."""
    for number in (1, 2, 3):
        site.keep(answered(number))
        site.worker.seal_all()
    site.receipt(2)
    assert 2 == site.worker.read_receipts()
    assert [3] == list(site.segments())
    assert 0 == site.worker.read_receipts()


def test_forged_receipts_delete_nothing(site):
    """A receipt that is signed by another key, or is for another site, epoch or manifest, deletes nothing."""
    site.keep(answered(1))
    site.worker.seal_all()
    raw = (site.config.outbox / "segments" / f"{segment.name_of(site.worker.spool.incarnation, 1)}.json").read_bytes()
    epoch = {"epoch": site.worker.spool.incarnation, "received": [{"first": 1, "last": 1, "manifest_sha256": "0" * 64}]}
    right = {"first": 1, "last": 1, "manifest_sha256": hashlib.sha256(raw).hexdigest()}
    for forged in (SITE_KEY, Ed25519PrivateKey.generate()):
        site.write_receipts(forged, epochs=[{**epoch, "received": [right]}])
        with pytest.raises(SignatureInvalid):
            site.worker.read_receipts()
    assert "receipts" in site.worker.problems
    site.write_receipts(site="site-2", epochs=[{**epoch, "received": [right]}])
    with pytest.raises(DocumentInvalid, match="is for site"):
        site.worker.read_receipts()
    site.write_receipts(epochs=[epoch, {"epoch": "f" * 16, "received": [right]}])
    assert 0 == site.worker.read_receipts()
    assert {} == site.worker.problems
    assert 2 == len(site.files())


@pytest.mark.parametrize("harm", ["delete both", "delete manifest", "truncate", "flip"])
def test_damaged_segment_is_sealed_again(site, harm):
    """Corrections of a segment that was damaged are sealed again under a new number, with the reason."""
    site.keep(answered(1))
    site.judge(judgement(1))
    site.worker.seal_all()
    sealed, manifest = (site.config.outbox / "segments" / name for name in site.files())
    if harm == "truncate":
        sealed.write_bytes(sealed.read_bytes()[:100])
    elif harm == "flip":
        raw = bytearray(sealed.read_bytes())
        raw[50] ^= 1
        sealed.write_bytes(raw)
    else:
        manifest.unlink()
        (sealed if harm == "delete both" else manifest).unlink(missing_ok=True)
    site.reopen()
    site.worker.outbox.find_lost_segments(thoroughly=True)
    assert 1 == site.worker.seal_all()
    again = site.segments()[2]
    assert {"prediction:p-1", "feedback:f-1"} == {record.record_id for record in again}
    raw = (site.config.outbox / "segments" / f"{segment.name_of(site.worker.spool.incarnation, 2)}.json").read_bytes()
    assert (1,) == segment.verify(raw, segment.name_of(site.worker.spool.incarnation, 2), None).body.reseals
    said = status_object.verify((site.config.outbox / "status.json").read_bytes(), None).body
    assert ({site.worker.spool.incarnation: 2}, {site.worker.spool.incarnation: (1,)}) == (said.highest, said.missing)


def test_refused_segment_is_sealed_again(site):
    """The records of a segment that the central team refuses by a signed receipt are sealed again."""
    site.keep(answered(1))
    site.judge(judgement(1))
    site.worker.seal_all()
    raw = (site.config.outbox / "segments" / f"{segment.name_of(site.worker.spool.incarnation, 1)}.json").read_bytes()
    refused = {"sequence": 1, "manifest_sha256": hashlib.sha256(raw).hexdigest(), "why": "does not open"}
    site.write_receipts(epochs=[{"epoch": site.worker.spool.incarnation, "refused": [refused]}])
    site.worker.read_receipts()
    site.worker.seal_all()
    assert [2] == list(site.segments())
    assert {"prediction:p-1", "feedback:f-1"} == set(site.records())


def test_erasing_a_sealed_record_leaves_a_tombstone(site):
    """Erasing a record that may have left makes a tombstone, also if the site no longer has it; it stays until its
    receipt."""
    site.keep(answered(1))
    site.worker.seal_all()
    spool, recorder = site.worker.spool, site.worker.recorder
    with spool.transaction():
        assert (True, True) == spool.erase("p-1", recorder.build_tombstone("p-1", 0))
        assert (False, True) == spool.erase("p-9", recorder.build_tombstone("p-9", 0))
    site.worker.seal_all()
    assert ["tombstone:p-1", "tombstone:p-9"] == [record.record_id for record in site.segments()[2]]
    site.receipt(2)
    site.worker.read_receipts()
    assert [] == spool.db.rows("SELECT * FROM tombstones")


def test_restored_spool_starts_a_new_epoch(site, tmp_path):
    """A restored copy of spool.db would reuse numbers with other content, so it starts a new epoch."""
    site.keep(answered(1))
    site.worker.seal_all()
    site.worker.close()
    shutil.copy(site.config.state_dir / "spool.db", tmp_path / "old.db")
    site.open()
    site.keep(answered(2))
    site.worker.seal_all()
    site.worker.close()
    first = site.worker.spool.incarnation
    for path in site.config.state_dir.glob("spool.db*"):
        path.unlink()
    shutil.copy(tmp_path / "old.db", site.config.state_dir / "spool.db")
    site.open()
    assert first != site.worker.spool.incarnation
    site.keep(answered(3))
    site.worker.seal_all()
    assert {"prediction:p-1", "prediction:p-3"} == set(site.records())
    assert {1, 2} == set(read_outbox(site.config.outbox, first))


def test_receipts_for_an_earlier_epoch_delete_its_files(site):
    """A receipt for an earlier epoch deletes its files, although the ledger of that epoch is lost."""
    site.keep(answered(1))
    site.worker.seal_all()
    site.keep(answered(2))
    site.worker.seal_all()
    site.worker.close()
    old = site.worker.spool.incarnation
    for path in site.config.state_dir.glob("spool.db*"):
        path.unlink()
    site.open()
    assert 4 == len(site.files())
    raw = (site.config.outbox / "segments" / f"{segment.name_of(old, 2)}.json").read_bytes()
    span = {"first": 1, "last": 2, "manifest_sha256": hashlib.sha256(raw).hexdigest()}
    site.write_receipts(epochs=[{"epoch": old, "received": [{**span, "manifest_sha256": "0" * 64}]}])
    assert 0 == site.worker.read_receipts()
    site.write_receipts(epochs=[{"epoch": old, "received": [span]}])
    assert 2 == site.worker.read_receipts()
    assert [] == site.files()


def test_status_object_has_the_highest_sequence(site):
    """The status object is signed by the site's key and has the highest sequence, counters and retained bytes."""
    site.keep(answered(1))
    site.worker.seal_all()
    signed = status_object.verify((site.config.outbox / "status.json").read_bytes(), None)
    assert ("site-1", {site.worker.spool.incarnation: 1}) == (signed.body.site, signed.body.highest)
    assert 1 == signed.body.counters["captured"]
    assert signed.body.retained_bytes > 0


def test_site_key_is_stored_and_private(tmp_path):
    """The site key is the same after a restart and has mode 0600; a damaged one is not replaced."""
    path = tmp_path / "site.key"
    made = load_site_key(path)
    assert made.private_bytes_raw() == load_site_key(path).private_bytes_raw()
    assert 0o600 == path.stat().st_mode & 0o777
    path.write_bytes(b"-----BEGIN")
    with pytest.raises(StoreDamaged, match="contains no Ed25519 key"):
        load_site_key(path)
    assert b"-----BEGIN" == path.read_bytes()


@pytest.mark.parametrize(
    "der", ["302e020100300506032b657b04220420" + "00" * 32, "302e020100300506032b656f04220420" + "11" * 32]
)
def test_site_key_of_another_type_is_refused(tmp_path, der):
    """A key that is not Ed25519 raises the same error as a damaged one."""
    pem = base64.b64encode(bytes.fromhex(der)).decode()
    (tmp_path / "site.key").write_text(f"-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n")
    with pytest.raises(StoreDamaged, match="contains no Ed25519 key"):
        load_site_key(tmp_path / "site.key")


def test_published_segment_is_unchanged_after_a_failed_commit(site):
    """The uplink may have sent the segment, so its name never gets other content and each record counts once."""
    site.keep(answered(1))
    database = site.worker.spool.db
    database.execute("CREATE TRIGGER full BEFORE UPDATE ON segments BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(sqlite3.IntegrityError):
        site.worker.seal_all()
    published = {name: (site.config.outbox / "segments" / name).read_bytes() for name in site.files()}
    database.execute("DROP TRIGGER full")
    assert (2, 1, 0) == (len(published), site.worker.seal_all(), site.worker.seal_all())
    assert published == {name: (site.config.outbox / "segments" / name).read_bytes() for name in site.files()}
    counters = site.worker.spool.counters
    assert (1, 1) == (counters["segments_sealed"], counters["records_sealed"])
    site.receipt(1)
    assert 1 == site.worker.read_receipts()


@pytest.mark.parametrize("place", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_receipts_that_are_not_a_regular_file_are_ignored(site, place):
    """A pipe or folder in place of the receipts, which the untrusted uplink could make, is ignored."""
    place(site.config.receipts / segment.RECEIPTS_FILE_NAME)
    assert 0 == site.worker.read_receipts()


def test_status_object_is_written_when_updates_change(site):
    """A change of the updates is written into the status object at once; an unchanged state is not written again."""
    revision = 0
    around = replace(
        site.clock.around(), updates=lambda: SiteUpdates(channel="beta", plan_version=4), revision=lambda: revision
    )
    site.worker.close()
    site.worker = SpoolWorker(site.config, build_redactor(site.config), around)
    path = site.config.outbox / "status.json"
    site.worker.do_housekeeping()
    body = status_object.verify(path.read_bytes(), None).body
    assert ("beta", 4) == (body.channel, body.plan_version)
    path.unlink()
    site.worker.do_housekeeping()
    assert not path.exists()
    revision = 1
    site.worker.do_housekeeping()
    assert path.exists()
    path.unlink()
    site.worker.do_housekeeping()
    assert not path.exists()
