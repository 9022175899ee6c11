"""Extract: a record that fits the task's schema, whatever the model would rather say.

The likeliest allowed token, each time. What can only go one way is not asked: those tokens stand behind the prompt from
the start, or are computed in one batch with the token before them (*jump-forward*). What will probably follow is
computed along with them while the record has the engine for itself (`drafts.py`).
"""

from __future__ import annotations

import math

from edge_agent.engine.protocol import Event, JobRequest
from edge_agent.engine.runtimes.llama.bundle import Bundle
from edge_agent.engine.runtimes.llama.context import NOT_NUMBERS, Context, Part
from edge_agent.engine.runtimes.llama.drafts import DRAFT_MAX
from edge_agent.engine.runtimes.llama.grammar import Grammar
from edge_agent.engine.runtimes.llama.native import Model
from edge_agent.engine.runtimes.llama.record import Transcript, choose
from edge_agent.engine.runtimes.llama.scheduler import Lane
from edge_agent.engine.runtimes.llama.work import Fork, Job
from edge_agent.errors import ModelFailed

_REMEDY = "Raise 'output_tokens_max', or give strings 'maxLength' and arrays 'maxItems', in task.yaml."


class Extraction(Job):
    """One record. `exact`, as its confidence is a score."""

    exact = True

    def __init__(self, run: JobRequest, bundle: Bundle, tokens: list[int], model: Model, grammar: Grammar) -> None:
        """Start with nothing computed. Raises ModelFailed."""
        super().__init__(run, bundle, tokens)
        ceiling = bundle.task.limits.output_tokens_max
        self._limit = min(run.output_tokens_max or ceiling, ceiling)
        self._model = model
        self._walk = grammar.walk()
        self._written = Transcript()
        self._draft: list[int] = []
        self._drafted = 0
        """Of the last step's rows, those of the draft."""
        self._jump()

    def lane(self) -> Lane:
        """Return what could be computed now."""
        rows = self.pending + len(self._draft)
        return self.lane_of(rows, decoding=rows == 1)

    @property
    def outputs_max(self) -> int:
        """How many tokens it may write."""
        return self._limit

    def look_ahead(self) -> None:
        """Have what probably follows computed with the next step."""
        if not self._walk.complete:
            most = min(DRAFT_MAX, self._limit - len(self._written))
            self._draft = self._walk.allows(self.bundle.drafts.after(self.tokens, most, alone=self.pending == 1))

    def parts(self, rows: int, _fork: Fork) -> list[Part]:
        """Return what to compute with that many rows."""
        self._drafted = max(rows - self.pending, 0)
        return [self.take_tokens(rows, self._draft)]

    def advance(self, context: Context, row: int, rows: int) -> list[Event]:
        """Choose the next token and go on to where there is a choice again, or a row that is not computed.

        Raises ModelFailed.
        """
        if self.pending > 0:
            return []
        self.mark_prefilled()
        draft, self._draft = self._draft[: self._drafted], []
        self.computed -= len(draft)
        row += rows - 1 - len(draft)
        while not self._walk.complete and not self.pending:
            token, log_prob = choose(context.unchecked(row), self._walk.allowed(), self.bundle.temperature)
            if math.isnan(log_prob):
                raise ModelFailed(NOT_NUMBERS)
            self._walk.take(token)
            self._write([token], log_prob)
            self._jump()
            while draft and self.pending and draft[0] == self.tokens[self.computed]:
                del draft[0]
                self.computed += 1
                row += 1
        return [self._done()] if self._walk.complete else []

    def _jump(self) -> None:
        """Write what is forced; ask again, since a long run comes in parts."""
        while not self._walk.complete and (tokens := self._walk.forced()):
            self._write(tokens)

    def _write(self, tokens: list[int], log_prob: float = 0.0) -> None:
        self.tokens += tokens
        for token in tokens:
            self._written.add(self._model.written(token).piece, log_prob)
        if len(self._written) > self._limit or (len(self._written) == self._limit and not self._walk.complete):
            raise ModelFailed(f"the record is not complete after {self._limit} tokens", remedy=_REMEDY)

    def _done(self) -> Event:
        self.bundle.drafts.learn(self.tokens, self.input_tokens)
        done = self.done()
        done.record, done.fields = self._written.text, self._written.fields()
        done.confidence, done.output_tokens = self._written.confidence(), len(self._written)
        return done
