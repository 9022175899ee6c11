"""How often the bound on missed values holds: synthetic documents with known values, drawn repeatedly.

Each document has up to six values, and a difficulty of its own, so that its values are found or missed together; some
families are alike. A value has a probability that the model finds it at each cut-off. The product's own rule
(convert.calibrate.redaction_cutoff) chooses a cut-off from a sample, and the share that truly remains at this cut-off
is held against the promise. The naive rule, which takes the highest cut-off whose share in the sample is in order, is
beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.bars import Bar
from convert.calibrate.redaction_cutoff import CUTOFFS, CutoffChoice, MarkedDocument, MissedTarget, choose_cutoff

RESAMPLES = 1000
TARGET = MissedTarget(missed_max=0.05, delta=0.1)
FAMILIES = 400
"""Of a sample."""
_SEED, _POPULATION = 29, 40_000
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Population:
    """All families of one kind of text: values of a document, and how many remain at each cut-off."""

    name: str
    values: Integers
    """[families, documents]."""
    missed: Integers
    """[cut-offs, families, documents]."""

    def truth(self, cutoff: float) -> float:
        """Return the share of values that remain at a cut-off."""
        return float(self.missed[CUTOFFS.index(cutoff)].sum() / self.values.sum())


@dataclass(frozen=True)
class TextKind:
    """How the made-up documents are made."""

    name: str
    spread: float
    """Makes values of a document remain together; 0 = they are independent."""
    alike: int
    """Documents of a family."""
    levels: tuple[float, float]
    """Share that remains at the lowest and at the highest cut-off, by the target. Between 0.3 and 1.7 the middle one
    leaves just the target; from 1.02 on every cut-off breaks the promise, so each proof is a false one."""


def population(kind: TextKind, families: int = _POPULATION) -> Population:
    """Make all families."""
    rng = np.random.default_rng(_SEED)
    values = np.repeat(rng.integers(0, 7, (families, 1)), kind.alike, axis=1)
    levels = TARGET.missed_max * np.linspace(*kind.levels, len(CUTOFFS))
    spread = kind.spread
    difficulty = rng.gamma(1 / spread, spread, (families, 1)) if spread else np.ones((families, 1))
    left = np.zeros((len(CUTOFFS), families, kind.alike), dtype=np.int64)
    luck = rng.random((families, kind.alike, 6))
    there = np.arange(6) < values[..., None]
    for place, level in enumerate(levels):
        remains = luck < np.minimum(level * difficulty, 1.0)[..., None]
        left[place] = (remains & there).sum(axis=2)
    return Population(kind.name, values, left)


KINDS = (
    TextKind("values independent", 0.0, 1, (0.3, 1.7)),
    TextKind("values missed together", 8.0, 1, (0.3, 1.7)),
    TextKind("families of 4", 8.0, 4, (0.3, 1.7)),
    TextKind("no cut-off is good", 2.0, 1, (1.02, 2.0)),
)


def sample_choice(drawn: Population, families: Integers) -> CutoffChoice:
    """Choose a cut-off from some of the families, as `edge-convert calibrate` does."""
    alike = drawn.values.shape[1]
    documents = [
        MarkedDocument(f"f{place}", int(drawn.values[number, each]))
        for place, number in enumerate(families)
        for each in range(alike)
    ]
    return choose_cutoff(documents, lambda cutoff: _missed(drawn, families, cutoff), TARGET)


def _missed(drawn: Population, families: Integers, cutoff: float) -> list[int]:
    missed: list[int] = drawn.missed[CUTOFFS.index(cutoff)][families].ravel().tolist()
    return missed


def bound_bars(resamples: int = RESAMPLES) -> Iterator[Bar]:
    """Yield the share of samples whose chosen cut-off misses more than was promised, for each kind of text."""
    limit = TARGET.delta + 2 * math.sqrt(TARGET.delta * (1 - TARGET.delta) / resamples)
    for kind in KINDS:
        drawn, rng = population(kind), np.random.default_rng(_SEED + 1)
        truth = [drawn.truth(cutoff) for cutoff in CUTOFFS]
        broken = chosen = naive = 0
        for _ in range(resamples):
            families = rng.integers(0, len(drawn.values), FAMILIES)
            cutoff = sample_choice(drawn, families).cutoff
            chosen += cutoff is not None
            broken += cutoff is not None and truth[CUTOFFS.index(cutoff)] > TARGET.missed_max
            seen = drawn.missed[:, families].sum(axis=(1, 2)) / max(1, drawn.values[families].sum())
            best = max((place for place, share in enumerate(seen) if share <= TARGET.missed_max), default=None)
            naive += best is not None and truth[best] > TARGET.missed_max
        said = f"bound, {kind.name}, {resamples} resamples of {FAMILIES} families"
        yield Bar(f"{said}: missed more than promised", broken / resamples, limit, "lower")
        yield Bar(f"{said}: a cut-off was proved", chosen / resamples, None, "higher")
        yield Bar(f"{said}: the naive rule missed more", naive / resamples, None, "lower")
