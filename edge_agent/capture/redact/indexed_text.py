"""A text with an index of its words and numbers, and patterns that are tried only where the index has a candidate.

Most rules look for a value after one of some hundred words. Trying every pattern at every character took most of the
time of redaction. The index finds the words of a text once, by their first letters, and a pattern is tried only where
one of its own words may begin. The matches are the same as if it were tried everywhere.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TypeAlias

CLUSTER_GAP = 4
"""Maximum number of characters between two digit runs of one cluster."""
_LETTERS = 4
_NON_WORD = re.compile(r"\W")
# The same for ASCII texts, in a fraction of the time.
_NON_WORDS_AS_BLANKS = bytes(32 if _NON_WORD.match(chr(code)) else code for code in range(256))
# Not \d+, because the engine skips to the first digit only where the pattern begins with a single character.
_NUMBER, _ASCII_NUMBER = re.compile(r"\d\d*"), re.compile("[0-9][0-9]*")
# Where the lower case of a character has another length, or `re.IGNORECASE` knows more than `str.lower`.
_CASES = str.maketrans({"\u0130": "i", "\u0131": "i", "\u017f": "s"})

_UNIT = re.compile(r"\\u[0-9A-Fa-f]{4}|\\.|\[(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_IN_CLASS = re.compile(r"\\u[0-9A-Fa-f]{4}|(?<!.)-|[^\\\-^]")


_Tree: TypeAlias = "dict[str, _Tree]"


class IndexedText(str):
    """A text with the positions of its words and numbers."""

    @cached_property
    def lowered(self) -> str:
        """The text in lower case, of the same length, so that positions are equal."""
        return _lowered(self)

    @property
    def has_capitals(self) -> bool:
        """Whether a letter is not in lower case."""
        return self.lowered != self

    @cached_property
    def numbers(self) -> list[int]:
        """Starts of the digit runs that have no word character before them."""
        return [start for start, _ in self.runs if not start or not _is_word_character(self[start - 1])]

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Start and end of all digit runs."""
        return [match.span() for match in (_ASCII_NUMBER if self.isascii() else _NUMBER).finditer(self)]

    def has_digit(self, begin: int, end: int) -> bool:
        """Return whether a digit run starts in a part of the text."""
        index = bisect.bisect_left(self.runs, (begin,))
        return index < len(self.runs) and self.runs[index][0] < end

    @property
    def runs_after_letters(self) -> list[tuple[int, int]]:
        """Start and end of the digit runs directly after an ASCII letter."""
        candidates = ((start, end, self[start - 1]) for start, end in self.runs if start)
        return [(start, end) for start, end, letter in candidates if letter.isascii() and letter.isalpha()]

    @cached_property
    def clusters(self) -> list[tuple[int, int, int]]:
        """Start, end and digit count of each cluster: digit runs at most CLUSTER_GAP characters apart."""
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
        """The positions of words, by their beginning, for the beginnings of all patterns."""
        # Words are between blanks here, so a word begins after each blank.
        spaced = f" {_blank_non_words(self.lowered)} "
        positions: dict[str, list[int]] = {}
        for blank in map(re.Match.start, _beginning_pattern().finditer(spaced)):
            for end in _BEGINNING_ENDS:  # several beginnings can match here
                if (beginning := spaced[blank + 1 : blank + end]) in _BEGINNINGS:
                    positions.setdefault(beginning, []).append(blank)
        return positions

    def starts(self, beginnings: frozenset[str]) -> list[int]:
        """Return the positions of words with one of these beginnings, in order."""
        words = self._words
        if beginnings.isdisjoint(words):
            return []
        position_lists = [starts for beginning, starts in words.items() if beginning in beginnings]
        return sorted(set().union(*position_lists)) if len(position_lists) > 1 else position_lists[0]


_BEGINNINGS: set[str] = set()
"""Beginnings of all patterns; complete once all rules are loaded."""
_BEGINNING_ENDS = range(2, _LETTERS + 2)


@functools.cache
def _beginning_pattern() -> re.Pattern[str]:
    """Return a pattern of a blank before any beginning; it does not consume the blank before the next word."""
    tree: _Tree = {}
    for beginning in _BEGINNINGS:
        node = tree
        for character in beginning:
            node = node.setdefault(character, {})
        node[""] = {}
    return re.compile(f" {_tree_pattern(tree)}")


def _tree_pattern(tree: _Tree) -> str:
    """Return a pattern of the shortest paths through a tree of characters, so that each is compared once."""
    if "" in tree:
        return ""
    branches = (
        f"(?= {_tree_pattern(rest)})" if character == " " else re.escape(character) + _tree_pattern(rest)
        for character, rest in sorted(tree.items())
    )
    return f"(?:{'|'.join(branches)})"


def index_text(text: str) -> IndexedText:
    """Return the text as an IndexedText; an existing index is kept."""
    return text if isinstance(text, IndexedText) else IndexedText(text)


def _lowered(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_CASES).lower()


def _blank_non_words(text: str) -> str:
    """Return the text with a blank for each non-word character."""
    if text.isascii():
        return text.encode("ascii").translate(_NON_WORDS_AS_BLANKS).decode("ascii")
    return _NON_WORD.sub(" ", text)


def _is_word_character(character: str) -> bool:
    return character.isalnum() or character == "_"


def beginnings(words: str, *, whole: bool = True) -> frozenset[str]:
    """Return how the matches of a pattern of alternatives may begin: four characters, or fewer where they vary.

    Non-word characters are blanks in them; so is the end of a shorter word. `whole`: no word character follows an
    alternative.

    Raises:
        ValueError: an alternative begins with something other than a letter, a digit or a group of these.
    """
    result = {each for alternative in alternatives(words) for each in _beginnings_of(alternative, whole=whole)}
    _BEGINNINGS.update(result)
    _beginning_pattern.cache_clear()
    return frozenset(result)


def alternatives(words: str) -> list[str]:
    """Split a pattern at each "|" outside of groups."""
    parts, depth = [""], 0
    for unit in _UNIT.findall(words):
        depth += (unit == "(") - (unit == ")")
        if unit == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += unit
    return parts


def _beginnings_of(alternative: str, *, whole: bool) -> Iterator[str]:
    """Yield the beginnings of an alternative; `whole`: no word character follows it."""
    prefix, inner, rest = _first_group(alternative)
    if not inner or rest.startswith(("*", "+", "{")):
        yield from _beginnings_of_units(alternative, whole=whole)
        return
    optional = rest.startswith("?")
    for part in [*alternatives(inner), *([""] if optional else [])]:
        yield from _beginnings_of(f"{prefix}{part}{rest[optional:]}", whole=whole)


def _beginnings_of_units(alternative: str, *, whole: bool) -> set[str]:
    finished: set[str] = set()
    unfinished = {""}
    units = _UNIT.findall(alternative)
    for unit, next_unit in zip(units, [*units[1:], ""], strict=True):
        if unit == "?":
            continue
        characters = _characters(unit) if next_unit not in ("*", "+", "{") else []
        if not characters:  # any of many characters, or the end of a word
            whole &= unit == r"\b"
            break
        extended = _extend(unfinished, characters) | (unfinished if next_unit == "?" else set())
        unfinished = {letters for letters in extended if len(letters) < _LETTERS}
        finished |= extended - unfinished
    finished |= set(map(_as_whole_word, unfinished)) if whole else unfinished
    if any(not letters or letters.startswith(" ") for letters in finished):
        raise ValueError(f"the pattern {alternative!r} does not begin with a letter")
    return finished


def _as_whole_word(letters: str) -> str:
    """Return a beginning as a whole word, with a blank after it."""
    return letters if letters.endswith(" ") else letters + " "


def _extend(beginnings: Iterable[str], characters: Iterable[str]) -> set[str]:
    """Return the beginnings with one more character, a blank for a non-word one."""
    letters = [each.lower() if _is_word_character(each) else " " for each in characters]
    return {beginning + letter for beginning in beginnings for letter in letters}


def _characters(unit: str) -> list[str]:
    """Return the characters that a unit of a pattern matches; empty = too many to list."""
    if unit.startswith("["):
        characters = _IN_CLASS.findall(unit[1:-1])
        return [_character(each) for each in characters] if "".join(characters) == unit[1:-1] else []
    if unit == r"\s":
        return [" "]
    is_many = unit in ("(", ")", ".") or (unit.startswith("\\") and unit[1].isalnum() and unit[1] != "u")
    return [] if is_many else [_character(unit)]


def _character(unit: str) -> str:
    return chr(int(unit[2:], 16)) if unit.startswith(r"\u") else unit[-1]


def _first_group(alternative: str) -> tuple[str, str, str]:
    """Split at the first group into the parts before, inside and after it; inside is empty unless it is `(?:…)`."""
    depth, begin, end = 0, 0, 0
    for unit in _UNIT.findall(alternative):
        if unit == "(" and not depth:
            begin = end
        depth += (unit == "(") - (unit == ")")
        end += len(unit)
        if unit == ")" and not depth:
            break
    group = alternative[begin:end]
    inner = group[3:-1] if group.startswith("(?:") else ""
    return alternative[:begin], inner, alternative[end:]


class AnnouncingWords:
    """Words that a match begins with: no word character comes before them, nor, if `whole`, after them."""

    def __init__(self, words: str, *, whole: bool = True, digit_within: int = 0) -> None:
        """Compile a pattern of alternatives; it ignores case.

        `digit_within`: what they announce has a digit within this many characters of their beginning; 0 = any text.
        """
        self.words, self.beginnings, self._digit_within = words, beginnings(words, whole=whole), digit_within
        # Without IGNORECASE, on text in lower case, the engine rules out most alternatives by their first letter.
        self._pattern = re.compile(words.lower())

    def starts(self, text: IndexedText) -> list[int]:
        """Return their positions, in order."""
        starts = text.starts(self.beginnings)
        if starts and self._digit_within:
            starts = [start for start in starts if text.has_digit(start, start + self._digit_within)]
        if not starts:
            return []
        lowered, match = text.lowered, self._pattern.match
        return [start for start in starts if match(lowered, start)]


class AnnouncedPattern(AnnouncingWords):
    """A pattern whose matches begin with one of the announcing words."""

    def __init__(self, pattern: str, words: str, *, whole: bool = True, digit_within: int = 0) -> None:
        """Compile the pattern and the words."""
        super().__init__(words, whole=whole, digit_within=digit_within)
        self.pattern = re.compile(pattern)

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the matches as `re.Pattern.finditer` does."""
        indexed_text = index_text(text)
        starts = self.starts(indexed_text)
        return matches_at(self.pattern, indexed_text, starts) if starts else iter(())


def stands_before(words: re.Pattern[str], text: str, position: int, reach: int) -> bool:
    r"""Return whether a pattern in lower case that ends with \Z matches within `reach` characters before a position."""
    begin = max(0, position - reach)
    margin = min(begin, 1)  # one character more, for \b
    return words.search(_lowered(text[begin - margin : position]), margin) is not None


def matches_at(pattern: re.Pattern[str], text: str, starts: Iterable[int]) -> Iterator[re.Match[str]]:
    """Yield the matches that begin at these positions, in order, without overlap."""
    end = 0
    for start in starts:
        match = pattern.match(text, start) if start >= end else None
        if match:
            yield match
            end = match.end()
