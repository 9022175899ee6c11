"""Sequences for questions about an input: each has the input's cells and, behind them, those of its own tokens.

The questions of one job are read side by side, as many as there are sequences for, and their sequences are emptied
together. So the input is computed once, and no question sees another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edge_agent.engine.runtimes.llama.kv_cells import KvCells, QuestionSequence, SequenceSlot
from edge_agent.engine.runtimes.llama.llama_context import LlamaContext

QUESTIONS_MAX = 7
"""Questions that are read at once, of all jobs. More would make the context larger for every model, and with 14 a crowd
of classifications does not share bulk steps any more (tests/contract/test_llama_bulk.py)."""

Saver = Callable[[int, int], memoryview]
"""Returns the keys and values of a sequence's tokens from the given one on, until the next call."""
Emptier = Callable[[int, list[int], int], None]
"""Empties a sequence that has these cells for itself, from the given token on."""


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
        """Empty the sequences of a job's questions; return the keys and values of their own tokens, and how many."""
        states = [bytes(save(each.sequence, slot.tokens)) if each.cells else b"" for each in slot.questions]
        counts = [len(question.cells) for question in slot.questions]
        for question in slot.questions:
            self._context.drop(question.sequence)
            self._cells.give(question.cells)
            question.cells = []
        return list(zip(states, counts, strict=True))

    def put_back(self, slot: SequenceSlot, saved: Iterable[tuple[bytes, int]]) -> None:
        """Fill these sequences again, behind the job's tokens where they lie now. Raises ModelFailed."""
        for question, (state, count) in zip(slot.questions, saved, strict=True):
            if count:
                self._context.restore(question.sequence, state)
                question.cells = self._cells.take(count)
            self._context.copy(slot.sequence, question.sequence)
