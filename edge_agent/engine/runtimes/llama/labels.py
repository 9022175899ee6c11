"""Classification by scoring: how likely is each label as the model's answer?

The score of a label is its joint log-probability: the sum, over its tokens, of log p(token | prompt, tokens before).
The sum is not divided by the number of tokens, and the end of the answer is not scored: a label that is the beginning
of another ("return", "return goods") scores at least as high as that one. Labels of a task should not be built so.

What the model has to compute behind the prompt is arranged in `label_tree.py`; here the logits become scores.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.engine.runtimes.llama.label_tree import ROOT, LabelTree, Tokens, TreeChunk

Logits = NDArray[np.float32]
LogProbs = NDArray[np.float64]


def log_probs(logits: Logits, tokens: Sequence[int] | NDArray[np.intp]) -> LogProbs:
    """Return the log-softmax over the vocabulary at the given tokens.

    Summed pairwise in single precision: 1e-7 from the sum in double precision, which takes a third longer.
    """
    peak, shares = logits.max(), scratch(logits.size)
    np.subtract(logits, peak, out=shares)
    total = np.exp(shares, out=shares).sum()
    chosen: LogProbs = logits[np.asarray(tokens, np.intp)].astype(np.float64)
    return chosen - (float(peak) + float(np.log(float(total))))


@functools.lru_cache(1)
def scratch(size: int) -> Logits:
    """Return where the one thread that computes works on a row: memory that is new each time costs as much again."""
    return np.empty(size, np.float32)


class Tally:
    """Adds up the joint log-probabilities of one input's labels, each from its first token to its last.

    The sums are to the last bit those of one walk per label, in whatever steps the tree is computed.
    """

    def __init__(self, tree: LabelTree) -> None:
        """Start with nothing known."""
        self._tree = tree
        self._reached: LogProbs = np.zeros(len(tree.edges))
        self.joint: LogProbs = np.full(tree.size, -np.inf)

    def add_prompt(self, logits: Logits) -> None:
        """Take the logits behind the prompt: they settle the first token of every label."""
        self._settle(ROOT, logits)

    def add_chunk(self, chunk: TreeChunk, rows: Iterable[Logits]) -> None:
        """Take the logits behind the wanted rows of a chunk, in their order; chunks come in the order of the tree."""
        for node, logits in zip(chunk.nodes, rows, strict=True):
            self._settle(node, logits)

    def add_branch(self, branch: Tokens, rows: Iterable[Logits]) -> None:
        """Take the logits behind each token of a branch, computed on its own."""
        for node, logits in zip(self._tree.nodes_of[branch], rows, strict=True):
            self._settle(node, logits)

    def _settle(self, node: int, logits: Logits) -> None:
        edges = self._tree.edges[node]
        joint = self._reached[node] + log_probs(logits, edges.tokens)
        inner = len(edges.nodes)
        self._reached[edges.nodes] = joint[:inner]
        self.joint[edges.labels] = joint[inner:]


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
