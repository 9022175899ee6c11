"""Beginnings of prompts that were computed before: a radix tree of their tokens, and how many bytes are kept. Pure.

What is kept is the keys and values of some tokens as llama.cpp writes them out, opaque here. An entry serves every
prompt that begins as it does, for so many tokens as they share: what is restored is cut there.

A *root* names all that changes keys and values beside the tokens: the adapter, whether a score may stand on it, and the
tokens before. Weights and the type of the buffer are those of the engine, and a tree dies with its engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

Tokens = tuple[int, ...]


@dataclass(eq=False)
class StoredPrefix:
    """What was kept of one prompt."""

    root: Hashable
    tokens: Tokens
    state: bytes


@dataclass(eq=False)
class _PrefixNode:
    """A run of tokens that all entries below it share."""

    edge: Tokens
    entry: StoredPrefix | None = None
    children: dict[int, _PrefixNode] = field(default_factory=dict)

    def any_entry(self) -> StoredPrefix:
        """Return an entry at or below this node; there is one, or the node would not be."""
        node = self
        while node.entry is None:
            node = next(iter(node.children.values()))
        return node.entry


class PrefixTree:
    """The tree of each root, the least recently used entries leaving first."""

    def __init__(self, bytes_max: int) -> None:
        """Take the most bytes of states to keep."""
        self._bytes_max = bytes_max
        self._roots: dict[Hashable, _PrefixNode] = {}
        self._used: OrderedDict[StoredPrefix, None] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._used)

    def longest(self, root: Hashable, tokens: Sequence[int]) -> tuple[StoredPrefix | None, int]:
        """Return the entry that shares the most first tokens, and how many; (None, 0) if none shares one."""
        node = self._roots.get(root)
        shared = 0
        while node is not None:
            same = _shared(node.edge, tokens[shared : shared + len(node.edge)])
            shared += same
            child = node.children.get(tokens[shared]) if shared < len(tokens) else None
            if same < len(node.edge) or child is None:
                break
            node = child
        if node is None or not shared:
            return None, 0
        entry = node.any_entry()
        self._used.move_to_end(entry)
        return entry, shared

    def put(self, root: Hashable, tokens: Sequence[int], state: bytes) -> None:
        """Keep a state; what is larger than the whole room is not kept."""
        entry = StoredPrefix(root, tuple(tokens), state)
        if not tokens or len(state) > self._bytes_max:
            return
        node = self._node(root, entry.tokens)
        if node.entry is not None:
            self._forget(node.entry)
        node.entry = entry
        self._used[entry] = None
        self.bytes += len(state)
        while self.bytes > self._bytes_max:
            self._remove(next(iter(self._used)))

    def drop(self, root: Hashable) -> None:
        """Forget what stands on a root."""
        for entry in [entry for entry in self._used if entry.root == root]:
            self._forget(entry)
        self._roots.pop(root, None)

    def clear(self) -> None:
        """Forget everything."""
        self._roots.clear()
        self._used.clear()
        self.bytes = 0

    def _forget(self, entry: StoredPrefix) -> None:
        del self._used[entry]
        self.bytes -= len(entry.state)

    def _node(self, root: Hashable, tokens: Tokens) -> _PrefixNode:
        """Return the node where these tokens end, made if need be."""
        node = self._roots.setdefault(root, _PrefixNode(()))
        at = 0
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                child = node.children[tokens[at]] = _PrefixNode(tokens[at:])
                return child
            same = _shared(child.edge, tokens[at:])
            if same < len(child.edge):
                child = node.children[tokens[at]] = _split(child, same)
            node, at = child, at + same
        return node

    def _remove(self, entry: StoredPrefix) -> None:
        """Take an entry out of its tree, and the nodes that served nothing else."""
        self._forget(entry)
        path = [self._roots[entry.root]]
        at = 0
        while at < len(entry.tokens):
            path.append(path[-1].children[entry.tokens[at]])
            at += len(path[-1].edge)
        path[-1].entry = None
        while len(path) > 1 and path[-1].entry is None and not path[-1].children:
            gone = path.pop()
            del path[-1].children[gone.edge[0]]
        if len(path) == 1 and not path[0].children:
            del self._roots[entry.root]


def _split(node: _PrefixNode, at: int) -> _PrefixNode:
    """Return a node with the first `at` tokens of another, and that one with the others below it."""
    upper = _PrefixNode(node.edge[:at])
    node.edge = node.edge[at:]
    upper.children[node.edge[0]] = node
    return upper


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens two sequences share."""
    if one == other:
        return len(one)
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
