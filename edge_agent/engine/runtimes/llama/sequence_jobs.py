"""Kinds of job as state machines: what to compute next, and what comes out of it.

A job owns `tokens`, its bundle's prefix first, of which the first `computed` are in the cache. `undo` takes back the
last step, of which nothing came out: the job gives the same answer.

Extraction: a record that fits the task's schema, with the confidence of the record and of each field.

Each token is the likeliest one that the schema allows. Tokens that the schema forces are not computed one by one: they
follow the prompt from the start, or run in one batch with the token before them (*jump-forward*). Likely tokens are
drafted while the record has the engine to itself (`record_grammar.py`).

A token's probability is its share among the allowed tokens; a forced token is certain. A record's confidence is the
product over all its tokens. A field's confidence is the product over the tokens that hold a character of its value or
the character after it, because that character decides whether a number continues.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_agent.engine.protocol import Event, JobRequest, JobResult, TextChunk, Token
from edge_agent.engine.runtimes.llama.kv_cells import QuestionSequence, SequenceSlot
from edge_agent.engine.runtimes.llama.llama_bundle import LlamaBundle
from edge_agent.engine.runtimes.llama.llama_context import (
    NOT_NUMBERS,
    BatchPart,
    BranchRows,
    LlamaContext,
    Logits,
    TokenRows,
)
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.record_grammar import DRAFT_MAX, ITEM_SEPARATOR, KEY_SEPARATOR, RecordGrammar
from edge_agent.engine.runtimes.llama.step_scheduler import WorkItem
from edge_agent.engine.runtimes.llama.token_probabilities import (
    LabelScorer,
    LabelTree,
    TextStream,
    TokenSampler,
    TreeChunk,
    label_scores,
    likeliest_tokens,
    log_probs,
)
from edge_agent.errors import ModelFailed

PIECE_SECONDS = 0.025
"""The least time between pieces of one stream, except before the first and the last (decision 0014)."""

Fork = Callable[[SequenceSlot | QuestionSequence], int]
"""Returns a new sequence with the tokens of the given one, for this step only."""


@dataclass
class SequenceJob:
    """One input under way."""

    exact: ClassVar[bool] = True
    """The result must not depend on other jobs."""

    request: JobRequest
    bundle: LlamaBundle
    tokens: list[int]
    slot: SequenceSlot | None = None
    computed: int = 0
    input_tokens: int = field(init=False)
    arrived_at: float = field(init=False)
    deadline: float = field(init=False)
    """0 = none."""
    outputs_max: int = field(init=False, default=0)
    """The most tokens that it may write, or that its questions may take at once."""
    prompt_kept: bool = False
    """Its prompt has been stored for other jobs."""
    _rows: int = field(init=False, default=0)
    """Tokens taken in the last step."""
    _reused: int = field(init=False, default=0)
    """Tokens that were in the cache when it got its slot."""
    extra_rows: int = field(init=False, default=0)
    """Rows that were computed for it but are not in `tokens`."""
    undone: bool = field(init=False, default=False)
    """Its last step was not computed."""
    _started_at: float = field(init=False, default=0.0)
    _prefilled_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Count the prompt, and note when it came."""
        self.input_tokens = len(self.tokens)
        self.arrived_at = time.perf_counter()
        self.deadline = self.arrived_at + self.request.seconds if self.request.seconds else 0.0

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
        """What stands after the prefix in the prompt."""
        return self.tokens[len(self.bundle.prompt.tokens) : self.input_tokens]

    def allow_drafts(self) -> None:
        """Note that there is no other job: extra rows in the next step would delay none."""

    def start(self, slot: SequenceSlot, computed: int) -> None:
        """Take a slot that already holds `computed` tokens."""
        self.slot, self.computed, self._reused = slot, computed, computed
        self._started_at = time.perf_counter()

    def undo(self) -> None:
        """Take back the tokens of the last step, which was not computed."""
        self.computed -= self._rows
        self._rows, self.undone = 0, True

    def make_work_item(
        self,
        rows: int,
        *,
        rows_min: int = 1,
        decoding: bool = False,
        bulk_safe: bool = False,
        rows_ahead: int = 0,
        logits: bool = False,
    ) -> WorkItem:
        """Return what could be computed now: `rows_min` to `rows` rows, and `rows_ahead` more after them."""
        request, group, exact = self.request, self.bundle.group, self.exact and not bulk_safe
        timing = (request.priority, self.arrived_at, self.deadline, rows_ahead, logits)
        return WorkItem(request.job_id, group, rows, rows_min, decoding, exact, bulk_safe, self.computed, *timing)

    def take_tokens(self, rows: int, draft: Sequence[int] = ()) -> TokenRows:
        """Return the next tokens to compute, and what may follow them."""
        assert self.slot is not None
        draft_rows = rows - self.pending
        tokens = self.tokens[self.computed : self.computed + rows]
        if draft_rows > 0:
            tokens += draft[:draft_rows]
        rows_taken = TokenRows(self.slot.sequence, self.computed, tokens, logits=max(draft_rows + 1, 0))
        self.computed += rows
        self._rows = rows
        return rows_taken

    def base_result(self) -> JobResult:
        """Return the result with the fields of all kinds of job: tokens, and wall time of prompt and answer."""
        return JobResult(
            job_id=self.request.job_id,
            input_tokens=self.input_tokens,
            rows=self.computed - self._reused + self.extra_rows,
            prefill_ms=(self._prefilled_at - self._started_at) * 1000,
            decode_ms=(time.perf_counter() - self._prefilled_at) * 1000,
        )

    def mark_prefilled(self) -> None:
        """Note the time when the prompt was computed first."""
        self._prefilled_at = self._prefilled_at or time.perf_counter()


class ScoringJob(SequenceJob):
    """Classify: the prompt first, then the tree of the labels, as much of it in a step as fits."""

    def __init__(
        self, request: JobRequest, bundle: LlamaBundle, tokens: list[int], tree: LabelTree, *, bulk_safe: bool = False
    ) -> None:
        """Start with nothing computed. `bulk_safe`: its input may be read in bulk steps, beside others like it."""
        super().__init__(request, bundle, tokens)
        self._tree, self._bulk_safe = tree, bulk_safe
        self._scorer = LabelScorer(tree)
        self._next_branch = 0
        self._chunk: TreeChunk | None = None

    def work_item(self) -> WorkItem:
        """Return what could be computed now."""
        if self.pending:
            return self.make_work_item(self.pending, bulk_safe=self._bulk_safe, rows_ahead=self._tree.rows(0))
        rows, rows_min = self._tree.rows(self._next_branch), self._tree.rows_min(self._next_branch)
        return self.make_work_item(rows, rows_min=rows_min, logits=True)

    def parts(self, rows: int, fork: Fork) -> list[BatchPart]:
        """Return what to compute with that many rows."""
        self._chunk, self._rows = None, 0
        if self.pending:
            return [self.take_tokens(rows)]
        assert self.slot is not None
        chunk = self._chunk = self._tree.chunk(self._next_branch, rows, rows)
        return [BranchRows([fork(self.slot) for _ in range(chunk.branches)], self.computed, chunk)]

    def advance(self, context: LlamaContext, row: int, rows: int) -> list[Event]:
        """Take the logits of the job's rows, `row` being the first. Raises ModelFailed."""
        if self.pending:
            return []
        if self._chunk is None:
            self._scorer.add_prompt(context.logits(row + rows - 1))
            self.mark_prefilled()
        else:
            self._scorer.add_chunk(self._chunk, map(context.logits, range(row + self._chunk.known, row + rows)))
            self._next_branch = self._chunk.next
            self.extra_rows += rows
        return [] if self._tree.rows(self._next_branch) else [self._done()]

    def _done(self) -> JobResult:
        result = self.base_result()
        result.scores, result.label_mass = label_scores(self._scorer.joint, self.bundle.temperature)
        return result


class GenerationJob(SequenceJob):
    """Generate: the prompt first, then token after token."""

    exact = False

    def __init__(self, request: JobRequest, bundle: LlamaBundle, tokens: list[int], model: LlamaModel) -> None:
        """Start with nothing computed."""
        super().__init__(request, bundle, tokens)
        ceiling = bundle.task.limits.output_tokens_max
        self.outputs_max = min(request.output_tokens_max or ceiling, ceiling)
        self._model = model
        self._text = TextStream((*bundle.task.prompt.stops, *(stop for stop in request.stops if stop)))
        self._sampler = TokenSampler(request.temperature, request.seed) if request.temperature else None
        self._written_count = 0
        self._tokens_written: list[Token] = []
        self._pending_text = ""
        self._piece_due = 0.0

    def work_item(self) -> WorkItem:
        """Return what could be computed now."""
        return self.make_work_item(self.pending, decoding=self._written_count > 0 and self.pending == 1)

    def parts(self, rows: int, _fork: Fork) -> list[BatchPart]:
        """Return what to compute with that many rows."""
        return [self.take_tokens(rows)]

    def advance(self, context: LlamaContext, row: int, rows: int) -> list[Event]:
        """Choose the next token, `row` being the job's first row. Raises ModelFailed."""
        if self.computed < len(self.tokens):  # `pending`, in each step for each stream
            return []
        if not self._prefilled_at:
            self.mark_prefilled()
        if self._written_count == self.outputs_max:
            return self._end("length")
        token = context.choose(self._sampler, row + rows - 1)
        token_text = self._model.token_text(token)
        if token_text.ends:
            return self._end("stop")
        if (count := self.request.logprobs) is not None:
            self._tokens_written.append(self._with_logprobs(context.logits(row + rows - 1), token, count))
        self._written_count += 1
        self.tokens.append(token)
        self._pending_text += self._text.feed(token_text.piece, token_text.text)
        events = self._flush() if time.perf_counter() >= self._piece_due else []
        if self._text.stopped:
            events += self._end("stop")
        elif self._written_count == self.outputs_max:
            events += self._end("length")
        return events

    def _with_logprobs(self, logits: Logits, token: int, count: int) -> Token:
        """Return a token and the `count` likeliest ones with their log-probabilities at temperature 1."""
        tokens = [token, *likeliest_tokens(logits, count)]
        logprobs = log_probs(logits, tokens).tolist()
        (piece, logprob), *others = [
            (self._model.token_text(each).piece, value) for each, value in zip(tokens, logprobs, strict=True)
        ]
        return Token(piece, logprob, tuple(others))

    def _flush(self) -> list[Event]:
        """Return what was written since the last piece as one piece."""
        if not self._pending_text:
            return []
        self._piece_due = time.perf_counter() + PIECE_SECONDS
        piece, self._pending_text = self._pending_text, ""
        return [TextChunk(job_id=self.request.job_id, text=piece)]

    def _end(self, finish: str) -> list[Event]:
        result = self.base_result()
        result.finish, result.output_tokens, result.tokens = finish, self._written_count, tuple(self._tokens_written)
        self._pending_text += self._text.finish()
        return [*self._flush(), result]


_REMEDY = "Raise 'output_tokens_max', or give strings 'maxLength' and arrays 'maxItems', in task.yaml."


def choose(logits: NDArray[np.float32], allowed: NDArray[np.intp], temperature: float) -> tuple[int, float]:
    """Return the likeliest of the allowed tokens, and its log-probability among them at the temperature.

    The log-probability is NaN if the logits are not numbers.
    """
    weights = logits.take(allowed)
    best = int(weights.argmax())  # the first NaN, if there is one
    weights -= weights[best]
    weights /= np.float32(temperature)
    np.exp(weights, out=weights)
    return int(allowed[best]), -math.log(float(weights.sum(dtype=np.float64)))


class RecordTranscript:
    """The tokens of a record, in order."""

    def __init__(self) -> None:
        """Start with none."""
        self._pieces: list[bytes] = []
        self._log_probs: list[float] = []

    def add(self, piece: bytes, log_prob: float = 0.0) -> None:
        """Add a token's bytes and its log-probability; a forced one has none."""
        self._pieces.append(piece)
        self._log_probs.append(log_prob)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self._pieces)

    @property
    def text(self) -> str:
        """What is written."""
        return b"".join(self._pieces).decode()

    def confidence(self) -> float:
        """Return the probability of the whole record, 0 to 1."""
        return math.exp(sum(self._log_probs))

    def fields(self) -> dict[str, float]:
        """Return the probability of each field of a complete record, 0 to 1, in the order of the record."""
        tokens, offset = [], 0
        for piece, log_prob in zip(self._pieces, self._log_probs, strict=True):
            tokens.append((offset, offset + len(piece), log_prob))
            offset += len(piece)
        return {
            name: math.exp(sum(log_prob for start, end, log_prob in tokens if start <= value_end and end > value_start))
            for name, value_start, value_end in value_spans(self.text)
        }


def value_spans(record: str) -> Iterator[tuple[str, int, int]]:
    """Yield each field of a record that `RecordGrammar` shaped: name, [start, end) of its value in UTF-8 bytes."""
    decode = json.JSONDecoder().raw_decode
    position = 1
    while record[position] != "}":
        name, position = decode(record, position)
        position += len(KEY_SEPARATOR)
        _, end = decode(record, position)
        yield name, len(record[:position].encode()), len(record[:end].encode())
        position = end + (len(ITEM_SEPARATOR) if record[end] == "," else 0)


class ExtractionJob(SequenceJob):
    """One record. `exact`, as its confidence is a score."""

    exact = True

    def __init__(
        self, request: JobRequest, bundle: LlamaBundle, tokens: list[int], model: LlamaModel, grammar: RecordGrammar
    ) -> None:
        """Start with nothing computed. Raises ModelFailed."""
        super().__init__(request, bundle, tokens)
        ceiling = bundle.task.limits.output_tokens_max
        self.outputs_max = min(request.output_tokens_max or ceiling, ceiling)
        self._model = model
        self._matcher = grammar.start_record()
        self._transcript = RecordTranscript()
        self._draft: list[int] = []
        self._draft_rows = 0
        """Of the last step's rows, those of the draft."""
        self._write_forced()

    def work_item(self) -> WorkItem:
        """Return what could be computed now."""
        rows = self.pending + len(self._draft)
        return self.make_work_item(rows, decoding=rows == 1)

    def allow_drafts(self) -> None:
        """Draft the probable next tokens, to be computed with the next step."""
        if not self._matcher.complete:
            tokens_max = min(DRAFT_MAX, self.outputs_max - len(self._transcript))
            draft = self.bundle.drafts.draft_after(self.tokens, tokens_max, alone=self.pending == 1)
            self._draft = self._matcher.allowed_prefix(draft)

    def parts(self, rows: int, _fork: Fork) -> list[BatchPart]:
        """Return what to compute with that many rows."""
        self._draft_rows = max(rows - self.pending, 0)
        return [self.take_tokens(rows, self._draft)]

    def advance(self, context: LlamaContext, row: int, rows: int) -> list[Event]:
        """Choose tokens until one needs a row that is not computed. Raises ModelFailed."""
        if self.pending > 0:
            return []
        self.mark_prefilled()
        draft, self._draft = self._draft[: self._draft_rows], []
        self.computed -= len(draft)
        row += rows - 1 - len(draft)
        while not self._matcher.complete and not self.pending:
            allowed = self._matcher.allowed_tokens()
            token, log_prob = choose(context.unchecked_logits(row), allowed, self.bundle.temperature)
            if math.isnan(log_prob):
                raise ModelFailed(NOT_NUMBERS)
            self._matcher.take(token)
            self._write([token], log_prob)
            self._write_forced()
            while draft and self.pending and draft[0] == self.tokens[self.computed]:
                del draft[0]
                self.computed += 1
                row += 1
        return [self._done()] if self._matcher.complete else []

    def _write_forced(self) -> None:
        """Write the forced tokens; a long run of them comes in parts."""
        while not self._matcher.complete and (tokens := self._matcher.take_forced()):
            self._write(tokens)

    def _write(self, tokens: list[int], log_prob: float = 0.0) -> None:
        self.tokens += tokens
        for token in tokens:
            self._transcript.add(self._model.token_text(token).piece, log_prob)
        count = len(self._transcript)
        if count > self.outputs_max or (count == self.outputs_max and not self._matcher.complete):
            raise ModelFailed(f"the record is not complete after {self.outputs_max} tokens", remedy=_REMEDY)

    def _done(self) -> Event:
        self.bundle.drafts.learn(self.tokens, self.input_tokens)
        result = self.base_result()
        result.record, result.fields = self._transcript.text, self._transcript.fields()
        result.confidence, result.output_tokens = self._transcript.confidence(), len(self._transcript)
        return result
