"""Chooses the cut-off of a redaction model so that a bound on what it misses is proved. Pure.

The promise: of all personal values in documents like the calibration ones, at most `missed_max` remain, with certainty
1 - `delta`. A value remains if a letter or digit of it does. The rate is of values, and not the mean share per
document, because a person's value in a long document is worth as much as one in a short document; the unit of the test
is the document, or its family, because values of one document are found or missed together.

Fixed-sequence testing (Learn then Test, arXiv 2110.01052): the cut-offs are fixed beforehand. The first is the lowest,
which replaces most; each is tested by the capital of a bettor against "more than `missed_max` remains"
(statistics.missed_log_capital). The test ends at the first cut-off that is not proved, and the last proved one is the
result: of the cut-offs that keep the promise, the one that replaces least of what is harmless.

A document counts as `values_max` values at most: without a limit, one unseen document could hold all that is missed.
The limit comes from a tenth of the families, chosen by a hash, which have no further part in the test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from convert.calibrate.division import hashed
from edge_agent.statistics import MissedValues, missed_log_capital, proof_rates

CUTOFFS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LIMIT_SHARE, LIMIT_FAMILIES_MIN, LIMIT_QUANTILE = 0.1, 10, 0.9
NEEDED_MAX = 1_000_000
_LOG_MAX = 700.0
"""The exponential of more is no float."""

CutoffVerdict = Literal["proved", "not proved", "replaces harmless texts", "not tested"]


_VERDICTS: dict[bool, CutoffVerdict] = {True: "proved", False: "not proved"}


@dataclass(frozen=True)
class MissedTarget:
    """What is to be proved."""

    missed_max: float
    """Largest share of personal values that remain."""
    delta: float
    """Probability with which the proof may fail."""

    @property
    def evidence(self) -> float:
        """The logarithm of the capital that proves it."""
        return -math.log(self.delta)


@dataclass(frozen=True)
class MarkedDocument:
    """A labelled document, or a part of it, without its text."""

    family: str
    """Documents of one family are variants of one phrasing, and are missed together."""
    values: int
    """Personal values in it."""


@dataclass(frozen=True)
class CutoffTest:
    """One cut-off of the fixed sequence."""

    cutoff: float
    missed: int
    """Values of the proving documents that remain."""
    capital: float
    """Of the bettor; 1 / delta proves the cut-off."""
    verdict: CutoffVerdict


@dataclass(frozen=True)
class CutoffChoice:
    """The result of the fixed-sequence test."""

    cutoff: float | None
    """None: no cut-off is proved."""
    values_max: int
    """Values that a document counts as, at most."""
    documents: int
    """Documents that proved, with and without values."""
    families: int
    values: int
    """Values in them, all counted."""
    tests: tuple[CutoffTest, ...]
    needed: int | None
    """Without a proof: about how many more documents would prove the lowest cut-off; None = more do not help."""


def limiting(documents: Sequence[MarkedDocument]) -> tuple[int, list[int]]:
    """Return the largest number of values that a document counts as, and the places of the documents that prove."""
    families = sorted({each.family for each in documents}, key=hashed)
    number = min(len(families) // 2, max(LIMIT_FAMILIES_MIN, round(LIMIT_SHARE * len(families))))
    apart = set(families[:number])
    counts = sorted(each.values for each in documents if each.family in apart and each.values)
    limit = counts[math.ceil(LIMIT_QUANTILE * len(counts)) - 1] if counts else 1
    return limit, [place for place, each in enumerate(documents) if each.family not in apart]


def choose_cutoff(
    documents: Sequence[MarkedDocument],
    missed_at: Callable[[float], Sequence[int] | None],
    target: MissedTarget,
    cutoffs: Sequence[float] = CUTOFFS,
) -> CutoffChoice:
    """Test the cut-offs in turn.

    Args:
        documents: labelled ones, that the model was not trained on.
        missed_at: for a cut-off the number of values that remain in each of them, [documents], as a site redacts; None
            = no site would load the bundle with it. It is asked only as far as the sequence goes.
        target: what is to be proved.
        cutoffs: rising, fixed beforehand.
    """
    values_max, proving = limiting(documents)
    kept = [documents[place] for place in proving]
    tests: list[CutoffTest] = []
    is_open, lowest = True, dict[MissedValues, int]()
    for cutoff in cutoffs:
        missed = missed_at(cutoff) if is_open else None
        if missed is None:
            tests.append(CutoffTest(cutoff, 0, 1.0, "replaces harmless texts" if is_open else "not tested"))
            continue
        remain = [missed[place] for place in proving]
        counted = family_means(kept, remain, values_max)
        lowest = lowest or dict(counted)
        log = missed_log_capital(counted, values_max, target.missed_max, proof_rates(target.missed_max))
        is_open = log >= target.evidence
        tests.append(CutoffTest(cutoff, sum(remain), math.exp(min(log, _LOG_MAX)), _VERDICTS[is_open]))
    return _choice(kept, tests, lowest, values_max, target)


def _choice(
    kept: Sequence[MarkedDocument],
    tests: Sequence[CutoffTest],
    lowest: Mapping[MissedValues, int],
    values_max: int,
    target: MissedTarget,
) -> CutoffChoice:
    """Return the highest cut-off that is proved; `lowest` are the outcomes at the lowest one that was tested."""
    chosen = max((each.cutoff for each in tests if each.verdict == "proved"), default=None)
    return CutoffChoice(
        cutoff=chosen,
        values_max=values_max,
        documents=len(kept),
        families=len({each.family for each in kept}),
        values=sum(each.values for each in kept),
        tests=tuple(tests),
        needed=None if chosen is not None else _needed(lowest, len(kept), values_max, target),
    )


def family_means(
    documents: Sequence[MarkedDocument], missed: Sequence[int], values_max: int
) -> Mapping[MissedValues, int]:
    """Return how often each outcome was seen; a family is one outcome, the mean of its documents."""
    families: dict[str, list[tuple[float, float]]] = {}
    for each, remain in zip(documents, missed, strict=True):
        counted = min(each.values, values_max)
        share = remain / each.values if each.values else 0.0
        families.setdefault(each.family, []).append((counted, counted * share))
    means = (
        MissedValues(math.fsum(v for v, _ in each) / len(each), math.fsum(m for _, m in each) / len(each))
        for each in families.values()
    )
    return Counter(means)


def _needed(counted: Mapping[MissedValues, int], documents: int, values_max: int, target: MissedTarget) -> int | None:
    """Estimate how many more documents like these would prove the target; None = a reasonable number does not."""
    rates = proof_rates(target.missed_max)

    def proves(times: float) -> bool:
        scaled = {each: count * times for each, count in counted.items()}
        return missed_log_capital(scaled, values_max, target.missed_max, rates) >= target.evidence

    low, high = 1.0, 2.0
    while counted and not proves(high):
        low, high = high, 2 * high
        if high * documents > NEEDED_MAX:
            return None
    if not counted:
        return None
    while (high - low) * documents > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return max(1, math.ceil((high - 1) * documents))
