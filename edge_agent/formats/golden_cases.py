"""The golden file of a bundle: inputs, and what the bundle answered where it was made.

One JSON object a line, UTF-8. Running them again on another machine shows whether the model computes there what it
computed here: another processor, a damaged file or another library may change it without an error. A case without
`answer` only shows what the task is for. Numbers differ a little between processors, so they have a tolerance. An
answer that such a difference may turn is for information, `report_only`: two labels nearly equal, a word that is
nearly as likely something else, a generated text. Whether an answer is sure is not compared, so a confidence near the
threshold is as good a case as another; version 0.1 marked these too, and `is_binding` looks at the scores instead.
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
"""Largest difference between two scores of how strange an input is, as a share of the case's, or of 1 if it is less."""
DIFFERENT_PERCENT_MAX = 5
"""So many of the cases that are binding may be answered differently, in a self-test and on a device."""
CASES_MAX = 10_000
LINE_BYTES_MAX = 4 * 1024 * 1024


class GoldenCase(StrictModel):
    """One line."""

    input: str = Field(min_length=1)
    """What a device would send."""
    answer: str | None = None
    """classify: the label. generate: the text. extract: the record where it is written, otherwise
    [[label, start, end], ...] as JSON; so for redact. embed: empty."""
    scores: tuple[float, ...] = ()
    """classify: the probability of each label, in the manifest's order, at its temperature. extract: the confidence of
    the record alone. redact: 0.5 to 1, how far the least sure word is from another answer. embed: the vector."""
    answers: dict[str, str] = Field(default_factory=dict)
    """decide: the label of each question, by its name; `answer` is then empty."""
    question_scores: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """decide: for each question in `answers` the probability of each possible answer, as `scores`."""
    tolerance: float = Field(default=TOLERANCE, ge=0.0, le=2.0)
    """Largest difference between scores, each for itself. embed: largest cosine distance."""
    ood_score: float | None = Field(default=None, allow_inf_nan=False)
    """How strange the input is, where the bundle has a gate."""
    report_only: bool = False
    """A difference fails nothing, unless the scores say that no difference within the tolerance may turn the answer."""


@dataclass(frozen=True)
class GoldenAnswer:
    """What a bundle answers to the input of a case, in the words of the case."""

    answer: str
    scores: tuple[float, ...] = ()
    ood_score: float | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    question_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def could_flip(scores: Sequence[float]) -> bool:
    """Tell whether a difference within TOLERANCE could give another answer; without scores any difference could.

    Of several scores the best two must be far enough apart; a single one is the confidence of a record, whose least
    sure word must not be nearly as likely something else.
    """
    if len(scores) < 2:
        return not scores or scores[0] <= 0.5 + TOLERANCE
    best, second = sorted(scores, reverse=True)[:2]
    return best - second <= 2 * TOLERANCE


def is_binding(case: GoldenCase) -> bool:
    """Tell whether a bundle has to answer a case alike; for questions `differences` judges each answer for itself."""
    return case.answer is not None and (bool(case.answers) or not (case.report_only and could_flip(case.scores)))


def encode(cases: Iterable[GoldenCase]) -> bytes:
    """Write a golden file: what a case does not say is left out."""
    plain = (case.model_dump(mode="json", exclude_unset=True) for case in cases)
    return "".join(json.dumps(each, ensure_ascii=False, sort_keys=True) + "\n" for each in plain).encode()


def parse(raw: bytes) -> tuple[GoldenCase, ...]:
    """Read a golden file. Raises BundleUnreadable, with the line that is none."""
    return tuple(read(io.BytesIO(raw)))


def read(file: BinaryIO) -> Iterator[GoldenCase]:
    """Read a golden file case by case, and never more than a line of it. Raises BundleUnreadable."""
    for number in itertools.count(1):
        line = file.readline(LINE_BYTES_MAX + 1)
        if not line:
            return
        if len(line) > LINE_BYTES_MAX or number > CASES_MAX:
            said = f"the golden file may have {CASES_MAX} lines of {LINE_BYTES_MAX} bytes; line {number} is over that"
            raise BundleUnreadable(said, remedy=_REMEDY)
        yield _case(number, line)


_REMEDY = "Copy the bundle again; if it repeats, make it again with edge-convert."


def _case(number: int, line: bytes) -> GoldenCase:
    try:
        return strict_json.validate(GoldenCase, strict_json.decode(line))
    except ValueError as error:
        said = strict_json.first_problem(error, show=True)
        raise BundleUnreadable(
            f"the golden file must hold one JSON object with 'input' a line; line {number}: {said}", remedy=_REMEDY
        ) from None


def differences(case: GoldenCase, said: GoldenAnswer, *, vector: bool = False) -> list[str]:
    """Return in what an answer differs from its case, as sentences; nothing when it does not.

    Args:
        case: of the golden file; without an answer it is never different.
        said: by the bundle, now.
        vector: the scores are a vector, which is compared by its direction.
    """
    return list(_differences(case, said, vector)) if case.answer is not None else []


def _differences(case: GoldenCase, said: GoldenAnswer, vector: bool) -> Iterator[str]:
    if case.answers:
        yield from _strangeness(case.ood_score, said.ood_score)
        for question in case.answers:
            yield from _of_question(question, case, said)
        return
    if said.answer != case.answer:
        yield f"the answer is {said.answer[:100]!r}, not {(case.answer or '')[:100]!r}"
    if len(said.scores) != len(case.scores):
        yield f"{len(said.scores)} scores, not {len(case.scores)}"
        return
    yield from _strangeness(case.ood_score, said.ood_score)
    distance = _turned(case.scores, said.scores) if vector else _farthest(case.scores, said.scores)
    if not distance <= case.tolerance:  # also when it is not a number
        yield f"the scores differ by {distance:.4f}; {case.tolerance:g} is allowed"


def _of_question(question: str, case: GoldenCase, said: GoldenAnswer) -> Iterator[str]:
    """Compare the answer to a question; a label that a difference within the tolerance may turn is not compared."""
    wanted, found = case.question_scores.get(question, ()), said.question_scores.get(question, ())
    label, expected = said.answers.get(question, ""), case.answers[question]
    if label != expected and not (wanted and could_flip(wanted)):
        yield f"the answer to {question!r} is {label[:100]!r}, not {expected[:100]!r}"
    if len(found) != len(wanted):
        yield f"{len(found)} scores of {question!r}, not {len(wanted)}"
        return
    distance = _farthest(wanted, found)
    if not distance <= case.tolerance:  # also when it is not a number
        yield f"the scores of {question!r} differ by {distance:.4f}; {case.tolerance:g} is allowed"


def _strangeness(wanted: float | None, found: float | None) -> Iterator[str]:
    """Compare two scores of strangeness; a case that has none is not compared."""
    if wanted is None:
        return
    if found is None:
        yield "there is no score of how strange the input is"
    elif not abs(found - wanted) <= SCORE_TOLERANCE * max(1.0, abs(wanted)):  # also when it is not a number
        yield f"the input is {found:.4g} strange, not {wanted:.4g}; {SCORE_TOLERANCE:.0%} is allowed"


def _farthest(wanted: Sequence[float], found: Sequence[float]) -> float:
    each = [abs(left - right) for left, right in zip(wanted, found, strict=True)]
    return math.nan if any(map(math.isnan, each)) else max(each, default=0.0)


def _turned(wanted: Sequence[float], found: Sequence[float]) -> float:
    """Return 1 less the cosine; a vector of zeros has no direction, and is like another one alone."""
    lengths = math.hypot(*wanted) * math.hypot(*found)
    product = sum(left * right for left, right in zip(wanted, found, strict=True))
    return 1.0 - product / lengths if lengths else float(any(wanted) != any(found))
