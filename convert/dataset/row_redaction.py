"""Redacts rows as a site redacts its examples, and fills the placeholders with made-up values (surrogates.py).

A value has one surrogate in all texts of its row, so an answer that repeats a value of the text still does. Spans move
with their text. A row whose span ends inside a replaced value is unusable: nobody knows what the span names then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from convert.data.data_row import DataRow, TextSpan
from convert.dataset.surrogates import PlaceholderFiller, SurrogateSettings
from edge_agent.capture.redact import RULES_VERSION
from edge_agent.capture.redact.model_findings import ModelFindings
from edge_agent.capture.redact.redactor import PLACEHOLDER, RedactionSession, Redactor

RULE_SET = f"redaction rules of version {RULES_VERSION}"
_KNOWN_CHARS_MIN = 4
"""Shorter values are replaced only where a rule finds them: "12" is also a part of other numbers."""
Moves = Sequence[tuple[int, int, int]]
"""Of each replaced value: its start and end in the text before, and the length of what stands there now."""


FindsValues = Callable[[Sequence[str]], ModelFindings | None]
"""What a redaction model finds in texts; None = it fails on one of them (evaluate/site_redaction.py)."""


@dataclass
class RowRedactionCounts:
    """What was replaced, for reports: numbers and names of rules, no texts."""

    rows: int = 0
    """Rows that were looked at."""
    replaced_rows: int = 0
    """Rows with at least one replaced value."""
    unusable: int = 0
    """Rows left out, because a span ends inside a replaced value."""
    unread: int = 0
    """Rows left out, because the redaction model fails on them."""
    rules: Counter[str] = field(default_factory=Counter)
    """Replaced values by rule."""

    def sentence(self) -> str:
        """Return the counts in words."""
        values = sum(self.rules.values())
        lost = self.unusable + self.unread
        left_out = f", {lost} rows left out" if lost else ""
        return f"{values} values replaced in {self.replaced_rows} of {self.rows} rows ({RULE_SET}){left_out}"


@dataclass(frozen=True)
class RedactedRow:
    """A row without the values that the rules find."""

    row: DataRow
    counts: Mapping[str, int]
    """Replaced values by rule."""


class RowRedactor:
    """Redacts row after row, and counts."""

    def __init__(
        self,
        settings: SurrogateSettings = SurrogateSettings(),  # noqa: B008 - it cannot change
        seed: str = "rows",
        find: FindsValues | None = None,
    ) -> None:
        """Draw surrogates by locale and seed; a redaction model finds values beside the rules.

        Raises InvalidRequest for a locale that is not known.
        """
        self.counts = RowRedactionCounts()
        self._find = find
        self._filler = PlaceholderFiller(settings, seed)
        self._redactor = Redactor()

    def read(self, rows: Iterable[DataRow]) -> None:
        """Have the model read rows that will be redacted, all at once, which is faster than one after the other."""
        if self._find is not None:
            self._find([text for row in rows for text in _texts(row)])

    def _start(self, texts: Sequence[str]) -> RedactionSession | None:
        """Begin with a row; None = the model fails on it."""
        if self._find is None:
            return self._redactor.start()
        findings = self._find(texts)
        return self._redactor.start(findings=findings) if findings is not None else None

    def redact(self, row: DataRow) -> RedactedRow | None:
        """Return the row with surrogates; None = a span ends inside a replaced value, or the model fails on it."""
        self.counts.rows += 1
        texts = _texts(row)
        session = self._start(texts)
        if session is None:
            self.counts.unread += 1
            return None
        first = session.found(row.text) if row.spans else []
        redacted = [session.text(text) for text in texts]
        redacted[1:] = [_without(text, session.replaced) for text in redacted[1:]]
        if not session.counts:
            return RedactedRow(row, {})
        filled = self._filler.fill(row.key, session.counts, redacted, stored=len(redacted))
        moves = list(_moves(first, redacted[0])) if first else []
        spans = tuple(filter(None, (_moved(span, moves) for span in row.spans)))
        if len(spans) < len(row.spans):
            self.counts.unusable += 1
            return None
        spans = tuple(TextSpan(filled.moved(span.start), filled.moved(span.end), span.label) for span in spans)
        text, completion, *contents = filled.texts
        messages = tuple(replace(turn, content=content) for turn, content in zip(row.messages, contents, strict=True))
        self.counts.replaced_rows += 1
        self.counts.rules.update(session.counts)
        new = replace(row, text=text, completion=completion, messages=messages, spans=spans)
        return RedactedRow(new, dict(session.counts))


def _texts(row: DataRow) -> list[str]:
    return [row.text, row.completion, *(turn.content for turn in row.messages)]


def _without(text: str, replaced: Mapping[str, str]) -> str:
    """Replace values of the row where they stand without what told the rules what they are."""
    for value in sorted(replaced, key=len, reverse=True):
        if len(value) >= _KNOWN_CHARS_MIN:
            text = text.replace(value, replaced[value])
    return text


def _moves(found: Sequence[tuple[int, int, str, str]], redacted: str) -> Iterator[tuple[int, int, int]]:
    """Yield where the placeholders of a redacted text stand in the text before."""
    grown = 0
    for start, end, *_ in found:
        match = PLACEHOLDER.match(redacted, start + grown)
        assert match is not None, "every value that was found has a placeholder"
        yield start, end, len(match[0])
        grown += len(match[0]) - (end - start)


def _moved(span: TextSpan, moves: Moves) -> TextSpan | None:
    """Return a span's place in the redacted text; None = it begins or ends inside a replaced value."""
    places = [span.start, span.end]
    if any(start < place < end for place in places for start, end, _ in moves):
        return None
    start, end = (place + sum(new - (stop - begin) for begin, stop, new in moves if stop <= place) for place in places)
    return TextSpan(start, end, span.label)
