"""Kinds of job as state machines: what to compute next, and what comes out of it.

A job owns `tokens`, its bundle's prefix first, of which the first `computed` are in the cache. `undo` takes back the
last step, of which nothing came out: the job gives the same answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from edge_agent.engine.protocol import Event, JobRequest, JobResult, TextChunk, Token
from edge_agent.engine.runtimes.llama.kv_cells import QuestionSequence, SequenceSlot
from edge_agent.engine.runtimes.llama.label_scoring import LabelScorer, LabelTree, TreeChunk, label_scores, log_probs
from edge_agent.engine.runtimes.llama.llama_bundle import LlamaBundle
from edge_agent.engine.runtimes.llama.llama_context import BatchPart, BranchRows, LlamaContext, Logits, TokenRows
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.step_scheduler import WorkItem
from edge_agent.engine.runtimes.llama.token_sampling import TextStream, TokenSampler, likeliest_tokens

PIECE_SECONDS = 0.025
"""Pieces of one stream are at least so far apart, but for the first and the last: decision 0014 explains why."""

Fork = Callable[[SequenceSlot | QuestionSequence], int]
"""Returns a new sequence with the tokens of the given one, for this step only."""


@dataclass
class SequenceJob:
    """One input under way."""

    exact: ClassVar[bool] = True
    """What comes out must not depend on who else is computed."""

    run: JobRequest
    bundle: LlamaBundle
    tokens: list[int]
    slot: SequenceSlot | None = None
    computed: int = 0
    input_tokens: int = field(init=False)
    came_at: float = field(init=False)
    deadline: float = field(init=False)
    """0 = none."""
    kept: bool = False
    """Its prompt has been offered to others."""
    _rows: int = field(init=False, default=0)
    """Taken in the last step."""
    _found: int = field(init=False, default=0)
    """Tokens that were in the cache when it came in."""
    beside: int = field(init=False, default=0)
    """Rows that were computed for it and are none of `tokens`."""
    _started: float = field(init=False, default=0.0)
    _prefilled: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Count the prompt, and note when it came."""
        self.input_tokens = len(self.tokens)
        self.came_at = time.perf_counter()
        self.deadline = self.came_at + self.run.seconds if self.run.seconds else 0.0

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.computed

    @property
    def ready(self) -> bool:
        """True when there is something to compute."""
        return self.slot is not None

    @property
    def branches(self) -> bool:
        """True when its next rows leave no cells behind."""
        return self.pending == 0

    @property
    def suffix(self) -> list[int]:
        """What stands behind the prefix in the prompt."""
        return self.tokens[len(self.bundle.prompt.tokens) : self.input_tokens]

    @property
    def outputs_max(self) -> int:
        """How many tokens it may write."""
        return 0

    def allow_drafts(self) -> None:
        """Take note that nobody else is there: rows beside the next step's would cost no one time."""

    def start(self, slot: SequenceSlot, computed: int) -> None:
        """Take a place that holds so many tokens."""
        self.slot, self.computed, self._found = slot, computed, computed
        self._started = time.perf_counter()

    def undo(self) -> None:
        """Take back what the last step took: it was not computed."""
        self.computed -= self._rows
        self._rows = 0

    def work_item_of(
        self,
        rows: int,
        *,
        least: int = 1,
        decoding: bool = False,
        bulk_safe: bool = False,
        ahead: int = 0,
        logits: bool = False,
    ) -> WorkItem:
        """Return what could be computed now: `least` to `rows` rows, and `ahead` more behind them."""
        run, exact = self.run, self.exact and not bulk_safe
        asked = (run.priority, self.came_at, self.deadline, ahead, logits)
        return WorkItem(run.job_id, self.bundle.group, rows, least, decoding, exact, bulk_safe, self.computed, *asked)

    def take_tokens(self, rows: int, draft: Sequence[int] = ()) -> TokenRows:
        """Return the next tokens to compute, and what may follow them."""
        assert self.slot is not None
        behind = rows - self.pending
        tokens = self.tokens[self.computed : self.computed + rows]
        if behind > 0:
            tokens += draft[:behind]
        part = TokenRows(self.slot.sequence, self.computed, tokens, logits=max(behind + 1, 0))
        self.computed += rows
        self._rows = rows
        return part

    def done(self) -> JobResult:
        """Return the end of the job with what all kinds report: tokens, and wall time of prompt and answer."""
        return JobResult(
            job_id=self.run.job_id,
            input_tokens=self.input_tokens,
            rows=self.computed - self._found + self.beside,
            prefill_ms=(self._prefilled - self._started) * 1000,
            decode_ms=(time.perf_counter() - self._prefilled) * 1000,
        )

    def mark_prefilled(self) -> None:
        """Note the time when the prompt was computed first."""
        self._prefilled = self._prefilled or time.perf_counter()


class ScoringJob(SequenceJob):
    """Classify: the prompt first, then the tree of the labels, as much of it in a step as fits."""

    def __init__(
        self, run: JobRequest, bundle: LlamaBundle, tokens: list[int], tree: LabelTree, *, bulk_safe: bool = False
    ) -> None:
        """Start with nothing computed. `bulk_safe`: its input may be read in bulk steps, beside others like it."""
        super().__init__(run, bundle, tokens)
        self._tree, self._bulk_safe = tree, bulk_safe
        self._tally = LabelScorer(tree)
        self._next_branch = 0
        self._chunk: TreeChunk | None = None

    def item(self) -> WorkItem:
        """Return what could be computed now."""
        if self.pending:
            return self.work_item_of(self.pending, bulk_safe=self._bulk_safe, ahead=self._tree.rows(0))
        rows, least = self._tree.rows(self._next_branch), self._tree.least(self._next_branch)
        return self.work_item_of(rows, least=least, logits=True)

    def parts(self, rows: int, fork: Fork) -> list[BatchPart]:
        """Return what to compute with that many rows."""
        self._chunk, self._rows = None, 0
        if self.pending:
            return [self.take_tokens(rows)]
        assert self.slot is not None
        chunk = self._chunk = self._tree.chunk(self._next_branch, rows, rows)
        ways = [fork(self.slot) for _ in range(chunk.branches)]
        return [BranchRows(ways, self.computed, chunk.tokens, chunk.depths, chunk.first, chunk.last, chunk.known)]

    def advance(self, context: LlamaContext, row: int, rows: int) -> list[Event]:
        """Take the logits of the job's rows, `row` being the first. Raises ModelFailed."""
        if self.pending:
            return []
        if self._chunk is None:
            self._tally.add_prompt(context.logits(row + rows - 1))
            self.mark_prefilled()
        else:
            self._tally.add_chunk(self._chunk, map(context.logits, range(row + self._chunk.known, row + rows)))
            self._next_branch = self._chunk.next
            self.beside += rows
        return [] if self._tree.rows(self._next_branch) else [self._done()]

    def _done(self) -> JobResult:
        done = self.done()
        done.scores, done.label_mass = label_scores(self._tally.joint, self.bundle.temperature)
        return done


class GenerationJob(SequenceJob):
    """Generate: the prompt first, then token after token."""

    exact = False

    def __init__(self, run: JobRequest, bundle: LlamaBundle, tokens: list[int], model: LlamaModel) -> None:
        """Start with nothing computed."""
        super().__init__(run, bundle, tokens)
        ceiling = bundle.task.limits.output_tokens_max
        self._limit = min(run.output_tokens_max or ceiling, ceiling)
        self._model = model
        self._text = TextStream((*bundle.task.prompt.stops, *(stop for stop in run.stops if stop)))
        self._sampler = TokenSampler(run.temperature, run.seed) if run.temperature else None
        self._written = 0
        self._told: list[Token] = []
        self._held = ""
        self._piece_due = 0.0

    def item(self) -> WorkItem:
        """Return what could be computed now."""
        return self.work_item_of(self.pending, decoding=self._written > 0 and self.pending == 1)

    @property
    def outputs_max(self) -> int:
        """How many tokens it may write."""
        return self._limit

    def parts(self, rows: int, _fork: Fork) -> list[BatchPart]:
        """Return what to compute with that many rows."""
        return [self.take_tokens(rows)]

    def advance(self, context: LlamaContext, row: int, rows: int) -> list[Event]:
        """Choose the next token, `row` being the job's first row. Raises ModelFailed."""
        if self.computed < len(self.tokens):  # `pending`, in each step for each stream
            return []
        if not self._prefilled:
            self.mark_prefilled()
        if self._written == self._limit:
            return self._end("length")
        token = context.choose(self._sampler, row + rows - 1)
        written = self._model.written(token)
        if written.ends:
            return self._end("stop")
        if self.run.logprobs is not None:
            self._told.append(self._thought(context.logits(row + rows - 1), token, self.run.logprobs))
        self._written += 1
        self.tokens.append(token)
        self._held += self._text.feed(written.piece, written.text)
        events = self._hand_out() if time.perf_counter() >= self._piece_due else []
        if self._text.stopped:
            events += self._end("stop")
        elif self._written == self._limit:
            events += self._end("length")
        return events

    def _thought(self, logits: Logits, token: int, count: int) -> Token:
        """Return what the model thought of a token and of the likeliest ones, before temperature and seed chose."""
        tokens = [token, *likeliest_tokens(logits, count)]
        probabilities = log_probs(logits, tokens).tolist()
        (piece, logprob), *others = [
            (self._model.written(each).piece, value) for each, value in zip(tokens, probabilities, strict=True)
        ]
        return Token(piece, logprob, tuple(others))

    def _hand_out(self) -> list[Event]:
        """Hand out what was written since the last piece."""
        if not self._held:
            return []
        self._piece_due = time.perf_counter() + PIECE_SECONDS
        piece, self._held = self._held, ""
        return [TextChunk(job_id=self.run.job_id, text=piece)]

    def _end(self, finish: str) -> list[Event]:
        done = self.done()
        done.finish, done.output_tokens, done.tokens = finish, self._written, tuple(self._told)
        self._held += self._text.finish()
        return [*self._hand_out(), done]
