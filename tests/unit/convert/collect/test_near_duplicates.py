"""MinHash sketches estimate the similarity of texts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convert.collect import near_duplicates
from convert.data.data_row import normalised

SKETCH = ["55a27bc71cd40be2", "b76d8b1ee3070af8"]
letters = st.text("abcdefgh ", min_size=40, max_size=200)


def common(left: str, right: str) -> int:
    return int(
        near_duplicates.common_hashes(
            near_duplicates.sketch(normalised(left)), near_duplicates.sketch(normalised(right))
        )[0]
    )


@given(text=st.text())
def test_equal_texts_have_equal_sketches(text: str):
    """A text has the same sketch each time, and leading spaces do not change it."""
    assert near_duplicates.HASHES == common(text, text) == common(f"  {text}", text)


def pieces(text: str) -> set[str]:
    return {text[place : place + 5] for place in range(max(1, len(text) - 4))}


@given(left=letters, right=letters, shared=letters)
def test_share_of_equal_hashes_estimates_the_similarity(left: str, right: str, shared: str):
    """The share of equal hashes is within 0.35 of the share of common pieces, the precision of 64 hashes."""
    one, other = normalised(shared + left), normalised(shared + right)
    share = len(pieces(one) & pieces(other)) / len(pieces(one) | pieces(other))
    assert abs(common(one, other) / near_duplicates.HASHES - share) < 0.35


def test_sketches_are_the_same_in_every_version():
    """Sketches are stored, so every version must compute the same ones."""
    assert "550a14a779cf07fc" == f"{near_duplicates.text_key('refund number 1'):016x}"
    assert SKETCH == [f"{band:016x}" for band in near_duplicates.sketch("refund number 1")[:2]]
