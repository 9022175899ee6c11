"""What the operator's calls about redaction return: a trial on one text, and texts of the random audit."""

from __future__ import annotations

from dataclasses import dataclass


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
