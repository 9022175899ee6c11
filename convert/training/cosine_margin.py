"""A margin between the labels, in the angle of an encoder's vectors: a loss beside that of the answers.

    margin = CosineMargin(head, weight=0.5)
    loss = objective.loss(logits, rows) + margin.loss(vectors, labels)

The cross-entropy of the answers is content once a row is on the right side. This one also wants it near the direction
of its label and far from those of the others (large margin cosine loss: Wang et al. 2018, arXiv 1801.09414; for intents
that are unknown: Lin & Xu 2019, ACL P19-1548). Texts of a label that is missing then lie between the others instead of
among one of them, and the out-of-distribution score of the bundle sees them. See docs/decisions/0075.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, normalize, one_hot

SCALE, MARGIN = 16.0, 0.15
"""Of the cosines before the softmax; what the cosine with the own label must be larger by."""
RATE_FACTOR = 10.0
"""Learning rate of the directions as a multiple of the encoder's."""


class CosineMargin:
    """The loss, and a direction for each label, which is learned with the encoder and not kept."""

    def __init__(self, head: torch.nn.Linear, weight: float) -> None:
        """Start with the directions of the head's rows, [labels, size]; `weight` is that of the loss."""
        self.directions = torch.nn.Parameter(normalize(head.weight.detach().clone(), dim=-1))
        self._weight = weight

    def loss(self, vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean loss in nats of vectors [rows, size] with the numbers of their labels [rows]."""
        cosines = normalize(vectors, dim=-1) @ normalize(self.directions, dim=-1).T
        demanded = cosines - MARGIN * one_hot(labels, cosines.shape[1])
        return self._weight * cross_entropy(SCALE * demanded, labels)
