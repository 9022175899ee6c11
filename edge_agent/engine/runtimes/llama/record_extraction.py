"""Extraction: a record that fits the task's schema, and how sure the model is of it and of each field.

Each token is the likeliest one that the schema allows. Tokens that the schema forces are not computed one by one: they
follow the prompt from the start, or run in one batch with the token before them (*jump-forward*). Likely tokens are
drafted while the record has the engine to itself (`record_grammar.py`).

A token's probability is its share among the allowed tokens; a forced token is certain. A record's confidence is the
product over all its tokens. A field's confidence is the product over the tokens that hold a character of its value or
the character behind it, because that character decides whether a number continues.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_agent.engine.protocol import Event, JobRequest
from edge_agent.engine.runtimes.llama.llama_bundle import LlamaBundle
from edge_agent.engine.runtimes.llama.llama_context import NOT_NUMBERS, BatchPart, LlamaContext
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.record_grammar import DRAFT_MAX, ITEM_SEPARATOR, KEY_SEPARATOR, RecordGrammar
from edge_agent.engine.runtimes.llama.sequence_jobs import Fork, SequenceJob
from edge_agent.engine.runtimes.llama.step_scheduler import WorkItem
from edge_agent.errors import ModelFailed

_REMEDY = "Raise 'output_tokens_max', or give strings 'maxLength' and arrays 'maxItems', in task.yaml."


def choose(logits: NDArray[np.float32], allowed: NDArray[np.intp], temperature: float) -> tuple[int, float]:
    """Return the likeliest of the allowed tokens, and its log-probability among them at the temperature.

    That is not a number where the logits are not.
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
        tokens, start = [], 0
        for piece, log_prob in zip(self._pieces, self._log_probs, strict=True):
            tokens.append((start, start + len(piece), log_prob))
            start += len(piece)
        return {
            name: math.exp(sum(log_prob for first, end, log_prob in tokens if first <= after and end > begin))
            for name, begin, after in value_spans(self.text)
        }


def value_spans(record: str) -> Iterator[tuple[str, int, int]]:
    """Yield each field of a record that `RecordGrammar` shaped: name, [start, end) of its value in UTF-8 bytes."""
    decode = json.JSONDecoder().raw_decode
    at = 1
    while record[at] != "}":
        name, at = decode(record, at)
        at += len(KEY_SEPARATOR)
        _, end = decode(record, at)
        yield name, len(record[:at].encode()), len(record[:end].encode())
        at = end + (len(ITEM_SEPARATOR) if record[end] == "," else 0)


class ExtractionJob(SequenceJob):
    """One record. `exact`, as its confidence is a score."""

    exact = True

    def __init__(
        self, run: JobRequest, bundle: LlamaBundle, tokens: list[int], model: LlamaModel, grammar: RecordGrammar
    ) -> None:
        """Start with nothing computed. Raises ModelFailed."""
        super().__init__(run, bundle, tokens)
        ceiling = bundle.task.limits.output_tokens_max
        self._limit = min(run.output_tokens_max or ceiling, ceiling)
        self._model = model
        self._walk = grammar.walk()
        self._written = RecordTranscript()
        self._draft: list[int] = []
        self._drafted = 0
        """Of the last step's rows, those of the draft."""
        self._jump()

    def item(self) -> WorkItem:
        """Return what could be computed now."""
        rows = self.pending + len(self._draft)
        return self.work_item_of(rows, decoding=rows == 1)

    @property
    def outputs_max(self) -> int:
        """How many tokens it may write."""
        return self._limit

    def allow_drafts(self) -> None:
        """Have what probably follows computed with the next step."""
        if not self._walk.complete:
            most = min(DRAFT_MAX, self._limit - len(self._written))
            self._draft = self._walk.allows(self.bundle.drafts.after(self.tokens, most, alone=self.pending == 1))

    def parts(self, rows: int, _fork: Fork) -> list[BatchPart]:
        """Return what to compute with that many rows."""
        self._drafted = max(rows - self.pending, 0)
        return [self.take_tokens(rows, self._draft)]

    def advance(self, context: LlamaContext, row: int, rows: int) -> list[Event]:
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
