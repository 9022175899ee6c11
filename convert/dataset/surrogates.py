"""Fills the placeholders of a row with made-up values, so that a model learns from texts like those it will serve.

A placeholder that a row has twice, in the text or in the answer, gets the same value. A value is drawn again if the
rules of redaction would not find it whole in the filled text, so redacting the result gives the original row.

Rows that no site sent are redacted first, as a site redacts its examples (`RowRedactor`). A value has one surrogate in
all texts of its row, so an answer that repeats a value of the text still does. Spans move with their text. A row whose
span begins or ends inside a replaced value is unusable, because the new place of the span is unknown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from convert.data.data_row import DataRow, TextSpan
from convert.dataset.surrogate_values import (
    DEFAULT_LOCALE,
    FAKER_VERSION,
    FALLBACK,
    KINDS,
    SurrogateSource,
    check_kinds,
    word_of,
)
from edge_agent.capture.redact import RULES_VERSION
from edge_agent.capture.redact.builtin_rules import RULES
from edge_agent.capture.redact.model_findings import ModelFindings
from edge_agent.capture.redact.redactor import (
    NAME_RULE,
    NAME_WORD,
    PLACEHOLDER,
    RedactionSession,
    Redactor,
    placeholders,
)

Placeholders = Literal["fill", "keep"]
_ROUNDS = 100
WORDS_MAX = 1000
"""Largest number of placeholder types in the data sheet; the others are counted together."""
OTHER_WORDS = "(others)"
_WORDS = {rule.name: rule.placeholder for rule in RULES} | {NAME_RULE: NAME_WORD}
MODEL_TYPES: Mapping[str, str] = {
    **{"given_name": "first_name", "surname": "last_name", "street_name": "street", "building_number": "number"},
    **{"zip_code": "postcode", "state": "city", "secondary_address": "number"},
}
"""Kind of value for types of redaction models that have another name."""


@dataclass(frozen=True)
class SurrogateSettings:
    """Settings for placeholders."""

    placeholders: Placeholders = "fill"
    locales: tuple[str, ...] = (DEFAULT_LOCALE,)
    """Locales, of which one is drawn for each row."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """The word of a placeholder, such as LOYALTY: the kind of its value, or a pattern such as LC########."""


@dataclass
class SurrogateCounts:
    """Counts by the word of the placeholder; a placeholder counts once per row."""

    rows: int = 0
    """Rows in which a value was filled in."""
    filled: Counter[str] = field(default_factory=Counter)
    fallback: Counter[str] = field(default_factory=Counter)
    """Of these, filled with a code because their type is unknown."""
    not_found_again: Counter[str] = field(default_factory=Counter)
    """Of these, not found by the rules in the filled text."""
    raw: Counter[str] = field(default_factory=Counter)
    """Unchanged, because they were in the caller's text: no rule that replaced values of the row makes them."""
    kept: Counter[str] = field(default_factory=Counter)
    """Unchanged by the settings."""

    def add(self, counter: Counter[str], word: str) -> None:
        """Count one placeholder."""
        counter[word if word in counter or len(counter) < WORDS_MAX else OTHER_WORDS] += 1


@dataclass(frozen=True)
class _Replacement:
    """One replacement in a text."""

    start: int
    end: int
    filled_start: int
    filled_end: int
    placeholder: str


@dataclass(frozen=True)
class FilledTexts:
    """The texts of one row, with values in them."""

    texts: tuple[str, ...]
    values: int
    """Different placeholders that were filled."""
    edits: tuple[_Replacement, ...] = ()
    """Of the first text, in its order."""

    def new_position(self, position: int) -> int:
        """Return the new position of a position in the first text, which must not be inside a placeholder."""
        earlier = [edit for edit in self.edits if edit.end <= position]
        return position + (earlier[-1].filled_end - earlier[-1].end if earlier else 0)


class PlaceholderFiller:
    """Fills row after row, and counts."""

    def __init__(self, settings: SurrogateSettings, seed: str) -> None:
        """Raises InvalidRequest for a locale or a kind that is not known."""
        check_kinds(settings.kinds)
        self.counts = SurrogateCounts()
        self._settings, self._seed = settings, seed
        self._source = SurrogateSource(settings.locales, seed)
        self._redaction = Redactor().start()

    def fill(self, key: str, redacted: Mapping[str, int], texts: Sequence[str], stored: int) -> FilledTexts:
        """Fill the placeholders of one row.

        `redacted` has the replacements in the first `stored` texts by the name of the rule: a placeholder that none of
        these rules makes was in the caller's text and stays. The key identifies the row.
        """
        chosen = self._choose_placeholders(redacted, texts, stored)
        if not chosen:
            return FilledTexts(tuple(texts), 0)
        self._source.begin(key)
        values = self._values(chosen, redacted, texts[0])
        self.counts.rows += 1
        for placeholder in chosen:
            word = _word(placeholder)
            self.counts.add(self.counts.filled, word)
            if word not in self._settings.kinds and self._kind(word) == FALLBACK:
                self.counts.add(self.counts.fallback, word)
        filled = tuple(PLACEHOLDER.sub(lambda match: values.get(match[0], match[0]), text) for text in texts)
        return FilledTexts(filled, len(chosen), tuple(_edits(texts[0], values)))

    def report(self) -> dict[str, Any]:
        """Return the section of the data sheet."""
        counts = {name: dict(value.most_common()) for name, value in vars(self.counts).items() if name != "rows"}
        if self._settings.placeholders == "keep":
            return {"placeholders": "kept", "kept": counts["kept"]}
        del counts["kept"]
        settings = {"locales": [*self._settings.locales], "seed": self._seed, "faker": FAKER_VERSION}
        kinds = {"kinds": dict(self._settings.kinds)}
        return {"placeholders": "filled", **settings, **kinds, "rows": self.counts.rows, **counts}

    def _choose_placeholders(self, redacted: Mapping[str, int], texts: Sequence[str], stored: int) -> list[str]:
        """Return the placeholders to fill, each once, in the order of the texts; count those that stay."""
        words = {_WORDS.get(rule, "") for rule, number in redacted.items() if number}
        in_stored, chosen = set(placeholders("\n".join(texts[:stored]))), []
        for placeholder in dict.fromkeys(placeholders("\n".join(texts))):
            word = _word(placeholder)
            # Rules of the site and marked fields make unknown words, so the placeholder can be theirs.
            if placeholder in in_stored and not {word, ""} & words:
                self.counts.add(self.counts.raw, word)
            elif self._settings.placeholders == "keep":
                self.counts.add(self.counts.kept, word)
            else:
                chosen.append(placeholder)
        return chosen

    def _values(self, chosen: Sequence[str], redacted: Mapping[str, int], text: str) -> dict[str, str]:
        """Draw a value for each placeholder, and draw again those that the rules do not find in the filled text."""
        values: dict[str, str] = {}
        undetected: set[str] = set(chosen)
        for _ in range(_ROUNDS):
            for placeholder in chosen:
                if placeholder in undetected:
                    taken = {value for other, value in values.items() if other != placeholder}
                    values[placeholder] = self._draw_different(placeholder, redacted, taken)
            undetected = self._find_undetected(text, values)
            if not undetected:
                break
        for placeholder in undetected:
            self.counts.add(self.counts.not_found_again, _word(placeholder))
        return values

    def _draw_different(self, placeholder: str, redacted: Mapping[str, int], taken: set[str]) -> str:
        kind = self._kind(_word(placeholder))
        drawn = (self._source.draw(kind, redacted) for _ in range(_ROUNDS))
        # A pattern without a digit or letter to draw has only one value.
        return next((value for value in drawn if value not in taken), "") or self._source.draw(kind, redacted)

    def _kind(self, word: str) -> str:
        kind = self._settings.kinds.get(word) or MODEL_TYPES.get(word.lower(), word.lower())
        return kind if word in self._settings.kinds or kind in KINDS or kind == "id" else FALLBACK

    def _find_undetected(self, text: str, values: Mapping[str, str]) -> set[str]:
        """Return the placeholders whose value the rules do not detect correctly in the text."""
        filled = PLACEHOLDER.sub(lambda match: values.get(match[0], match[0]), text)
        findings = self._redaction.find_values(filled)
        undetected = set()
        for edit in _edits(text, values):
            expected = word_of(self._kind(_word(edit.placeholder)))
            overlapping = [(start, end, word) for start, end, _, word in findings
                     if start < edit.filled_end and edit.filled_start < end]  # fmt: skip
            if expected is not None and not _is_found_again(edit, overlapping, expected):
                undetected.add(edit.placeholder)
        return undetected


def _is_found_again(edit: _Replacement, overlapping: Sequence[tuple[int, int, str]], expected: str) -> bool:
    """Return whether the rules find the value whole and as that type; without a type, they may find nothing."""
    if not overlapping or (len(overlapping) == 1 and overlapping[0][:2] == (edit.filled_start, edit.filled_end)):
        return (overlapping[0][2] if overlapping else "") == expected or not expected
    return False


def _edits(text: str, values: Mapping[str, str]) -> Iterator[_Replacement]:
    shift = 0
    for match in PLACEHOLDER.finditer(text):
        if match[0] in values:
            start, length = match.start() + shift, len(values[match[0]])
            yield _Replacement(match.start(), match.end(), start, start + length, match[0])
            shift += length - len(match[0])


def _word(placeholder: str) -> str:
    match = re.fullmatch(PLACEHOLDER, placeholder)
    assert match is not None
    return match["word"]


RULE_SET = f"redaction rules of version {RULES_VERSION}"
_KNOWN_CHARS_MIN = 4
"""Shorter values are replaced only where a rule finds them: "12" is also a part of other numbers."""


FindsValues = Callable[[Sequence[str]], ModelFindings | None]
"""Returns the findings of a redaction model in texts; None = it fails on one of them (evaluate/site_redaction.py)."""


@dataclass(frozen=True)
class RedactedRow:
    """A row without the values that the rules find."""

    row: DataRow
    counts: Mapping[str, int]
    """Replaced values by rule."""


class RowRedactor:
    """Redacts row after row."""

    def __init__(
        self,
        settings: SurrogateSettings = SurrogateSettings(),  # noqa: B008 - it cannot change
        seed: str = "rows",
        find: FindsValues | None = None,
    ) -> None:
        """Draw surrogates by locale and seed; `find` adds the findings of a redaction model to those of the rules.

        Raises InvalidRequest for a locale that is not known.
        """
        self._find = find
        self._filler = PlaceholderFiller(settings, seed)
        self._redactor = Redactor()

    def read(self, rows: Iterable[DataRow]) -> None:
        """Let the model read rows before they are redacted: all at once is faster than one after the other."""
        if self._find is not None:
            self._find([text for row in rows for text in _texts(row)])

    def _start(self, texts: Sequence[str]) -> RedactionSession | None:
        """Begin with a row; None = the model fails on it."""
        if self._find is None:
            return self._redactor.start()
        findings = self._find(texts)
        return self._redactor.start(findings=findings) if findings is not None else None

    def redact(self, row: DataRow) -> RedactedRow | None:
        """Return the row with surrogates; None = a span ends inside a replaced value, or the model fails."""
        texts = _texts(row)
        session = self._start(texts)
        if session is None:
            return None
        findings = session.find_values(row.text) if row.spans else []
        redacted = [session.text(text) for text in texts]
        redacted[1:] = [_replace_known(text, session.replaced) for text in redacted[1:]]
        if not session.counts:
            return RedactedRow(row, {})
        filled = self._filler.fill(row.key, session.counts, redacted, stored=len(redacted))
        moves = list(_moves(findings, redacted[0])) if findings else []
        spans = tuple(filter(None, (_move_span(span, moves) for span in row.spans)))
        if len(spans) < len(row.spans):
            return None
        spans = tuple(
            TextSpan(filled.new_position(span.start), filled.new_position(span.end), span.label) for span in spans
        )
        text, completion, *contents = filled.texts
        messages = tuple(replace(turn, content=content) for turn, content in zip(row.messages, contents, strict=True))
        redacted_row = replace(row, text=text, completion=completion, messages=messages, spans=spans)
        return RedactedRow(redacted_row, dict(session.counts))


def _texts(row: DataRow) -> list[str]:
    return [row.text, row.completion, *(turn.content for turn in row.messages)]


def _replace_known(text: str, replaced: Mapping[str, str]) -> str:
    """Replace values of the row also where the rules do not recognize them, because their context is missing."""
    for value in sorted(replaced, key=len, reverse=True):
        if len(value) >= _KNOWN_CHARS_MIN:
            text = text.replace(value, replaced[value])
    return text


def _moves(findings: Sequence[tuple[int, int, str, str]], redacted: str) -> Iterator[tuple[int, int, int]]:
    """Yield for each replaced value its place in the text before, and the length of its placeholder."""
    shift = 0
    for start, end, *_ in findings:
        match = PLACEHOLDER.match(redacted, start + shift)
        assert match is not None, "every value that was found has a placeholder"
        yield start, end, len(match[0])
        shift += len(match[0]) - (end - start)


def _move_span(span: TextSpan, moves: Sequence[tuple[int, int, int]]) -> TextSpan | None:
    """Return a span's place in the redacted text, after `_moves`; None = it begins or ends inside a replaced value."""
    positions = [span.start, span.end]
    if any(start < position < end for position in positions for start, end, _ in moves):
        return None
    start, end = (
        position + sum(new - (stop - begin) for begin, stop, new in moves if stop <= position) for position in positions
    )
    return TextSpan(start, end, span.label)
