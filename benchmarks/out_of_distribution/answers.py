"""Asks a daemon over gRPC, as a device would; figures of its answers to ordinary inputs and to others."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.out_of_distribution.bundles import Row
from edge_agent.client import Classification, Failure
from tests.support.daemon import RunningDaemon

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OodAnswer:
    """The daemon's answer to a text."""

    text: str
    true_label: str
    """Empty = the text has no label of the task."""
    label: str
    confident: bool
    p_value: float

    @property
    def correct(self) -> bool:
        """Whether the label is the true one."""
        return bool(self.true_label) and self.label == self.true_label


def auroc(ordinary: Sequence[OodAnswer], unlike: Sequence[OodAnswer]) -> float:
    """Return the probability that an input unlike the training data has the smaller p-value; a tie counts half."""
    inside, outside = p_values(ordinary), p_values(unlike)
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    above = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(above / (len(inside) * len(outside)))


def p_values(answers: Sequence[OodAnswer]) -> Floats:
    """Return the p-value of each."""
    return np.array([answer.p_value for answer in answers])


def share(flags: Sequence[bool]) -> float:
    """Return how many are true, of all."""
    return sum(flags) / len(flags)


def confident(answers: Sequence[OodAnswer]) -> float:
    """Return the share of confident answers."""
    return share([answer.confident for answer in answers])


def accuracy(answers: Sequence[OodAnswer]) -> float:
    """Return the share of correct answers."""
    return share([answer.correct for answer in answers])


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
        at_least_as_unusual = len(gate) - np.searchsorted(gate, others, side="left")
        shares.append(float(((1 + at_least_as_unusual) / (rows + 1) <= held_up_max).mean()))
    return float(np.mean(shares)), float(np.std(shares) / math.sqrt(resamples))


_AT_ONCE = 32


def ask(bundle: Path, task: str, sets: Mapping[str, Sequence[Row]]) -> dict[str, list[OodAnswer]]:
    """Serve a bundle in a separate daemon, and return its answers to each set of rows."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder))
        daemon.start_seconds_max = 300.0
        with daemon:
            daemon.install(bundle)
            return {name: _answers(daemon, task, rows) for name, rows in sets.items()}


def _answers(daemon: RunningDaemon, task: str, rows: Sequence[Row]) -> list[OodAnswer]:
    answers: list[OodAnswer] = []
    with daemon.client() as client:
        for start in range(0, len(rows), _AT_ONCE):
            batch = rows[start : start + _AT_ONCE]
            results = client.classify(task, [row.text for row in batch], timeout_seconds=120.0)
            answers += [_answer(row, result) for row, result in zip(batch, results, strict=True)]
    return answers


def _answer(row: Row, result: Classification | Failure) -> OodAnswer:
    if isinstance(result, Failure):  # a letter that the tokenizer does not know: no answer, so none that is confident
        return OodAnswer(row.text, row.label, "", confident=False, p_value=0.0)
    # A bundle without a gate holds nothing up.
    p_value = 1.0 if result.p_value is None else result.p_value
    return OodAnswer(row.text, row.label, result.label, not result.below_threshold, p_value)
