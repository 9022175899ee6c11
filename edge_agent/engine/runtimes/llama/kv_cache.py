"""The sequences of one context, the stored prompt prefixes, and the rules that make a score independent of other jobs.

llama.cpp, as this agent builds it, computes a row identically, to the last bit, whatever other rows are in the batch,
if three rules are kept (the contract tests check them). Other builds add up in another order with many rows than with
few (decision 0051); `autotune.py` detects that.

1. Fewer than 64 rows per micro-batch: from 64 on, llama.cpp's own flash attention uses another kernel. The scheduler
   keeps this rule. With the kernel of this agent's builds nothing depends on it (decision 0043).
2. More than one row, if a lone row comes out differently: with llama.cpp's own attention among more than 256 cells,
   with some weights (half floats, adapters) anywhere. The cache measures that when it is created; `decode` then adds a
   padding row, which costs a sixth of a step, or as much again.
3. The cells of a sequence lie in the order of its tokens. Attention adds up cells in the order of the buffer, and
   another order rounds differently: up to 0.3 nats on a likely token, rarely with attention by row. New tokens get the
   lowest free cells (`kv_cells.py` tracks them), so a sequence is in order as long as no cell below its last one is
   free when it grows. If one is, `compact` writes the sequence out and restores it: it then takes the lowest cells, in
   order. That moves bytes, not bits, and costs a hundredth of computing them. Streams are long and grow at every step,
   so cells that others leave below theirs are held, as if taken, until moving the streams pays (`_empty`).

Stored prompts lie outside the buffer (`PrefixTree`), because every cell in it costs every row a look at its mask.
A bundle's prefix is pinned in the buffer while jobs use it, once for all of them. A job starts from the longest stored
prefix of its prompt.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from msgspec.structs import replace

from edge_agent.engine.protocol import CacheUse
from edge_agent.engine.runtimes.llama.kv_cells import (
    QUESTIONS_MAX,
    KvCells,
    PinnedPrefix,
    PinnedPrefixes,
    PrefixTree,
    PromptPrefix,
    QuestionSequence,
    QuestionSequences,
    SequenceSlot,
    StreamBatch,
    cut_sequence,
)
from edge_agent.engine.runtimes.llama.llama_context import (
    LONE_CELLS_MAX,
    PADDING_TOKEN,
    ROWS_MAX,
    BatchPart,
    ContextShape,
    LlamaContext,
    TokenRows,
    probe_lone_rows,
)
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.step_costs import BULK_ROWS, PADDING_ROWS_MAX, padded_rows
from edge_agent.errors import ModelFailed

PINNED_PREFIXES_MAX = 16
SPARE_CONTEXTS = 2
KEPT_TOKENS_MIN = 64
"""Fewer are not worth their bytes: computing them again takes one step."""
SCATTERED_MAX, COMPACTED_MIN = 256, 4
"""Once at least COMPACTED_MIN streams have written SCATTERED_MAX tokens, the tokens of each are moved side by side."""
HELD_MIN = 256
"""Streams are moved when this many cells are held, and as many as the streams have: a move must free what it costs."""
_NO_STREAMS = StreamBatch((), ())


def context_shape(context_tokens: int, jobs: int, kv_type: str, threads: int) -> ContextShape:
    """Return the size of a context for `jobs` jobs of `context_tokens` tokens, their prefixes, and one batch."""
    cells = (jobs + SPARE_CONTEXTS) * context_tokens + ROWS_MAX + PADDING_ROWS_MAX
    sequences = jobs + 1 + PINNED_PREFIXES_MAX + ROWS_MAX + 2 + QUESTIONS_MAX + 1
    return ContextShape(cells=cells, sequences=sequences, kv_type=kv_type, threads=threads, rows=BULK_ROWS)


class BranchSequences:
    """Copies of sequences in which the labels of a step branch off; they end with the step."""

    def __init__(self, context: LlamaContext, cells: KvCells, sequences: range) -> None:
        """Take these sequences for them."""
        self._context, self._account, self.sequences = context, cells, sequences
        self._taken = 0
        self.cells: list[int] = []
        """Of the branches' own tokens, all branches together."""

    def fork(self, slot: SequenceSlot | QuestionSequence) -> int:
        """Return a sequence with the tokens of another in it, until `drop`; at most ROWS_MAX of them."""
        branch = self.sequences[self._taken]
        self._taken += 1
        self._context.copy(slot.sequence, branch)
        return branch

    def drop(self) -> None:
        """Empty the sequences that `fork` returned."""
        for branch in self.sequences[: self._taken]:
            self._context.drop(branch)
        self._taken = 0
        self._account.give(self.cells)
        self.cells.clear()


class KvCache:
    """The sequences of one context: jobs, pinned prefixes, branches of labels, questions, and three of its own."""

    def __init__(
        self, model: LlamaModel, jobs: int, shape: ContextShape, kept_bytes_max: int = 0, fill_tokens_max: int = 0
    ) -> None:
        """Allocate the context. Jobs leave room for `fill_tokens_max` tokens to `fill`. Raises ModelLoadFailed."""
        self.context = LlamaContext(model, shape)
        self._cells = KvCells(shape.cells)
        self._stored = PrefixTree(kept_bytes_max)
        self._fill_tokens_max = fill_tokens_max
        self._free = list(range(jobs + 1))
        """One more than jobs, for a bundle that is attached meanwhile."""
        self._slots: dict[int, SequenceSlot] = {}
        self._ended_slots: list[SequenceSlot] = []
        """Those of ended jobs, whose sequences are not empty yet."""
        self._pinned_prefixes = PinnedPrefixes(
            self.context, self._cells, range(jobs + 1, jobs + 1 + PINNED_PREFIXES_MAX), self._empty, self._give_held
        )
        first_branch = jobs + 1 + PINNED_PREFIXES_MAX
        self.branches = BranchSequences(self.context, self._cells, range(first_branch, first_branch + ROWS_MAX))
        self._padding_sequence, self._scratch = first_branch + ROWS_MAX, first_branch + ROWS_MAX + 1
        first_question = first_branch + ROWS_MAX + 2
        self.questions = QuestionSequences(
            self.context, self._cells, range(first_question, first_question + QUESTIONS_MAX), self._empty
        )
        self._held_sequence = first_question + QUESTIONS_MAX
        self._use = CacheUse(cells_in_use=0, hits=0, reused=0, computed=0)
        self._scattered = 0
        """Tokens that the present streams have written since `_compact_streams`."""
        self._stream_batch = _NO_STREAMS
        self._unaccounted_steps = 0
        """Steps of `_stream_batch` whose cells are not accounted for in `_cells` yet."""
        self._shape, self._has_padding = shape, False
        # Without flash attention saved sequences are large, and on a device they are slow to copy.
        self._compacts_streams = shape.flash and not model.on_device
        scratch = (self._scratch, self._padding_sequence, *self.branches.sequences)
        self._same_among_few, self._same_among_many = probe_lone_rows(
            self.context, shape.cells, scratch, model.vocab_size
        )
        """Whether a lone row comes out the same without padding rows: among few cells, and among many."""

    def enter(
        self, prompt: PromptPrefix, suffix: Sequence[int], outputs: int, spare: int = 1
    ) -> tuple[SequenceSlot, int] | None:
        """Return a slot for a job, and how many of its first tokens it holds already; None = there is no room now.

        `suffix` are the tokens after the prompt, `outputs` the most tokens that may be written after those, `spare`
        the number of slots that stay free, each with cells for `fill`. Raises ModelFailed.
        """
        self.tidy()
        needed = len(suffix) + outputs
        if len(self._free) <= spare or not self._has_room(prompt, needed + spare * self._fill_tokens_max):
            return None
        if prompt.exact and outputs:
            # A writing job that looks at few cells needs no padding rows.
            cells_used, prompt_cells = self._cells.taken + len(suffix), len(prompt.tokens) + len(suffix)
            if not self._same_among_many and cells_used >= LONE_CELLS_MAX > prompt_cells:
                self._pinned_prefixes.evict_idle(other_than=prompt)
        pinned = self._pin(prompt)
        slot = SequenceSlot(prompt, self._free.pop(), pinned, reserved=needed + (0 if pinned else len(prompt.tokens)))
        self._slots[slot.sequence] = slot
        try:
            reused = self._restore_known(slot, suffix) if pinned or not prompt.tokens else 0
        except ModelFailed:
            self.leave(slot)
            raise
        self._use.lookups += 1
        self._use.hits += reused > 0
        self._use.reused += reused
        return slot, reused

    def leave(self, slot: SequenceSlot) -> None:
        """Take a slot back. `tidy` empties it later, because llama.cpp visits every cell for that."""
        del self._slots[slot.sequence]
        self._ended_slots.append(slot)

    def tidy(self) -> None:
        """Empty the slots of ended jobs, and the padding. Call it before taking cells."""
        self._account_stream_cells()
        if self._has_padding:
            self.context.drop(self._padding_sequence)
            self._has_padding = False
        while self._ended_slots:
            slot = self._ended_slots.pop()
            self.questions.close(slot)
            self._empty(slot.sequence, slot.cells, slot.shared)
            self._pinned_prefixes.unpin(slot.pinned)
            self._free.append(slot.sequence)
        if not self._slots:
            self._scattered = 0
        if self._cells.held:
            displaced = [slot for slot in self._streams() if slot.last > self._cells.lowest_held]
            if not displaced or self._cells.held >= max(HELD_MIN, sum(slot.tokens for slot in displaced)):
                self._give_held()

    def _streams(self) -> list[SequenceSlot]:
        """Return the slots of streams, if streams are kept in order; else none."""
        return [slot for slot in self._slots.values() if not slot.prompt.exact] if self._compacts_streams else []

    def _empty(self, sequence: int, cells: list[int], start: int) -> None:
        """Empty a sequence whose own cells are these, from token `start` on.

        They are held if a stream has a cell above them: otherwise its next token would lie below its older ones.
        """
        self._account_stream_cells()
        if cells and any(slot.last > cells[0] for slot in self._streams()):
            self.context.drop(sequence, 0, start)
            self.context.copy(sequence, self._held_sequence)
            self._cells.hold(cells)
        else:
            self._cells.give(cells)
        self.context.drop(sequence)
        self._stream_batch = _NO_STREAMS

    def _give_held(self) -> None:
        self.context.drop(self._held_sequence)
        self._cells.give_held()
        self._stream_batch = _NO_STREAMS

    def keep(self, slot: SequenceSlot, suffix: Sequence[int]) -> None:
        """Store what a job has computed of its prompt, for jobs with the same beginning. Raises ModelFailed."""
        prompt = slot.prompt
        slot.packed = len(slot.cells)
        if slot.pinned is None and prompt.tokens:
            self._store_range(slot.sequence, (0, len(prompt.tokens)), prompt.root, prompt.tokens)
        elif len(suffix) >= KEPT_TOKENS_MIN:
            start = len(prompt.tokens)
            self._store_range(slot.sequence, (start, start + len(suffix)), prompt, suffix)

    def forget(self, prompt: PromptPrefix) -> None:
        """Drop what is stored after a prompt that no job uses. The stored prompt itself stays until it is evicted."""
        self.tidy()
        self._pinned_prefixes.forget(prompt)
        self._stored.drop(prompt)

    def compact(self, slots: Sequence[SequenceSlot]) -> None:
        """Rewrite sequences whose next token would not lie in order (rule 3). Raises ModelFailed."""
        self.tidy()
        if any(slot.lost for slot in slots):
            raise ModelFailed("the keys and values of a job were lost")
        growing = [slot for slot in slots if self._in_order(slot.prompt)]
        while misplaced := next((slot for slot in growing if slot.last >= self._cells.lowest), None):
            if misplaced.prompt.exact or self._pinned_prefixes.free_cells(misplaced.shared):
                self._rewrite(misplaced)  # to lower cells each time, so this ends
            else:  # no room for a prompt of its own: different rounding is better than an error
                growing.remove(misplaced)

    def _in_order(self, prompt: PromptPrefix) -> bool:
        """Tell whether the sequences of a prompt are kept in order: always for scores, else by `_compacts_streams`."""
        return prompt.exact or self._compacts_streams

    def _rewrite(self, slot: SequenceSlot) -> None:
        """Save a sequence and restore it, together with its prompt if that is not stored."""
        shared = slot.shared if self._has_stored(slot.prompt) and self._pinned_prefixes.free_sequence() else 0
        count = slot.shared + len(slot.cells) - shared
        slot.reserved += slot.shared - shared
        questions = self.questions.take_out(slot, self._save_range)
        state = self._save_range(slot.sequence, shared) if count else None
        slot.lost = True
        self.context.drop(slot.sequence)
        self._cells.give(slot.cells)
        slot.cells = []
        self._pinned_prefixes.unpin(slot.pinned)  # first, to free cells below those that are restored next
        slot.pinned = self._pin(slot.prompt) if shared else None
        if state is not None:
            self.context.restore(slot.sequence, state)
            slot.cells = self._cells.take(count)
        if slot.pinned is not None:
            self.context.copy(slot.pinned.sequence, slot.sequence)
        self.questions.put_back(slot, questions)
        slot.packed, slot.lost = len(slot.cells), False

    def _has_stored(self, prompt: PromptPrefix) -> bool:
        """Tell whether all of a prompt is stored."""
        return self._stored.longest(prompt.root, prompt.tokens)[1] == len(prompt.tokens)

    def fill(self, prompt: PromptPrefix, tokens: Sequence[int], adapter: Any) -> None:
        """Compute a prompt and tokens after it at once, and store the prompt.

        Raises:
            ModelFailed: llama.cpp refused, the logits are not numbers, or there is no room to store the prompt.
        """
        entry = self.enter(prompt, tokens, 0, spare=0)
        if entry is None:
            raise ModelFailed(f"no room for a prompt of {len(prompt.tokens)} tokens")
        slot, reused = entry
        try:
            whole = [*prompt.tokens, *tokens]
            for start in range(reused, len(whole), ROWS_MAX):
                chunk = whole[start : start + ROWS_MAX]
                self.compact([slot])
                self.decode([TokenRows(slot.sequence, start, chunk, logits=1)], adapter, exact=True)
                self.context.logits(len(chunk) - 1)
            self.keep(slot, tokens)
        finally:
            self.leave(slot)
            self.tidy()
        if not self._has_stored(prompt):
            raise ModelFailed(
                f"the prompt's {len(prompt.tokens)} tokens before the input take more than 'prompt_cache_bytes_max'",
                remedy="Raise 'prompt_cache_bytes_max' under 'engine' in agent.yaml, or shorten the prompt.",
            )

    def decode(self, parts: Sequence[BatchPart], adapter: Any, *, exact: bool) -> None:
        """Compute one batch, with padding rows where more rows take less time.

        `exact`: it computes a score, so a lone row gets a padding row if it needs one.

        Raises:
            ModelFailed, StepAborted: nothing was computed.
        """
        self._account_stream_cells()
        if self._has_padding:
            self.tidy()
        self.context.use_adapter(adapter)
        rows = sum(len(part.tokens) for part in parts)
        padding = min(padded_rows(rows, self._shape.groups), self._shape.rows) - rows
        if exact and rows == 1 and not self._same_without_padding(adapter):
            padding = 1
        batch = parts
        if padding > 0:
            self._has_padding = True
            batch = [*parts, TokenRows(self._padding_sequence, 0, [PADDING_TOKEN] * padding, logits=0)]
        self.context.decode(batch)
        for part in parts:
            cells = self._cells.take(len(part.tokens))
            if isinstance(part, TokenRows):
                owner = self._slots.get(part.sequence) or self.questions.reading[part.sequence]
                owner.cells.extend(cells)
            else:
                self.branches.cells.extend(cells)
            self._use.computed += len(cells)

    def decode_streams(self, batch: StreamBatch, positions: Sequence[int], tokens: Sequence[int], adapter: Any) -> None:
        """Compute one token of each slot. Raises ModelFailed, StepAborted: nothing was computed."""
        if batch is not self._stream_batch or self._ended_slots or self._has_padding:
            self.compact(batch.slots)
            self._stream_batch = batch
        if self._scattered >= SCATTERED_MAX and len(tokens) >= COMPACTED_MIN and self._compacts_streams:
            self._compact_streams(batch.slots)
        self.context.use_adapter(adapter)
        self.context.decode_stream_tokens(batch.sequences, positions, tokens)
        self._scattered += len(tokens)
        self._unaccounted_steps += 1

    def _account_stream_cells(self) -> None:
        """Account for the cells that the last steps of `decode_streams` took, as if each step had done so."""
        if not self._unaccounted_steps:
            return
        slots = self._stream_batch.slots
        cells = self._cells.take(self._unaccounted_steps * len(slots))
        for row, slot in enumerate(slots):
            slot.cells += cells[row :: len(slots)]
        self._use.computed += len(cells)
        self._unaccounted_steps = 0

    def truncate(self, slot: SequenceSlot, tokens: int) -> None:
        """Cut a job's sequence to that many tokens, which include the whole pinned prefix."""
        cut_sequence(self.context, self._cells, slot, tokens - slot.shared, start=slot.shared)

    def _compact_streams(self, slots: Sequence[SequenceSlot]) -> None:
        """Move the tokens that each stream has written since the last time side by side. Raises ModelFailed.

        Streams that write together get cells in turn: with sixteen, the tokens of each lie 6 kB apart, and the
        processor waits for memory, up to a third of a step. If this fails, streams that lost tokens fail in their next
        step.
        """
        self._account_stream_cells()
        # Streams whose older tokens lie lowest come first, and take the free cells below those of others.
        slots = sorted(slots, key=lambda slot: slot.packed_last)
        tails = [bytes(self._save_range(slot.sequence, slot.shared + slot.packed)) for slot in slots]
        counts = [len(slot.cells) - slot.packed for slot in slots]
        for slot in slots:
            cut_sequence(self.context, self._cells, slot, slot.packed, start=slot.shared)
        for slot, tail, count in zip(slots, tails, counts, strict=True):
            self.context.restore(self._scratch, tail)
            self.context.copy(self._scratch, slot.sequence)
            self.context.drop(self._scratch)
            slot.cells += self._cells.take(count)
            slot.packed = len(slot.cells)
        self._scattered = 0

    def use(self) -> CacheUse:
        """Return the cells in use, where a prefix that several jobs share counts once, and the counts so far."""
        self.tidy()
        return replace(self._use, cells_in_use=self._cells.taken, kept_bytes=self._stored.bytes)

    def close(self) -> None:
        """Free the context."""
        self._stored.clear()
        self.context.close()

    def _same_without_padding(self, adapter: Any) -> bool:
        """Tell whether the next row has the same logits without padding rows (rule 2)."""
        among_few = self._cells.lowest == self._cells.taken < LONE_CELLS_MAX
        return self._same_among_few and adapter is None and (among_few or self._same_among_many)

    def _has_room(self, prompt: PromptPrefix, needed: int) -> bool:
        """Tell whether a job that may need that many cells can start; idle pinned prefixes are evicted for it.

        Cells stay free for what jobs have reserved, for a prompt of this job's own, and for one batch.
        """
        outstanding = sum(slot.reserved - slot.taken for slot in self._slots.values())
        rows = outstanding + needed + len(prompt.tokens) + ROWS_MAX + PADDING_ROWS_MAX
        return self._pinned_prefixes.free_cells(rows)

    def _pin(self, prompt: PromptPrefix) -> PinnedPrefix | None:
        """Return a prefix in the buffer for one more job, whose sequence can grow after it now; None = not stored."""
        stored = self._stored.longest(prompt.root, prompt.tokens)  # each time, so that it counts as recently used
        return self._pinned_prefixes.pin(prompt, *stored, in_order=self._in_order(prompt))

    def _restore_known(self, slot: SequenceSlot, suffix: Sequence[int]) -> int:
        """Put a pinned prefix and the stored tokens after it into a new slot; return their number."""
        start = len(slot.prompt.tokens)
        entry, shared = self._stored.longest(slot.prompt, suffix[:-1])  # the last token must be computed for its logits
        if entry and shared >= KEPT_TOKENS_MIN and self._pinned_prefixes.free_cells(len(entry.tokens)):
            self.context.restore(slot.sequence, entry.state)
            slot.cells = self._cells.take(len(entry.tokens))
            cut_sequence(self.context, self._cells, slot, shared, start=start)
        if slot.pinned is not None:
            self.context.copy(slot.pinned.sequence, slot.sequence)
        return start + len(slot.cells)

    def _save_range(self, sequence: int, start: int, end: int = -1) -> memoryview:
        """Return the keys and values of the tokens [start, end) of a sequence, until the next call."""
        self.context.copy(sequence, self._scratch)
        try:
            if start:
                self.context.drop(self._scratch, 0, start)
            if end >= 0:
                self.context.drop(self._scratch, end)
            return self.context.save(self._scratch)
        finally:
            self.context.drop(self._scratch)

    def _store_range(self, sequence: int, span: tuple[int, int], root: Hashable, tokens: Sequence[int]) -> None:
        entry, shared = self._stored.longest(root, tokens)
        if entry is None or shared < len(tokens):
            self._stored.put(root, tokens, bytes(self._save_range(sequence, *span)))
