"""Extract: a record that fits the task's schema, whatever the model would rather say.

The likeliest allowed token, each time. What can only go one way is not asked: those tokens stand behind the prompt from
the start, or are computed in one batch with the token before them (*jump-forward*).
"""

from __future__ import annotations

from edge_agent.engine.protocol import Event, Run
from edge_agent.engine.runtimes.llama.bundle import Bundle
from edge_agent.engine.runtimes.llama.context import Context, Part
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

    def __init__(self, run: Run, bundle: Bundle, tokens: list[int], model: Model, grammar: Grammar) -> None:
        """Start with nothing computed. Raises ModelFailed."""
        super().__init__(run, bundle, tokens)
        ceiling = bundle.task.limits.output_tokens_max
        self._limit = min(run.output_tokens_max or ceiling, ceiling)
        self._model = model
        self._walk = grammar.walk()
        self._written = Transcript()
        self._jump()

    def lane(self) -> Lane:
        """Return what could be computed now."""
        return self.lane_of(self.pending, decoding=self.pending == 1)

    @property
    def outputs_max(self) -> int:
        """How many tokens it may write."""
        return self._limit

    def parts(self, rows: int, _fork: Fork) -> list[Part]:
        """Return what to compute with that many rows."""
        return [self.take_tokens(rows)]

    def advance(self, context: Context, row: int, rows: int) -> list[Event]:
        """Choose the next token and go on to where there is a choice again. Raises ModelFailed."""
        if self.pending:
            return []
        self.mark_prefilled()
        if not self._walk.complete:
            logits = context.logits(row + rows - 1)
            token, log_prob = choose(logits, self._walk.allowed(), self.bundle.temperature)
            self._walk.take(token)
            self._write([token], log_prob)
            self._jump()
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
        done = self.done()
        done.record, done.fields = self._written.text, self._written.fields()
        done.confidence, done.output_tokens = self._written.confidence(), len(self._written)
        return done

    def close(self) -> None:
        """Free nothing: the walk goes with the job."""
