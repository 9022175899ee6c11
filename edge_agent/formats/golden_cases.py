"""The golden file of a bundle: inputs, and the bundle's answers on the machine that made it.

One JSON object per line, UTF-8. Running the cases on another machine shows whether the model computes the same there:
another processor, a damaged file or another library may change it without an error. A case without `answer` is only an
example of the task. Numbers differ a little between processors, so they have a tolerance. An answer that such a
difference could change is only reported (`report_only`): two nearly equal labels, a word with a nearly as likely
alternative, a generated text. Whether an answer is confident is not compared, so a confidence near the threshold is no
problem; version 0.1 marked such cases too, so `is_binding` looks at the scores instead.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from pydantic import Field

from edge_agent.errors import BundleUnreadable
from edge_agent.formats import strict_json
from edge_agent.formats.strict_json import StrictModel

TOLERANCE = 0.05
SCORE_TOLERANCE = 0.05
"""Largest difference between two out-of-distribution scores, as a share of the case's score, at least of 1."""
DIFFERENT_PERCENT_MAX = 5
"""How many of the binding cases may have different answers, in a self-test and on a device."""
CASES_MAX = 10_000
LINE_BYTES_MAX = 4 * 1024 * 1024
_REMEDY = "Copy the bundle again; if the error persists, make the bundle again with edge-convert."


class GoldenCase(StrictModel):
    """One line."""

    input: str = Field(min_length=1)
    """An input as a device sends it."""
    answer: str | None = None
    """classify: the label. generate: the text. extract: the record if the model writes it, otherwise
    [[label, start, end], ...] as JSON, as for redact. embed: empty."""
    scores: tuple[float, ...] = ()
    """classify: the probability of each label, in the manifest's order, at its temperature. extract: the confidence of
    the record alone. redact: 0.5 to 1, how far the least certain word is from another answer. embed: the vector."""
    answers: dict[str, str] = Field(default_factory=dict)
    """decide: the label of each question, by its name; `answer` is then empty."""
    question_scores: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """decide: for each question in `answers` the probability of each possible answer, as in `scores`."""
    tolerance: float = Field(default=TOLERANCE, ge=0.0, le=2.0)
    """Largest difference of each score. embed: largest cosine distance."""
    ood_score: float | None = Field(default=None, allow_inf_nan=False)
    """The out-of-distribution score of the input, if the bundle has a gate."""
    report_only: bool = False
    """A difference is only reported, unless by its scores no difference within the tolerance can change the answer."""


@dataclass(frozen=True)
class GoldenAnswer:
    """A bundle's answer to the input of a case, in the form of the case."""

    answer: str
    scores: tuple[float, ...] = ()
    ood_score: float | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    question_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def could_flip(scores: Sequence[float]) -> bool:
    """Tell whether a difference within TOLERANCE could change the answer; without scores any difference could.

    Of several scores the best two must be far enough apart. A single one is the confidence of a record, whose least
    certain word must have no nearly as likely alternative.
    """
    if len(scores) < 2:
        return not scores or scores[0] <= 0.5 + TOLERANCE
    best, second = sorted(scores, reverse=True)[:2]
    return best - second <= 2 * TOLERANCE


def is_binding(case: GoldenCase) -> bool:
    """Tell whether a bundle must give the case's answer; `differences` judges each question of a decide task itself."""
    return case.answer is not None and (bool(case.answers) or not (case.report_only and could_flip(case.scores)))


def encode(cases: Iterable[GoldenCase]) -> bytes:
    """Encode a golden file without the fields that a case does not set."""
    documents = (case.model_dump(mode="json", exclude_unset=True) for case in cases)
    return "".join(json.dumps(document, ensure_ascii=False, sort_keys=True) + "\n" for document in documents).encode()


def parse(raw: bytes) -> tuple[GoldenCase, ...]:
    """Read a golden file. Raises BundleUnreadable, with the number of the invalid line."""
    return tuple(read(io.BytesIO(raw)))


def read(file: BinaryIO) -> Iterator[GoldenCase]:
    """Read a golden file case by case, with only one line in memory. Raises BundleUnreadable."""
    for number in itertools.count(1):
        line = file.readline(LINE_BYTES_MAX + 1)
        if not line:
            return
        if len(line) > LINE_BYTES_MAX or number > CASES_MAX:
            limit = f"the golden file may have {CASES_MAX} lines of {LINE_BYTES_MAX} bytes"
            raise BundleUnreadable(f"{limit}; line {number} is over that", remedy=_REMEDY)
        try:
            case = strict_json.validate(GoldenCase, strict_json.decode(line))
        except ValueError as error:
            problem = strict_json.first_problem(error, show=True)
            message = f"each line of the golden file must hold a JSON object with 'input'; line {number}: {problem}"
            raise BundleUnreadable(message, remedy=_REMEDY) from None
        yield case


def differences(case: GoldenCase, current: GoldenAnswer, *, vector: bool = False) -> list[str]:
    """Return the differences between an answer and its case, as sentences.

    Args:
        case: a case of the golden file; without an answer there is no difference.
        current: the bundle's present answer.
        vector: the scores are a vector, which is compared by its direction.
    """
    return list(_differences(case, current, vector)) if case.answer is not None else []


def _differences(case: GoldenCase, current: GoldenAnswer, vector: bool) -> Iterator[str]:
    if case.answers:
        yield from _ood_difference(case.ood_score, current.ood_score)
        for question in case.answers:
            yield from _question_differences(question, case, current)
        return
    if current.answer != case.answer:
        yield f"the answer is {current.answer[:100]!r}, not {(case.answer or '')[:100]!r}"
    if len(current.scores) != len(case.scores):
        yield f"{len(current.scores)} scores, not {len(case.scores)}"
        return
    yield from _ood_difference(case.ood_score, current.ood_score)
    compare = _cosine_distance if vector else _largest_difference
    distance = compare(case.scores, current.scores)
    if not distance <= case.tolerance:  # also when it is NaN
        yield f"the scores differ by {distance:.4f}; {case.tolerance:g} is allowed"


def _question_differences(question: str, case: GoldenCase, current: GoldenAnswer) -> Iterator[str]:
    """Compare the answer to a question, but not a label that a difference within the tolerance could change."""
    expected_scores, scores = case.question_scores.get(question, ()), current.question_scores.get(question, ())
    label, expected_label = current.answers.get(question, ""), case.answers[question]
    if label != expected_label and not (expected_scores and could_flip(expected_scores)):
        yield f"the answer to {question!r} is {label[:100]!r}, not {expected_label[:100]!r}"
    if len(scores) != len(expected_scores):
        yield f"{len(scores)} scores of {question!r}, not {len(expected_scores)}"
        return
    distance = _largest_difference(expected_scores, scores)
    if not distance <= case.tolerance:  # also when it is NaN
        yield f"the scores of {question!r} differ by {distance:.4f}; {case.tolerance:g} is allowed"


def _ood_difference(expected: float | None, score: float | None) -> Iterator[str]:
    """Compare two out-of-distribution scores, if the case has one."""
    if expected is None:
        return
    if score is None:
        yield "there is no out-of-distribution score of the input"
    elif not abs(score - expected) <= SCORE_TOLERANCE * max(1.0, abs(expected)):  # also when it is NaN
        yield f"the out-of-distribution score is {score:.4g}, not {expected:.4g}; {SCORE_TOLERANCE:.0%} is allowed"


def _largest_difference(expected: Sequence[float], actual: Sequence[float]) -> float:
    distances = [abs(left - right) for left, right in zip(expected, actual, strict=True)]
    return math.nan if any(map(math.isnan, distances)) else max(distances, default=0.0)


def _cosine_distance(expected: Sequence[float], actual: Sequence[float]) -> float:
    """Return 1 minus the cosine. A vector of zeros has no direction: it differs by 1, except from another one."""
    lengths = math.hypot(*expected) * math.hypot(*actual)
    product = sum(left * right for left, right in zip(expected, actual, strict=True))
    return 1.0 - product / lengths if lengths else float(any(expected) != any(actual))
