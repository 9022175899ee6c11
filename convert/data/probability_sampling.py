"""Selects the rows that figures rest on: of known sampling probability, thinned to equal probability. Pure.

A row that the random audit of a site drew has the probability of that draw (`sampling_probability`). A file without
that key, and without `review_stream`, is a team's own sample: it is used as it is, and the report states that its
sampling is unknown. In a file with these keys, a row without a probability was selected for another reason, such as low
confidence, and is left out.

Rows of different probabilities, as when a site changed its share, are thinned to the smallest one: a row of probability
p stays with probability smallest / p, by a hash of its text and a seed. The result is a simple random sample of all
answers, for which the exact binomial tests and intervals hold (decision 0058).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

SEED = "edge-agent/thinning/1"
_HASHES = 2**64


class RowSampling(NamedTuple):
    """How a row was drawn."""

    key: str
    """Identifies the text."""
    probability: float | None
    """None = unknown."""
    stream: str = ""
    """Why people were asked to review it; empty = unknown."""


R = TypeVar("R")


@dataclass(frozen=True)
class ProbabilitySample(Generic[R]):
    """The rows that count, and how they were selected."""

    rows: list[R]
    unknown: int = 0
    """Left out because their probability is unknown."""
    thinned: int = 0
    """Left out so that all others have the same probability."""
    probability: float | None = None
    """Of each row; None = a team's own sample, whose sampling is unknown."""

    def plain(self) -> dict[str, Any]:
        """Return it for a report."""
        return {
            "rows": len(self.rows),
            "unknown": self.unknown,
            "thinned": self.thinned,
            "probability": self.probability,
            "said": self.said,
        }

    @property
    def said(self) -> str:
        """How the rows were drawn, as a sentence."""
        if self.probability is None:
            return (
                "How these rows were drawn is unknown. They are assumed to be a random sample of the devices' inputs."
            )
        left = []
        if self.unknown:
            left.append(f"{_rows(self.unknown, 'of unknown probability')} left out")
        if self.thinned:
            left.append(f"{_rows(self.thinned, 'of higher probability')} left out so that all rows have the same")
        drawn = f"These rows were drawn at random, each with probability {self.probability:g}"
        return f"{drawn}; {', '.join(left)}." if left else f"{drawn}."


def probability_of(plain: Mapping[str, Any], where: str) -> float | None:
    """Read the probability of a row; `where` names it. Raises InvalidRequest if it is not a probability."""
    value = plain.get("sampling_probability")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        message = f"{where}: 'sampling_probability' must be a number above 0 and up to 1"
        raise InvalidRequest(message, remedy="docs/data-formats.md shows the formats.")
    return float(value)


def equal_probability(rows: Sequence[R], drawn: Callable[[R], RowSampling]) -> ProbabilitySample[R]:
    """Return the rows that figures rest on, as the module describes. The result is deterministic."""
    every = [(row, *drawn(row)) for row in rows]
    if not any(stream or probability is not None for _, _, probability, stream in every):
        return ProbabilitySample(list(rows))
    known = [(row, key, probability) for row, key, probability, _ in every if probability is not None]
    smallest = min((probability for *_, probability in known), default=1.0)
    seen: Counter[str] = Counter()
    kept = []
    for row, key, probability in known:
        seen[key] += 1
        if _number(f"{SEED}:{key}:{seen[key]}") * probability < smallest * _HASHES:
            kept.append(row)
    return ProbabilitySample(kept, len(rows) - len(known), len(known) - len(kept), smallest)


def warnings(samples: Mapping[Any, ProbabilitySample[Any]]) -> Iterator[str]:
    """Yield a warning for each split from which rows were left out."""
    for split, drawn in samples.items():
        if drawn.unknown:
            have, are = ("has", "is") if drawn.unknown == 1 else ("have", "are")
            rows = f"{counted(drawn.unknown, 'row')} of the {split} split"
            yield f"{rows} {have} no sampling probability and {are} left out."
        if drawn.thinned > len(drawn.rows):
            yield (
                f"{_rows(drawn.thinned, f'of the {split} split')} left out, because the others were drawn with a"
                f" probability of only {drawn.probability:g}. Keep 'review_share' constant, and the same at all sites."
            )


def _rows(count: int, which: str) -> str:
    return f"{counted(count, 'row')} {which} {'is' if count == 1 else 'are'}"


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
