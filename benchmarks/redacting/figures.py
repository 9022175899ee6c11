"""What a redactor is worth: values found, texts that leak, precision by characters. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.redacting.labelled_texts import MarkedText

Spans = Sequence[tuple[int, int]]
"""Start and end of whatever a redactor replaces in one text, in code points; they may overlap."""


@dataclass(frozen=True)
class RedactionFigures:
    """Figures of one redactor over one set of texts."""

    found: Mapping[str, int]
    """By class: values of which every letter and digit is covered."""
    marked: Mapping[str, int]
    """By class: values that must be replaced."""
    leaking_texts: int
    """Texts in which some letter or digit of such a value is left."""
    texts: int
    covered_right: int
    """Letters and digits that are covered and belong to a value that must be replaced."""
    covered_wrong: int
    """Letters and digits that are covered and belong to no marked value of any class."""
    covered_uncounted: int
    """Letters and digits that are covered and belong to a value of a class that is not counted."""

    @property
    def recall(self) -> float:
        """Share of the values that are found."""
        return sum(self.found.values()) / max(sum(self.marked.values()), 1)

    @property
    def leak_share(self) -> float:
        """Share of the texts that leak."""
        return self.leaking_texts / max(self.texts, 1)

    @property
    def precision(self) -> float:
        """Share of the covered characters that belong to a value, without those of classes that are not counted."""
        return self.covered_right / max(self.covered_right + self.covered_wrong, 1)

    @property
    def strict_precision(self) -> float:
        """The same where a value of a class that is not counted, such as a city, should have been left alone."""
        return self.covered_right / max(self.covered_right + self.covered_wrong + self.covered_uncounted, 1)


def measure_redaction(texts: Sequence[MarkedText], replaced: Sequence[Spans]) -> RedactionFigures:
    """Compare the replaced values of each text with its marked ones."""
    found: dict[str, int] = defaultdict(int)
    marked: dict[str, int] = defaultdict(int)
    right = wrong = uncounted = leaking = 0
    for each, spans in zip(texts, replaced, strict=True):
        covered, counted, any_class = bytearray(len(each.text)), bytearray(len(each.text)), bytearray(len(each.text))
        for start, end in spans:
            covered[start:end] = b"\x01" * (end - start)
        complete = True
        for value in each.values:
            length = value.end - value.start
            any_class[value.start : value.end] = b"\x01" * length
            if value.counts:
                counted[value.start : value.end] = b"\x01" * length
                whole = all(covered[at] or not each.text[at].isalnum() for at in range(value.start, value.end))
                marked[value.label] += 1
                found[value.label] += whole
                complete = complete and whole
        leaking += not complete
        for at, char in enumerate(each.text):
            if covered[at] and char.isalnum():
                right += counted[at]
                uncounted += any_class[at] and not counted[at]
                wrong += not any_class[at]
    return RedactionFigures(found, marked, leaking, len(texts), right, wrong, uncounted)
