"""How much an artefact lost against the model at full precision. Pure.

Accuracy hardly shows what quantizing does, as right answers that are lost and won cancel out; agreement and divergence
do. The measures are those of llama.cpp (tools/perplexity/README.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from convert.verify import probes


@dataclass(frozen=True)
class ArtefactLoss:
    """Over rows: texts, or tokens."""

    kl_mean: float
    """Kullback-Leibler divergence of the artefact's distribution from the reference's, in nats."""
    kl_p999: float
    """The value that 99.9 % of the rows stay below; the largest, with less than 1000 rows."""
    agreement: float
    """Share of rows with the same best class."""
    rows: int

    def report(self) -> dict[str, float]:
        """Return the figures for a report."""
        return asdict(self)


def between(reference: NDArray[np.floating], other: NDArray[np.floating]) -> ArtefactLoss:
    """Compare [rows, classes] of logits or log-probabilities."""
    kl = np.concatenate(
        [probes.divergences(reference[at : at + 64], other[at : at + 64]) for at in range(0, len(other), 64)]
    )
    same = reference.argmax(axis=-1) == other.argmax(axis=-1)
    return ArtefactLoss(float(kl.mean()), float(np.quantile(kl, 0.999, method="higher")), float(same.mean()), len(kl))
