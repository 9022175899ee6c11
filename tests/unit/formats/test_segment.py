"""Records and segments: written, sealed, opened and read; damage is reported without content."""

from __future__ import annotations

import json

import pyrage
import pytest
import zstandard

from edge_agent.errors import DocumentInvalid, RecordInvalid, SegmentDamaged
from edge_agent.formats import example_records, segment
from tests.support.examples import EPOCH, IDENTITY, RECIPIENT, feedback, prediction, records_of, tombstone

RECORDS = [prediction(1), feedback(1), tombstone(2)]
LINES = b"".join(map(example_records.encode, RECORDS))


def test_records_are_read_from_a_sealed_segment():
    """All three types of records are unchanged after sealing."""
    assert RECORDS == records_of(segment.unseal(segment.seal(LINES, [RECIPIENT]), [IDENTITY]))


def test_each_recipient_opens_a_segment_alone():
    """Each of two central keys opens the segment."""
    other = pyrage.x25519.Identity.generate()
    sealed = segment.seal(LINES, [RECIPIENT, str(other.to_public())])
    assert LINES == segment.unseal(sealed, [IDENTITY]) == segment.unseal(sealed, [other])


def test_other_key_does_not_open_a_segment():
    """A key that it was not sealed to does not open a segment."""
    with pytest.raises(SegmentDamaged, match="does not open"):
        segment.unseal(segment.seal(LINES, [RECIPIENT]), [pyrage.x25519.Identity.generate()])


def test_every_flipped_bit_is_detected():
    """No bit of a sealed segment can be changed without notice."""
    sealed = bytearray(segment.seal(LINES, [RECIPIENT]))
    for place in range(0, len(sealed), 7):
        sealed[place] ^= 1
        with pytest.raises(SegmentDamaged):
            segment.unseal(bytes(sealed), [IDENTITY])
        sealed[place] ^= 1
    assert LINES == segment.unseal(bytes(sealed), [IDENTITY])


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_truncated_segment_is_detected(kept):
    """A segment without its tail does not open."""
    with pytest.raises(SegmentDamaged):
        segment.unseal(segment.seal(LINES, [RECIPIENT])[:kept], [IDENTITY])


def test_decompression_bomb_is_refused():
    """A bomb that is sealed to the central team's public key is stopped at the limit."""
    to = [pyrage.x25519.Recipient.from_str(RECIPIENT)]
    bomb = zstandard.ZstdCompressor().compress(bytes(segment.PLAIN_BYTES_MAX + 1))
    with pytest.raises(SegmentDamaged, match="unpacks to more"):
        segment.unseal(pyrage.encrypt(bomb, to), [IDENTITY])
    with pytest.raises(SegmentDamaged, match="does not unpack"):
        segment.unseal(pyrage.encrypt(b"no zstd", to), [IDENTITY])


def test_invalid_recipient_is_refused():
    """Sealing to a mistyped key fails instead of sealing to nobody."""
    with pytest.raises(DocumentInvalid, match="not an age public key"):
        segment.seal(LINES, ["age1typo"])


@pytest.mark.parametrize(
    ("expected", "stem"),
    [
        ((EPOCH, 1), f"{EPOCH}-0000000001"),
        ((EPOCH, 9_999_999_999), f"{EPOCH}-9999999999"),
        (None, f"{EPOCH}-0000000000"),
        (None, f"{EPOCH}-1"),
        (None, "status"),
        (None, f"../{EPOCH}-0000000001"),
    ],
)
def test_names_of_segments(expected, stem):
    """The name of a segment has epoch and sequence; any other name is not parsed."""
    assert expected == segment.parse_name(stem)
    if expected:
        assert stem == segment.name_of(*expected)


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("schema", {"schema": "edge-agent/example/v2"}),
        ("type", {"type": "rumour"}),
        ("record_id", {"record_id": "has blanks"}),
        ("route", {"route": "north"}),
        ("at", {"at": "yesterday"}),
        ("at", {"at": "2026-02-30T10:00:00Z"}),
        ("confidence", {"confidence": "high"}),
    ],
)
def test_a_record_that_breaks_a_rule_is_refused_without_its_content(said, changes):
    """The message names the field and shows nothing of the input."""
    plain = json.loads(example_records.encode(prediction(input="SECRET"))) | changes
    with pytest.raises(RecordInvalid, match=said) as caught:
        example_records.parse(json.dumps(plain).encode())
    assert "SECRET" not in caught.value.message


def test_a_record_over_the_limit_is_refused():
    """A line that is too long is no record."""
    with pytest.raises(RecordInvalid, match="the limit is"):
        example_records.parse(b" " * (example_records.RECORD_BYTES_MAX + 1))


def test_older_reader_accepts_a_newer_record():
    """An unknown key is ignored."""
    plain = json.loads(example_records.encode(prediction())) | {"mood": "good"}
    assert prediction() == example_records.parse(json.dumps(plain).encode())


DECISION = {"kind": "decide", "task": "front-desk", "question": "intent"}


def test_a_record_of_a_question_names_it():
    """Examples of questions are identified by TASK/QUESTION, those of other kinds by their task."""
    record = example_records.parse(example_records.encode(prediction(**DECISION)))
    assert ("front-desk", "intent") == (record.task, record.question)
    assert "front-desk/intent" == example_records.example_key(DECISION)
    assert "pos-intent" == example_records.example_key({"task": "pos-intent"})


@pytest.mark.parametrize("changes", [{"question": None}, {"kind": "classify"}, {"question": "In/tent"}])
def test_a_record_without_its_question_is_refused(changes):
    """A decision must name its question, and no other kind may."""
    plain = json.loads(example_records.encode(prediction(**DECISION))) | changes
    with pytest.raises(RecordInvalid):
        example_records.parse(json.dumps(plain).encode())
