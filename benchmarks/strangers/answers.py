"""Asks a daemon over gRPC, as a device would, and figures of its answers to ordinary and to strange inputs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.strangers.bundles import Row
from edge_agent.client import Classification, Failure
from tests.support.daemon import RunningDaemon

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """A text, what the daemon answered, and what would be right; empty = the text has no label of the task."""

    text: str
    wanted: str
    label: str
    confident: bool
    p_value: float

    @property
    def right(self) -> bool:
        """Tell whether the label is the wanted one."""
        return bool(self.wanted) and self.label == self.wanted


def auroc(ordinary: Sequence[Asked], strange: Sequence[Asked]) -> float:
    """Return the probability that a strange input has the smaller p-value; a tie counts half."""
    inside, outside = p_values(ordinary), p_values(strange)
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    above = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(above / (len(inside) * len(outside)))


def p_values(asked: Sequence[Asked]) -> Floats:
    """Return the p-value of each."""
    return np.array([each.p_value for each in asked])


def share(flags: Sequence[bool]) -> float:
    """Return how many are true, of all."""
    return sum(flags) / len(flags)


def confident(asked: Sequence[Asked]) -> float:
    """Return the share of confident answers."""
    return share([each.confident for each in asked])


def accuracy(asked: Sequence[Asked]) -> float:
    """Return the share of right answers."""
    return share([each.right for each in asked])


def standard_error(value: float, count: int) -> float:
    """Return the standard error of a share."""
    return math.sqrt(max(value * (1 - value), 0.25 / count) / count)


def held_up(scores: Floats, held_up_max: float, resamples: int, rows: int) -> tuple[float, float]:
    """Return the mean share of ordinary inputs that a gate of `rows` of them holds up of the others, and its error.

    Each resample draws the rows of the gate again.
    """
    chance = np.random.default_rng(1)
    shares = []
    for _ in range(resamples):
        drawn = chance.permutation(scores)
        gate, others = np.sort(drawn[:rows]), drawn[rows:]
        stranger = len(gate) - np.searchsorted(gate, others, side="left")
        shares.append(float(((1 + stranger) / (rows + 1) <= held_up_max).mean()))
    return float(np.mean(shares)), float(np.std(shares) / math.sqrt(resamples))


_AT_ONCE = 32


def ask(bundle: Path, task: str, sets: Mapping[str, Sequence[Row]]) -> dict[str, list[Asked]]:
    """Serve a bundle in a separate daemon, and return its answers to each set of rows."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder))
        daemon.start_seconds_max = 300.0
        with daemon:
            daemon.install(bundle)
            return {name: _answers(daemon, task, rows) for name, rows in sets.items()}


def _answers(daemon: RunningDaemon, task: str, rows: Sequence[Row]) -> list[Asked]:
    found: list[Asked] = []
    with daemon.client() as client:
        for at in range(0, len(rows), _AT_ONCE):
            some = rows[at : at + _AT_ONCE]
            said = client.classify(task, [row.text for row in some], timeout_seconds=120.0)
            found += [_asked(*pair) for pair in zip(some, said, strict=True)]
    return found


def _asked(row: Row, said: Classification | Failure) -> Asked:
    if isinstance(said, Failure):  # a letter that the tokenizer does not know: no answer, so none that is confident
        return Asked(row.text, row.label, "", confident=False, p_value=0.0)
    # A bundle without a gate holds nothing up.
    p_value = 1.0 if said.p_value is None else said.p_value
    return Asked(row.text, row.label, said.label, not said.below_threshold, p_value)
