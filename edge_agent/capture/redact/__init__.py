"""Redaction: personal data in a text becomes typed, numbered placeholders before anything is written to disk.

A rule consists of a finder, and of a gate: a cheap search that rules out most texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_agent.capture.redact.indexed_text import IndexedText

RULES_VERSION = "2"
"""Of the built-in rules; a redaction model's guarantee was proved together with one version of them."""


Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

UPPER = "A-ZÀ-ÖØ-ÞĀĄĆČĎĐĒĘĚĞĪİĶĹŁŃŅŇŌŐŒŘŚŞŠŤŪŮŰŹŻŽ"
"""Capital letters of European languages, for a character class."""
_REACH = 64
"""A match and its announcing words lie within this many characters of what the gate finds."""


@dataclass(frozen=True, eq=False)
class RuleGate:
    """A necessary condition of a rule's matches: cheap to search for, and absent from most texts."""

    pattern: re.Pattern[str] | None
    """None = a cluster of `digits`, or a digit run `after_letter`, is enough."""
    near: bool = True
    """True = only the text around each hit is searched; False = the whole text."""
    reach: int = _REACH
    """Characters searched on each side of a hit."""
    digits: int = 0
    """Minimum digits of a match, all in one cluster; 0 = a match may have none."""
    margin: int = 1
    """Characters on each side of a cluster in which `pattern` is tried, too."""
    after_letter: bool = False
    """A match has digits directly after an ASCII letter."""

    def windows(self, text: IndexedText) -> list[Span]:
        """Return the parts of a text that may hold a match, in order, without overlap."""
        if not self.near:
            is_hit = self._hits(text) if self.pattern is None else self.pattern.search(text)
            return [(0, len(text))] if is_hit else []
        windows: list[Span] = []
        for begin, end in self._hits(text):
            first, last = max(0, begin - self.reach), end + self.reach
            if windows and first <= windows[-1][1]:
                first, _ = windows.pop()
            windows.append((first, last))
        return windows

    def _hits(self, text: IndexedText) -> list[Span]:
        if self.after_letter:
            return text.runs_after_letters
        if self.digits:
            return self._hits_in_clusters(text)
        return [match.span() for match in self.pattern.finditer(text)] if self.pattern else []

    def _hits_in_clusters(self, text: IndexedText) -> list[Span]:
        clusters = [(begin, end) for begin, end, digits in text.clusters if digits >= self.digits]
        if self.pattern is None:
            return clusters
        finditer, margin = self.pattern.finditer, self.margin
        return [
            match.span() for begin, end in clusters for match in finditer(text, max(0, begin - margin), end + margin)
        ]


@dataclass(frozen=True)
class RedactionRule:
    """One kind of personal data."""

    name: str
    placeholder: str
    """The word in its placeholders: CARD makes [CARD_1]."""
    find: Finder
    gate: RuleGate | None = None
    """Where it finds nothing, there is no match. None = the rule searches every text."""


def finder(pattern: str, check: Callable[[str], bool] = bool) -> Finder:
    """Return a finder of a pattern's matches that, without blanks and separators, pass a check.

    It yields the span of the group `v`, or of the whole match without one.
    """
    compiled = re.compile(pattern)
    group: str | int = "v" if "v" in compiled.groupindex else 0

    def find(text: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            if check(strip_separators(match[group])):
                yield match.span(group)

    return find


_SEPARATOR = re.compile(r"[^0-9A-Za-z]")


def strip_separators(number: str) -> str:
    """Return a number without separators, in upper case, digits of any script as 0 to 9."""
    if not number.isascii():
        number = "".join(str(int(char)) if char.isdecimal() else char for char in number)
    return _SEPARATOR.sub("", number).upper()
