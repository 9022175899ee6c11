"""LoRA training of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from convert.decoder.scores import joint_log_probabilities
from convert.decoder.tokens import TaskTokens, Tokens
from convert.pipeline.stage import Progress
from convert.training import decoder_objective
from convert.training.decoder_objective import TrainingExample
from convert.training.lora import FrozenPrefixCache
from convert.training.training_loop import ValidationResult

_VALIDATION_ROWS = 8


@dataclass(frozen=True)
class DecoderData:
    """The training examples, and those held out for validation."""

    train: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]


class DecoderTrainer:
    """A decoder with an adapter, and its training examples."""

    def __init__(
        self, model: Any, tokens: TaskTokens, parts: DecoderData, learning_rate: float, halves: FrozenPrefixCache
    ) -> None:
        """Take a model from `lora.add_adapter`, split below the lowest layer with an adapter."""
        self._lengths = [lesson.length for lesson in parts.train]
        self._model, self._tokens, self._parts, self._rate = model, tokens, parts, learning_rate
        self._halves = halves
        self._truth = [list(tokens.labels).index(lesson.answer.tokens) for lesson in parts.validation if tokens.tree]

    def prepare(self, progress: Progress) -> None:
        """Run the frozen lower layers once over all examples."""
        every = list(map(_read, self._parts.train))
        if not self._tokens.tree:
            every += map(_read, self._parts.validation)
        for done in self._halves.prepare(every):
            progress("running the frozen layers once", done, len(every))

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
        lessons = [self._parts.train[row] for row in rows]
        wanted = decoder_objective.targets([lesson.answer for lesson in lessons], self._model.device)
        return decoder_objective.loss(self._halves.logits(list(map(_read, lessons)), wanted.length), wanted)

    def validate(self) -> ValidationResult:
        """Score the labels as the agent does, or count the answers that are reproduced to the last token."""
        self._model.eval()
        return self._labels_right() if self._tokens.tree else self._answers_right()

    def _labels_right(self) -> ValidationResult:
        joint = joint_log_probabilities(self._model, self._tokens, [each.row.text for each in self._parts.validation])
        shares = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
        losses = -shares[np.arange(len(joint)), self._truth]
        return ValidationResult(float(losses.mean()), float((joint.argmax(1) == self._truth).mean()))

    def _answers_right(self) -> ValidationResult:
        lessons, losses, right = self._parts.validation, 0.0, 0
        for start in range(0, len(lessons), _VALIDATION_ROWS):
            batch = lessons[start : start + _VALIDATION_ROWS]
            wanted = decoder_objective.targets([lesson.answer for lesson in batch], self._model.device)
            with torch.inference_mode():
                logits = self._halves.logits(list(map(_read, batch)), wanted.length)
                losses += float(decoder_objective.loss(logits, wanted)) * len(batch)
            right += decoder_objective.exact(logits, wanted)
        return ValidationResult(losses / len(lessons), right / len(lessons))


def _read(lesson: TrainingExample) -> Tokens:
    """Return the input of the model: the prompt, and the answer without its last token."""
    return lesson.prompt + lesson.answer.tokens[:-1]
