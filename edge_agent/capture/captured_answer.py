"""An answer on its way into the spool, and a person's feedback on it: values, which load nothing of the spool. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.capture.redact.model_findings import texts_of_value

if TYPE_CHECKING:
    from edge_agent.capture.redact.model_findings import ModelFindings
    from edge_agent.formats.example_records import Verdict
    from edge_agent.formats.manifest import Manifest


@dataclass(frozen=True, slots=True)
class CapturedAnswer:
    """One input and the answer it got."""

    prediction_id: str
    manifest: Manifest
    digest: str
    text: str
    local_answer: str | None
    """What the bundle's own model answered, also where that was withheld; None = it was not asked.

    classify and decide: the best label. extract: a JSON object. generate: the text.
    """
    scores: Sequence[tuple[str, float]] = ()
    """Of the local answer, as all up to `label_mass`: labels with calibrated scores, best first."""
    confidence: float | None = None
    threshold: float | None = None
    sure: bool = False
    label_mass: float | None = None
    teacher_answer: str | None = None
    """What the large model answered, as in `local_answer`; where there is one it was given. None = it was not asked."""
    model: str = ""
    """The large model that answered; empty = none did."""
    route: str = "local"
    reasons: tuple[str, ...] = ()
    later: str = ""
    """Why the large model is asked later: deferred or audit; empty = it is not."""
    p_value: float | None = None
    """Of the bundle's gate; None = it has none."""
    held_up: str = ""
    """Why the answer is not confident; empty = it is, or its kind has no confidence."""
    findings: ModelFindings | None = None
    """What the redaction model found in its texts; None = it has not read them."""
    rules_suffice: bool = False
    """The rules alone may redact it, though the site has a redaction model."""
    question: str = ""
    """decide: which question was answered; each answer is an example of its own. Empty for any other kind."""
    teacher_scores: Sequence[tuple[str, float]] = ()
    """classify: each label with the probability that the large model gave it; empty = it gave none."""

    @property
    def output(self) -> str:
        """The answer that was given, or withheld; empty = there is none."""
        return (self.local_answer or "") if self.teacher_answer is None else self.teacher_answer


@dataclass(frozen=True)
class HumanFeedback:
    """A person's feedback on a prediction."""

    feedback_id: str
    prediction_id: str
    reviewer: str
    verdict: Verdict
    value: str = ""
    reason: str = ""
    request_id: str = ""


def texts_to_read(answered: CapturedAnswer) -> list[str]:
    """Return every text of an answer that is redacted, for the redaction model to read."""
    answers = [each for each in (answered.local_answer, answered.teacher_answer) if each]
    return [answered.text, *(text for each in answers for text in answer_texts(answered.manifest.task.kind, each))]


def answer_texts(kind: str, answer: str) -> list[str]:
    """Return the texts of an answer of that kind: of a record its values and keys, of a label none."""
    if kind == "extract":
        return list(texts_of_value(json.loads(answer))) if answer else []
    return [answer] if kind == "generate" else []
