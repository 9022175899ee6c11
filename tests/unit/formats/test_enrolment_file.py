"""The enrolment file of a site: it is read as it was written, and any other content is refused with a message."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import EnrolmentFileInvalid
from edge_agent.formats import enrolment_file
from edge_agent.formats.signed_document import canonical
from tests.support.enrolment_files import LARGE_MODEL, a_enrolment, resealed
from tests.support.fuzz import corpus
from tests.support.fuzz.corpus import sealed_quickly

PASSPHRASE = "nine purple herons"
RAW = enrolment_file.encode(a_enrolment())


def refused(raw: bytes) -> EnrolmentFileInvalid:
    """Return the error for a file."""
    with pytest.raises(EnrolmentFileInvalid) as caught:
        enrolment_file.parse(raw)
    assert caught.value.remedy
    return caught.value


def test_written_file_is_read_back():
    """The file is read with the sha256 of its content, whose first digits are the verification code."""
    read, sha256 = enrolment_file.parse(RAW)
    assert (a_enrolment(), json.loads(RAW)["sha256"]) == (read, sha256)
    assert sha256[:20] == enrolment_file.verification_code(sha256).replace("-", "")


def test_secrets_are_not_in_the_repr():
    """The repr of an enrolment file has neither credentials nor keys."""
    pem = {name: f"-----BEGIN {name.upper()}-----\n" for name in ("certificate", "key", "clients")}
    shown = repr(a_enrolment(tls=pem))
    assert ("s3cr3t" in shown, "BEGIN KEY" in shown, "s3://fleet" in shown) == (False, False, True)
    large = repr(a_enrolment(escalation=LARGE_MODEL))
    assert ("s3cr3t" in large, "models.example" in large) == (False, True)


def test_file_without_a_large_model_has_no_such_section():
    """The section is absent, so that an edge-agent that does not know it accepts the file."""
    assert "escalation" not in json.loads(RAW)["body"]
    read, _ = enrolment_file.parse(enrolment_file.encode(a_enrolment(escalation=LARGE_MODEL)))
    assert ("sk-s3cr3t", "0.15") == (read.escalation.key, read.escalation.input_token_price)


@pytest.mark.parametrize("end", [0, 1, 100, len(RAW) // 2, len(RAW) - 3])
def test_truncated_file_is_refused(end: int):
    """Wherever it ends."""
    assert "cut off" in refused(RAW[:end]).message


def test_every_changed_byte_is_detected():
    """A changed byte breaks the sha256 or the form of the file."""
    for number in range(0, len(RAW), 7):
        changed = bytearray(RAW)
        changed[number] ^= 1
        if json_of(bytes(changed)) != json_of(RAW):
            refused(bytes(changed))


def json_of(raw: bytes) -> Any:
    """Return the JSON of a file, or None."""
    try:
        return json.loads(raw)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "cut off"),
        (b"[]", "needs 'body' and 'sha256'"),
        (b'{"body": 1}', "needs 'body' and 'sha256'"),
        (b'{"body": {}}', "does not match its sha256"),
        (b'{"body": {"schema": "edge-agent/kit/v1", "x": 1.5}}', "does not match its sha256"),
        (resealed(x=1.5), "x: "),
        (resealed(issued_at=1.5), "issued_at: must be text"),
        (b'{"body": {"schema": "edge-agent/kit/v1", "x": "\\ud800"}}', "does not match its sha256"),
        (b"[" * 100_000, "cut off"),
        (b'{"body": "' + b"x" * enrolment_file.ENROLMENT_FILE_BYTES_MAX, "has more than"),
        (resealed(schema="edge-agent/kit/v2"), "has the schema 'edge-agent/kit/v2'"),
    ],
)
def test_file_that_is_not_an_enrolment_file_is_refused(raw: bytes, said: str):
    """Whatever it is."""
    assert said in refused(raw).message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"site": "Shop 12"}, "site: "),
        ({"site": "../../etc"}, "site: "),
        ({"channel": "a b"}, "channel: "),
        ({"recipients": []}, "recipients: "),
        ({"recipients": ["age1" + "q" * 58]}, "recipients.0: "),
        ({"receipt_keys": ["00"]}, "receipt_keys.0: "),
        ({"issued_at": "2026-02-30T00:00:00Z"}, "issued_at: "),
        ({"examples": {"url": "s3://a\nb"}}, "examples.url: "),
        ({"examples": {"credential": {"a": "x\x00y"}}}, "examples.credential.a: "),
        ({"examples": {"credential": {"a\nb": "x"}}}, "examples.credential."),
        ({"tls": {"key": "not PEM"}}, "tls.key: "),
        ({"tls": {"certificate": "-----BEGIN CERTIFICATE-----\n"}}, "tls: "),
        ({"tls": {"address": "0.0.0.0:9443"}}, "tls: "),
        ({"root": "x" * 700_001}, "root: "),
        ({"escalation": {**LARGE_MODEL, "url": "file:///etc/passwd"}}, "escalation.url: "),
        ({"escalation": {**LARGE_MODEL, "key": "two words"}}, "escalation.key: "),
        ({"escalation": {**LARGE_MODEL, "tasks": ["a b"]}}, "escalation.tasks.0: "),
        ({"escalation": {**LARGE_MODEL, "day_cost_max": "-1"}}, "escalation.day_cost_max: "),
        ({"escalation": {**LARGE_MODEL, "day_cost_max": "1e9"}}, "escalation.day_cost_max: "),
        ({"escalation": {"url": "https://models.example"}}, "escalation.model: "),
    ],
)
def test_invalid_field_is_named_without_its_value(changes: dict[str, Any], said: str):
    """The value is not in the message, because it may be secret."""
    assert f"the enrolment file: {said}" in refused(resealed(**changes)).message


def test_unknown_field_is_refused():
    """An unknown field may restrict the site, so it is not ignored; the remedy is a newer edge-agent."""
    error = refused(resealed(firewall="closed"))
    assert ("firewall" in error.message, "Update edge-agent" in error.remedy) == (True, True)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [b"22", b"23", b"63", b"+22", b"9" * 5000])
def test_excessive_scrypt_rounds_are_refused(asked: bytes):
    """A sealed file that requests more than 21 rounds of scrypt, which would take gigabytes, is refused."""
    with pytest.raises(EnrolmentFileInvalid, match="rounds of scrypt; the limit is 21"):
        enrolment_file.unseal(sealed_quickly(RAW).replace(b" 1\n", b" %s\n" % asked, 1), corpus.PASSPHRASE)
    assert RAW == enrolment_file.unseal(sealed_quickly(RAW), corpus.PASSPHRASE)


def test_sealed_file_opens_only_with_its_passphrase():
    """Without it nobody can read or change it."""
    sealed, right = sealed_quickly(RAW), corpus.PASSPHRASE
    assert (True, False, RAW) == (
        enrolment_file.is_sealed(sealed),
        enrolment_file.is_sealed(RAW),
        enrolment_file.unseal(sealed, right),
    )
    for raw, passphrase in ((sealed, "eight grey herons"), (sealed[:-1], right), (sealed[:60], right)):
        with pytest.raises(EnrolmentFileInvalid, match="does not open"):
            enrolment_file.unseal(raw, passphrase)


@pytest.mark.slow
def test_sealed_file_is_opened_with_the_default_work():
    """A file that is sealed with the default scrypt rounds opens."""
    assert RAW == enrolment_file.unseal(enrolment_file.seal(RAW, PASSPHRASE), PASSPHRASE)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda raw: b"age-encryption.org/v1\n" + raw))
def test_any_bytes_are_refused_with_a_message(raw: bytes):
    """Arbitrary bytes raise only EnrolmentFileInvalid."""
    for read in (enrolment_file.parse, lambda given: enrolment_file.unseal(given, PASSPHRASE)):
        with pytest.raises(EnrolmentFileInvalid):
            read(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_is_accepted_or_refused_with_a_message(value: Any):
    """Any JSON in any field, also with a valid sha256, raises only EnrolmentFileInvalid."""
    for field in a_enrolment().model_dump(by_alias=True):
        with contextlib.suppress(EnrolmentFileInvalid):
            assert isinstance(enrolment_file.parse(resealed(**{field: value}))[0], enrolment_file.EnrolmentFile)


@pytest.mark.parametrize(
    ("typed", "same"),
    [
        ("fd36-1dc3-e8a5-955a-e3e3", True),
        (" FD36 1dc3 e8a5:955a e3e3\n", True),
        ("fd361dc3e8a5955ae3e3b2", True),
        ("fd36-1dc3-e8a5-955a-e3e4", False),
        ("fd36-1dc3-e8a5-955a", False),
        ("", False),
    ],
)
def test_a_code_is_compared_as_people_type_it(typed: str, same: bool):
    """A code is compared regardless of case and spacing, and never by fewer digits than it has."""
    assert same == enrolment_file.matches_code(typed, "fd361dc3e8a5955ae3e3b23cea240d4f")


def test_the_hash_is_of_the_canonical_bytes():
    """The sha256 is that of the canonical JSON, so that another program can compute it."""
    plain = json.loads(RAW)
    assert RAW == enrolment_file.encode(enrolment_file.parse(RAW)[0])
    assert canonical(plain["body"]).startswith(b'{"channel":"stable","examples":{"credential"')
