"""Redaction: personal data in a text becomes typed, numbered placeholders before anything is written to disk.

A rule is made of a finder and a gate, which most texts do not pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_agent.capture.redact.indexed_text import IndexedText

RULES_VERSION = "2"
"""Of the built-in rules. What a redaction model promises was proved together with rules of one version."""


Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

UPPER = "A-ZÀ-ÖØ-ÞĀĄĆČĎĐĒĘĚĞĪİĶĹŁŃŅŇŌŐŒŘŚŞŠŤŪŮŰŹŻŽ"
"""Capital letters of European languages, for a class of a pattern."""
_REACH = 64
"""From what its gate finds, a match and the words that announce it lie at most so many characters away."""


@dataclass(frozen=True, eq=False)
class RuleGate:
    """What a match of a rule needs at the least: cheap to look for, and missing in most texts."""

    pattern: re.Pattern[str] | None
    """None = a cluster of `digits`, or a run of them `behind_letter`, is enough."""
    near: bool = True
    """Only the text around it has to be searched; otherwise all of it."""
    reach: int = _REACH
    """How many characters around it are searched."""
    digits: int = 0
    """It has at least so many digits, all in one cluster of them; 0 = it may have none."""
    margin: int = 1
    """So many characters before and behind the cluster may belong to it, and tell where it ends."""
    behind_letter: bool = False
    """It has digits directly behind a letter of ASCII."""

    def windows(self, text: IndexedText) -> list[Span]:
        """Return the parts of a text that may hold a match, in order and apart from each other."""
        if not self.near:
            is_hit = self._hits(text) if self.pattern is None else self.pattern.search(text)
            return [(0, len(text))] if is_hit else []
        found: list[Span] = []
        for begin, end in self._hits(text):
            first, last = max(0, begin - self.reach), end + self.reach
            if found and first <= found[-1][1]:
                first, _ = found.pop()
            found.append((first, last))
        return found

    def _hits(self, text: IndexedText) -> list[Span]:
        if self.behind_letter:
            return text.runs_behind_letters
        if self.digits:
            return self._hits_in_clusters(text)
        return [match.span() for match in self.pattern.finditer(text)] if self.pattern else []

    def _hits_in_clusters(self, text: IndexedText) -> list[Span]:
        clusters = [(begin, end) for begin, end, digits in text.clusters if digits >= self.digits]
        pattern, margin = self.pattern, self.margin
        if pattern is None:
            return clusters
        around = [(max(0, begin - margin), end + margin) for begin, end in clusters]
        return [match.span() for begin, end in around for match in pattern.finditer(text, begin, end)]


@dataclass(frozen=True)
class RedactionRule:
    """One kind of personal data."""

    name: str
    placeholder: str
    """The word in its placeholders: CARD makes [CARD_1]."""
    find: Finder
    gate: RuleGate | None = None
    """A text in which it finds nothing cannot hold a match. Most texts are done with after the gates."""


def checked(pattern: str, check: Callable[[str], bool] = bool) -> Finder:
    """Make a finder of a pattern whose matches, without blanks and separators, pass a check.

    A group `v` is what is found; without it, the whole match is.
    """
    compiled = re.compile(pattern)
    group: str | int = "v" if "v" in compiled.groupindex else 0

    def find(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            if check(bare(match[group])):
                yield match.span(group)

    return find


_SEPARATOR = re.compile(r"[^0-9A-Za-z]")


def bare(number: str) -> str:
    """Drop what stands between the characters of a number; write it in upper case, digits of any script as 0 to 9."""
    if not number.isascii():
        number = "".join(str(int(char)) if char.isdecimal() else char for char in number)
    return _SEPARATOR.sub("", number).upper()
