"""The uplink's reads of the outbox, the files that it writes, and its status; any content may be invalid."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import DocumentInvalid, ExchangeDirUnusable, ExchangeError, SegmentDamaged
from edge_agent.formats import uplink_state
from edge_agent.uplink import object_store
from edge_agent.uplink.exchange_dirs import ExchangeDirs
from tests.support.uplink_cases import SITE, UplinkCase, signed_receipts


@pytest.fixture
def case(tmp_path: Path) -> UplinkCase:
    """Return exchange directories with one segment."""
    (tmp_path / "upstream").mkdir()
    given = UplinkCase(tmp_path, str(tmp_path / "upstream"))
    given.seal()
    return given


def exchange_of(case: UplinkCase, site: str = SITE) -> ExchangeDirs:
    """Return the exchange directories as the uplink uses them."""
    return ExchangeDirs(site, case.outbox, case.receipts)


def only_stem(case: UplinkCase) -> str:
    """Return the name of the only segment."""
    return next((case.outbox / "segments").glob("*.age")).stem


@pytest.mark.parametrize("spoilt", [b"", b"short", b"\0" * 3000, b"\0" * 3001])
def test_damaged_segment_is_not_uploaded(case: UplinkCase, spoilt: bytes):
    """A segment that does not match its manifest raises SegmentDamaged, because an uploaded object cannot be
    changed."""
    stem = only_stem(case)
    (case.outbox / "segments" / f"{stem}.age").write_bytes(spoilt)
    with pytest.raises(SegmentDamaged, match=stem):
        exchange_of(case).segment(stem)


@pytest.mark.parametrize("spoilt", [b"", b"{}", b"{" * 5_000_000, b'{"body": {}, "key": "", "signature": ""}'])
def test_invalid_manifest_is_refused(case: UplinkCase, spoilt: bytes):
    """An invalid manifest, and one of another site, are refused by name."""
    stem = only_stem(case)
    with pytest.raises(DocumentInvalid, match="is of site 'site-1'; this uplink is for 'other'"):
        exchange_of(case, "other").segment(stem)
    (case.outbox / "segments" / f"{stem}.json").write_bytes(spoilt)
    with pytest.raises(ExchangeError, match=stem):
        exchange_of(case).segment(stem)


def test_links_and_folders_in_the_outbox_are_not_followed(case: UplinkCase):
    """A link, folder or FIFO with the name of a segment is neither listed nor read."""
    stem = only_stem(case)
    path = case.outbox / "segments" / f"{stem}.age"
    path.unlink()
    path.symlink_to("/etc/passwd")
    (case.outbox / "segments" / "0123456789abcdef-0000000002.age").mkdir()
    os.mkfifo(case.outbox / "segments" / "0123456789abcdef-0000000002.json")
    assert [f"{stem}.json"] == list(exchange_of(case).files())
    with pytest.raises(ExchangeDirUnusable, match=stem):
        exchange_of(case).segment(stem)


def test_missing_segment_is_ignored(case: UplinkCase):
    """The daemon may delete a segment at any time after its receipt; a missing outbox counts as empty."""
    stem = only_stem(case)
    (case.outbox / "segments" / f"{stem}.json").unlink()
    assert exchange_of(case).segment(stem) is None
    elsewhere = ExchangeDirs(SITE, case.folder / "none", case.folder / "none")
    assert ({}, None, (0, 0)) == (elsewhere.files(), elsewhere.status(), elsewhere.status_mark())


def test_receipts_that_cannot_be_written_are_named(case: UplinkCase):
    """The error names receipts.json."""
    case.receipts.rmdir()
    with pytest.raises(ExchangeDirUnusable, match=r"receipts\.json"):
        exchange_of(case).store_receipts(signed_receipts())


def test_damaged_segment_does_not_block_the_others(case: UplinkCase):
    """The pass ends with the reason, the state names the segment, and it is uploaded once repaired."""
    stem = only_stem(case)
    path = case.outbox / "segments" / f"{stem}.age"
    good = path.read_bytes()
    path.write_bytes(b"\0" * 3000)
    case.seal(2)
    with pytest.raises(SegmentDamaged):
        case.once()
    assert ([("SEGMENT_DAMAGED", stem)], 2) == ([(p.reason, p.about) for p in case.state().problems], case.noted())
    path.write_bytes(good)
    case.once()
    assert case.outbox_files() == case.uploaded()


@given(st.binary(max_size=300))
def test_invalid_state_file_is_refused(raw: bytes):
    """Whatever lies there, the reader gets an error of ours."""
    with pytest.raises(DocumentInvalid, match=r"uplink\.json"):
        uplink_state.parse(raw)


def test_a_state_that_is_too_large_is_refused():
    """The size of the state file is checked before it is parsed."""
    with pytest.raises(DocumentInvalid, match="the limit is"):
        uplink_state.parse(b" " * (uplink_state.STATE_BYTES_MAX + 1))


SECRET = "X-Amz-Signature=0badc0de"


@given(st.text(max_size=200))
def test_store_error_has_only_status_and_code(noise: str):
    """Addresses, queries and texts of a server do not reach the message."""
    said = f"Error performing PUT http://h/b?{SECRET} in 1ms - status code: 503 Busy: <Code>SlowDown</Code>{noise}"
    error = object_store.classify_store_error(said, "PUT site=a/x", "s3://b")
    assert ("UPSTREAM_BUSY", "s3://b: PUT site=a/x was answered with 503 SlowDown") == (error.reason, error.message)
