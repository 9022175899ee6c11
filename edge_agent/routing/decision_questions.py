"""Typed questions to a large model that answers them with probabilities, and the check of its answers. Pure.

Such a model speaks `/v1/decisions` or `/v1/systemone` (`protocol` under `escalation` in agent.yaml). Its probabilities
train better than a label alone, so only a complete, finite distribution over the question's own options is accepted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SUM_ERROR_MAX = 1e-3
"""How far from 1 the probabilities of an answer can add up: servers round them."""


@dataclass(frozen=True)
class LargeModelTypedQuestion:
    """One question about a text."""

    name: str
    type: Literal["predicate", "choice", "score"]
    instructions: str
    """Never empty: the APIs require them."""
    options: tuple[str, ...]
    """Every output, in order; of a predicate "no" and "yes"."""
    descriptions: tuple[str, ...] = ()
    """One for each option, or none."""


@dataclass(frozen=True)
class ModelAnswer:
    """What a large model answered to one question, unchecked."""

    question: str
    probabilities: tuple[tuple[str, float], ...] = ()
    """Option and probability; empty = it declined the question."""


def read_distribution(
    question: LargeModelTypedQuestion, answers: Sequence[ModelAnswer]
) -> tuple[tuple[str, float], ...]:
    """Return each option of a question with its probability, in order, with the sum 1.

    Raises:
        ValueError: there is no usable answer; the message names the question, and quotes nothing of the answer but a
            sum.
    """
    about = f"question {question.name!r}"
    found = [each for each in answers if each.question == question.name]
    if len(found) != 1:
        raise ValueError(f"it gave {len(found)} answers to {about} instead of 1")
    if not found[0].probabilities:
        raise ValueError(f"it declined {about}")
    numbers = _ordered(question, found[0])
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"a probability in its answer to {about} is not a finite number of at least 0")
    total = math.fsum(numbers)
    if abs(total - 1) > SUM_ERROR_MAX:
        raise ValueError(f"the probabilities in its answer to {about} add up to {total:.4g} instead of 1")
    return tuple((option, number / total) for option, number in zip(question.options, numbers, strict=True))


def _ordered(question: LargeModelTypedQuestion, answer: ModelAnswer) -> list[float]:
    """Return the numbers in the order of the options. Raises ValueError where the options are others."""
    given = dict(answer.probabilities)
    missing = sum(option not in given for option in question.options)
    if missing:
        raise ValueError(f"its answer to question {question.name!r} lacks {missing} of {len(question.options)} options")
    if len(answer.probabilities) != len(question.options):
        raise ValueError(f"its answer to question {question.name!r} has an option that is not one, or one twice")
    return [given[option] for option in question.options]
