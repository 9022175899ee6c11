"""Classification by scoring: how likely is each label as the model's answer?

The score of a label is its joint log-probability: the sum, over its tokens, of log p(token | prompt, tokens before).
The sum is not divided by the number of tokens, and the end of the answer is not scored: a label that is the beginning
of another ("return", "return goods") scores at least as high as that one. Labels of a task should not be built so.

The first token of every label is read from the prompt's last row. A longer label needs the model again: its tokens but
the last, its *branch*, are computed behind the prompt. Labels that differ in the last token only share a branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import ModelLoadFailed

LABEL_TOKENS_MAX = 32

Tokens = tuple[int, ...]
Logits = NDArray[np.float32]
LogProbs = NDArray[np.float64]


def log_probs(logits: Logits, tokens: Sequence[int]) -> LogProbs:
    """Return the log-softmax over the vocabulary at the given tokens."""
    peak = logits.max()
    total = np.exp(logits - peak).sum(dtype=np.float64)
    chosen: LogProbs = logits[list(tokens)].astype(np.float64)
    return chosen - (float(peak) + float(np.log(total)))


class LabelTree:
    """The tokens of a task's labels, arranged by branch."""

    def __init__(self, labels: Sequence[str], tokens: Sequence[Tokens]) -> None:
        """Raises ModelLoadFailed if a label cannot be told from another, or has too many tokens."""
        self.size = len(labels)
        self.members: dict[Tokens, list[tuple[int, int]]] = {}
        """Of each branch, empty for labels of one token: index and last token of its labels."""
        seen: dict[Tokens, str] = {}
        for index, (label, path) in enumerate(zip(labels, tokens, strict=True)):
            if not 1 <= len(path) <= LABEL_TOKENS_MAX:
                raise ModelLoadFailed(f"label {label!r} has {len(path)} tokens; 1 to {LABEL_TOKENS_MAX} are allowed")
            if path in seen:
                raise ModelLoadFailed(f"labels {seen[path]!r} and {label!r} are the same tokens for this model")
            seen[path] = label
            self.members.setdefault(path[:-1], []).append((index, path[-1]))
        self.branches: tuple[Tokens, ...] = tuple(branch for branch in self.members if branch)


class Tally:
    """Adds up the joint log-probabilities of one input's labels."""

    def __init__(self, tree: LabelTree) -> None:
        """Start with nothing known."""
        self._tree = tree
        self._first: dict[Tokens, float] = {}
        self.joint: LogProbs = np.full(tree.size, -np.inf)

    def add_prompt(self, logits: Logits) -> None:
        """Take the logits behind the prompt: they settle the first token of every label."""
        branches = self._tree.branches
        starts = log_probs(logits, [branch[0] for branch in branches])
        self._first = dict(zip(branches, starts.tolist(), strict=True))
        self._settle((), 0.0, logits)

    def add_branch(self, branch: Tokens, rows: Sequence[Logits]) -> None:
        """Take the logits behind each token of a branch."""
        inner = sum(log_probs(row, [token])[0] for row, token in zip(rows, branch[1:], strict=False))
        self._settle(branch, self._first[branch] + float(inner), rows[-1])

    def _settle(self, branch: Tokens, so_far: float, logits: Logits) -> None:
        members = self._tree.members.get(branch, [])
        indexes = [index for index, _ in members]
        self.joint[indexes] = so_far + log_probs(logits, [last for _, last in members])


def scores_of(joint: LogProbs, temperature: float) -> tuple[tuple[float, ...], float]:
    """Return the labels' probabilities and the label mass.

    The probabilities are renormalised over the labels at the temperature (Guo et al. 2017, arXiv 1706.04599) and add up
    to 1. The label mass, 0 to 1, is what the model gave to all labels together before: little means that the input is
    unlike what the task was made for.
    """
    scaled = (joint - joint.max()) / temperature
    weights = np.exp(scaled)
    mass = float(np.exp(joint).sum())
    return tuple((weights / weights.sum()).tolist()), min(1.0, mass)
