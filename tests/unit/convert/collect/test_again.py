"""Collecting into a folder that has seen something: what is damaged or gone is made again, the rest is left alone."""

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
    """Collect two tasks."""
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
def test_what_follows_from_the_records_is_made_again(tmp_path: Path, spoil: Callable[[Path], object]):
    """Examples, receipts and notes that are gone, damaged or too many: one run, and every byte is as before."""
    central = filled(tmp_path)
    before = without_report(central)
    spoil(central.out)
    assert (0, True) == ((report := central.collect(tmp_path / "store")).segments_taken, report.clean)
    assert before == without_report(central)


def test_only_what_has_news_is_joined_again(tmp_path: Path):
    """A task without new records keeps its very file."""
    central = filled(tmp_path)
    files = {path: path.stat().st_ino for path in central.out.glob("examples/*/*/*.parquet")}
    site = SealingSite(tmp_path / "store", epoch="a" * 16)
    site.seal([prediction(3)])
    central.collect(tmp_path / "store")
    same = {path for path, inode in files.items() if path.stat().st_ino == inode}
    assert {"task=other"} == {path.parts[-3] for path in same}


def test_another_receipt_key_signs_anew(tmp_path: Path):
    """With a new key of the central team, receipts are signed with it although nothing else changed."""
    central = filled(tmp_path)
    central.collect(tmp_path / "store", keys=CentralKeys((IDENTITY,), NEW_KEY))
    raw = (tmp_path / "store" / "site=site-1" / "receipts.json").read_bytes()
    assert 1 == segment.verify_receipts(raw, [public_key_hex(NEW_KEY)]).body.epochs[0].received[0].last


def test_receipts_keep_their_time(tmp_path: Path):
    """They are dated by the run that had something new to say."""
    central = filled(tmp_path)
    path = tmp_path / "store" / "site=site-1" / "receipts.json"
    before = path.read_bytes()
    central.collect(tmp_path / "store", now=lambda: 2e9)
    assert before == path.read_bytes()


def test_the_newest_status_is_kept(tmp_path: Path):
    """By the site's own time; the highest numbers only grow, over epochs and runs."""
    site, central = SealingSite(tmp_path / "store"), CentralTeam(tmp_path)
    for at, highest in ((200.0, {EPOCH: 7}), (100.0, {EPOCH: 9, "f" * 16: 1}), (300.0, {EPOCH: 8})):
        site.say(at=at, highest=highest)
        central.collect(tmp_path / "store")
    assert {EPOCH: 9, "f" * 16: 1} == StatusFolder(central.out / "status").highest("site-1")
    kept = json.loads((central.out / "status" / "site=site-1.json").read_text())
    assert "1970-01-01T00:05:00.000Z" == kept["body"]["at"]


def test_nothing_at_all_is_no_error(tmp_path: Path):
    """An empty place makes an empty report, and a reader finds no records."""
    (tmp_path / "store").mkdir()
    central = CentralTeam(tmp_path)
    report = central.collect(tmp_path / "store")
    assert (0, 0, [], True) == (report.segments_held, report.sites, report.tasks, report.clean)
    with derived_examples.open_database(
        central.out / "raw", tmp_path / "spill", derived_examples.MEMORY_BYTES_MIN
    ) as connection:
        assert [(0,)] == connection.execute("SELECT count(filename) FROM records").fetchall()


@pytest.mark.slow
def test_many_examples_fit_into_little_memory(tmp_path: Path):
    """Ten thousand examples within the least memory: joined, duplicates found, nothing left of what was spilt."""
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
