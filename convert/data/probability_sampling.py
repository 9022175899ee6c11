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
            "said": self.sentence,
        }

    @property
    def sentence(self) -> str:
        """How the rows were drawn, as a sentence."""
        if self.probability is None:
            return (
                "How these rows were drawn is unknown. They are assumed to be a random sample of the devices' inputs."
            )
        omissions = []
        if self.unknown:
            omissions.append(f"{_rows(self.unknown, 'of unknown probability')} left out")
        if self.thinned:
            omissions.append(f"{_rows(self.thinned, 'of higher probability')} left out so that all rows have the same")
        text = f"These rows were drawn at random, each with probability {self.probability:g}"
        return f"{text}; {', '.join(omissions)}." if omissions else f"{text}."


def probability_of(plain: Mapping[str, Any], place: str) -> float | None:
    """Read the probability of a row; `place` names it. Raises InvalidRequest if it is not a probability."""
    value = plain.get("sampling_probability")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        message = f"{place}: 'sampling_probability' must be a number above 0 and up to 1"
        raise InvalidRequest(message, remedy="docs/data-formats.md shows the formats.")
    return float(value)


def equal_probability(rows: Sequence[R], sampling_of: Callable[[R], RowSampling]) -> ProbabilitySample[R]:
    """Return the rows that figures rest on, as the module describes. The result is deterministic."""
    sampled = [(row, *sampling_of(row)) for row in rows]
    if not any(stream or probability is not None for _, _, probability, stream in sampled):
        return ProbabilitySample(list(rows))
    with_probability = [(row, key, probability) for row, key, probability, _ in sampled if probability is not None]
    smallest = min((probability for *_, probability in with_probability), default=1.0)
    seen: Counter[str] = Counter()
    sample = []
    for row, key, probability in with_probability:
        seen[key] += 1
        if _hash(f"{SEED}:{key}:{seen[key]}") * probability < smallest * _HASHES:
            sample.append(row)
    return ProbabilitySample(sample, len(rows) - len(with_probability), len(with_probability) - len(sample), smallest)


def warnings(samples: Mapping[Any, ProbabilitySample[Any]]) -> Iterator[str]:
    """Yield a warning for each split from which rows were left out."""
    for split, sample in samples.items():
        if sample.unknown:
            have, are = ("has", "is") if sample.unknown == 1 else ("have", "are")
            rows = f"{counted(sample.unknown, 'row')} of the {split} split"
            yield f"{rows} {have} no sampling probability and {are} left out."
        if sample.thinned > len(sample.rows):
            yield (
                f"{_rows(sample.thinned, f'of the {split} split')} left out, because the others were drawn with a"
                f" probability of only {sample.probability:g}. Keep 'review_share' constant, and the same at all sites."
            )


def _rows(count: int, description: str) -> str:
    return f"{counted(count, 'row')} {description} {'is' if count == 1 else 'are'}"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
