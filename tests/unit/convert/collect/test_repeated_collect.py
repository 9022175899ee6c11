"""Collecting into a folder that was used before: damaged or missing files are made again, and the rest keeps its
content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convert.collect import derived_examples
from convert.collect.status_folder import StatusFolder
from convert.publish.central_keys import CentralKeys
from edge_agent.formats import segment
from edge_agent.formats.signed_document import public_key_hex
from tests.support.examples import EPOCH, IDENTITY, feedback, prediction
from tests.support.segments import CentralTeam, SealingSite

NEW_KEY = Ed25519PrivateKey.from_private_bytes(b"n" * 32)


def filled(root: Path) -> CentralTeam:
    """Collect examples of two tasks."""
    site = SealingSite(root / "store")
    site.seal([prediction(1), feedback(1), prediction(2, task="other")])
    site.say()
    central = CentralTeam(root)
    central.collect(root / "store")
    return central


def without_report(central: CentralTeam) -> dict[str, bytes]:
    return {name: content for name, content in central.files().items() if name != "report.json"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda out: shutil.rmtree(out / "examples"),
        lambda out: next(out.glob("examples/*/*/*.parquet")).write_bytes(b"spoilt"),
        lambda out: (out / "done.json").unlink(),
        lambda out: shutil.rmtree(out / "receipts"),
        lambda out: (out / "status" / "highest.json").unlink(),
        lambda out: (out / "examples" / "task=other" / "month=2020-01").mkdir(),
        lambda out: next(out.glob("examples/*/*/*.parquet")).with_suffix(".parquet.partial").write_bytes(b"half"),
    ],
)
def test_damaged_derived_files_are_made_again(tmp_path: Path, spoil: Callable[[Path], object]):
    """One run restores examples, receipts and notes that are missing, damaged or superfluous, byte for byte."""
    central = filled(tmp_path)
    before = without_report(central)
    spoil(central.out)
    assert (0, True) == ((report := central.collect(tmp_path / "store")).segments_taken, report.clean)
    assert before == without_report(central)


def test_only_tasks_with_new_records_are_joined_again(tmp_path: Path):
    """The examples file of a task without new records is not written again."""
    central = filled(tmp_path)
    files = {path: path.stat().st_ino for path in central.out.glob("examples/*/*/*.parquet")}
    site = SealingSite(tmp_path / "store", epoch="a" * 16)
    site.seal([prediction(3)])
    central.collect(tmp_path / "store")
    same = {path for path, inode in files.items() if path.stat().st_ino == inode}
    assert {"task=other"} == {path.parts[-3] for path in same}


def test_new_receipt_key_signs_existing_receipts_again(tmp_path: Path):
    """With a new key of the central team, receipts are signed with it although nothing else changed."""
    central = filled(tmp_path)
    central.collect(tmp_path / "store", keys=CentralKeys((IDENTITY,), NEW_KEY))
    raw = (tmp_path / "store" / "site=site-1" / "receipts.json").read_bytes()
    assert 1 == segment.verify_receipts(raw, [public_key_hex(NEW_KEY)]).body.epochs[0].received[0].last


def test_unchanged_receipts_keep_their_date(tmp_path: Path):
    """A later run without new segments does not change the receipts."""
    central = filled(tmp_path)
    path = tmp_path / "store" / "site=site-1" / "receipts.json"
    before = path.read_bytes()
    central.collect(tmp_path / "store", now=lambda: 2e9)
    assert before == path.read_bytes()


def test_newest_status_of_a_site_is_kept(tmp_path: Path):
    """The newest status is that of the latest time by the site's clock; the highest number of each spool incarnation
    never decreases."""
    site, central = SealingSite(tmp_path / "store"), CentralTeam(tmp_path)
    for at, highest in ((200.0, {EPOCH: 7}), (100.0, {EPOCH: 9, "f" * 16: 1}), (300.0, {EPOCH: 8})):
        site.say(at=at, highest=highest)
        central.collect(tmp_path / "store")
    assert {EPOCH: 9, "f" * 16: 1} == StatusFolder(central.out / "status").highest("site-1")
    kept = json.loads((central.out / "status" / "site=site-1.json").read_text())
    assert "1970-01-01T00:05:00.000Z" == kept["body"]["at"]


def test_empty_source_gives_an_empty_report(tmp_path: Path):
    """An empty source is not an error, and a query finds no records."""
    (tmp_path / "store").mkdir()
    central = CentralTeam(tmp_path)
    report = central.collect(tmp_path / "store")
    assert (0, 0, [], True) == (report.segments_held, report.sites, report.tasks, report.clean)
    with derived_examples.open_database(
        central.out / "raw", tmp_path / "spill", derived_examples.MEMORY_BYTES_MIN
    ) as connection:
        assert [(0,)] == connection.execute("SELECT count(filename) FROM records").fetchall()


@pytest.mark.slow
def test_ten_thousand_examples_fit_into_the_minimum_memory(tmp_path: Path):
    """10,000 examples are joined and their duplicates found within MEMORY_BYTES_MIN, and the spill folder is
    removed."""
    site, central = (
        SealingSite(tmp_path / "store"),
        CentralTeam(tmp_path, memory_bytes=derived_examples.MEMORY_BYTES_MIN),
    )
    for start in range(0, 10_000, 2_500):
        texts = {number: f"{number * 7919:x} {number * 104729:x} order" for number in range(start, start + 2_500)}
        made = [prediction(number, input="again and again" if number % 2 else texts[number]) for number in texts]
        site.seal([*made, feedback(start)])
    (task,) = central.collect(tmp_path / "store").tasks
    assert (10_000, 4, 4_999) == (task.examples, task.corrected, task.duplicates)
    assert not (central.out / ".spill").exists()
