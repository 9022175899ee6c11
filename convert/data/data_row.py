"""One row of a split: a text with its labels, completion, spans or answers. Pure.

Training and measurement read the rows of a question like those of a classify task: the answer is the label.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from edge_agent.formats.manifest import TaskSpec
from edge_agent.formats.questions import QuestionSpec


def normalised(text: str) -> str:
    """Return a text in lower case, with single spaces, without compatibility forms and without final punctuation.

    A text of only such punctuation keeps it.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(r"[\s.!?…]+$", "", plain) or plain


LabelSource = Literal["reviewed", "corrected", "teacher", "model", "imported"]
"""The source of a label: a person who confirmed or corrected it, a large model, the local model, or a team file."""
LABEL_SOURCES: tuple[LabelSource, ...] = get_args(LabelSource)
MACHINES: tuple[LabelSource, ...] = ("teacher", "model")
"""Sources that no figure can rest on."""
LABELED_BY_CHARS_MAX = 128

Shares = tuple[tuple[str, float], ...]
"""A distribution over outputs: each with its probability, sum 1; outputs that it leaves out have probability 0."""


@dataclass(frozen=True)
class TextSpan:
    """A stretch of a text, in characters: `text[start:end]`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    content: str


@dataclass(frozen=True)
class RowAnswer:
    """The answer of a row to one question of a decide task."""

    question: str
    label: str
    """One of the question's outputs; of a distribution the likeliest one, or the first of several."""
    shares: Shares = ()
    """A distribution over the outputs, which training learns as it is; empty = the label alone."""


@dataclass(frozen=True)
class DataRow:
    """One example."""

    text: str
    """The device's input: the text, the prompt, or the last message of the user."""
    label: str = ""
    """classify: the label, in every format; otherwise empty."""
    completion: str = ""
    """prompt-completion and messages: the expected answer."""
    messages: tuple[ChatMessage, ...] = ()
    """messages: all turns, the answer last."""
    spans: tuple[TextSpan, ...] = ()
    """text-spans: in the order of the text, without overlap."""
    synthetic: bool = False
    """Made by a model: `"synthetic": true` in the file."""
    model: str = ""
    """synthetic: the name of the model, if the row has it."""
    family: str = ""
    """Shared by rows that are variants of one phrasing; empty = no other variant."""
    label_source: LabelSource = "imported"
    """Where the label comes from: `"label_source"` in the file."""
    labeled_by: str = ""
    """Name of the person or model that gave the label, if the row has it."""
    review_stream: str = ""
    """Why people were asked to review it: audit, uncertain, diverse or new; empty = unknown."""
    sampling_probability: float | None = None
    """Probability with which the random audit of a site drew it; None = unknown."""
    shares: Shares = ()
    """classify: a distribution over the labels, which training learns as it is; empty = the label alone."""
    answers: tuple[RowAnswer, ...] = ()
    """text-answers: the answers to a decide task's questions; a question without one is not answered."""
    site: str = ""
    """The site that answered, of a row that `edge-convert dataset` wrote."""
    prediction_id: str = ""
    """The answer's id there; text-answers: of one of its answers."""
    composed: bool = False
    """Written by the team, not by a user: `"composed": true` in the file. It can be a golden case unchanged."""
    consented: bool = False
    """Its author agreed that it travels in bundles: `"consented": true` in the file."""
    own_family: str = field(default="", compare=False, repr=False)
    """The family that the file names; `family` differs where families with a common text were joined."""
    place: str = field(default="", compare=False, repr=False)
    """FILE:LINE of the row, for messages."""

    @property
    def record(self) -> str:
        """The collected record that the row was made from, as SITE/PREDICTION_ID; empty = it was not collected."""
        return f"{self.site}/{self.prediction_id}" if self.site and self.prediction_id else ""

    @property
    def key(self) -> str:
        """Hash of the normalised text: equal for texts that differ in case, spaces or the last punctuation."""
        return hashlib.sha256(normalised(self.asked).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def asked(self) -> str:
        """The whole input: the text, or every turn but the answer."""
        return "\n".join(turn.content for turn in self.messages[:-1]) or self.text


def rows_of(task: TaskSpec, question: QuestionSpec, rows: Sequence[DataRow]) -> list[tuple[int, DataRow]]:
    """Return the rows that answer a question of a task: the place of each in `rows`, and the row with `label` and
    `shares` of that question.
    """
    if task.kind == "classify":
        return [(index, row) for index, row in enumerate(rows) if row.label]
    answering = []
    for index, row in enumerate(rows):
        answer = next((candidate for candidate in row.answers if candidate.question == question.name), None)
        if answer is not None:
            answering.append((index, replace(row, label=answer.label, shares=answer.shares)))
    return answering


def main_question(task: TaskSpec) -> QuestionSpec | None:
    """Return the question that tells most about an input: the choice with most outputs, or else any question with most.

    Its answers are the classes of the out-of-distribution score, and training holds out a share of each. None for a
    task without questions.
    """
    # Of equals the first.
    return max(task.questions_asked, key=lambda each: (each.type == "choice", len(each.outputs)), default=None)


def output_names(task: TaskSpec) -> tuple[str, ...]:
    """Return the outputs of all questions in order, as a checkpoint names them: a label, or QUESTION/OUTPUT."""
    if task.kind != "decide":
        return task.labels
    return tuple(f"{question.name}/{output}" for question in task.questions_asked for output in question.outputs)


def labels_of(row: DataRow) -> Iterator[str]:
    """Yield the labels of a row, of its spans, or of its answers as QUESTION/OUTPUT."""
    if row.label:
        yield row.label
    yield from (span.label for span in row.spans)
    yield from (f"{answer.question}/{answer.label}" for answer in row.answers)
