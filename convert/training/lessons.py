"""From rows to what a decoder reads and is to answer, in tokens.

A label is asked for as the agent asks: the task's prompt, then `label_prefix` and the label. Other answers are the
row's completion and the end token. A conversation of one question is rendered like a request to the agent; a longer
one, or one with a system message of its own, by the tokenizer's chat template. Only the answer is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convert.data.row_files import DataRow
from convert.decoder.tokens import TaskTokens, Tokens, tokenize
from convert.training.objective import AnswerTarget, label_answers
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import TaskSpec


@dataclass(frozen=True)
class TrainingExample:
    """One row in tokens."""

    row: DataRow
    prompt: Tokens
    answer: AnswerTarget

    @property
    def length(self) -> int:
        """Return the number of tokens, prompt and answer."""
        return len(self.prompt) + len(self.answer.tokens)


class ExampleEncoder:
    """Turns rows of one task into lessons."""

    def __init__(self, task: TaskSpec, tokens: TaskTokens) -> None:
        """`tokens` are those of the task."""
        self._task, self._tokens = task, tokens
        self._answers = dict(zip(task.labels, label_answers(tokens.labels), strict=False))

    def of(self, rows: Sequence[DataRow], tokens_max: int) -> tuple[list[TrainingExample], int]:
        """Return the lessons, and how many rows were left out because they have more than `tokens_max` tokens.

        Raises InvalidRequest if none is short enough.
        """
        every = [self._lesson(row) for row in rows]
        short = [lesson for lesson in every if lesson.length <= tokens_max]
        if not short:
            shortest = min(lesson.length for lesson in every)
            said = f"all {len(every)} training rows have more than {tokens_max} tokens; the shortest has {shortest}"
            raise InvalidRequest(said, remedy="Raise 'tokens_max' under 'finetune', or shorten the rows or the prompt.")
        return short, len(every) - len(short)

    def _lesson(self, row: DataRow) -> TrainingExample:
        if self._task.kind == "classify":
            return TrainingExample(row, self._tokens.prompt(row.text), self._answers[row.label])
        if self._is_request(row):
            return TrainingExample(row, self._tokens.prompt(row.text), AnswerTarget(self._closed(row.completion)))
        return self._conversation(row)

    def _is_request(self, row: DataRow) -> bool:
        """Tell whether the agent would send a row's prompt just so."""
        before = [(turn.role, turn.content) for turn in row.messages[:-2]]
        return before in ([], [("system", self._task.prompt.system)])

    def _closed(self, text: str) -> Tokens:
        end: int = self._tokens.tokenizer.eos_token_id
        return (*tokenize(self._tokens.tokenizer, text, special=False), end)

    def _conversation(self, row: DataRow) -> TrainingExample:
        tokenizer = self._tokens.tokenizer
        turns: list[Any] = [{"role": turn.role, "content": turn.content} for turn in row.messages]
        asked = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        prompt = tokenize(tokenizer, str(asked), special=True)
        return TrainingExample(row, prompt, AnswerTarget(self._closed(row.completion)))
