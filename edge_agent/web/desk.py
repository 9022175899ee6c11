"""One answer on the desk: what is shown of it, with a key for each label, and what a form says of it. Pure."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from edge_agent.client import Prediction

KEYS = "123456789" + string.ascii_lowercase
"""A key for each label, in the task's order, as in `edge-agent review`; all other keys are no letters or digits."""
NO_REASON = "no reason given"
SHOWN_CHARS_MAX = 80
_WHYS = {"UNCERTAIN": "among the least sure", "DIVERSE": "some of each label", "NEW": "unlike what was calibrated with"}
_EDITED = {"EXTRACT": "the right JSON object", "GENERATE": "the right text"}


class Unclear(ValueError):
    """A form that says nothing."""


@dataclass(frozen=True)
class Choice:
    """A label that may be the right one."""

    label: str
    key: str
    """Empty = there are more labels than keys."""
    score: float | None
    is_answer: bool


@dataclass(frozen=True)
class Item:
    """An answer to be judged."""

    prediction_id: str
    task: str
    kind: str
    input: str
    output: str
    """The answer that was given, which is what is judged."""
    answer_time: datetime
    confidence: float | None
    """Of the local answer, as `sureness`."""
    sureness: str
    choices: tuple[Choice, ...]
    edited: str
    """What is typed in the field for the right answer; empty = it has none, labels are chosen."""
    teacher_model: str = ""
    """The large model that gave `output`; empty = the local one did."""
    local_answer: str = ""
    """What the local model answered where the large one's answer was given; empty = nothing that was kept."""
    stream: str = ""
    """Why people are asked to review it: audit, uncertain, diverse or new; empty = the daemon does not say."""
    why: str = ""
    """The same in words."""
    said_before: str = ""
    """What was said of it, where it is judged again."""

    @property
    def has_more_labels(self) -> bool:
        """Some labels have no key."""
        return any(not choice.key for choice in self.choices)


@dataclass(frozen=True)
class Word:
    """What a reviewer says of an answer."""

    verdict: str
    """accept, correct or reject."""
    value: str = ""
    """The right answer, or why it is wrong."""

    @property
    def shown(self) -> str:
        """In a few words."""
        said = {"accept": "right", "correct": self.value, "reject": f"wrong: {self.value}"}[self.verdict]
        return said if len(said) <= SHOWN_CHARS_MAX else f"{said[: SHOWN_CHARS_MAX - 1]}…"


def item(shown: Prediction) -> Item:
    """Lay an answer on the desk."""
    taught = shown.teacher_answer is not None
    before = [f"{each.reviewer}: {each.verdict} {each.value}".strip() for each in shown.feedback]
    return Item(
        prediction_id=shown.prediction_id,
        task=shown.bundle.task,
        kind=shown.kind,
        input=shown.input,
        output=readable(shown.kind, shown.output),
        answer_time=shown.answer_time,
        confidence=shown.confidence,
        sureness=_sureness(shown),
        choices=_choices(shown) if shown.kind == "CLASSIFY" else (),
        edited=_EDITED.get(shown.kind, ""),
        teacher_model=(shown.teacher_model or "large model") if taught else "",
        local_answer=readable(shown.kind, shown.local_answer or "") if taught else "",
        stream=shown.review_stream.lower(),
        why=_why(shown),
        said_before="; ".join(before),
    )


def _why(shown: Prediction) -> str:
    if shown.sampling_probability is not None:
        return f"drawn at random, one of {1 / shown.sampling_probability:.3g} answers: please skip none"
    return _WHYS.get(shown.review_stream, "")


def readable(kind: str, output: str) -> str:
    """Return an answer as it is read and edited: a record with a field a line."""
    if kind != "EXTRACT":
        return output
    try:
        return json.dumps(json.loads(output), ensure_ascii=False, indent=2)
    except ValueError:
        return output


def word(form: Mapping[str, str]) -> Word:
    """Read a form. Raises Unclear."""
    if "label" in form:
        return _correction(form["label"], form.get("answer", ""))
    if "text" in form:
        return _correction(form["text"].replace("\r\n", "\n"), form.get("answer", "").replace("\r\n", "\n"))
    if form.get("say") == "accept":
        return Word("accept")
    if form.get("say") == "reject":
        return Word("reject", form.get("reason", "").strip() or NO_REASON)
    raise Unclear("the form says neither what is right nor that it is wrong")


def _correction(value: str, answer: str) -> Word:
    """Whoever gives the answer that stands there accepts it."""
    if not value.strip():
        raise Unclear("nothing was typed; '!' says that the answer is wrong without a better one")
    return Word("accept") if value == answer else Word("correct", value)


def _choices(shown: Prediction) -> tuple[Choice, ...]:
    scores, keys = dict(shown.scores), dict(zip(shown.labels, KEYS, strict=False))
    return tuple(Choice(label, keys.get(label, ""), scores.get(label), label == shown.output) for label in shown.labels)


def _sureness(shown: Prediction) -> str:
    if shown.confidence is None:
        return ""
    if shown.threshold is None:
        return "not calibrated"
    return "unsure" if shown.below_threshold else "sure"
