"""The section `redaction` of a manifest: what a bundle of kind redact counts as personal. Pure.

The model is a token classifier with BIO tags: O, B-x where a value of type x begins, I-x where it continues. A word is
personal where the probability of the types that count, added up, is at least `cutoff`, and beside a personal word at a
quarter of it. A lower cut-off misses less and replaces more; `bound` carries what the cut-off was proved to miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

OUTSIDE = "O"
_Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class MissedBound(BaseModel):
    """The share of personal values that remain: a fixed-sequence test of cut-offs, arXiv 2110.01052.

    With probability 1 - `delta` over the calibration documents, at most `bound` of the values in documents like these
    remain. A value remains if a letter or digit of it does, after the model and the built-in rules have read the
    document. One document, or one family of alike ones, is one unit, because its values are not independent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    target: _Share
    """Largest accepted share of values that remain, 0 to 1."""
    delta: _Share
    """Probability with which the bound may fail to hold."""
    n: int = Field(ge=1)
    """Documents that it was computed from."""
    families: int = Field(ge=1)
    """Families of these: the units of the test."""
    values: int = Field(ge=1)
    """Personal values in these."""
    values_max: int = Field(ge=1)
    """A document with more values counts as so many."""
    bound: float = Field(ge=0.0, le=1.0)
    """Upper bound of the share missed; at most `target`."""
    rules: str = Field(min_length=1, max_length=40)
    """Version of the built-in rules that read the documents too. Rules of the site's own only find more."""
    labeled_by: str = Field(default="", max_length=500)
    """Where the labels of the documents come from, in words."""


class RedactionSection(BaseModel):
    """What counts as personal."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cutoff: _Share = 0.5
    """A word is personal at this probability or above."""
    labels: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(default=(), max_length=1000)
    """Types whose values are replaced; empty = all types of the tags."""
    bound: MissedBound | None = None
    """None: nothing is proved of what the bundle misses."""

    def counted(self, tags: Sequence[str]) -> tuple[str, ...]:
        """Return the types whose values are replaced."""
        return self.labels or tuple(tag_types(tags))

    def labels_problem(self, tags: Sequence[str]) -> str:
        """Return why the section does not fit a model with these tags; empty = it does."""
        missing = [label for label in self.labels if label not in tag_types(tags)]
        return f"'redaction.labels' has {missing[0]!r}, and the task has no tags of that type" if missing else ""


def tag_types(tags: Sequence[str]) -> list[str]:
    """Return the types behind BIO tags, in their order: "B-PER" and "I-PER" are one."""
    return list(dict.fromkeys(tag[2:] if tag[:2] in ("B-", "I-") else tag for tag in tags if tag != OUTSIDE))


def tags_problem(tags: Sequence[str]) -> str:
    """Return why labels are not the tags of a redaction model; empty = they are."""
    if OUTSIDE not in tags:
        return "a redact task needs the tag 'O' for words that are not personal"
    strange = [tag for tag in tags if tag != OUTSIDE and (tag[:2] not in ("B-", "I-") or not tag[2:])]
    if strange:
        return f"the tags of a redact task are O, B-... and I-...; {strange[0]!r} is not"
    return "" if len(tags) > 1 else "a redact task needs at least one type of personal value"
