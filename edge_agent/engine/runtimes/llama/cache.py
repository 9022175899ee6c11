"""Who owns which sequence of the context, and the rules that make a score independent of its neighbours.

llama.cpp computes a row the same way, to the last bit, whatever other rows are in the batch, if three rules are kept
(measured on the pinned build; the contract tests hold them):

1. Fewer than 64 rows in a micro-batch: from 64 on, flash attention takes another kernel. `ROWS_MAX` sees to it.
2. More than one row: a lone row behind more than 256 cells takes yet another kernel. `decode` adds a row if need be.
3. The cells of a sequence lie in the order of its tokens. Attention adds up cells in the order of the buffer, and
   another order rounds differently: up to 0.3 nats on a likely token. llama.cpp gives a new token the lowest free cell,
   so order is kept as long as no lower cell is freed while a scoring job is under way. Hence:
   - prefixes lie at the bottom; when one comes or goes, all jobs start anew (`LlamaRuntime`);
   - a job that ends keeps its sequence until no scoring job is under way: `leave` notes it, `sweep` empties it;
   - branches of labels live for one step at the end of the batch: freeing them frees the highest cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_agent.engine.protocol import CacheUse
from edge_agent.engine.runtimes.llama.context import ROWS_MAX, Context, Rows, Shape
from edge_agent.engine.runtimes.llama.native import Model
from edge_agent.errors import ModelLoadFailed

PREFIXES_MAX = 8
PREFIX_CONTEXTS = 2
_BALLAST_TOKEN = 0


def shape_of(context_tokens: int, jobs: int, kv_type: str, threads: int) -> Shape:
    """Return the size of a context for `jobs` jobs of `context_tokens` tokens, PREFIXES_MAX prefixes and one batch.

    A prefix is stored once for all its jobs; all prefixes together may have PREFIX_CONTEXTS * `context_tokens` tokens.
    """
    cells = (jobs + PREFIX_CONTEXTS) * context_tokens + ROWS_MAX + 1
    return Shape(cells=cells, sequences=PREFIXES_MAX + jobs + ROWS_MAX + 1, kv_type=kv_type, threads=threads)


class Cache:
    """The sequences of one context: prefixes, jobs, branches of labels, and one for ballast."""

    def __init__(self, model: Model, context_tokens: int, jobs: int, shape: Shape) -> None:
        """Allocate the context. Raises ModelLoadFailed."""
        self.context = Context(model, shape)
        self._prefix_tokens_max = PREFIX_CONTEXTS * context_tokens
        self._prefixes: dict[int, int] = {}
        first_branch = PREFIXES_MAX + jobs
        self._free = list(range(PREFIXES_MAX, first_branch))
        self._leaving: list[int] = []
        self._branches = range(first_branch, first_branch + ROWS_MAX)
        self._forks = 0
        self._entered: dict[int, int] = {}
        """Tokens of the prefix in each job's sequence."""
        self._hits, self._reused, self._computed = 0, 0, 0
        self.ballast = first_branch + ROWS_MAX

    def reserve_prefix(self, tokens: int) -> int:
        """Return a sequence for a new prefix. Raises ModelLoadFailed if there is no room."""
        free = sorted(set(range(PREFIXES_MAX)) - self._prefixes.keys())
        room = self._prefix_tokens_max - sum(self._prefixes.values())
        if not free or tokens > room:
            raise ModelLoadFailed(
                f"no room for a prompt prefix of {tokens} tokens: {len(self._prefixes)} of {PREFIXES_MAX} prefixes on "
                f"these weights are taken, {room} of {self._prefix_tokens_max} tokens are left",
                remedy="Shorten the prompt before {input}, raise 'context_tokens', or remove a task on these weights.",
            )
        self._prefixes[free[0]] = tokens
        return free[0]

    def release_prefix(self, sequence: int) -> None:
        """Empty a prefix's sequence and make it free."""
        self.context.drop(sequence)
        self._prefixes.pop(sequence, None)

    def enter(self, prefix: int) -> int | None:
        """Return a sequence for a job, with the prefix in it; None if all are taken."""
        if not self._free:
            return None
        sequence = self._free.pop()
        self.context.copy(prefix, sequence)
        self._entered[sequence] = self._prefixes[prefix]
        self._hits += 1
        self._reused += self._prefixes[prefix]
        return sequence

    def leave(self, sequence: int) -> None:
        """Note that a job has ended; its sequence is empty and free after the next `sweep`."""
        self._leaving.append(sequence)

    def sweep(self) -> None:
        """Empty the sequences of ended jobs. Only while no scoring job is under way."""
        for sequence in self._leaving:
            self.context.drop(sequence)
            del self._entered[sequence]
        self._free += self._leaving
        self._leaving.clear()

    def decode(self, parts: Sequence[Rows], adapter: Any, *, exact: bool) -> None:
        """Compute one batch: branches last. `exact`: a score comes out of it, so a lone row gets company.

        Raises:
            ModelFailed: nothing was computed.
        """
        self.context.use_adapter(adapter)
        lone = exact and len(parts) == 1 and len(parts[0].tokens) == 1
        ballast = [Rows(self.ballast, 0, [_BALLAST_TOKEN], logits="none")] if lone else []
        try:
            self.context.decode([*parts, *ballast])
            self._computed += sum(len(part.tokens) for part in parts)
        finally:
            if lone:
                self.context.drop(self.ballast)

    def fork(self, sequence: int) -> int:
        """Return a sequence with the tokens of another in it, until `drop_forks`; at most ROWS_MAX of them."""
        branch = self._branches[self._forks]
        self._forks += 1
        self.context.copy(sequence, branch)
        return branch

    def drop_forks(self) -> None:
        """Empty the sequences that `fork` returned."""
        for branch in self._branches[: self._forks]:
            self.context.drop(branch)
        self._forks = 0

    def fill(self, sequence: int, position: int, tokens: Sequence[int], adapter: Any) -> None:
        """Compute tokens at once, however many they are.

        Raises:
            ModelFailed: llama.cpp refused, or what came out are no numbers.
        """
        for start in range(0, len(tokens), ROWS_MAX):
            chunk = tokens[start : start + ROWS_MAX]
            self.decode([Rows(sequence, position + start, chunk, logits="last")], adapter, exact=True)
            self.context.logits(len(chunk) - 1)

    def use(self) -> CacheUse:
        """Return what is in the buffer, a prefix that several jobs share counted once, and what was counted so far."""
        jobs = sum(self.context.length(sequence) - prefix for sequence, prefix in self._entered.items())
        cells = sum(self._prefixes.values()) + jobs
        return CacheUse(cells_in_use=cells, hits=self._hits, reused=self._reused, computed=self._computed)

    def close(self) -> None:
        """Free the context."""
        self.context.close()
