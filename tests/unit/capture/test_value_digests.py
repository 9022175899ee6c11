"""Keyed digests of values: found however people write them, and only with the key of the site."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edge_agent.capture.value_digests import (
    DIGEST_BYTES,
    KEY_BYTES,
    ValueDigester,
    fold,
    forms_of,
    load_digest_key,
    text_pattern,
)
from edge_agent.errors import StoreDamaged

ONE, OTHER = ValueDigester(b"k" * KEY_BYTES), ValueDigester(b"o" * KEY_BYTES)


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("DE89 3704 0044 0532 0130 00", "de89370400440532013000"),
        ("Anna Müller", "Müller, Anna"),
        ("+49 171 1234567", "0171/123 45 67"),
        ("ANNA@Praxis.de", "anna@praxis.de"),
        ("Mu\u0308ller", "M\u00fcller"),
        ("\u0661\u0662\u0663", "123"),
    ],
)
def test_a_value_is_found_however_it_is_written(kept: str, asked: str):
    """Case, blanks, punctuation, the order of names, the country code and the script of digits do not matter."""
    assert ONE.digests([kept]) & ONE.digests([asked])


@pytest.mark.parametrize(("kept", "other"), [("Anna Müller", "Anna"), ("12345678", "2345678"), ("a", "b")])
def test_another_value_is_not_found(kept: str, other: str):
    """A part of a value is another value."""
    assert not ONE.digests([kept]) & ONE.digests([other])


def test_the_key_decides():
    """The same value has another digest at another site; each has the same length."""
    assert not ONE.digests(["Anna"]) & OTHER.digests(["Anna"])
    assert {DIGEST_BYTES} == {len(each) for each in ONE.digests(["Anna Müller", "0171 1234567"])}


@pytest.mark.parametrize("value", ["", "  ", "…!", "\ud800"])
def test_a_value_without_letters_and_digits_has_no_form(value: str):
    """So nothing is found by it; a lone surrogate does not stop the capture either."""
    assert frozenset() == forms_of(value)
    assert frozenset() == ONE.digests([value])


def test_a_value_is_found_in_a_text_however_it_is_spaced():
    """It begins and ends at the border of a word; values of one or two characters are not searched for."""
    pattern = text_pattern("0171 1234567")
    assert pattern is not None
    assert [True, True, False, False] == [
        bool(pattern.search(fold(text)))
        for text in ("call 0171-123 45 67 now", "\uff10171 1234567", "90171 1234567", "0171 12345678")
    ]
    assert text_pattern("ab") is None


def test_the_key_is_made_once_and_is_private(tmp_path: Path):
    """The second start reads it; nobody else can."""
    path = tmp_path / "value.key"
    key = load_digest_key(path)
    assert (KEY_BYTES, 0o600) == (len(key), stat.S_IMODE(path.stat().st_mode))
    assert key == load_digest_key(path)


def test_a_damaged_key_is_left_alone(tmp_path: Path):
    """The error names the file: stored digests need the key that was in it."""
    (tmp_path / "value.key").write_bytes(b"short")
    with pytest.raises(StoreDamaged, match=r"value\.key has 5 bytes"):
        load_digest_key(tmp_path / "value.key")
    assert b"short" == (tmp_path / "value.key").read_bytes()
