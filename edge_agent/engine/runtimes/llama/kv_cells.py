"""Which cells of the key-value buffer are taken, the prefixes that jobs share, and the prompts that are stored.

`KvCells` mirrors the choices of llama.cpp, so it need not ask. The rule (llama_kv_cache::find_slot of the pinned
release): the tokens of a batch take the lowest free cells, in the order of the batch, and so do restored tokens.

The questions of one job are read side by side, as many as there are sequences for, and their sequences are emptied
together. So the input is computed once, and no question sees another.

`PrefixTree` stores beginnings of prompts that were computed before, in a radix tree of their tokens with a limit in
bytes. An entry holds the keys and values of its tokens in llama.cpp's own format. It serves every prompt that shares
its first tokens: the rest is cut off after restoring.

A *root* identifies everything else that keys and values depend on: the adapter, whether scores depend on them, and the
tokens before. The weights and the type of the buffer belong to the engine, and a tree ends with its engine.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_agent.engine.runtimes.llama.llama_context import LlamaContext

Tokens = tuple[int, ...]


@dataclass(eq=False)
class StoredPrefix:
    """The stored keys and values of the first tokens of a prompt."""

    root: Hashable
    tokens: Tokens
    state: bytes


@dataclass(eq=False)
class _PrefixNode:
    """A run of tokens that all entries below it share."""

    edge: Tokens
    entry: StoredPrefix | None = None
    children: dict[int, _PrefixNode] = field(default_factory=dict)


class PrefixTree:
    """The tree of each root; the least recently used entries are evicted first."""

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
            common = _shared(node.edge, tokens[shared : shared + len(node.edge)])
            shared += common
            child = node.children.get(tokens[shared]) if shared < len(tokens) else None
            if common < len(node.edge) or child is None:
                break
            node = child
        if node is None or not shared:
            return None, 0
        while node.entry is None:  # every node has an entry at or below it
            node = next(iter(node.children.values()))
        self._used.move_to_end(node.entry)
        return node.entry, shared

    def put(self, root: Hashable, tokens: Sequence[int], state: bytes) -> None:
        """Store a state, unless it alone is larger than the limit."""
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
        """Forget the entries of a root."""
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
        """Return the node where these tokens end; create it if necessary."""
        node = self._roots.setdefault(root, _PrefixNode(()))
        depth = 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                child = node.children[tokens[depth]] = _PrefixNode(tokens[depth:])
                return child
            common = _shared(child.edge, tokens[depth:])
            if common < len(child.edge):  # a new node gets the common tokens; the child keeps the others, below it
                upper = node.children[tokens[depth]] = _PrefixNode(child.edge[:common])
                child.edge = child.edge[common:]
                upper.children[child.edge[0]] = child
                child = upper
            node, depth = child, depth + common
        return node

    def _remove(self, entry: StoredPrefix) -> None:
        """Remove an entry from its tree, and the nodes that lead to no other entry."""
        self._forget(entry)
        path = [self._roots[entry.root]]
        depth = 0
        while depth < len(entry.tokens):
            path.append(path[-1].children[entry.tokens[depth]])
            depth += len(path[-1].edge)
        path[-1].entry = None
        while len(path) > 1 and path[-1].entry is None and not path[-1].children:
            removed = path.pop()
            del path[-1].children[removed.edge[0]]
        if len(path) == 1 and not path[0].children:
            del self._roots[entry.root]


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens two sequences share."""
    if one == other:
        return len(one)
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


IDLE_MAX = 2
"""Prefixes that stay pinned without a job: their cells slow down every row, and restoring one takes a millisecond."""


class KvCells:
    """The free cells of one buffer: all from `_top` on, and holes below it."""

    def __init__(self, count: int) -> None:
        """Start with all of them free."""
        self.count = count
        self._top = 0
        self._holes: list[int] = []  # a heap, and small: cells that are taken for every token are looked for in it
        self._held: list[int] = []

    @property
    def lowest(self) -> int:
        """The cell that the next token gets; the number of cells when there is none."""
        return self._holes[0] if self._holes else self._top

    @property
    def taken(self) -> int:
        """How many are taken. If `lowest` is the same number, there is no hole."""
        return self._top - len(self._holes)

    @property
    def free(self) -> int:
        """How many are free."""
        return self.count - self.taken

    def take(self, tokens: int) -> list[int]:
        """Take the cells that llama.cpp takes for that many tokens, in ascending order. So many must be free."""
        holes, pop = self._holes, heapq.heappop
        cells = [pop(holes) for _ in range(min(tokens, len(holes)))]
        above = tokens - len(cells)
        cells += range(self._top, self._top + above)
        self._top += above
        return cells

    def give(self, cells: Iterable[int]) -> None:
        """Note that cells are empty again."""
        holes, push = self._holes, heapq.heappush
        for cell in cells:
            push(holes, cell)
        if len(holes) == self._top:
            holes.clear()
            self._top = 0

    def hold(self, cells: Iterable[int]) -> None:
        """Note that cells stay taken although their content is no longer needed."""
        self._held += cells

    @property
    def held(self) -> int:
        """How many cells are held."""
        return len(self._held)

    @property
    def lowest_held(self) -> int:
        """The lowest held cell; the number of cells when there is none."""
        return min(self._held, default=self.count)

    def give_held(self) -> None:
        """Note that the held cells are empty."""
        held, self._held = self._held, []
        self.give(held)


# The owners of sequences: prompts that jobs share, jobs, and questions. `kv_cache.py` owns these objects.
@dataclass(frozen=True)
class PromptPrefix:
    """The first tokens of a bundle's jobs, and what else their keys and values depend on."""

    tokens: tuple[int, ...]
    adapter: str
    """Its hash; empty for the bare weights."""
    exact: bool
    """Scores depend on it: it is computed in batches of fewer than 64 rows, and stored apart from inexact ones."""

    @property
    def root(self) -> Hashable:
        """The root under which such prefixes are stored."""
        return self.adapter, self.exact


@dataclass(eq=False)
class PinnedPrefix:
    """A prefix in the buffer."""

    prompt: PromptPrefix
    sequence: int
    cells: list[int]
    jobs: int = 0


@dataclass(eq=False)
class QuestionSequence:
    """The sequence of a question after a job's input; it shares the input's cells."""

    sequence: int
    cells: list[int] = field(default_factory=list)
    """Those of the question's own tokens, in their order."""


@dataclass(eq=False)
class SequenceSlot:
    """A job's sequence."""

    prompt: PromptPrefix
    sequence: int
    pinned: PinnedPrefix | None = None
    """The prefix whose cells hold the prompt; None = the prompt is in the job's own cells."""
    cells: list[int] = field(default_factory=list)
    """Those of the tokens after the pinned prefix, in their order."""
    packed: int = 0
    """How many of the first of these lie side by side; the others lie among those of other streams."""
    reserved: int = 0
    """The most cells that it may need."""
    lost: bool = False
    """Its keys and values were saved, and could not be restored."""
    questions: list[QuestionSequence] = field(default_factory=list)
    """Sequences of the questions that are being read after it."""

    @property
    def shared(self) -> int:
        """How many of its tokens are in the pinned prefix's cells."""
        return len(self.pinned.cells) if self.pinned else 0

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return self.shared + len(self.cells)

    @property
    def taken(self) -> int:
        """How many of its reserved cells it has taken."""
        return len(self.cells) + sum(len(question.cells) for question in self.questions)

    @property
    def packed_last(self) -> int:
        """The last of the cells that lie side by side; -1 without any."""
        pinned = self.pinned.cells if self.pinned else []
        return (self.cells[: self.packed] or pinned or [-1])[-1]

    @property
    def last(self) -> int:
        """The highest cell, those of its questions among them; -1 without any."""
        pinned = self.pinned.cells if self.pinned else []
        return max(cells[-1] if cells else -1 for cells in (pinned, self.cells, *(q.cells for q in self.questions)))


class StreamBatch(NamedTuple):
    """The slots of streams that get one token each, step after step, and their sequences."""

    slots: Sequence[SequenceSlot]
    sequences: Sequence[int]


QUESTIONS_MAX = 7
"""Questions that are read at once, of all jobs together. More would enlarge the context of every model, and with 14,
many concurrent classifications would no longer share bulk steps (tests/contract/test_llama_bulk.py)."""

Saver = Callable[[int, int], memoryview]
"""Returns the keys and values of a sequence's tokens from the given one on, until the next call."""
Emptier = Callable[[int, list[int], int], None]
"""Empties a sequence whose own cells are these, from the given token on."""


def cut_sequence(
    context: LlamaContext, account: KvCells, holder: SequenceSlot | PinnedPrefix, count: int, *, start: int
) -> None:
    """Remove from a sequence all tokens after the first `count` ones from position `start`."""
    context.drop(holder.sequence, start + count)
    account.give(holder.cells[count:])
    del holder.cells[count:]


class PinnedPrefixes:
    """The prefixes in the buffer: each is there once, for all jobs that begin with it."""

    def __init__(
        self,
        context: LlamaContext,
        cells: KvCells,
        sequences: Iterable[int],
        empty: Emptier,
        give_held: Callable[[], None],
    ) -> None:
        """Take empty sequences of a context, and the account of its cells; `give_held` frees the cells it holds."""
        self._context, self._cells, self._empty, self._give_held = context, cells, empty, give_held
        self._free = list(sequences)
        self.pinned: list[PinnedPrefix] = []
        """The one used last comes last."""

    def pin(
        self, prompt: PromptPrefix, stored: StoredPrefix | None, shared: int, *, in_order: bool
    ) -> PinnedPrefix | None:
        """Return a prefix for one more job: from the buffer, or from `stored`, which holds `shared` tokens of it.

        None = neither has all of it, or there is no free sequence. `in_order`: its cells must lie below those that the
        next tokens get.
        """
        for pinned in reversed(self.pinned):
            if pinned.prompt == prompt and not (in_order and pinned.cells[-1] >= self._cells.lowest):
                self.pinned.remove(pinned)
                break
        else:
            for misplaced in [each for each in self._idle() if each.prompt == prompt]:
                self._evict(misplaced)
            if stored is None or shared < len(prompt.tokens) or not self.free_sequence():
                return None
            self.free_cells(len(stored.tokens))
            self._context.restore(self._free[-1], stored.state)
            pinned = PinnedPrefix(prompt, self._free.pop(), self._cells.take(len(stored.tokens)))
            cut_sequence(self._context, self._cells, pinned, shared, start=0)
        self.pinned.append(pinned)
        pinned.jobs += 1
        return pinned

    def unpin(self, pinned: PinnedPrefix | None) -> None:
        """Note that a job no longer uses a prefix."""
        if pinned is None:
            return
        pinned.jobs -= 1
        for each in self._idle()[:-IDLE_MAX]:
            self._evict(each)

    def free_cells(self, cells: int) -> bool:
        """Evict prefixes without a job until that many cells are free; tell whether they are."""
        while self._cells.free < cells:
            idle = self._idle()
            if self._cells.held:
                self._give_held()
            elif idle:
                self._evict(idle[0])
            else:
                return False
        return True

    def free_sequence(self) -> bool:
        """Tell whether there is a sequence for one more prefix; evict an idle prefix if necessary."""
        idle = self._idle()
        if not self._free and idle:
            self._evict(idle[0])
        return bool(self._free)

    def evict_idle(self, other_than: PromptPrefix) -> None:
        """Evict all other prefixes that have no job."""
        for pinned in [each for each in self._idle() if each.prompt != other_than]:
            self._evict(pinned)

    def forget(self, prompt: PromptPrefix) -> None:
        """Evict a prefix that no job uses."""
        for pinned in [each for each in self.pinned if each.prompt == prompt]:
            self._evict(pinned)

    def _idle(self) -> list[PinnedPrefix]:
        return [pinned for pinned in self.pinned if not pinned.jobs]

    def _evict(self, pinned: PinnedPrefix) -> None:
        self._empty(pinned.sequence, pinned.cells, 0)
        self._free.append(pinned.sequence)
        self.pinned.remove(pinned)


class QuestionSequences:
    """The sequences of a context that are for questions."""

    def __init__(self, context: LlamaContext, cells: KvCells, sequences: Iterable[int], empty: Emptier) -> None:
        """Take empty sequences of a context, and the account of its cells."""
        self._context, self._cells, self._empty = context, cells, empty
        self._free = list(sequences)
        self.reading: dict[int, QuestionSequence] = {}
        """Those in use."""

    def open(self, slot: SequenceSlot, count: int) -> list[QuestionSequence]:
        """Return sequences that begin with all tokens of a job: `count` of them, or as many as are free."""
        opened: list[QuestionSequence] = []
        while len(opened) < count and self._free:
            question = QuestionSequence(self._free.pop())
            self._context.copy(slot.sequence, question.sequence)
            self.reading[question.sequence] = question
            opened.append(question)
        slot.questions += opened
        return opened

    def close(self, slot: SequenceSlot) -> None:
        """Empty the sequences of a job's questions, and take them back."""
        for question in slot.questions:
            self._empty(question.sequence, question.cells, slot.tokens)
            self._free.append(question.sequence)
            del self.reading[question.sequence]
        slot.questions = []

    def take_out(self, slot: SequenceSlot, save: Saver) -> list[tuple[bytes, int]]:
        """Empty the sequences of a job's questions; return the keys and values, and the number, of their own tokens."""
        states = [bytes(save(each.sequence, slot.tokens)) if each.cells else b"" for each in slot.questions]
        counts = [len(question.cells) for question in slot.questions]
        for question in slot.questions:
            self._context.drop(question.sequence)
            self._cells.give(question.cells)
            question.cells = []
        return list(zip(states, counts, strict=True))

    def put_back(self, slot: SequenceSlot, states: Iterable[tuple[bytes, int]]) -> None:
        """Restore the saved questions after the job's tokens, whose cells may have changed. Raises ModelFailed."""
        for question, (state, count) in zip(slot.questions, states, strict=True):
            if count:
                self._context.restore(question.sequence, state)
                question.cells = self._cells.take(count)
            self._context.copy(slot.sequence, question.sequence)
