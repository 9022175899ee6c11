"""Writes one example as a row of each training format. Pure. docs/training-data.md shows them all.

`messages`, `prompt-completion`, `preference` and `unpaired` are those of TRL (https://huggingface.co/docs/trl); the
first two, `text-label`, `text-answers` and `text-spans` are also what a recipe reads. Each row names its source, so
that it can be found if it must be erased later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from convert.data.data_row import LabelSource, TextSpan

Format = Literal["text-label", "text-answers", "text-spans", "prompt-completion", "messages", "preference", "unpaired"]
FORMATS: tuple[Format, ...] = get_args(Format)
Row = dict[str, Any]


@dataclass(frozen=True)
class CollectedExample:
    """The fields of an example for the formats."""

    site: str
    prediction_id: str
    input: str
    output: str
    truth: str | None
    """The right answer; None = unknown, or only known that the output is wrong."""
    verdict: str | None
    label_source: LabelSource = "imported"
    labeled_by: str = ""
    """The person or model that gave the label."""
    review_stream: str | None = None
    """Why people were asked to review it; None = the site's agent had no streams."""
    sampling_probability: float | None = None
    """Sampling probability of the random audit; None = unknown."""
    family: str = ""
    """Shared with near duplicates that have another answer; empty = the dataset has none."""
    spans: tuple[TextSpan, ...] = ()
    """text-spans: places in the input."""
    surrogates: int = 0
    """Made-up values in place of placeholders."""
    question: str | None = None
    """decide: the question that is answered."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """The large model's probability of each label, if it labelled the row and gave them: a soft target; otherwise
    empty."""
    answers: tuple[tuple[str, str | Mapping[str, float]], ...] = ()
    """text-answers: each question that was answered, and the right answer or the probabilities of all answers."""
    prediction_ids: tuple[str, ...] = ()
    """text-answers: the id of each answer."""


def rows_of(example: CollectedExample, form: Format) -> list[Row]:
    """Return the rows that an example makes; unpaired ones may be two."""
    origin: Row = {"site": example.site, "prediction_id": example.prediction_id}
    sampling = {"review_stream": example.review_stream, "sampling_probability": example.sampling_probability}
    origin |= {key: value for key, value in sampling.items() if value is not None}
    origin |= {"label_source": example.label_source, "labeled_by": example.labeled_by}
    if example.family:
        origin["family"] = example.family
    if example.surrogates:
        origin["surrogates"] = example.surrogates
    return [{**row, **origin} for row in _WRITERS[form](example)]


def _text_label(example: CollectedExample) -> Sequence[Mapping[str, Any]]:
    return [{"text": example.input, "label": dict(example.probabilities) or _answer(example)}]


def _text_answers(example: CollectedExample) -> Sequence[Mapping[str, Any]]:
    return [{"text": example.input, "answers": dict(example.answers), "prediction_ids": list(example.prediction_ids)}]


def _text_spans(example: CollectedExample) -> Sequence[Mapping[str, Any]]:
    return [{"text": example.input, "spans": [asdict(span) for span in example.spans]}]


def _prompt_completion(example: CollectedExample) -> Sequence[Mapping[str, Any]]:
    return [{"prompt": example.input, "completion": _answer(example)}]


def _messages(example: CollectedExample) -> Sequence[Mapping[str, Any]]:
    return [{"messages": [*_prompt(example), *_reply(_answer(example))]}]


def _preference(example: CollectedExample) -> Sequence[Mapping[str, Any]]:
    """A correction is a preference: the person's answer over the model's."""
    return [{"prompt": _prompt(example), "chosen": _reply(_answer(example)), "rejected": _reply(example.output)}]


def _unpaired(example: CollectedExample) -> Sequence[Mapping[str, Any]]:
    """A review is a judgement: of the model's answer, and of the right one if it is known."""
    right = example.truth == example.output
    rows = [{"prompt": _prompt(example), "completion": _reply(example.output), "label": right}]
    if example.truth is not None and not right:
        rows.append({"prompt": _prompt(example), "completion": _reply(example.truth), "label": True})
    return rows


def _answer(example: CollectedExample) -> str:
    return example.output if example.truth is None else example.truth


def _prompt(example: CollectedExample) -> list[dict[str, str]]:
    return [{"role": "user", "content": example.input}]


def _reply(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


_WRITERS: dict[Format, Callable[[CollectedExample], Sequence[Mapping[str, Any]]]] = {
    "text-label": _text_label,
    "text-answers": _text_answers,
    "text-spans": _text_spans,
    "prompt-completion": _prompt_completion,
    "messages": _messages,
    "preference": _preference,
    "unpaired": _unpaired,
}
