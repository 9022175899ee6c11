"""The answer of a served bundle to one text, and the file of predictions. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# exp of it is the smallest positive float64; an engine returns 0 for less.
_LOG_LEAST = -745.0
_DIGITS = 6


@dataclass(frozen=True)
class FoundEntity:
    """An entity: `text[start:end]`."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class ServedPrediction:
    """One answer. Only the fields of its kind of task are set."""

    answer: str = ""
    """classify: the best label. generate: the text. extract: the entities as JSON, for people. decide:
    the best output of each question as JSON, for people. embed: empty."""
    confidence: float = 0.0
    """classify, extract: as served, at the bundle's own temperature."""
    log_probabilities: tuple[float, ...] = ()
    """classify: of each label in the order of the task, natural logarithm, renormalised, at temperature 1."""
    scores: tuple[float, ...] = ()
    """classify: the probability of each label as served."""
    question_scores: tuple[tuple[float, ...], ...] = ()
    """decide: of each question, in the order of the task, the probability of each output as served."""
    question_masses: tuple[float, ...] = ()
    """decide by a decoder: of each question what `label_mass` is for classify."""
    label_mass: float = 1.0
    ood_score: float | None = None
    """Out-of-distribution score of the input, computed by an encoder's graph; None = the graph has none."""
    entities: tuple[FoundEntity, ...] = ()
    vector: tuple[float, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    """From sending the text to the engine until its answer, including the wait in its queue."""
    failure: str = ""
    """Reason of the error instead of an answer, such as INPUT_TOO_LONG."""

    def line(self, text: str, expected: str) -> str:
        """Write one line of predictions.jsonl."""
        kept = {key: value for key, value in asdict(self).items() if value not in ("", (), None) and key != "scores"}
        return json.dumps({"text": text, "expected": expected, **_rounded(kept)}, ensure_ascii=False) + "\n"


def at_one(scores: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Return log-probabilities at temperature 1 from scores that were served at another one; of none, none."""
    if not scores:
        return ()
    with np.errstate(divide="ignore"):
        raw = temperature * np.maximum(np.log(scores), _LOG_LEAST)
    return tuple((raw - np.logaddexp.reduce(raw)).tolist())


def matrix(predictions: Iterable[ServedPrediction]) -> npt.NDArray[np.float64]:
    """Return the log-probabilities as [texts, labels]."""
    return np.array([each.log_probabilities for each in predictions])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
