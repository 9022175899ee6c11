"""One example of a split: a text with what is to be learned from it. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, get_args

from convert.data.text_normalisation import normalised

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
    """One of the question's outputs; of a distribution the likeliest one, the first of equals."""
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
    """Nobody said it: `"composed": true` in the file. It can be a golden case as it is."""
    consented: bool = False
    """Who said it agreed that it travels in bundles: `"consented": true` in the file."""
    place: str = field(default="", compare=False, repr=False)
    """Where the row stands, as FILE:LINE, for messages."""

    @property
    def record(self) -> str:
        """The collected record that it was made of, as SITE/PREDICTION_ID; empty = it was not collected."""
        return f"{self.site}/{self.prediction_id}" if self.site and self.prediction_id else ""

    @property
    def key(self) -> str:
        """Hash of the normalised text: equal for texts that differ in case, spaces or the last punctuation."""
        return hashlib.sha256(normalised(self.asked).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def asked(self) -> str:
        """The whole input: the text, or every turn but the answer."""
        return "\n".join(turn.content for turn in self.messages[:-1]) or self.text
