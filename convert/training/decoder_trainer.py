"""LoRA training of a decoder: examples in tokens, the loss of a batch, and the trainer.

The loss of a label follows the agent's score: at each of its tokens, a softmax over the tokens with which labels can
continue there (the label tree), plus a share of the softmax over the whole vocabulary. That share gives the labels
their probability mass, and trains the tokens of a label that have no alternative. Both parts have their minimum where
the joint log-probability of the right label is 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from convert.data.data_row import DataRow
from convert.decoder.label_scores import TaskTokens, Tokens, joint_log_probabilities, tokenize
from convert.pipeline.stage import Progress
from convert.training.lora import FrozenPrefixCache
from convert.training.training_loop import ValidationResult
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import TaskSpec

VOCABULARY_SHARE = 0.1
"""Weight of the loss over the whole vocabulary, added to that over the labels; see docs/experiments.md."""
_MASKED = -100


@dataclass(frozen=True)
class AnswerTarget:
    """The target of a row."""

    tokens: Tokens
    choices: tuple[Tokens, ...] = ()
    """label: for each token, the tokens possible there, the right one first."""


@dataclass(frozen=True)
class BatchTargets:
    """The answers of a batch, aligned at their ends; positions before a shorter answer are masked."""

    tokens: torch.Tensor
    """[rows, longest answer]; -100 = masked."""
    choices: torch.Tensor | None
    """[rows, longest answer, most choices]; -1 = unused. The right one is the first."""

    @property
    def length(self) -> int:
        """Return the number of tokens of the longest answer."""
        return int(self.tokens.shape[1])


def label_answers(paths: Sequence[Tokens]) -> tuple[AnswerTarget, ...]:
    """Return the answers for the labels, in their order."""
    return tuple(AnswerTarget(path, tuple(_choices(paths, path, step) for step in range(len(path)))) for path in paths)


def _choices(paths: Sequence[Tokens], path: Tokens, step: int) -> Tokens:
    following = {other[step]: None for other in paths if len(other) > step and other[:step] == path[:step]}
    return (path[step], *(token for token in following if token != path[step]))


def targets(answers: Sequence[AnswerTarget], device: torch.device) -> BatchTargets:
    """Align the answers of a batch; either all of them are labels, or none is."""
    rows = [torch.tensor(answer.tokens) for answer in answers]
    tokens = pad_sequence(rows, batch_first=True, padding_value=_MASKED, padding_side="left")
    if not answers[0].choices:
        return BatchTargets(tokens.to(device), None)
    return BatchTargets(tokens.to(device), _aligned_choices(answers, tokens.shape[1]).to(device))


def _aligned_choices(answers: Sequence[AnswerTarget], longest: int) -> torch.Tensor:
    choices_max = max(map(len, itertools.chain(*(answer.choices for answer in answers))))
    choices = torch.full((len(answers), longest, choices_max), -1)
    for row, answer in enumerate(answers):
        for step, choice in enumerate(answer.choices, longest - len(answer.choices)):
            choices[row, step, : len(choice)] = torch.tensor(choice)
    return choices


def loss(logits: torch.Tensor, expected: BatchTargets, vocabulary_share: float = VOCABULARY_SHARE) -> torch.Tensor:
    """Return the loss of a batch, in nats: a label's mean joint loss, or an answer's mean over its tokens.

    `logits` is [rows, longest answer, vocabulary].
    """
    flat = logits.float().flatten(0, 1)
    over_vocabulary = cross_entropy(flat, expected.tokens.flatten(), ignore_index=_MASKED, reduction="sum")
    unmasked = expected.tokens.ne(_MASKED)
    if expected.choices is None:
        return over_vocabulary / unmasked.sum()
    choice_logits = flat.gather(1, expected.choices.flatten(0, 1).clamp(min=0))
    choice_logits = choice_logits.masked_fill(expected.choices.flatten(0, 1).lt(0), -torch.inf)[unmasked.flatten()]
    among_labels = -choice_logits.log_softmax(1)[:, 0].sum()
    return (among_labels + vocabulary_share * over_vocabulary) / len(expected.tokens)


def count_exact(logits: torch.Tensor, expected: BatchTargets) -> int:
    """Return how many answers greedy decoding would reproduce to the last token."""
    right = logits.argmax(-1).eq(expected.tokens) | expected.tokens.eq(_MASKED)
    return int(right.all(1).sum())


# The tokens of a label are those that the agent scores: the prompt, then `label_prefix` and the label. Other answers
# are the completion of the row and the end token. A conversation of one question is rendered like a request to the
# agent; a longer one, or one with a system message, by the tokenizer's chat template. Only the answer has a loss.
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


class DecoderExampleEncoder:
    """Turns rows of one task into training examples."""

    def __init__(self, task: TaskSpec, tokens: TaskTokens) -> None:
        """`tokens` are those of the task."""
        self._task, self._tokens = task, tokens
        self._answers = dict(zip(task.labels, label_answers(tokens.labels), strict=False))

    def encode(self, rows: Sequence[DataRow], tokens_max: int) -> tuple[list[TrainingExample], int]:
        """Return the examples, and how many rows were left out because they have more than `tokens_max` tokens.

        Raises InvalidRequest if no row is short enough.
        """
        examples = [self._example(row) for row in rows]
        short = [example for example in examples if example.length <= tokens_max]
        if not short:
            shortest = min(example.length for example in examples)
            raise InvalidRequest(
                f"all {len(examples)} training rows have more than {tokens_max} tokens; the shortest has {shortest}",
                remedy="Raise 'tokens_max' under 'finetune', or shorten the rows or the prompt.",
            )
        return short, len(examples) - len(short)

    def _example(self, row: DataRow) -> TrainingExample:
        if self._task.kind == "classify":
            return TrainingExample(row, self._tokens.prompt(row.text), self._answers[row.label])
        tokenizer = self._tokens.tokenizer
        end: int = tokenizer.eos_token_id
        answer = AnswerTarget((*tokenize(tokenizer, row.completion, special=False), end))
        history = [(turn.role, turn.content) for turn in row.messages[:-2]]
        if history in ([], [("system", self._task.prompt.system)]):  # the agent would send the prompt in the same form
            return TrainingExample(row, self._tokens.prompt(row.text), answer)
        turns: list[Any] = [{"role": turn.role, "content": turn.content} for turn in row.messages]
        rendered = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        return TrainingExample(row, tokenize(tokenizer, str(rendered), special=True), answer)


_VALIDATION_ROWS = 8


@dataclass(frozen=True)
class DecoderData:
    """The training examples, and those held out for validation."""

    train: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]


class DecoderTrainer:
    """A decoder with an adapter, and its training examples."""

    def __init__(
        self, model: Any, tokens: TaskTokens, parts: DecoderData, learning_rate: float, frozen_layers: FrozenPrefixCache
    ) -> None:
        """Take a model from `lora.add_adapter`, split below the lowest layer with an adapter."""
        self._lengths = [example.length for example in parts.train]
        self._model, self._tokens, self._parts, self._rate = model, tokens, parts, learning_rate
        self._frozen_layers = frozen_layers
        self._truth = [list(tokens.labels).index(example.answer.tokens) for example in parts.validation if tokens.tree]

    def prepare(self, progress: Progress) -> None:
        """Run the frozen lower layers once over all examples."""
        inputs = list(map(_input_of, self._parts.train))
        if not self._tokens.tree:
            inputs += map(_input_of, self._parts.validation)
        for rows_done in self._frozen_layers.prepare(inputs):
            progress("running the frozen layers once", rows_done, len(inputs))

    @property
    def lengths(self) -> list[int]:
        """Return the number of tokens of each training row."""
        return self._lengths

    def groups(self) -> list[dict[str, Any]]:
        """Return the adapter's weights."""
        trained = [weight for weight in self._model.parameters() if weight.requires_grad]
        return [{"params": trained, "lr": self._rate, "weight_decay": 0.0}]

    def loss(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the loss of a batch."""
        self._model.train()
        examples = [self._parts.train[row] for row in rows]
        expected = targets([example.answer for example in examples], self._model.device)
        return loss(self._frozen_layers.logits(list(map(_input_of, examples)), expected.length), expected)

    def validate(self) -> ValidationResult:
        """Score the labels as the agent does, or count the answers that are reproduced to the last token."""
        self._model.eval()
        return self._validate_labels() if self._tokens.tree else self._validate_answers()

    def _validate_labels(self) -> ValidationResult:
        joint = joint_log_probabilities(self._model, self._tokens, [each.row.text for each in self._parts.validation])
        log_probabilities = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
        losses = -log_probabilities[np.arange(len(joint)), self._truth]
        return ValidationResult(float(losses.mean()), float((joint.argmax(1) == self._truth).mean()))

    def _validate_answers(self) -> ValidationResult:
        examples, losses, right = self._parts.validation, 0.0, 0
        for start in range(0, len(examples), _VALIDATION_ROWS):
            batch = examples[start : start + _VALIDATION_ROWS]
            expected = targets([example.answer for example in batch], self._model.device)
            with torch.inference_mode():
                logits = self._frozen_layers.logits(list(map(_input_of, batch)), expected.length)
                losses += float(loss(logits, expected)) * len(batch)
            right += count_exact(logits, expected)
        return ValidationResult(losses / len(examples), right / len(examples))


def _input_of(example: TrainingExample) -> Tokens:
    """Return the input of the model: the prompt, and the answer without its last token."""
    return example.prompt + example.answer.tokens[:-1]
