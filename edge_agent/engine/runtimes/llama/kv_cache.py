"""Who has which sequence of the context, what is kept of prompts, and the rules that make a score independent.

llama.cpp, as this agent builds it, computes a row the same way, to the last bit, whatever other rows are in the batch,
if three rules are kept (the contract tests hold them). As others build it, its products have another order of sums
with many rows than with few (decision 0051); `trying.py` finds that out.

1. Fewer than 64 rows in a micro-batch: from 64 on, llama.cpp's own flash attention takes another kernel. The scheduler
   sees to it. With the one that this agent's builds have, nothing depends on that (decision 0043).
2. More than one row, where a lone one comes out otherwise: with llama.cpp's own attention among more than 256 cells,
   with some weights (half floats, adapters) anywhere. The cache finds out when it is made; `decode` then adds a row
   where need be, which costs a sixth of a step, or as much again.
3. The cells of a sequence lie in the order of its tokens. Attention adds up cells in the order of the buffer, and
   another order rounds differently: up to 0.3 nats on a likely token, seldom with attention by row. New tokens get the
   lowest free cells (`cells.py` knows which), so a sequence is in order as long as no cell below its last one is free
   when it grows. Where one is, `settle` writes the sequence out and restores it: it then takes the lowest cells, in
   order. That moves bytes, not bits, and costs a hundredth of computing them.

What is kept of prompts lies outside the buffer (`prefixes.py`), as every cell in it costs every row a look at its mask.
A bundle's prefix is in the buffer while jobs stand on it, once for all of them. A job starts from the longest prompt
kept that its own begins with.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from edge_agent.engine.protocol import CacheUse
from edge_agent.engine.runtimes.llama.kv_cells import KvCells, PinnedPrefix, PromptPrefix, SequenceSlot, StreamBatch
from edge_agent.engine.runtimes.llama.llama_context import (
    BULK_ROWS,
    ROWS_MAX,
    BatchPart,
    ContextShape,
    LlamaContext,
    Logits,
    TokenRows,
)
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.prefix_tree import PrefixTree
from edge_agent.engine.runtimes.llama.step_costs import COMPANY_MAX, padded_rows
from edge_agent.errors import ModelFailed

RESIDENTS_MAX = 16
IDLE_MAX = 2
"""Residents that stay without a job: a cell costs every row a look, and to restore them takes a millisecond."""
SPARE_CONTEXTS = 2
KEPT_TOKENS_MIN = 64
"""Fewer are not worth their bytes: computing them again takes one step."""
LONE_CELLS_MAX = 256
"""Among so many cells a lone row takes the attention kernel of all others."""
SCATTERED_MAX, GATHERED_MIN = 256, 4
"""Once streams have written so many tokens, and are so many, what each has written is put side by side."""
_PROBE_TOKENS = 8
_BALLAST_TOKEN = 0


def context_shape(context_tokens: int, jobs: int, kv_type: str, threads: int, rows: int = BULK_ROWS) -> ContextShape:
    """Return the size of a context for `jobs` jobs of `context_tokens` tokens, prefixes beside them, and one batch."""
    cells = (jobs + SPARE_CONTEXTS) * context_tokens + ROWS_MAX + COMPANY_MAX
    sequences = jobs + 1 + RESIDENTS_MAX + ROWS_MAX + 2
    return ContextShape(cells=cells, sequences=sequences, kv_type=kv_type, threads=threads, rows=rows)


class KvCache:
    """The sequences of one context: jobs, residents, branches of labels, one for ballast and one to save from."""

    def __init__(self, model: LlamaModel, jobs: int, shape: ContextShape, kept_bytes_max: int = 0) -> None:
        """Allocate the context. Raises ModelLoadFailed."""
        self.context = LlamaContext(model, shape)
        self._cells = KvCells(shape.cells)
        self._kept = PrefixTree(kept_bytes_max)
        self._free = list(range(jobs + 1))
        """One more than jobs: for bundles that are attached meanwhile."""
        self._places: dict[int, SequenceSlot] = {}
        self._left: list[SequenceSlot] = []
        """Of jobs that have ended: their sequences are not empty yet."""
        self._seats = list(range(jobs + 1, jobs + 1 + RESIDENTS_MAX))
        self._residents: list[PinnedPrefix] = []
        """The one used last comes last."""
        first_branch = jobs + 1 + RESIDENTS_MAX
        self._branches = range(first_branch, first_branch + ROWS_MAX)
        self._forks = 0
        self._fork_cells: list[int] = []
        self._ballast, self._scratch = first_branch + ROWS_MAX, first_branch + ROWS_MAX + 1
        self._use = CacheUse(cells_in_use=0, hits=0, reused=0, computed=0)
        self._scattered = 0
        """Tokens that the streams that are there have written since `_gather`."""
        self._writing = StreamBatch((), ())
        self._unnoted = 0
        """Steps in which each of them has taken a cell that is in no account yet."""
        self._shape, self._ballasted = shape, False
        self._gathers = shape.flash and not model.on_device  # elsewhere what is written out is large, or far away
        self._alone, self._deep = self._same_alone(model.vocab_size)
        """Whether a lone row comes out the same without company: among few cells, and among many."""

    def enter(
        self, prompt: PromptPrefix, suffix: Sequence[int], outputs: int, spare: int = 1
    ) -> tuple[SequenceSlot, int] | None:
        """Return a place for a job with what is known of its tokens in it, and how many they are; None = no room now.

        `suffix` is what stands behind the prompt, `outputs` the most tokens that may be written behind that, `spare`
        how many places stay free. Raises ModelFailed.
        """
        self.tidy()
        needed = len(suffix) + outputs
        if len(self._free) <= spare or not self._room(prompt, needed):
            return None
        if prompt.exact and outputs:
            self._clear_view(prompt, len(suffix))
        resident = self._resident(prompt)
        place = SequenceSlot(
            prompt, self._free.pop(), resident, reserved=needed + (0 if resident else len(prompt.tokens))
        )
        self._places[place.sequence] = place
        if resident is not None:
            resident.jobs += 1
        try:
            found = self._recall(place, suffix) if resident or not prompt.tokens else 0
        except ModelFailed:
            self.leave(place)
            raise
        self._use.lookups += 1
        self._use.hits += found > 0
        self._use.reused += found
        return place, found

    def leave(self, place: SequenceSlot) -> None:
        """Take a place back. `tidy` empties it: llama.cpp looks at every cell for that, and no answer is to wait."""
        del self._places[place.sequence]
        self._left.append(place)

    def tidy(self) -> None:
        """Empty the places that jobs have left, and the ballast; whoever takes cells does so first."""
        self._note()
        if self._ballasted:
            self.context.drop(self._ballast)
            self._ballasted = False
        while self._left:
            place = self._left.pop()
            self.context.drop(place.sequence)
            self._cells.give(place.cells)
            self._let_go(place.resident)
            self._free.append(place.sequence)
        if not self._places:
            self._scattered = 0

    def keep(self, place: SequenceSlot, suffix: Sequence[int]) -> None:
        """Keep what a job has computed of its prompt, for those that begin alike. Raises ModelFailed."""
        prompt = place.prompt
        place.packed = len(place.cells)
        if place.resident is None and prompt.tokens:
            self._keep_range(place.sequence, (0, len(prompt.tokens)), prompt.root, prompt.tokens)
        elif len(suffix) >= KEPT_TOKENS_MIN:
            start = len(prompt.tokens)
            self._keep_range(place.sequence, (start, start + len(suffix)), prompt, suffix)

    def forget(self, prompt: PromptPrefix) -> None:
        """Drop what is kept behind a prompt. Only while no job has it; itself it stays until others drive it out."""
        self.tidy()
        for resident in [each for each in self._residents if each.prompt == prompt]:
            self._evict(resident)
        self._kept.drop(prompt)

    def settle(self, places: Sequence[SequenceSlot]) -> None:
        """Bring sequences that are to grow into order, where they would not stay so (rule 3). Raises ModelFailed."""
        self.tidy()
        if any(place.lost for place in places):
            raise ModelFailed("the keys and values of a job were lost")
        while high := [place for place in places if place.last >= self._cells.lowest]:
            self._move(high[0])  # to lower cells each time, so this ends

    def _move(self, place: SequenceSlot) -> None:
        """Write a sequence out and in again, with its prompt where that cannot be had from what is kept."""
        shared = place.shared if self._knows(place.prompt) and self._seat() else 0
        count = place.shared + len(place.cells) - shared
        place.reserved += place.shared - shared
        state = self._saved(place.sequence, shared) if count else None
        place.lost = True
        self.context.drop(place.sequence)
        self._cells.give(place.cells)
        place.cells = []
        self._let_go(place.resident)  # first: what it frees lies below what is restored next
        place.resident = self._resident(place.prompt) if shared else None
        if place.resident is not None:
            place.resident.jobs += 1
        if state is not None:
            self.context.restore(place.sequence, state)
            place.cells = self._cells.take(count)
        if place.resident is not None:
            self.context.copy(place.resident.sequence, place.sequence)
        place.lost = False

    def _knows(self, prompt: PromptPrefix) -> bool:
        """Tell whether all of a prompt is kept."""
        return self._kept.longest(prompt.root, prompt.tokens)[1] == len(prompt.tokens)

    def fill(self, prompt: PromptPrefix, tokens: Sequence[int], adapter: Any) -> None:
        """Compute a prompt and tokens behind it at once, and keep the prompt.

        Raises:
            ModelFailed: llama.cpp refused, what came out are no numbers, or there is no room to keep the prompt.
        """
        entered = self.enter(prompt, tokens, 0, spare=0)
        if entered is None:
            raise ModelFailed(f"no room for a prompt of {len(prompt.tokens)} tokens")
        place, found = entered
        try:
            whole = [*prompt.tokens, *tokens]
            for start in range(found, len(whole), ROWS_MAX):
                chunk = whole[start : start + ROWS_MAX]
                self.settle([place])
                self.decode([TokenRows(place.sequence, start, chunk, logits=1)], adapter, exact=True)
                self.context.logits(len(chunk) - 1)
            self.keep(place, tokens)
        finally:
            self.leave(place)
            self.tidy()
        if not self._knows(prompt):
            raise ModelFailed(
                f"the prompt's {len(prompt.tokens)} tokens before the input take more than 'prompt_cache_bytes_max'",
                remedy="Raise 'prompt_cache_bytes_max' under 'engine' in agent.yaml, or shorten the prompt.",
            )

    def decode(self, parts: Sequence[BatchPart], adapter: Any, *, exact: bool) -> None:
        """Compute one batch. `exact`: a score comes out of it, so a lone row gets company where it needs it.

        Any other gets some where more rows take less time.

        Raises:
            ModelFailed, Aborted: nothing was computed.
        """
        self._note()
        if self._ballasted:
            self.tidy()
        self.context.use_adapter(adapter)
        rows = sum(len(part.tokens) for part in parts)
        company = min(padded_rows(rows, self._shape.groups), self._shape.rows) - rows
        if exact and rows == 1 and not self._bears_alone(adapter):
            company = 1
        if company > 0:
            self._ballasted = True
            parts = [*parts, TokenRows(self._ballast, 0, [_BALLAST_TOKEN] * company, logits=0)]
        self.context.decode(parts)
        parts = parts[:-1] if company > 0 else parts
        for part in parts:
            cells = self._cells.take(len(part.tokens))
            place = self._places.get(part.sequence) if isinstance(part, TokenRows) else None
            (self._fork_cells if place is None else place.cells).extend(cells)
            self._use.computed += len(cells)

    def write_on(self, writers: StreamBatch, positions: Sequence[int], tokens: Sequence[int], adapter: Any) -> None:
        """Compute one token of each place. Raises ModelFailed, Aborted: nothing was computed."""
        if writers is not self._writing or self._left or self._ballasted:
            self.tidy()
            self._writing = writers
        if self._scattered >= SCATTERED_MAX and len(tokens) >= GATHERED_MIN and self._gathers:
            self._gather(writers.places)
        self.context.use_adapter(adapter)
        self.context.write_on(writers.sequences, positions, tokens)
        self._scattered += len(tokens)
        self._unnoted += 1

    def _note(self) -> None:
        """Take into account which cells the last steps of `write_on` have taken: as if it had been done in each."""
        if not self._unnoted:
            return
        places = self._writing.places
        cells = self._cells.take(self._unnoted * len(places))
        for row, place in enumerate(places):
            place.cells += cells[row :: len(places)]
        self._use.computed += len(cells)
        self._unnoted = 0

    def shorten(self, place: SequenceSlot, tokens: int) -> None:
        """Leave a job's sequence so many tokens, all of the resident's among them."""
        self._cut(place.sequence, place.cells, place.shared, tokens - place.shared)

    def _gather(self, places: Sequence[SequenceSlot]) -> None:
        """Put side by side what each stream has written since the last time. Raises ModelFailed.

        Streams that write together take turns at cells: of sixteen, each finds its tokens 6 kB apart, and the processor
        waits for memory, up to a third of a step. Where this fails, those that are not whole fail in their next step.
        """
        self._note()
        tails = [bytes(self._saved(place.sequence, place.shared + place.packed)) for place in places]
        counts = [len(place.cells) - place.packed for place in places]
        for place in places:
            self._cut(place.sequence, place.cells, place.shared, place.packed)
        for place, tail, count in zip(places, tails, counts, strict=True):
            self.context.restore(self._scratch, tail)
            self.context.copy(self._scratch, place.sequence)
            self.context.drop(self._scratch)
            place.cells += self._cells.take(count)
            place.packed = len(place.cells)
        self._scattered = 0

    def fork(self, place: SequenceSlot) -> int:
        """Return a sequence with the tokens of a job in it, until `drop_forks`; at most ROWS_MAX of them."""
        branch = self._branches[self._forks]
        self._forks += 1
        self.context.copy(place.sequence, branch)
        return branch

    def drop_forks(self) -> None:
        """Empty the sequences that `fork` returned."""
        for branch in self._branches[: self._forks]:
            self.context.drop(branch)
        self._forks = 0
        self._cells.give(self._fork_cells)
        self._fork_cells.clear()

    def use(self) -> CacheUse:
        """Return what is in the buffer, a prefix that several jobs share counted once, and what was counted so far."""
        self.tidy()
        cells = self._cells.count - self._cells.free
        return replace(self._use, cells_in_use=cells, kept_bytes=self._kept.bytes)

    def close(self) -> None:
        """Free the context."""
        self._kept.clear()
        self.context.close()

    def _bears_alone(self, adapter: Any) -> bool:
        """Tell whether the next row comes out the same without company (rule 2)."""
        few = self._cells.lowest == self._cells.taken < LONE_CELLS_MAX
        return self._alone and adapter is None and (few or self._deep)

    def _same_alone(self, vocabulary: int) -> tuple[bool, bool]:
        """Tell whether a row of these weights has the same logits alone as in company. While there are no jobs.

        First where there are few cells, then among more than LONE_CELLS_MAX, if so many there can be.
        """
        tokens = [place % vocabulary for place in range(_PROBE_TOKENS)]
        copies = self._branches[: LONE_CELLS_MAX // _PROBE_TOKENS]
        same = False
        try:
            self.context.decode([TokenRows(self._scratch, 0, tokens, logits=0)])
            same = self._compares(tokens)
            if not same or self._cells.count <= LONE_CELLS_MAX + _PROBE_TOKENS + 1:
                return same, same
            state = bytes(self.context.save(self._scratch))
            for copy in copies:
                self.context.restore(copy, state)
            return True, self._compares(tokens)
        except ModelFailed:  # the first answer says what is wrong with it
            return same, False
        finally:
            for sequence in (self._scratch, self._ballast, *copies):
                self.context.drop(sequence)

    def _compares(self, tokens: list[int]) -> bool:
        """Tell whether the row behind these tokens comes out the same alone and in company."""
        asked = TokenRows(self._scratch, len(tokens), tokens[-1:], logits=1)
        found: list[Logits] = []
        for company in ([], [TokenRows(self._ballast, 0, [_BALLAST_TOKEN], logits=0)]):
            self.context.decode([asked, *company])
            found.append(self.context.logits(0).copy())
            self.context.drop(self._scratch, len(tokens))
        self.context.drop(self._ballast)
        return np.array_equal(found[0], found[1])

    def _clear_view(self, prompt: PromptPrefix, suffix: int) -> None:
        """Evict what is idle, where a job that writes has few cells to look at without it: it then needs no company."""
        few, some = self._cells.taken + suffix, len(prompt.tokens) + suffix
        if self._deep or few < LONE_CELLS_MAX or some >= LONE_CELLS_MAX:
            return
        for resident in [each for each in self._residents if not each.jobs and each.prompt != prompt]:
            self._evict(resident)

    def _room(self, prompt: PromptPrefix, needed: int) -> bool:
        """Tell whether a job that may come to need so many cells can come in; residents that nobody needs make room.

        What jobs have reserved is kept free for them, a prompt of this one's own included, and cells for one batch.
        """
        held = sum(place.reserved - len(place.cells) for place in self._places.values())
        wanted = held + needed + len(prompt.tokens) + ROWS_MAX + COMPANY_MAX
        return self._make_free(wanted)

    def _make_free(self, cells: int) -> bool:
        """Evict residents without a job until so many cells are free; tell whether they are."""
        while self._cells.free < cells:
            idle = [resident for resident in self._residents if not resident.jobs]
            if not idle:
                return False
            self._evict(idle[0])
        return True

    def _resident(self, prompt: PromptPrefix) -> PinnedPrefix | None:
        """Return a prefix in the buffer, on which a sequence can stand that grows now; None if it is not known."""
        entry, shared = self._kept.longest(prompt.root, prompt.tokens)  # asked each time, so that it does not grow old
        for resident in reversed(self._residents):
            if resident.prompt == prompt and not (prompt.exact and resident.cells[-1] >= self._cells.lowest):
                self._residents.remove(resident)
                self._residents.append(resident)
                return resident
        for resident in [each for each in self._residents if not each.jobs and each.prompt == prompt]:
            self._evict(resident)  # it lies too high
        if entry is None or shared < len(prompt.tokens) or not self._seat():
            return None
        self._make_free(len(entry.tokens))
        self.context.restore(self._seats[-1], entry.state)
        resident = PinnedPrefix(prompt, self._seats.pop(), self._cells.take(len(entry.tokens)))
        self._cut(resident.sequence, resident.cells, 0, shared)
        self._residents.append(resident)
        return resident

    def _seat(self) -> bool:
        """Tell whether there is a sequence for one more resident, made free if need be."""
        idle = [resident for resident in self._residents if not resident.jobs]
        if not self._seats and idle:
            self._evict(idle[0])
        return bool(self._seats)

    def _evict(self, resident: PinnedPrefix) -> None:
        self.context.drop(resident.sequence)
        self._cells.give(resident.cells)
        self._seats.append(resident.sequence)
        self._residents.remove(resident)

    def _let_go(self, resident: PinnedPrefix | None) -> None:
        """Take note that a job has left a resident."""
        if resident is None:
            return
        resident.jobs -= 1
        idle = [each for each in self._residents if not each.jobs]
        for each in idle[:-IDLE_MAX]:
            self._evict(each)

    def _recall(self, place: SequenceSlot, suffix: Sequence[int]) -> int:
        """Put a resident's tokens, and what is kept of those behind, into a new place; return how many they are."""
        start = len(place.prompt.tokens)
        entry, shared = self._kept.longest(place.prompt, suffix[:-1])  # one is left to compute: its logits are wanted
        if entry is not None and shared >= KEPT_TOKENS_MIN and self._make_free(len(entry.tokens)):
            self.context.restore(place.sequence, entry.state)
            place.cells = self._cells.take(len(entry.tokens))
            self._cut(place.sequence, place.cells, start, shared)
        if place.resident is not None:
            self.context.copy(place.resident.sequence, place.sequence)
        return start + len(place.cells)

    def _cut(self, sequence: int, cells: list[int], start: int, kept: int) -> None:
        """Take out of a sequence what comes behind the `kept` tokens from position `start` on."""
        self.context.drop(sequence, start + kept)
        self._cells.give(cells[kept:])
        del cells[kept:]

    def _saved(self, sequence: int, start: int, end: int = -1) -> memoryview:
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

    def _keep_range(self, sequence: int, span: tuple[int, int], root: Hashable, tokens: Sequence[int]) -> None:
        entry, shared = self._kept.longest(root, tokens)
        if entry is None or shared < len(tokens):
            self._kept.put(root, tokens, bytes(self._saved(sequence, *span)))
