"""A text whose words and numbers are looked up once, and patterns that are tried only where one of these begins.

Most rules look for a value behind one of some hundred words. To try all of them at every character took most of the
time of redaction. Now the words of a text are looked up once, by their first letters, and a pattern is tried only where
these begin a word of its own. It finds what it finds when it is tried everywhere.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property

CLUSTER_GAP = 4
"""So many characters stand between two runs of digits of one cluster at the most."""
_LETTERS = 4
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
# Where the lower case of a character has another length, or `re.IGNORECASE` knows more than `str.lower`.
_CASES = str.maketrans({"\u0130": "i", "\u0131": "i", "\u017f": "s"})

_UNIT = re.compile(r"\\u[0-9A-Fa-f]{4}|\\.|\[(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_IN_CLASS = re.compile(r"\\u[0-9A-Fa-f]{4}|(?<!.)-|[^\\\-^]")


class IndexedText(str):
    """A text, and where its words and numbers begin."""

    @cached_property
    def lowered(self) -> str:
        """The text in lower case, each character where it stands in the text."""
        return _lowered(self)

    @cached_property
    def numbers(self) -> list[int]:
        """Where runs of digits begin that no other character of a word stands before."""
        return [start for start, _ in self.runs if not start or not _is_of_word(self[start - 1])]

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Start and end of all runs of digits."""
        return [match.span() for match in _NUMBER.finditer(self)]

    @cached_property
    def clusters(self) -> list[tuple[int, int, int]]:
        """Start, end and digits of all runs of digits that stand at most four characters apart."""
        clusters: list[tuple[int, int, int]] = []
        for start, end in self.runs:
            if clusters and start - clusters[-1][1] <= CLUSTER_GAP:
                first, _, digits = clusters.pop()
                clusters.append((first, end, digits + end - start))
            else:
                clusters.append((start, end, end - start))
        return clusters

    @cached_property
    def _words(self) -> dict[str, list[int]]:
        """Return where words begin whose beginnings some pattern knows, by these."""
        lowered, found = self.lowered, defaultdict[str, list[int]](list)
        for match in _WORD.finditer(lowered):
            word = match[0]
            beginning = word[:_LETTERS] if len(word) >= _LETTERS else word + " "
            if beginning in _KNOWN:
                found[beginning].append(match.start())
        for beginning in _OPEN:
            if beginning in lowered:
                found[beginning] = [match.start() for match in re.finditer(rf"(?<!\w){beginning}", lowered)]
        return found

    def starts(self, beginnings: frozenset[str]) -> list[int]:
        """Return where words begin that begin so, in order."""
        found = [starts for beginning, starts in self._words.items() if beginning in beginnings]
        return sorted(set().union(*found)) if len(found) > 1 else found[0] if found else []


_KNOWN: set[str] = set()
"""The beginnings of the words of all patterns; complete once the modules of the rules are loaded."""
_OPEN: set[str] = set()
"""Those of fewer letters, behind which any others may come."""


def indexed(text: str) -> IndexedText:
    """Return the text with its index; one that has an index keeps it."""
    return text if isinstance(text, IndexedText) else IndexedText(text)


def _lowered(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_CASES).lower()


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def beginnings(words: str, *, whole: bool = True) -> frozenset[str]:
    """Return how words may begin that a pattern of alternatives matches: four letters, or fewer where they vary.

    A shorter word is followed by a blank. `whole`: behind each alternative no letter or digit stands.

    Raises:
        ValueError: an alternative that begins with something else than a letter, a digit or a group of such ones.
    """
    known = frozenset(each for alternative in alternatives(words) for each in _beginnings_of(alternative, whole=whole))
    _KNOWN.update(known)
    _OPEN.update(each for each in known if len(each) < _LETTERS and not each.endswith(" "))
    return known


def alternatives(words: str) -> list[str]:
    """Divide a pattern at each "|" that stands in no group."""
    alternatives, depth = [""], 0
    for unit in _UNIT.findall(words):
        depth += (unit == "(") - (unit == ")")
        if unit == "|" and depth == 0:
            alternatives.append("")
        else:
            alternatives[-1] += unit
    return alternatives


def _beginnings_of(alternative: str, *, whole: bool) -> Iterator[str]:
    """Yield the beginnings of an alternative; `whole`: behind it no character of a word stands."""
    if alternative.startswith("(?:"):
        inner, rest = _first_group(alternative)
        for part in alternatives(inner):
            yield from _beginnings_of(part, whole=whole and not rest)
        if rest.startswith("?"):
            yield from _beginnings_of(rest[1:], whole=whole)
    else:
        yield from _beginnings_of_units(alternative, whole=whole)


def _beginnings_of_units(alternative: str, *, whole: bool) -> set[str]:
    done: set[str] = set()
    growing = {""}
    units = _UNIT.findall(alternative)
    for unit, following in zip(units, [*units[1:], ""], strict=True):
        if unit == "?":
            continue
        characters = _characters(unit) if following not in ("*", "{") else []
        if not characters:  # what comes here is one of many letters
            done |= growing
            growing = set()
            break
        grown = _grown(growing, characters) | (growing if following == "?" else set())
        growing = {letters for letters in grown if len(letters) < _LETTERS and not letters.endswith(" ")}
        done |= grown - growing
    done.update(letters + " " if whole else letters for letters in growing)
    if not all(map(str.strip, done)):
        raise ValueError(f"no letter begins the pattern {alternative!r}")
    return done


def _grown(beginnings: Iterable[str], characters: Iterable[str]) -> set[str]:
    """Return the beginnings with one more letter; what is no letter ends them, as a blank."""
    letters = [each.lower() if _is_of_word(each) else " " for each in characters]
    return {beginning + letter for beginning in beginnings for letter in letters}


def _characters(unit: str) -> list[str]:
    """Return the characters that a unit of a pattern stands for, a blank for the end of a word; empty = many."""
    if unit.startswith("["):
        inside = _IN_CLASS.findall(unit[1:-1])
        return [_character(each) for each in inside] if "".join(inside) == unit[1:-1] else []
    if unit in (r"\s", r"\b"):
        return [" "]
    many = unit in ("(", ")", ".") or (unit.startswith("\\") and unit[1].isalnum() and unit[1] != "u")
    return [] if many else [_character(unit)]


def _character(written: str) -> str:
    return chr(int(written[2:], 16)) if written.startswith(r"\u") else written[-1]


def _first_group(alternative: str) -> tuple[str, str]:
    """Return what the group at the start holds, and what stands behind it."""
    depth, end = 0, 0
    for unit in _UNIT.findall(alternative):
        depth += (unit == "(") - (unit == ")")
        end += len(unit)
        if depth == 0:
            break
    return alternative[3 : end - 1], alternative[end:]


class AnnouncedPattern:
    """A pattern whose matches begin with one of some words."""

    def __init__(self, pattern: str, words: str, *, whole: bool = True) -> None:
        """Compile it.

        `words`: a pattern of alternatives, in any case. Each match begins with one of them, and no letter or digit
        stands before it, nor, if they are `whole`, behind it.
        """
        self.pattern, self.words = re.compile(pattern), words
        self.beginnings = beginnings(words, whole=whole)
        # In a text in lower case the engine tells most alternatives apart by their first letter.
        self._words = re.compile(words.lower())

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the matches as `re.Pattern.finditer` does."""
        read = indexed(text)
        starts = read.starts(self.beginnings)
        if starts:
            lowered, words = read.lowered, self._words
            starts = [start for start in starts if words.match(lowered, start)]
        return matches_at(self.pattern, read, starts) if starts else iter(())


def stands_before(words: re.Pattern[str], text: str, at: int, reach: int) -> bool:
    r"""Return whether a pattern in lower case, which ends with \Z, matches in so many characters before a place."""
    begin = max(0, at - reach)
    before = min(begin, 1)  # for \b: whether a word goes on there
    return words.search(_lowered(text[begin - before : at]), before) is not None


def matches_at(pattern: re.Pattern[str], text: str, starts: Iterable[int]) -> Iterator[re.Match[str]]:
    """Yield the matches that begin at one of these places, in order, and none inside of another."""
    end = 0
    for start in starts:
        match = pattern.match(text, start) if start >= end else None
        if match:
            yield match
            end = match.end()
