"""Finds labels that are likely wrong: confident learning (Northcutt, Jiang & Chuang 2021, arXiv 1911.00068). Pure.

A linear classifier is fitted on four fifths of the rows and judges the others, five times: no row is judged by a model
that saw its label, or the label of a row of its family. Then, as in the paper:

- the self-confidence of a row is the probability of the label that it has; a label's threshold is the mean
  self-confidence of its rows;
- the confident label of a row is the most probable one among the labels whose threshold its probability reaches. The
  counts of given and confident labels, scaled to the rows of each given label, estimate how many labels are wrong;
- rows are ranked by self-confidence, the lowest first, and the estimated number of them is listed.

It assumes that a label is confused with another one independently of the text, and that most labels are right. The list
is for review by an expert: it contains rare wordings of right labels, and misses errors in most rows of a kind.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convert.data import splits
from convert.encoder import linear

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FOLDS = 5
ROWS_MIN = 100
DECAY = 1.5e-2
"""Weight decay, stronger than for a served classifier, because a fit that follows wrong labels does not contradict
them."""


@dataclass(frozen=True)
class SuspectLabel:
    """A row whose label is likely wrong."""

    row: int
    given: str
    suggested: str
    """The most probable of the other labels."""
    given_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class LabelErrors:
    """The ranked labels."""

    judged: int
    """Rows of labels with at least FOLDS families."""
    unjudged: int
    estimated: int
    """Labels that are likely wrong."""
    agreement: float
    """Share of the judged rows whose label the other folds' classifier predicts."""
    ranked: tuple[SuspectLabel, ...]
    """Every judged row, the least probable label first."""

    @property
    def suspects(self) -> list[SuspectLabel]:
        """The estimated number of rows, and only rows for which another label is more probable."""
        return [each for each in self.ranked[: self.estimated] if each.suggested_probability > each.given_probability]


def find(
    vectors: Callable[[], npt.ArrayLike], given: Sequence[str], families: Sequence[str], seed: str = "1"
) -> LabelErrors | None:
    """Rank labels; None with fewer than ROWS_MIN rows that can be judged, or one label.

    Args:
        vectors: returns [rows, size]; called only if there are enough rows.
        given: [rows], labels.
        families: [rows]; rows that share one stay together.
        seed: for dividing the families.
    """
    places = _judged(given, families)
    labels = sorted({given[place] for place in places})
    if len(places) < ROWS_MIN or len(labels) < 2:
        return None
    numbers = {label: number for number, label in enumerate(labels)}
    truth = np.array([numbers[given[place]] for place in places])
    folds = _dealt([labels[number] for number in truth], [families[place] for place in places], seed)
    chances = _out_of_fold(np.asarray(vectors(), np.float64)[places], truth, folds, len(labels))
    own = chances[np.arange(len(truth)), truth]
    others = chances.copy()
    others[np.arange(len(truth)), truth] = -1.0
    best = others.argmax(axis=1)
    ranked = tuple(
        SuspectLabel(int(places[at]), labels[truth[at]], labels[best[at]], float(own[at]), float(others[at, best[at]]))
        for at in np.lexsort((own - others.max(axis=1), own))
    )
    agreement = float((own > others.max(axis=1)).mean())
    return LabelErrors(len(places), len(given) - len(places), _estimated(chances, truth), agreement, ranked)


def _judged(given: Sequence[str], families: Sequence[str]) -> Integers:
    """Return the rows whose label has enough families for every fold."""
    known = defaultdict[str, set[str]](set)
    for label, family in zip(given, families, strict=True):
        known[label].add(family)
    return np.array([row for row, label in enumerate(given) if len(known[label]) >= FOLDS], np.int64)


def _dealt(given: Sequence[str], families: Sequence[str], seed: str) -> Integers:
    """Return the fold of each row: each label is spread over the folds, and each family is in one."""
    rows = defaultdict[str, list[int]](list)
    for row, family in enumerate(families):
        rows[family].append(row)
    by_label = defaultdict[str, dict[str, list[int]]](dict)
    for family, members in rows.items():
        label = Counter(given[row] for row in members).most_common(1)[0][0]
        by_label[label][family] = members
    folds, shares = np.zeros(len(given), np.int64), {str(fold): 1 / FOLDS for fold in range(FOLDS)}
    for label in sorted(by_label):
        for fold, dealt in splits.deal_groups(by_label[label], f"{seed} {label}", shares).items():
            folds[dealt] = int(fold)
    return folds


def _out_of_fold(vectors: Floats, truth: Integers, folds: Integers, labels: int) -> Floats:
    chances = np.zeros((len(truth), labels))
    for fold in range(FOLDS):
        asked = folds == fold
        fitted = linear.fit(vectors[~asked], truth[~asked], labels, DECAY)
        chances[asked] = np.exp(fitted.log_probabilities(vectors[asked]))
    return chances


def _estimated(chances: Floats, truth: Integers) -> int:
    """Return the number of wrong labels by the confident joint, scaled to the rows of each label."""
    labels = chances.shape[1]
    thresholds = np.array([chances[truth == label, label].mean() for label in range(labels)])
    reached = np.where(chances >= thresholds, chances, -1.0)
    counted = reached.max(axis=1) >= 0
    joint = np.zeros((labels, labels))
    np.add.at(joint, (truth[counted], reached.argmax(axis=1)[counted]), 1)
    scaled = joint * (np.bincount(truth, minlength=labels) / np.maximum(joint.sum(axis=1), 1))[:, None]
    return round(float(scaled.sum() - np.trace(scaled)))
