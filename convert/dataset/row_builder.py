"""Turns an example into the rows of a format: finds a record's values in the text, then fills placeholders.

    {"item": "flat white", "count": 2} in "two... no, 2 flat whites please" -> nothing: "flat white" is not a word there
    {"item": "flat whites", "count": 2}                                     -> item at 12..23, count at 10..11

A value is searched for verbatim, then ignoring case and white space, and only at word boundaries. It must occur exactly
as often as in the record; otherwise the record is left out. Places that only one value fits count as taken for the
others. A placeholder is one word, which is never matched in part.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from convert.data.data_row import TextSpan
from convert.dataset import row_formats
from convert.dataset.row_formats import CollectedExample, Format, Row
from convert.dataset.surrogates import PlaceholderFiller, SurrogateSettings
from edge_agent.capture.redact.redactor import PLACEHOLDER
from edge_agent.errors import InvalidRequest
from edge_agent.formats import strict_json
from edge_agent.formats.manifest import LABEL_KINDS, Kind

VALUES_MAX = 200
"""Values of one record that are searched for."""
DEPTH_MAX = 32
"""Objects and lists around a value."""
PLACES_MAX = 1000
"""Largest number of places of one value; a value with more is ambiguous."""
FIELDS_MAX = 1000
"""Largest number of fields in the report; the others are counted together."""
OTHER_FIELDS = "(others)"
NO_FIELD = "(record)"
Problem = Literal["absent", "ambiguous", "overlapping", "not_text", "no_record", "too_many"]
"""Why a value has no place in the text.

absent = the text has it less often than the record; ambiguous = more often; overlapping = its place is another value's;
not_text = true or false, or over DEPTH_MAX deep; no_record = the answer is not a JSON object; too_many = over
VALUES_MAX.
"""
Match = Literal["exact", "normalised", "placeholder"]
_Place = tuple[int, int]
# Scripts that are written without spaces: a word may begin and end anywhere.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Alignment:
    """The places of one record's values."""

    spans: tuple[TextSpan, ...]
    """In the order of the text; empty with a problem, and for an empty record."""
    matches: Mapping[Match, int] = field(default_factory=dict)
    """How the values were found."""
    problems: tuple[tuple[Problem, str], ...] = ()
    """With the name of the field. A row with a problem cannot be used."""


@dataclass
class SpanCounts:
    """Counts over all records."""

    matches: Counter[str] = field(default_factory=Counter)
    rows_left_out: int = 0
    left_out: dict[Problem, Counter[str]] = field(default_factory=dict)
    """Problem: field: values."""

    def add(self, alignment: Alignment) -> None:
        """Count one record."""
        self.rows_left_out += bool(alignment.problems)
        for problem, name in alignment.problems:
            fields = self.left_out.setdefault(problem, Counter())
            fields[name if name in fields or len(fields) < FIELDS_MAX else OTHER_FIELDS] += 1
        if not alignment.problems:
            self.matches.update(alignment.matches)

    def report(self) -> dict[str, Any]:
        """Return the section of the data sheet."""
        left_out = {problem: dict(fields.most_common()) for problem, fields in sorted(self.left_out.items())}
        return {"matches": dict(self.matches), "rows_left_out": self.rows_left_out, "left_out": left_out}


@dataclass
class _ValueSearch:
    """One value of a field, and its possible places."""

    label: str
    value: str | None
    times: int
    places: list[_Place]
    match: Match
    seen: int = 0
    """All places in the text, taken or not."""

    @property
    def is_found(self) -> bool:
        return len(self.places) == self.times


def align(record: str, text: str) -> Alignment:
    """Find the values of a record (JSON) in a text. A span is labelled with the name of its field.

    In nested objects that is the name nearest to the value; the values of a list have the name of the list. Fields that
    are null or empty have no span.
    """
    plain = _object(record)
    if plain is None:
        return Alignment((), problems=(("no_record", NO_FIELD),))
    values = list(itertools.islice(_values(plain, NO_FIELD), VALUES_MAX + 1))
    if len(values) > VALUES_MAX:
        return Alignment((), problems=(("too_many", NO_FIELD),))
    searches = [_search(*key, times, text) for key, times in Counter(values).items()]
    _remove_taken_places([search for search in searches if search.seen <= PLACES_MAX])
    problems = tuple(_problems(searches))
    if problems:
        return Alignment((), problems=problems)
    spans = (TextSpan(start, end, search.label) for search in searches for start, end in search.places)
    matches = Counter(search.match for search in searches for _ in search.places)
    return Alignment(tuple(sorted(spans, key=lambda span: span.start)), matches)


def _object(record: str) -> dict[str, Any] | None:
    try:
        plain = strict_json.decode(record)
    except ValueError:
        return None
    return plain if isinstance(plain, dict) else None


def _values(plain: Any, label: str, depth: int = 0) -> Iterator[tuple[str, str | None]]:
    """Yield the values with their labels; None for a value that is never in a text."""
    if isinstance(plain, dict | list) and depth < DEPTH_MAX:
        items = plain.items() if isinstance(plain, dict) else ((label, value) for value in plain)
        for name, value in items:
            yield from _values(value, name.strip() or NO_FIELD, depth + 1)
    elif isinstance(plain, bool | dict | list):
        yield label, None
    elif plain is not None:
        text = plain.strip() if isinstance(plain, str) else json.dumps(plain)
        if text:
            yield label, text


def _search(label: str, value: str | None, times: int, text: str) -> _ValueSearch:
    if value is None:
        return _ValueSearch(label, value, times, [], "exact")
    places = list(itertools.islice(_places(re.escape(value), text, 0), PLACES_MAX + 1))
    match: Match = "placeholder" if PLACEHOLDER.fullmatch(value) else "exact"
    if not places:
        words = r"\s+".join(map(re.escape, value.split()))
        places = list(itertools.islice(_places(words, text, re.IGNORECASE), PLACES_MAX + 1))
        match = "normalised"
    return _ValueSearch(label, value, times, places, match, len(places))


def _places(pattern: str, text: str, flags: int) -> Iterator[_Place]:
    """Yield the places of a pattern as whole words outside of placeholders."""
    placeholders = [placeholder.span() for placeholder in PLACEHOLDER.finditer(text)]
    for match in re.finditer(f"(?=({pattern}))", text, flags):
        start, end = match.span(1)
        cuts_placeholder = any(a < start < b or a < end < b for a, b in placeholders)
        if not (cuts_placeholder or _is_inside_word(text, start) or _is_inside_word(text, end)):
            yield start, end


def _is_inside_word(text: str, position: int) -> bool:
    if not 0 < position < len(text):
        return False
    around = text[position - 1 : position + 1]
    accented = unicodedata.combining(text[position]) > 0
    return accented or (around.isalnum() and not _UNSPACED.search(around))


def _remove_taken_places(searches: Sequence[_ValueSearch]) -> None:
    """Remove the places of values without an alternative from the others, until nothing changes."""
    settled: list[_ValueSearch] = []
    while fresh := [search for search in searches if search.is_found and search not in settled]:
        settled += fresh
        taken = [place for search in fresh for place in search.places]
        for search in searches:
            if search not in settled:
                search.places = [place for place in search.places if not any(_overlap(place, each) for each in taken)]


def _problems(searches: Sequence[_ValueSearch]) -> Iterator[tuple[Problem, str]]:
    yield from ((_problem(search), search.label) for search in searches if not search.is_found)
    yield from (("overlapping", search.label) for search in _find_collisions(searches))


def _problem(search: _ValueSearch) -> Problem:
    if search.value is None:
        return "not_text"
    if len(search.places) > search.times:
        return "ambiguous"
    return "overlapping" if search.seen >= search.times else "absent"


def _find_collisions(searches: Sequence[_ValueSearch]) -> Iterator[_ValueSearch]:
    complete = [search for search in searches if search.is_found]
    for first, second in itertools.combinations(complete, 2):
        if any(_overlap(a, b) for a in first.places for b in second.places):
            yield first
            yield second
    yield from (
        search for search in complete if any(_overlap(*pair) for pair in itertools.combinations(search.places, 2))
    )


def _overlap(first: _Place, second: _Place) -> bool:
    return first[0] < second[1] and second[0] < first[1]


@dataclass(frozen=True)
class RedactedExample:
    """A collected example."""

    example: CollectedExample
    kind: Kind
    counts: Mapping[str, int]
    """Replacements in input and output by the name of the rule."""


class RowBuilder:
    """Makes rows, and counts filled placeholders and left-out records."""

    def __init__(self, form: Format, settings: SurrogateSettings, seed: str) -> None:
        """Raises InvalidRequest for a locale or a kind of surrogate that is not known."""
        self._form = form
        self._filler = PlaceholderFiller(settings, seed)
        self._spans = SpanCounts()

    @property
    def joins_answers(self) -> bool:
        """Whether the answers about one text make one row."""
        return self._form == "text-answers"

    def build_answers(self, group: Sequence[RedactedExample]) -> tuple[list[Row], list[str]]:
        """Return the row of several answers about one text, and its labels as QUESTION/OUTPUT.

        Raises:
            InvalidRequest: the task has no questions.
        """
        first = group[0]
        if first.kind != "decide":
            message = f"format text-answers is for tasks of kind decide, not {first.kind}"
            raise InvalidRequest(message, remedy="Use text-label, text-spans, prompt-completion or messages.")
        labels = [(each.example.question or "", each.example.truth or each.example.output) for each in group]
        probabilities = [each.example.probabilities for each in group]
        answers = tuple((name, shares or label) for (name, label), shares in zip(labels, probabilities, strict=True))
        ids = tuple(each.example.prediction_id for each in group)
        example = replace(self._fill(first, ()), answers=answers, prediction_ids=ids)
        return row_formats.rows_of(example, self._form), [f"{name}/{label}" for name, label in labels]

    def build(self, redacted: RedactedExample) -> tuple[list[Row], list[str]]:
        """Return the rows of an example, and its labels: its answer, or the labels of its spans.

        Raises:
            InvalidRequest: spans are requested, and the task does not extract.
        """
        example = redacted.example
        spans: tuple[TextSpan, ...] = ()
        labels = [example.truth or example.output]
        if self._form == "text-spans":
            if redacted.kind != "extract":
                message = f"format text-spans is for tasks of kind extract, not {redacted.kind}"
                raise InvalidRequest(message, remedy="Use text-label, prompt-completion or messages.")
            alignment = align(labels[0], example.input)
            self._spans.add(alignment)
            if alignment.problems:
                return [], []
            spans, labels = alignment.spans, [span.label for span in alignment.spans]
        return row_formats.rows_of(self._fill(redacted, spans), self._form), labels

    def report(self) -> dict[str, Any]:
        """Return the sections of the data sheet."""
        spans = {"spans": self._spans.report()} if self._form == "text-spans" else {}
        return {"surrogates": self._filler.report(), **spans}

    def _fill(self, redacted: RedactedExample, spans: tuple[TextSpan, ...]) -> CollectedExample:
        """Return the example with filled placeholders; a label is unchanged."""
        example = redacted.example
        classifies, truth = redacted.kind in LABEL_KINDS, example.truth or ""
        texts = [example.input, *([] if classifies else [example.output, truth])]
        filled = self._filler.fill(f"{example.site}/{example.prediction_id}", redacted.counts, texts, stored=2)
        moved_spans = tuple(
            TextSpan(filled.new_position(span.start), filled.new_position(span.end), span.label) for span in spans
        )
        example = replace(example, input=filled.texts[0], spans=moved_spans, surrogates=filled.values)
        if classifies:
            return example
        return replace(example, output=filled.texts[1], truth=None if example.truth is None else filled.texts[2])
