"""Signed documents: the signer is verified, and all other documents are refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import DocumentInvalid, SignatureInvalid
from edge_agent.formats import segment, signed_document, status_object
from edge_agent.formats.signed_document import format_timestamp, public_key_hex, sign
from tests.support.examples import CENTRAL_KEY, DIGEST, EPOCH, NOW, SITE_KEY, segment_manifest

CENTRAL, SITE = public_key_hex(CENTRAL_KEY), public_key_hex(SITE_KEY)
STEM = segment.name_of(EPOCH, 1)


def some_receipts(**changes: Any) -> segment.Receipts:
    ranges = [{"first": 1, "last": 3, "manifest_sha256": DIGEST}]
    plain = {"site": "site-1", "at": format_timestamp(NOW), "epochs": [{"epoch": EPOCH, "received": ranges}]}
    return segment.Receipts.model_validate({**plain, **changes})


def test_signed_document_is_read_back_with_its_signer():
    """The body is read with the key that signed it and the digest of the file."""
    raw = sign(some_receipts(), CENTRAL_KEY)
    signed = segment.verify_receipts(raw, {CENTRAL})
    assert some_receipts() == signed.body
    assert CENTRAL == signed.key
    assert 64 == len(signed.sha256)


def test_untrusted_key_is_refused():
    """Receipts that the site or the uplink signed are refused."""
    with pytest.raises(SignatureInvalid, match="not one of the keys"):
        segment.verify_receipts(sign(some_receipts(), SITE_KEY), {CENTRAL})


def test_trusted_key_name_without_its_signature_is_refused():
    """A forger who names the trusted key beside another signature is refused."""
    plain = json.loads(sign(some_receipts(), SITE_KEY)) | {"key": CENTRAL}
    with pytest.raises(SignatureInvalid, match="changed after"):
        segment.verify_receipts(json.dumps(plain).encode(), {CENTRAL})


@settings(max_examples=200)
@given(st.data())
def test_changed_byte_is_refused_or_harmless(data):
    """A document with a changed byte is refused or has the same body."""
    raw = sign(some_receipts(), CENTRAL_KEY)
    place = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:place] + bytes([data.draw(st.integers(0, 255))]) + raw[place + 1 :]
    with contextlib.suppress(DocumentInvalid, SignatureInvalid):
        assert some_receipts() == segment.verify_receipts(changed, {CENTRAL}).body


def test_unknown_key_is_ignored_and_covered_by_the_signature():
    """An unknown key does not spoil a document, and is under the signature all the same."""

    class NewerReceipts(segment.Receipts):
        mood: str = "good"

    raw = sign(NewerReceipts.model_validate(some_receipts().model_dump(by_alias=True)), CENTRAL_KEY)
    assert some_receipts() == segment.verify_receipts(raw, {CENTRAL}).body
    with pytest.raises(SignatureInvalid):
        segment.verify_receipts(raw.replace(b"good", b"evil"), {CENTRAL})


def test_document_of_another_kind_is_refused():
    """A status object with a valid signature is not accepted as receipts."""
    said = status_object.SiteStatus(site="site-1", at=format_timestamp(NOW), agent_version="0.1.0", epoch=EPOCH)
    with pytest.raises(DocumentInvalid, match="schema"):
        segment.verify_receipts(sign(said, CENTRAL_KEY), {CENTRAL})


def test_a_manifest_belongs_to_its_name():
    """A manifest under the name of another segment is refused, so segments cannot be swapped."""
    raw = sign(segment_manifest(2), SITE_KEY)
    assert 2 == segment.verify(raw, segment.name_of(EPOCH, 2), {SITE}).body.sequence
    with pytest.raises(DocumentInvalid, match="is the manifest of"):
        segment.verify(raw, STEM, {SITE})


def test_any_key_is_accepted_without_trusted_keys():
    """The signature is still verified, and the caller gets the signer's key."""
    assert SITE == segment.verify(sign(segment_manifest(), SITE_KEY), STEM, None).key


@pytest.mark.parametrize(
    ("said", "raw"),
    [
        ("not valid JSON", b"{"),
        ("not valid JSON", b'{"body": 1.5}'),
        ("not valid JSON", b'{"body": NaN}'),
        ("not valid JSON", b"\xff"),
        ("not valid JSON", b"[" * 100_000),
        ("JSON object", b"[]"),
        ("not a signed document", b"{}"),
        ("not a signed document", b'{"body": {}, "key": "AB", "signature": ""}'),
        ("the limit is", b" " * (signed_document.DOCUMENT_BYTES_MAX + 1)),
    ],
)
def test_invalid_document_is_refused(said, raw):
    """Hostile bytes end in DOCUMENT_INVALID, which says what is wrong."""
    with pytest.raises(DocumentInvalid, match=said):
        segment.verify_receipts(raw, {CENTRAL})


def test_invalid_body_with_a_valid_signature_is_refused():
    """The error names the field without its value."""
    backwards = segment.ReceiptRange.model_construct(first=3, last=1, manifest_sha256=DIGEST)
    epoch = segment.EpochReceipts.model_construct(epoch=EPOCH, received=(backwards,), refused=())
    raw = sign(some_receipts().model_copy(update={"epochs": (epoch,)}), CENTRAL_KEY)
    with pytest.raises(DocumentInvalid, match=r"epochs\.0\.received\.0: 'first' is after 'last'"):
        segment.verify_receipts(raw, {CENTRAL})


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("2026-09-21T14:13:20.123Z", NOW + 0.1235),
        ("2036-12-31T23:59:59.999Z", 2114380799.9999),
    ],
)
def test_times_are_written_in_utc_with_milliseconds(expected, seconds):
    """Times in UTC with milliseconds sort as text."""
    assert expected == format_timestamp(seconds)
