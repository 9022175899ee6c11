"""Turns an example into the rows of a format: finds a record's values in the text, then fills placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from convert.data.row_files import TextSpan
from convert.dataset import row_formats
from convert.dataset.row_formats import CollectedExample, Format, Row
from convert.dataset.span_alignment import SpanCounts, align
from convert.dataset.surrogates import PlaceholderFiller, SurrogateSettings
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import LABEL_KINDS, Kind


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
            raise InvalidRequest(
                f"format text-answers is for tasks of kind decide, not {first.kind}",
                remedy="Use text-label, text-spans, prompt-completion or messages.",
            )
        known = [(each.example.question or "", each.example.truth or each.example.output) for each in group]
        soft = [each.example.probabilities for each in group]
        answers = tuple((name, shares or label) for (name, label), shares in zip(known, soft, strict=True))
        ids = tuple(each.example.prediction_id for each in group)
        example = replace(self._filled(first, ()), answers=answers, prediction_ids=ids)
        return row_formats.rows_of(example, self._form), [f"{name}/{label}" for name, label in known]

    def build(self, redacted: RedactedExample) -> tuple[list[Row], list[str]]:
        """Return the rows of an example, and its labels: its answer, or the labels of its spans.

        Raises:
            InvalidRequest: spans are requested, and the task does not extract.
        """
        example = redacted.example
        spans: tuple[TextSpan, ...] = ()
        learnt = [example.truth or example.output]
        if self._form == "text-spans":
            if redacted.kind != "extract":
                raise InvalidRequest(
                    f"format text-spans is for tasks of kind extract, not {redacted.kind}",
                    remedy="Use text-label, prompt-completion or messages.",
                )
            alignment = align(learnt[0], example.input)
            self._spans.add(alignment)
            if alignment.problems:
                return [], []
            spans, learnt = alignment.spans, [span.label for span in alignment.spans]
        return row_formats.rows_of(self._filled(redacted, spans), self._form), learnt

    def report(self) -> dict[str, Any]:
        """Return the sections of the data sheet."""
        spans = {"spans": self._spans.report()} if self._form == "text-spans" else {}
        return {"surrogates": self._filler.report(), **spans}

    def _filled(self, redacted: RedactedExample, spans: tuple[TextSpan, ...]) -> CollectedExample:
        """Return the example with filled placeholders; a label is unchanged."""
        example = redacted.example
        classifies, truth = redacted.kind in LABEL_KINDS, example.truth or ""
        texts = [example.input, *([] if classifies else [example.output, truth])]
        key = f"{example.site}/{example.prediction_id}"
        filled = self._filler.fill(key, redacted.counts, texts, stored=2)
        moved = tuple(TextSpan(filled.moved(span.start), filled.moved(span.end), span.label) for span in spans)
        example = replace(example, input=filled.texts[0], spans=moved, surrogates=filled.values)
        if classifies:
            return example
        return replace(example, output=filled.texts[1], truth=None if example.truth is None else filled.texts[2])
