"""Decide: one input, then several questions about it, side by side.

The input is read once. Then the questions come in groups: each has a sequence that begins with the input's tokens
(`kv_cells.py`). All questions of a group are read together, and then their outputs are scored together, each by the
tree of its outputs (`token_probabilities.py`). So every step is filled with rows of as many questions as fit, and a job
is as many bounded steps as it takes, between which others move.

A group has as many questions as there are sequences for, QUESTIONS_MAX at most, and as fit into the cells of one
request after the input: a job with 400 questions takes no more memory than one that writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edge_agent.engine.protocol import Event, JobRequest, JobResult
from edge_agent.engine.runtimes.llama.kv_cells import QUESTIONS_MAX, QuestionSequence, QuestionSequences
from edge_agent.engine.runtimes.llama.llama_bundle import LlamaBundle
from edge_agent.engine.runtimes.llama.llama_context import BatchPart, BranchRows, LlamaContext, TokenRows
from edge_agent.engine.runtimes.llama.question_prompts import DecisionQuestion, QuestionTokens
from edge_agent.engine.runtimes.llama.sequence_jobs import Fork, SequenceJob
from edge_agent.engine.runtimes.llama.step_scheduler import WorkItem
from edge_agent.engine.runtimes.llama.token_probabilities import LabelScorer, TreeChunk, label_scores


@dataclass
class _OpenQuestion:
    """A question that is being read or scored."""

    index: int
    """Among the questions of the job."""
    encoded: QuestionTokens
    sequence: QuestionSequence
    scorer: LabelScorer
    computed: int = 0
    next_branch: int = 0

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.encoded.tokens) - self.computed

    @property
    def branch_rows(self) -> int:
        """Rows of its outputs that are not computed yet."""
        return self.encoded.tree.rows(self.next_branch)


class _QuestionStep(NamedTuple):
    """What a step computes of one question."""

    question: _OpenQuestion
    rows: int
    chunk: TreeChunk | None
    """None = its own tokens."""


class DecisionJob(SequenceJob):
    """One input and its questions; `tokens` are the input's."""

    def __init__(
        self,
        request: JobRequest,
        bundle: LlamaBundle,
        tokens: list[int],
        questions: Sequence[DecisionQuestion],
        *,
        bulk_safe: bool = False,
    ) -> None:
        """Start with nothing computed. `bulk_safe`: rows without outputs may be read in bulk steps."""
        super().__init__(request, bundle, tokens)
        self._questions, self._bulk_safe = questions, bulk_safe
        self._room = bundle.context_tokens - len(tokens)
        self.outputs_max = min(self._room, sum(len(each.question.tokens) for each in questions))
        self._next = 0
        """The index of the first question that is in no group yet."""
        self._open: list[_OpenQuestion] = []
        self._steps: list[_QuestionStep] = []
        """Of the questions, in the last step."""
        self._rows_ahead = sum(each.question.rows for each in questions)
        """Of questions that are in no group yet."""
        self._scores: list[tuple[float, ...]] = [()] * len(questions)
        self._masses: list[float] = [0.0] * len(questions)
        self.waits_since = 0.0
        """When it had read its input, or its last group."""

    @property
    def waits_for_sequences(self) -> bool:
        """True when it has read its input and no group of questions is open."""
        return self.slot is not None and self.pending == 0 and not self._open

    @property
    def ready(self) -> bool:
        """True when there is something to compute."""
        return self.slot is not None and not self.waits_for_sequences

    @property
    def branches(self) -> bool:
        """True when its next rows leave no cells behind."""
        return self.pending == 0 and not any(question.pending for question in self._open)

    def open_group(self, sequences: QuestionSequences) -> None:
        """Open the next group, with as many questions as fit; none while other jobs have all sequences."""
        assert self.slot is not None
        room, count = self._room, 0
        for question in self._questions[self._next : self._next + QUESTIONS_MAX]:
            room -= len(question.question.tokens)
            if room < 0:
                break
            count += 1
        opened = sequences.open(self.slot, count)
        for index, sequence in enumerate(opened, self._next):
            encoded = self._questions[index].question
            self._open.append(_OpenQuestion(index, encoded, sequence, LabelScorer(encoded.tree)))
            self._rows_ahead -= encoded.rows
        self._next += len(opened)

    def work_item(self) -> WorkItem:
        """Return what could be computed now."""
        if self.pending:
            return self.make_work_item(self.pending, bulk_safe=self._bulk_safe, rows_ahead=self._rows_ahead)
        reading, scoring = self._reading(), sum(question.branch_rows for question in self._open)
        if reading:
            rows = sum(question.pending for question in reading)
            return self.make_work_item(rows, bulk_safe=self._bulk_safe, rows_ahead=self._rows_ahead + scoring)
        first = next(question for question in self._open if question.branch_rows)
        rows_min = first.encoded.tree.rows_min(first.next_branch)
        return self.make_work_item(scoring, rows_min=rows_min, rows_ahead=self._rows_ahead, logits=True)

    def parts(self, rows: int, fork: Fork) -> list[BatchPart]:
        """Return what to compute with that many rows."""
        self._rows, self._steps = 0, []
        if self.pending:
            return [self.take_tokens(rows)]
        if reading := self._reading():
            return list(self._read(reading, rows))
        return list(self._score(rows, fork))

    def _reading(self) -> list[_OpenQuestion]:
        return [question for question in self._open if question.pending]

    def _read(self, reading: Iterable[_OpenQuestion], rows: int) -> Iterator[BatchPart]:
        """Take so many tokens of questions, in their order."""
        for question in reading:
            count = min(rows, question.pending)
            if not count:
                return
            rows -= count
            tokens = question.encoded.tokens[question.computed : question.computed + count]
            position = self.computed + question.computed
            question.computed += count
            self._steps.append(_QuestionStep(question, count, None))
            yield TokenRows(question.sequence.sequence, position, tokens, logits=int(not question.pending))

    def _score(self, rows: int, fork: Fork) -> Iterator[BatchPart]:
        """Take so many rows of the trees of outputs, in the order of their questions."""
        for question in self._open:
            tree = question.encoded.tree
            if not question.branch_rows:
                continue
            if tree.rows_min(question.next_branch) > rows:
                return
            chunk = tree.chunk(question.next_branch, rows, rows)
            count = len(chunk.tokens)
            rows -= count
            self._steps.append(_QuestionStep(question, count, chunk))
            branches = [fork(question.sequence) for _ in range(chunk.branches)]
            yield BranchRows(branches, self.computed + question.computed, chunk)

    def undo(self) -> None:
        """Take back what the last step took: it was not computed."""
        super().undo()
        for step in self._steps:
            if step.chunk is None:
                step.question.computed -= step.rows
        self._steps = []

    def advance(self, context: LlamaContext, row: int, rows: int) -> list[Event]:
        """Take the logits of the job's rows, `row` being the first. Raises ModelFailed."""
        if not self._steps:
            if not self.pending:
                self.mark_prefilled()
                self.waits_since = time.perf_counter()
            return []
        for question, count, chunk in self._steps:
            if chunk is not None:
                question.scorer.add_chunk(chunk, map(context.logits, range(row + chunk.known, row + count)))
                question.next_branch = chunk.next
            elif not question.pending:
                question.scorer.add_prompt(context.logits(row + count - 1))
            row += count
        self.extra_rows += rows
        if any(question.pending or question.branch_rows for question in self._open):
            return []
        for question in self._open:
            index, temperature = question.index, self._questions[question.index].temperature
            self._scores[index], self._masses[index] = label_scores(question.scorer.joint, temperature)
        self._open, self.waits_since = [], time.perf_counter()
        return [] if self._next < len(self._questions) else [self._done()]

    def _done(self) -> JobResult:
        result = self.base_result()
        result.question_scores, result.question_masses = tuple(self._scores), tuple(self._masses)
        result.label_mass = min(self._masses)
        return result


def open_groups(jobs: Iterable[SequenceJob], sequences: QuestionSequences) -> None:
    """Open the next group of each job that waits for one, the longest waiting job first."""
    waiting = [job for job in jobs if isinstance(job, DecisionJob) and job.waits_for_sequences]
    for job in waiting:
        assert job.slot is not None
        sequences.close(job.slot)  # of the group that it has had
    for job in sorted(waiting, key=lambda job: job.waits_since):
        job.open_group(sequences)
