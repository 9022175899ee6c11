"""What the operator's calls about redaction return: a trial on one text, and texts of the random audit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SEPARATOR = ";"
"""Between the values that a person names."""
DEFAULT_TYPE = "NAME"


@dataclass(frozen=True)
class ReplacedSpan:
    """A value that redaction replaces: [start, end) in code points."""

    start: int
    end: int
    placeholder: str
    rule: str
    """A rule, or "model:" with the type."""
    by_rules: bool
    by_model: bool
    score: float
    """The model's probability that it is personal; 0 = the model has not found it."""

    @property
    def source(self) -> str:
        """What found it: rules, model or both."""
        return "both" if self.by_rules and self.by_model else "model" if self.by_model else "rules"


@dataclass(frozen=True)
class RedactionTrial:
    """What redaction makes of a text."""

    redacted: str
    spans: tuple[ReplacedSpan, ...]
    model: str
    """The bundle that read the text, task@version; empty = rules alone did."""
    held_because: str
    """Why the redaction model did not read it; empty = it did, or none is configured."""


@dataclass(frozen=True)
class MissedSpan:
    """A personal value that redaction missed: [start, end) in code points."""

    start: int
    end: int
    label: str
    """Its type, such as NAME."""


@dataclass(frozen=True)
class RedactionAuditText:
    """A text that the audit of redaction has drawn, with its original."""

    row: int
    prediction_id: str
    task: str
    model: str
    text: str
    redacted: str
    spans: tuple[ReplacedSpan, ...]
    missed: tuple[MissedSpan, ...]
    wrong: tuple[int, ...]
    """Places in `spans` of what is not personal."""


def named_values(written: str) -> list[str]:
    """Return the values that a person wrote, with SEPARATOR between them."""
    return [value.strip() for value in written.split(SEPARATOR) if value.strip()]


def missed_values(text: RedactionAuditText, values: Sequence[str], label: str) -> list[MissedSpan]:
    """Return where values stand in a text and were not replaced. Raises ValueError for one that stands nowhere."""
    found: set[tuple[int, int]] = set()
    for value in values:
        places = {match.span() for match in re.finditer(re.escape(value), text.text)}
        left = {
            (start, end)
            for start, end in places
            if not any(span.start <= start and end <= span.end for span in text.spans)
        }
        if not left:
            said = "is replaced wherever it stands" if places else "does not stand in the text"
            raise ValueError(f"'{value}' {said}")
        found |= left
    kept: list[MissedSpan] = []
    for start, end in sorted(found, key=lambda each: (each[0], -each[1])):
        if not kept or start >= kept[-1].end:
            kept.append(MissedSpan(start, end, label))
    return kept
