"""The losses of an encoder's head, which learns an answer to each question about a text, or a tag for each word.

One layer computes the outputs of all questions, one after the other. The loss of a question is the cross-entropy of its
softmax against the row's label or distribution; a row without an answer to a question does not count there. A classify
task is one question. A classify task can also ask for a margin between its labels (`CosineMargin`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize, one_hot
from torch.nn.utils.rnn import pad_sequence

from convert.encoder.bio_tags import UNREAD
from edge_agent.formats.manifest import TaskSpec


@dataclass(frozen=True)
class EncodedRow:
    """One row, encoded."""

    inputs: dict[str, list[int]]
    """The token ids."""
    tags: tuple[int, ...] = ()
    """extract: the tag of each token."""
    targets: tuple[float, ...] = ()
    """The probability of each output of all questions; all 0 for a question that the row does not answer."""
    misfits: int = 0
    """extract: spans that begin or end inside a word."""

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return len(self.inputs["input_ids"])


class EncoderObjective(Protocol):
    """The loss of logits against rows."""

    def loss(self, logits: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the mean loss of a batch, in nats."""

    def validation_sums(self, logits: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return [4], on the CPU: the sum of losses, their number, the number of right answers, and of all answers."""

    def uniformity(self, logits: torch.Tensor) -> torch.Tensor:
        """Return how far the distributions of texts without a label are from uniform, in nats."""


class TagObjective:
    """extract: a tag for each word. A row is right if all its tags are."""

    def loss(self, logits: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the mean loss of a word; 0 if no row has a word, such as rows of invisible characters."""
        expected = self._tags(logits, rows).flatten()
        losses = cross_entropy(logits.flatten(0, -2), expected, ignore_index=UNREAD, reduction="sum")
        return losses / expected.ne(UNREAD).sum().clamp(min=1)

    def validation_sums(self, logits: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the sums over words, and the rows that are right as a whole."""
        expected = self._tags(logits, rows)
        losses = cross_entropy(logits.flatten(0, -2), expected.flatten(), ignore_index=UNREAD, reduction="sum")
        right = (logits.argmax(-1).eq(expected) | expected.eq(UNREAD)).all(-1).sum()
        return torch.tensor([float(losses), float(expected.ne(UNREAD).sum()), float(right), len(rows)])

    def uniformity(self, logits: torch.Tensor) -> torch.Tensor:
        """Return it over tags."""
        return uniformity(logits)

    def _tags(self, logits: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the tags, [rows, tokens]."""
        tags = [torch.tensor(row.tags) for row in rows]
        return pad_sequence(tags, batch_first=True, padding_value=UNREAD).to(logits.device)


class QuestionObjective:
    """classify and decide: an answer to each question."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float] = (), log_priors: Sequence[float] = ()) -> None:
        """Take the number of outputs of each question, the weight of each output (none = equal weights), and an offset
        of each logit during training (none = no offsets; see `log_priors`)."""
        self._sizes = list(sizes)
        self._weights = torch.tensor(list(weights) or [1.0] * sum(sizes))
        self._log_priors = torch.tensor(list(log_priors) or [0.0] * sum(sizes))

    def loss(self, logits: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the weighted mean loss of an answer."""
        targets = self._targets(logits, rows)
        weighted = targets * self._weights.to(targets.device)
        adjusted = logits + self._log_priors.to(logits.device)
        # A batch in which no row answers any question has the loss 0.
        return -(weighted * self._log_probabilities(adjusted)).sum() / weighted.sum().clamp(min=1e-12)

    def validation_sums(self, logits: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the sums over answers, as they are served: without weights and priors; the likeliest output of a
        distribution is right."""
        targets = self._targets(logits, rows)
        losses = -(targets * self._log_probabilities(logits)).sum()
        right = answered = 0
        pairs = zip(logits.split(self._sizes, -1), targets.split(self._sizes, -1), strict=True)
        for question_logits, question_targets in pairs:
            has_answer = question_targets.sum(-1) > 0
            answered += int(has_answer.sum())
            right += int((question_logits.argmax(-1).eq(question_targets.argmax(-1)) & has_answer).sum())
        return torch.tensor([float(losses), float(answered), float(right), float(answered)])

    def uniformity(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the mean over questions."""
        return torch.stack([uniformity(part) for part in logits.split(self._sizes, -1)]).mean()

    def _log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the log-softmax of each question, [rows, outputs of all]."""
        return torch.cat([part.log_softmax(-1) for part in logits.split(self._sizes, -1)], -1)

    def _targets(self, logits: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the distributions, [rows, outputs of all]."""
        return torch.tensor([row.targets for row in rows], dtype=logits.dtype, device=logits.device)


def objective_of(task: TaskSpec, weights: Sequence[float] = (), log_priors: Sequence[float] = ()) -> EncoderObjective:
    """Return the objective of a task; `weights` and `log_priors` are of the outputs of all questions, or empty."""
    sizes = [len(question.outputs) for question in task.questions_asked]
    if not sizes:
        return TagObjective()
    return QuestionObjective(sizes, weights, log_priors)


def uniformity(logits: torch.Tensor) -> torch.Tensor:
    """Return how far distributions over the last axis are from uniform, in nats; 0 = uniform.

    Outlier exposure: Hendrycks et al. 2019 (arXiv 1812.04606).
    """
    return -logits.log_softmax(-1).mean() - math.log(logits.shape[-1])


def balanced_weights(rows: Sequence[EncodedRow], sizes: Sequence[int]) -> list[float]:
    """Return a weight for each output, with which all outputs of a question count equally, however many rows they have.

    The weights of a question's answers have the mean 1; an output without a row has the weight 0.
    """
    weights: list[float] = []
    for part in _counts(rows, sizes):
        outputs_seen = int((part > 0).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            weights += np.where(part > 0, part.sum() / (max(1, outputs_seen) * part), 0.0).tolist()
    return weights


def log_priors(rows: Sequence[EncodedRow], sizes: Sequence[int]) -> list[float]:
    """Return the logarithm of the share of each output among a question's answers; an output without a row counts as
    one with one row.

    A model that learns with them added to its logits, and answers without them, answers as if every output of a
    question were equally frequent (logit-adjusted loss: Menon et al. 2021, arXiv 2007.07314). Weights hardly do that
    for a model that gets every training row right, since these rows have no loss to be weighted.
    """
    priors: list[float] = []
    for part in _counts(rows, sizes):
        priors += np.log(np.maximum(part, 1.0) / max(1.0, part.sum())).tolist()
    return priors


def _counts(rows: Sequence[EncodedRow], sizes: Sequence[int]) -> list[Any]:
    """Return how many rows each output of a question has, a question at a time."""
    counts: Any = np.sum([row.targets for row in rows], axis=0)
    return np.split(counts, np.cumsum(list(sizes))[:-1])


SCALE, MARGIN = 16.0, 0.15
"""The factor of the cosines before the softmax; the margin that is subtracted from the cosine of the own label."""
RATE_FACTOR = 10.0
"""Learning rate of the directions as a multiple of the encoder's."""


class CosineMargin:
    """A margin between the labels in the angle of an encoder's vectors: a loss in addition to that of the answers.

    The cross-entropy of the answers hardly changes once a row is on the right side. This loss also pulls the row
    towards the direction of its label and away from those of the others (large margin cosine loss: Wang et al. 2018,
    arXiv 1801.09414; for intents that are unknown: Lin & Xu 2019, ACL P19-1548). Texts of a missing label then lie
    between the other labels instead of within one, so the out-of-distribution score of the bundle detects them
    (decision 0075). The direction of each label is learned with the encoder and not kept.
    """

    def __init__(self, head: torch.nn.Linear, weight: float) -> None:
        """Start with the directions of the head's rows, [labels, size]; `weight` is that of the loss."""
        self.directions = torch.nn.Parameter(normalize(head.weight.detach().clone(), dim=-1))
        self._weight = weight

    def loss(self, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean loss in nats of vectors [rows, size] with the numbers of their labels [rows]."""
        cosines = normalize(vectors, dim=-1) @ normalize(self.directions, dim=-1).T
        lowered = cosines - MARGIN * one_hot(labels, cosines.shape[1])
        return self._weight * cross_entropy(SCALE * lowered, labels)
