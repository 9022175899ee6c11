"""From logits to probabilities: of labels, each shared beginning computed once, and of the next token. Pure.

The first token of every label is read from the prompt's last row. A longer label needs the model again, after each of
its tokens but the last. Those beginnings are the nodes of a tree, whose root is the prompt itself. A node is one row of
a batch, however many labels continue after it.

A *branch* is the way from the prompt to a leaf of that tree. While the tree is computed every branch has a sequence
forked from the prompt's, and the row of a node belongs to the sequences of all branches through it. Branches are in
the order of a walk through the tree, so those are neighbours.

A tree that does not fit into a step is cut between branches into *chunks*. Nodes on the way to the first branch of a
chunk that an earlier one has computed are computed once more, for their place in the cache; their logits are known.

The next token of a written text is drawn by inverting the cumulative distribution (Devroye 1986, chapter III): its
probability is the softmax of the logits over the temperature, the tokens stand in the order of their numbers, and the
first one whose cumulative probability exceeds a uniform random number is drawn. Nothing is sorted, and only one block
of BLOCK probabilities is added up token by token. llama.cpp's own sampler, which makes 12 bytes of each token first,
takes ten times as long with a vocabulary of 262,144.
"""

from __future__ import annotations

import codecs
import functools
import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_agent.engine.runtimes.llama.step_costs import ROWS_GROUP
from edge_agent.errors import ModelLoadFailed

LABEL_TOKENS_MAX = 32
CHUNKS_KEPT = 256
"""Of one tree; the same few are needed again and again."""
ROOT = 0

Tokens = tuple[int, ...]
Indexes = NDArray[np.intp]


class NodeEdges(NamedTuple):
    """The tokens that may follow a node: first those that lead to other nodes, then those that end a label."""

    tokens: Indexes
    nodes: Indexes
    labels: Indexes


NO_EDGES = NodeEdges(*(np.empty(0, np.intp) for _ in range(3)))


class TreeChunk(NamedTuple):
    """Rows for one batch: parents before children, and branch after branch.

    Branch i of the chunk, from 0, has a sequence of its own, forked from the prompt's; row r belongs to those of the
    branches first[r] to last[r], the last excluded.
    """

    branches: int
    """How many sequences the chunk needs."""
    next: int
    """The branch of the tree after the chunk."""
    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    """Positions after the prompt, from 0."""
    first: tuple[int, ...]
    last: tuple[int, ...]
    known: int
    """How many of the first rows were computed before: their logits are not needed, those of all other rows are."""
    nodes: tuple[int, ...]
    """The nodes of the tree whose logits are needed, row by row."""


class _LabelNode:
    """A beginning of labels while the tree is built."""

    def __init__(self) -> None:
        self.inner: dict[int, _LabelNode] = {}
        self.ends: dict[int, int] = {}


class LabelTree:
    """The tokens of a task's labels, arranged by what they begin with."""

    def __init__(self, labels: Sequence[str], tokens: Sequence[Tokens]) -> None:
        """Raises ModelLoadFailed if a label cannot be told from another, or has too many tokens."""
        self.size = len(labels)
        root = _LabelNode()
        for index, (label, path) in enumerate(zip(labels, tokens, strict=True)):
            if not 1 <= len(path) <= LABEL_TOKENS_MAX:
                raise ModelLoadFailed(f"label {label!r} has {len(path)} tokens; 1 to {LABEL_TOKENS_MAX} are allowed")
            node = root
            for token in path[:-1]:
                node = node.inner.setdefault(token, _LabelNode())
            twin = node.ends.setdefault(path[-1], index)
            if twin != index:
                raise ModelLoadFailed(f"labels {labels[twin]!r} and {label!r} are the same tokens for this model")
        self.edges: list[NodeEdges] = []
        """By node; ROOT is the first."""
        self._token: list[int] = []
        self._span: list[tuple[int, int]] = []
        """Of each node, the branches through it: first, and the one after the last."""
        self._paths: list[Tokens] = []
        """Of each branch, its nodes."""
        self._chunks: dict[tuple[int, int], TreeChunk] = {}
        self._add(root, -1, ())
        self._shared = [0, *map(_common_length, self._paths, self._paths[1:]), 0]
        """Of each branch, how many nodes it has in common with the one before; and 0 after the last."""
        fresh = [len(path) - shared for path, shared in zip(self._paths, self._shared, strict=False)]
        self._fresh_before = [0, *accumulate(fresh)]
        self.branches: tuple[Tokens, ...] = tuple(tuple(self._token[node] for node in path) for path in self._paths)
        self.nodes_of = dict(zip(self.branches, self._paths, strict=True))
        """Of each branch, its nodes."""

    def _add(self, node: _LabelNode, token: int, path: Tokens) -> int:
        """Number a node and those below it, in the order of a walk. At most LABEL_TOKENS_MAX deep."""
        number, branch = len(self.edges), len(self._paths)
        if token >= 0:
            path = (*path, number)
        self._token.append(token)
        self._span.append((branch, branch))
        self.edges.append(NO_EDGES)
        if path and not node.inner:
            self._paths.append(path)
        nodes = [self._add(child, child_token, path) for child_token, child in node.inner.items()]
        self._span[number] = branch, len(self._paths)
        parts = ([*node.inner, *node.ends], nodes, list(node.ends.values()))
        self.edges[number] = NodeEdges(*(np.array(part, np.intp) for part in parts))
        return number

    def rows(self, branch: int) -> int:
        """Return the rows that the tree needs from a branch on, in one step; none after the last branch."""
        return self._fresh_before[-1] - self._fresh_before[branch] + self._shared[branch]

    def rows_min(self, branch: int) -> int:
        """Return the rows of a branch alone, the fewest of a chunk that starts with it: less than LABEL_TOKENS_MAX."""
        return len(self._paths[branch])

    def chunk(self, branch: int, rows_max: int, branches_max: int) -> TreeChunk:
        """Return as many branches from the given one on as fit; `rows_max` is at least `rows_min(branch)`.

        If more branches follow, up to three rows are left out so that the remaining room is whole groups of rows.
        """
        room = rows_max - self._shared[branch] + self._fresh_before[branch]
        end = min(bisect_right(self._fresh_before, room) - 1, branch + branches_max)
        assert end > branch, f"branch {branch} has {self.rows_min(branch)} rows, which do not fit into {rows_max}"
        if end < len(self._paths):
            aligned = self._fresh_before[end] - (self._fresh_before[end] - room) % ROWS_GROUP
            earlier = bisect_right(self._fresh_before, aligned) - 1
            if earlier > branch and self._fresh_before[earlier] == aligned:
                end = earlier
        chunk = self._chunks.get((branch, end))
        if chunk is None:
            if len(self._chunks) == CHUNKS_KEPT:
                self._chunks.clear()
            chunk = self._chunks[branch, end] = self._make_chunk(branch, end)
        return chunk

    def _make_chunk(self, branch: int, end: int) -> TreeChunk:
        rows = list(self._paths[branch])
        depths = list(range(len(rows)))
        for index in range(branch + 1, end):
            rows += self._paths[index][self._shared[index] :]
            depths += range(self._shared[index], len(self._paths[index]))
        spans = [self._span[row] for row in rows]
        known = self._shared[branch]
        return TreeChunk(
            branches=end - branch,
            next=end,
            tokens=tuple(self._token[row] for row in rows),
            depths=tuple(depths),
            first=tuple(max(first, branch) - branch for first, _ in spans),
            last=tuple(min(last, end) - branch for _, last in spans),
            known=known,
            nodes=tuple(rows[known:]),
        )

    def chunks(self, rows_max: int, branches_max: int) -> tuple[TreeChunk, ...]:
        """Return the whole tree in chunks; none when all labels are of one token."""
        chunks: list[TreeChunk] = []
        while (branch := chunks[-1].next if chunks else 0) < len(self._paths):
            chunks.append(self.chunk(branch, rows_max, branches_max))
        return tuple(chunks)


def _common_length(one: Tokens, other: Tokens) -> int:
    """Return how many nodes two branches begin with together."""
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


# Classification by scoring: the probability of each label as the model's answer.
#
# The score of a label is its joint log-probability: the sum, over its tokens, of log p(token | prompt, tokens before).
# The sum is not divided by the number of tokens, and the end of the answer is not scored: a label that is the beginning
# of another ("return", "return goods") scores at least as high as that one. Labels of a task should not be built so.
#
# `LabelTree` arranges what the model computes after the prompt; here the logits become scores.
Logits = NDArray[np.float32]
LogProbs = NDArray[np.float64]


def log_probs(logits: Logits, tokens: Sequence[int] | NDArray[np.intp]) -> LogProbs:
    """Return the log-softmax over the vocabulary at the given tokens.

    Summed pairwise in single precision: 1e-7 from the sum in double precision, which takes a third longer.
    """
    peak, weights = logits.max(), scratch(logits.size)
    np.subtract(logits, peak, out=weights)
    total = np.exp(weights, out=weights).sum()
    token_logits: LogProbs = logits[np.asarray(tokens, np.intp)].astype(np.float64)
    return token_logits - (float(peak) + float(np.log(float(total))))


@functools.lru_cache(1)
def scratch(size: int) -> Logits:
    """Return a buffer for the one thread that computes: to allocate one for each row would double the time."""
    return np.empty(size, np.float32)


class LabelScorer:
    """Adds up the joint log-probabilities of one input's labels, each from its first token to its last.

    However the tree is cut into steps, the sums equal those of one walk per label, to the last bit.
    """

    def __init__(self, tree: LabelTree) -> None:
        """Start with nothing known."""
        self._tree = tree
        self._reached: LogProbs = np.zeros(len(tree.edges))
        self.joint: LogProbs = np.full(tree.size, -np.inf)

    def add_prompt(self, logits: Logits) -> None:
        """Take the logits after the prompt: they settle the first token of every label."""
        self._settle(ROOT, logits)

    def add_chunk(self, chunk: TreeChunk, rows: Iterable[Logits]) -> None:
        """Take the logits after the wanted rows of a chunk, in their order; chunks come in the order of the tree."""
        for node, logits in zip(chunk.nodes, rows, strict=True):
            self._settle(node, logits)

    def add_branch(self, branch: Tokens, rows: Iterable[Logits]) -> None:
        """Take the logits after each token of a branch, computed on its own."""
        for node, logits in zip(self._tree.nodes_of[branch], rows, strict=True):
            self._settle(node, logits)

    def _settle(self, node: int, logits: Logits) -> None:
        edges = self._tree.edges[node]
        joint = self._reached[node] + log_probs(logits, edges.tokens)
        inner = len(edges.nodes)
        self._reached[edges.nodes] = joint[:inner]
        self.joint[edges.labels] = joint[inner:]


def label_scores(joint: LogProbs, temperature: float) -> tuple[tuple[float, ...], float]:
    """Return the labels' probabilities and the label mass.

    The probabilities are renormalised over the labels at the temperature (Guo et al. 2017, arXiv 1706.04599) and add up
    to 1. The label mass, 0 to 1, is the probability of all labels together before that: a low mass means that the input
    is unlike those that the task was made for.
    """
    weights = np.exp((joint - joint.max()) / temperature)
    mass = float(np.exp(joint).sum())
    return tuple((weights / weights.sum()).tolist()), min(1.0, mass)


BLOCK = 512
"""Tokens whose probabilities are added up at once."""
TEMPERATURE_MIN = 1e-6
"""A lower temperature counts as this one, at which only tokens with equal logits share the draw."""


class TokenSampler:
    """Draws the tokens of one generation. The seed determines which, whatever else is computed."""

    def __init__(self, temperature: float, seed: int) -> None:
        """Take a temperature above 0."""
        self._temperature = np.float32(max(temperature, TEMPERATURE_MIN))
        self._uniform = random.Random(seed).random  # noqa: S311 - no secret

    def draw(self, logits: Logits, best: int) -> int:
        """Return a token; -1 if the logits are not numbers. `best` has the highest logit."""
        if not math.isfinite(logits[best]):
            return -1
        weights = scratch(logits.size)
        np.subtract(logits, logits[best], out=weights)
        if self._temperature != 1:
            np.divide(weights, self._temperature, out=weights)
        np.exp(weights, out=weights)
        return token_at(weights, self._uniform())


def token_at(weights: Logits, place: float) -> int:
    """Return the first token up to which more than `place` (0 <= place < 1) of the sum of all shares lies.

    -1 if the shares are not numbers. Shares are at least 0, and at least one is above it.
    """
    whole = weights.size // BLOCK * BLOCK
    # In single precision within a block, pairwise, and in double from block to block.
    sums = [*weights[:whole].reshape(-1, BLOCK).sum(axis=1), weights[whole:].sum()]
    reached = np.cumsum(sums, dtype=np.float64)
    total = float(reached[-1])
    if math.isnan(total):
        return -1
    target = place * total
    block = min(int(reached.searchsorted(target, "right")), int(reached.searchsorted(total, "left")))
    block_weights = weights[block * BLOCK : (block + 1) * BLOCK]
    sum_before = float(reached[block - 1]) if block else 0.0
    block_sums = sum_before + np.cumsum(block_weights, dtype=np.float64)
    index = int(block_sums.searchsorted(target, "right"))
    # Both sums of a block may differ in their last bits: then it is the last token that has a share.
    last = int(np.flatnonzero(block_weights)[-1])
    return block * BLOCK + min(index, last)


def likeliest_tokens(logits: Logits, count: int) -> list[int]:
    """Return the tokens with the highest logits, the highest first; of equal ones, those with lower numbers.

    At least `count` logits reach the lowest of the `count` highest block maxima, so only those that do are sorted.
    """
    if not count:
        return []
    blocks = logits.size // BLOCK
    if blocks < count:
        return [int(token) for token in np.argsort(-logits, kind="stable")[:count]]
    highest = logits[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
    reach = np.flatnonzero(logits >= np.partition(highest, blocks - count)[blocks - count])
    return [int(token) for token in reach[np.argsort(-logits[reach], kind="stable")[:count]]]


# From tokens' bytes to the text that a caller sees: whole characters, and nothing from a stop string on.
def whole_text(data: bytes) -> str:
    """Return the text of bytes that are whole characters; else an empty text."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""


class TextStream:
    """Turns the bytes of one generation into text.

    A token may hold part of a character, or part of a stop string. What could still become either is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Take the strings that end the text; none of them is empty."""
        self._stops = tuple(dict.fromkeys(stops))
        self._partial = b""
        self._plain = not stops
        """Text passes at once: nothing is held back."""
        self._held_back = ""
        self.stopped = False
        """A stop string has come: the text is complete without it."""

    def feed(self, data: bytes, text: str = "") -> str:
        """Return the text that is certain now; nothing once `stopped`. `text`: that of `data`, if it is known."""
        if text and self._plain:
            return text
        if self.stopped:
            return ""
        data = self._partial + data if self._partial else data
        text, used = codecs.utf_8_decode(data, "replace", False)  # as codecs' incremental decoder does
        self._partial = data[used:]
        self._plain = not (self._stops or self._partial)
        if not self._stops:
            return text
        self._held_back += text
        stops_found = [at for at in map(self._held_back.find, self._stops) if at >= 0]
        self.stopped = bool(stops_found)
        certain = min(stops_found) if stops_found else len(self._held_back) - self._stop_prefix_length()
        text, self._held_back = self._held_back[:certain], self._held_back[certain:]
        return text

    def finish(self) -> str:
        """Return what was held back for a stop string that did not come. Half a character is dropped."""
        text, self._held_back = "" if self.stopped else self._held_back, ""
        return text

    def _stop_prefix_length(self) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(self._held_back)), 0, -1):
            if any(stop.startswith(self._held_back[-length:]) for stop in self._stops):
                return length
        return 0
