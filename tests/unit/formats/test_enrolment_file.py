"""The enrolment file of a site: what is written is read back; whatever else a file holds is refused by a sentence."""

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
    """Return the error that a file leads to."""
    with pytest.raises(EnrolmentFileInvalid) as caught:
        enrolment_file.parse(raw)
    assert caught.value.remedy
    return caught.value


def test_what_is_written_is_read_back():
    """With the sha256 of its content, whose first digits are the code."""
    read, sha256 = enrolment_file.parse(RAW)
    assert (a_enrolment(), json.loads(RAW)["sha256"]) == (read, sha256)
    assert sha256[:20] == enrolment_file.verification_code(sha256).replace("-", "")


def test_secrets_are_not_in_what_is_logged():
    """Neither the credentials nor the key of the listener."""
    pem = {name: f"-----BEGIN {name.upper()}-----\n" for name in ("certificate", "key", "clients")}
    shown = repr(a_enrolment(tls=pem))
    assert ("s3cr3t" in shown, "BEGIN KEY" in shown, "s3://fleet" in shown) == (False, False, True)
    large = repr(a_enrolment(escalation=LARGE_MODEL))
    assert ("s3cr3t" in large, "models.example" in large) == (False, True)


def test_a_enrolment_without_a_large_model_does_not_name_one():
    """So that an edge-agent that knows none takes it, as before."""
    assert "escalation" not in json.loads(RAW)["body"]
    read, _ = enrolment_file.parse(enrolment_file.encode(a_enrolment(escalation=LARGE_MODEL)))
    assert ("sk-s3cr3t", "0.15") == (read.escalation.key, read.escalation.input_token_price)


@pytest.mark.parametrize("end", [0, 1, 100, len(RAW) // 2, len(RAW) - 3])
def test_a_file_that_was_cut_off_is_refused(end: int):
    """Wherever it ends."""
    assert "cut off" in refused(RAW[:end]).message


def test_every_changed_digit_is_found():
    """The content has another sha256 than it says, or is no enrolment file any more."""
    for number in range(0, len(RAW), 7):
        changed = bytearray(RAW)
        changed[number] ^= 1
        if json_of(bytes(changed)) != json_of(RAW):
            refused(bytes(changed))


def json_of(raw: bytes) -> Any:
    """Return what the file says, nothing if it says nothing."""
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
def test_what_is_no_enrolment_is_refused(raw: bytes, said: str):
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
def test_a_broken_rule_is_named_by_its_field(changes: dict[str, Any], said: str):
    """The value, which may be secret, is not in the message."""
    assert f"the enrolment file: {said}" in refused(resealed(**changes)).message


def test_what_a_newer_central_team_says_is_not_ignored():
    """It may say how the site is to be closed."""
    error = refused(resealed(firewall="closed"))
    assert ("firewall" in error.message, "Update edge-agent" in error.remedy) == (True, True)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [b"22", b"23", b"63", b"+22", b"9" * 5000])
def test_a_sealed_enrolment_may_not_ask_for_endless_work(asked: bytes):
    """Its head says how often scrypt is to be repeated: 23 would take 8 GB. It is refused with the number."""
    with pytest.raises(EnrolmentFileInvalid, match="rounds of scrypt; the limit is 21"):
        enrolment_file.unseal(sealed_quickly(RAW).replace(b" 1\n", b" %s\n" % asked, 1), corpus.PASSPHRASE)
    assert RAW == enrolment_file.unseal(sealed_quickly(RAW), corpus.PASSPHRASE)


def test_a_sealed_enrolment_opens_with_its_passphrase_only():
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
def test_what_the_central_team_seals_a_site_opens():
    """With the work that keeps guessing expensive."""
    assert RAW == enrolment_file.unseal(enrolment_file.seal(RAW, PASSPHRASE), PASSPHRASE)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda raw: b"age-encryption.org/v1\n" + raw))
def test_any_bytes_are_a_sentence(raw: bytes):
    """No bytes lead to another error."""
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
def test_any_json_is_a_enrolment_or_a_sentence(value: Any):
    """In every field, also below a sha256 that fits."""
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
    """Never by fewer digits than it has."""
    assert same == enrolment_file.matches_code(typed, "fd361dc3e8a5955ae3e3b23cea240d4f")


def test_the_hash_is_of_the_canonical_bytes():
    """So that another program can compute it."""
    plain = json.loads(RAW)
    assert RAW == enrolment_file.encode(enrolment_file.parse(RAW)[0])
    assert canonical(plain["body"]).startswith(b'{"channel":"stable","examples":{"credential"')
