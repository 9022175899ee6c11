"""From the numbers of a token classifier to the personal values of a text. Pure.

A word is personal if the probability of the types that count, added up at its first token, is at least the cut-off of
the bundle. The tags of a run of personal words are decoded with the constraint of BIO (Viterbi): I-x stands only after
B-x or I-x. A value then grows to the ends of the words that it touches, so that no piece of it is left behind.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_agent.engine.protocol import EntitySpan
from edge_agent.engine.runtimes.onnx_outputs import WordSpan
from edge_agent.formats.redaction_section import RedactionSection

Shares = npt.NDArray[np.float64]
"""Probabilities [tokens, tags]."""

BRIDGE_CHARACTERS_MAX = 2
_BRIDGES = frozenset("-'\u2019`./@_&\u2010\u2011")
"""Between two pieces of one value: the hyphen of a double name, the dots of a number."""
_INVISIBLE = frozenset("\u00ad\u200b\u200c\u200d\u2060\ufeff")
# Scripts that write words without a space between them: a value there does not grow.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True)
class PersonalSpans:
    """What was found in a text."""

    spans: tuple[EntitySpan, ...]
    """In order, disjoint; a score is the mean probability that its words are personal."""
    margin: float
    """0.5 to 1: how far the word nearest to another answer is from it; as the confidence of a golden case."""


class TagColumns:
    """Where the tags that count stand among a model's outputs."""

    def __init__(self, tags: Sequence[str], section: RedactionSection) -> None:
        """Find the columns of the counted types; a type without a B tag begins with its I tag."""
        place = {tag: column for column, tag in enumerate(tags)}
        self.types = section.counted(tags)
        begins = [place.get(f"B-{each}", place.get(f"I-{each}", -1)) for each in self.types]
        insides = [place.get(f"I-{each}", -1) for each in self.types]
        self._begins, self._insides = np.array(begins), np.array(insides)
        self._every = sorted({column for column in (*begins, *insides) if column >= 0})

    def personal(self, shares: Shares) -> Shares:
        """Return the probability that each row is personal, [rows]."""
        return np.asarray(shares[:, self._every].sum(axis=1))

    def of_types(self, shares: Shares) -> tuple[Shares, Shares]:
        """Return the log-probabilities that a value of each type begins, and continues, [rows, types] each."""
        logs = np.log(np.maximum(shares, 1e-30))
        inside = np.where(self._insides >= 0, logs[:, self._insides], -math.inf)
        return logs[:, self._begins], inside


def find_personal(
    text: str, words: Sequence[WordSpan], shares: Shares, columns: TagColumns, cutoff: float
) -> PersonalSpans:
    """Find the personal values of a text.

    Args:
        text: the input.
        words: its words, as `onnx_outputs.word_spans` has them.
        shares: of every token of the input, [tokens, tags].
        columns: of the model's tags.
        cutoff: a word is personal at this probability or above.
    """
    if not words:
        return PersonalSpans((), 1.0)
    firsts = shares[[word.token for word in words]]
    personal = columns.personal(firsts)
    flagged = personal >= cutoff
    margin = min(1.0, 0.5 + float(np.abs(personal - cutoff).min()))
    found: list[EntitySpan] = []
    for begin, end in _runs(flagged.tolist()):
        begins, insides = columns.of_types(firsts[begin:end])
        margin = min(margin, _type_margin(begins, insides))
        for first, last, type_ in _segments(*decode_tags(begins, insides)):
            start, stop = words[begin + first].start, words[begin + last].end
            score = float(personal[begin + first : begin + last + 1].mean())
            found.append(EntitySpan(columns.types[type_], start, stop, score))
    return PersonalSpans(tuple(join_pieces(text, (grow(text, each) for each in found))), margin)


def decode_tags(begins: Shares, insides: Shares) -> tuple[list[int], list[bool]]:
    """Return the likeliest types of a run of personal words, and whether each word begins a value.

    Args:
        begins: log-probabilities that a value of each type begins at a word, [words, types].
        insides: that one continues there, likewise.
    """
    types = begins.shape[1]
    score = np.concatenate([begins[0], np.full(types, -math.inf)])  # of each state: B-x for all x, then I-x
    came: list[npt.NDArray[np.int64]] = []
    for begin, inside in zip(begins[1:], insides[1:], strict=True):
        best = int(score.argmax())
        opened = score[:types] >= score[types:]
        before = np.where(opened, np.arange(types), np.arange(types) + types)
        came.append(np.concatenate([np.full(types, best), before]))
        score = np.concatenate([score[best] + begin, np.maximum(score[:types], score[types:]) + inside])
    states = [int(score.argmax())]
    for back in reversed(came):
        states.append(int(back[states[-1]]))
    states.reverse()
    return [state % types for state in states], [state < types for state in states]


def grow(text: str, span: EntitySpan) -> EntitySpan:
    """Return a span that ends where words end: no letter, digit, mark or invisible character is cut off."""
    start, end = span.start, span.end
    while start < end and text[start].isspace():
        start += 1
    while start > 0 and _joined(text[start - 1], text[start]):
        start -= 1
    while end < len(text) and _joined(text[end - 1], text[end]):
        end += 1
    return EntitySpan(span.label, start, end, span.score)


def join_pieces(text: str, spans: Iterable[EntitySpan]) -> list[EntitySpan]:
    """Join what overlaps, and pieces of one type with nothing but a bridge between them. `spans` may be in any order.

    Where two types overlap, the longer one gives the label.
    """
    joined: list[EntitySpan] = []
    for span in sorted(spans, key=lambda each: (each.start, each.end)):
        last = joined[-1] if joined else None
        if last is not None and (span.start < last.end or (span.label == last.label and _bridged(text, last, span))):
            longer = max(last, span, key=lambda each: each.end - each.start)
            score = max(last.score, span.score)
            joined[-1] = EntitySpan(longer.label, last.start, max(last.end, span.end), score)
        else:
            joined.append(span)
    return joined


def _runs(flagged: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield [begin, end) of each run of personal words."""
    for is_personal, group in itertools.groupby(enumerate(flagged), key=lambda pair: pair[1]):
        places = [place for place, _ in group]
        if is_personal:
            yield places[0], places[-1] + 1


def _segments(types: Sequence[int], begins: Sequence[bool]) -> Iterator[tuple[int, int, int]]:
    """Yield first word, last word and type of each value in a run."""
    first = 0
    for place in range(1, len(types) + 1):
        if place == len(types) or begins[place] or types[place] != types[first]:
            yield first, place - 1, types[first]
            first = place


def _type_margin(begins: Shares, insides: Shares) -> float:
    """Return 0.5 to 1: how far the least sure word of a run is from another type."""
    if begins.shape[1] < 2:
        return 1.0
    likeliest = np.exp(np.maximum(begins, insides))
    best, second = np.sort(likeliest / likeliest.sum(axis=1, keepdims=True), axis=1)[:, -1:-3:-1].T
    return 0.5 + float((best - second).min()) / 2


def _bridged(text: str, left: EntitySpan, right: EntitySpan) -> bool:
    between = text[left.end : right.start]
    return len(between) <= BRIDGE_CHARACTERS_MAX and set(between) <= _BRIDGES


def _joined(left: str, right: str) -> bool:
    """Tell whether two neighbouring characters belong to one word."""
    if _is_mark(right):
        return True
    return _is_wordy(left) and _is_wordy(right) and not (_is_unspaced(left) or _is_unspaced(right))


def _is_wordy(character: str) -> bool:
    return character.isalnum() or character == "_" or _is_mark(character)


def _is_mark(character: str) -> bool:
    return character in _INVISIBLE or unicodedata.category(character) in ("Mn", "Mc", "Me", "Sk")


def _is_unspaced(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _UNSPACED)
