"""The training loop: epochs, warm-up and cosine, early stopping on held-out rows, the best weights at the end.

The same seed gives the same weights on the same machine with the same number of threads. The `Trainer` defines loss and
data.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from convert.data.data_row import DataRow
from convert.pipeline.stage import Progress
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import format_duration

Group = list[DataRow]


@dataclass(frozen=True)
class TrainValidationSplit:
    """The two parts of the training split."""

    train: tuple[DataRow, ...]
    validation: tuple[DataRow, ...]


def train_validation_split(rows: Sequence[DataRow], share: float, seed: int) -> TrainValidationSplit:
    """Hold out a share of every label's rows, at least one row in all.

    Rows of one family, or of the same text, stay together, because validation needs phrasings that training never saw.
    Synthetic rows are never held out: early stopping uses real texts. Raises InvalidRequest if there are too few rows
    for both parts.
    """
    generator = random.Random(seed)  # noqa: S311 - an order, no secret
    train: list[Group] = []
    validation: list[Group] = []
    for groups in _by_label(rows):
        generator.shuffle(groups)
        # The last group of a label stays in training.
        remaining = min(round(share * len(groups)), len(groups) - 1)
        for group in groups:
            if remaining and _is_real(group):
                validation.append(group)
                remaining -= 1
            else:
                train.append(group)
    if not validation:
        _hold_out_one(train, validation)
    return TrainValidationSplit(tuple(itertools.chain(*train)), tuple(itertools.chain(*validation)))


def _by_label(rows: Sequence[DataRow]) -> list[list[Group]]:
    """Return the groups that stay together, one list per label; the first answer of a row counts as its label."""
    groups: dict[str, Group] = defaultdict(list)
    for row in rows:
        groups[row.family or row.key].append(row)
    labels: dict[str, list[Group]] = defaultdict(list)
    for group in groups.values():
        labels[_stratum(group[0])].append(group)
    return [labels[label] for label in sorted(labels)]


def _stratum(row: DataRow) -> str:
    """Return the stratum of a row: its label, or its first answer."""
    return row.label or next((f"{each.question}/{each.label}" for each in row.answers), "")


def _is_real(group: Group) -> bool:
    return not any(row.synthetic for row in group)


def _hold_out_one(train: list[Group], validation: list[Group]) -> None:
    """Hold out one group of the label with most groups."""
    candidates = [index for index, group in enumerate(train) if _is_real(group)]
    if not candidates or len(train) < 2:
        message = "the training split has too few rows to hold one out for early stopping"
        raise InvalidRequest(message, remedy="Add rows, some of them not made by a model.")
    labels = Counter(_stratum(group[0]) for group in train)
    chosen = max(candidates, key=lambda index: labels[_stratum(train[index][0])])
    validation.append(train.pop(chosen))


WARM_UP_SHARE = 0.1
GRADIENT_NORM_MAX = 1.0
POOL_BATCHES = 8


@dataclass(frozen=True)
class TrainingSettings:
    """How to train."""

    epochs: int
    batch_rows: int
    patience_epochs: int
    """Training ends if validation has not improved for this many epochs."""
    seed: int


@dataclass(frozen=True)
class ValidationResult:
    """The measurement on the validation rows."""

    loss: float
    """Nats per row or per token."""
    accuracy: float

    def is_better_than(self, other: ValidationResult | None) -> bool:
        """Return whether accuracy is higher, or the same at a lower loss."""
        return other is None or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


class Trainer(Protocol):
    """A model and its rows."""

    @property
    def lengths(self) -> Sequence[int]:
        """Number of tokens of each training row, prompt and answer."""

    def groups(self) -> list[dict[str, Any]]:
        """Return the trained weights as parameter groups of an optimiser: `params`, `lr`, `weight_decay`."""

    def loss(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the mean loss of a batch, in training mode."""

    def validate(self) -> ValidationResult:
        """Measure the validation rows, in evaluation mode."""


@dataclass(frozen=True)
class EpochReport:
    """One line of the report."""

    train_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """The epochs, and the best one."""

    epochs: tuple[EpochReport, ...]
    best_epoch: int
    """Epoch of the weights that were kept, counted from 1; 0 = before training."""
    best: ValidationResult | None
    """The measurement of that epoch; None without an epoch."""
    stopped_early: bool

    def report(self) -> dict[str, Any]:
        """Return this for a report."""
        return {
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best_epoch": self.best_epoch,
            "stopped_early": self.stopped_early,
            "validation_loss": self.best and self.best.loss,
            "validation_accuracy": self.best and self.best.accuracy,
        }


def train(
    trainer: Trainer, settings: TrainingSettings, progress: Progress, *, head_fitted: bool = False
) -> TrainingResult:
    """Train; at the end the trainer has the weights of the best epoch.

    With `head_fitted` the initial weights are measured too, and kept if no epoch is better.

    Raises InvalidRequest if the loss is no longer finite.
    """
    run = _TrainingRun(trainer, settings, progress)
    epochs: list[EpochReport] = []
    best = trainer.validate() if head_fitted else None
    best_epoch, best_weights = 0, run.weights()
    for number in range(settings.epochs):
        started = time.monotonic()
        loss = run.epoch(number, best)
        result = trainer.validate()
        epochs.append(EpochReport(loss, result.loss, result.accuracy, time.monotonic() - started))
        if result.is_better_than(best):
            best, best_epoch, best_weights = result, number + 1, run.weights()
        elif number + 1 - best_epoch >= settings.patience_epochs:
            break
    run.restore(best_weights)
    return TrainingResult(tuple(epochs), best_epoch, best, stopped_early=len(epochs) < settings.epochs)


class _TrainingRun:
    """The optimiser and its schedule."""

    def __init__(self, trainer: Trainer, settings: TrainingSettings, progress: Progress) -> None:
        self._trainer, self._settings, self._progress = trainer, settings, progress
        groups = trainer.groups()
        self._trained = [weight for group in groups for weight in group["params"]]
        self._steps = settings.epochs * math.ceil(len(trainer.lengths) / settings.batch_rows)
        self._optimiser = torch.optim.AdamW(groups, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda step: rate(step, self._steps))
        self._generator = random.Random(settings.seed)  # noqa: S311 - an order, no secret
        self._steps_done, self._started = 0, time.monotonic()

    def weights(self) -> list[torch.Tensor]:
        """Return a copy of the trained weights."""
        return [weight.detach().clone() for weight in self._trained]

    def restore(self, weights: list[torch.Tensor]) -> None:
        """Restore a copy."""
        with torch.no_grad():
            for weight, value in zip(self._trained, weights, strict=True):
                weight.copy_(value)

    def epoch(self, number: int, best: ValidationResult | None) -> float:
        """Train on every row once; return the mean loss."""
        losses, lengths = 0.0, self._trainer.lengths
        for rows in _batches(lengths, self._settings.batch_rows, self._generator):
            loss = self._step(self._trainer.loss(rows))
            losses += loss * len(rows)
            self._steps_done += 1
            seconds_left = (time.monotonic() - self._started) / self._steps_done * (self._steps - self._steps_done)
            self._progress(progress_sentence(number + 1, loss, best, seconds_left), self._steps_done, self._steps)
        if not math.isfinite(losses):
            remedy = "Lower 'learning_rate' under 'finetune'; half of it is a good next try."
            raise InvalidRequest(f"the loss is no longer finite in epoch {number + 1}", remedy=remedy)
        return losses / len(lengths)

    def _step(self, loss: torch.Tensor) -> float:
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, GRADIENT_NORM_MAX)
        self._optimiser.step()
        self._schedule.step()
        return float(loss.detach())


def progress_sentence(epoch: int, loss: float, best: ValidationResult | None, seconds_left: float) -> str:
    """Return the text of the progress bar."""
    accuracy = f", validation accuracy {best.accuracy:.3f}" if best else ""
    return f"training: epoch {epoch}, loss {loss:.3f}{accuracy}, {format_duration(seconds_left)} left"


def _batches(lengths: Sequence[int], size: int, generator: random.Random) -> Iterator[list[int]]:
    """Yield every row once, in batches of similar length, which reduces padding, from a shuffled pool."""
    order = list(range(len(lengths)))
    generator.shuffle(order)
    for start in range(0, len(order), size * POOL_BATCHES):
        pool = sorted(order[start : start + size * POOL_BATCHES], key=lambda row: lengths[row])
        batches = [pool[offset : offset + size] for offset in range(0, len(pool), size)]
        generator.shuffle(batches)
        yield from batches


def rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step: a linear rise, then a cosine fall."""
    warm_up_steps = max(1, round(steps * WARM_UP_SHARE))
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up_steps) / max(1, steps - warm_up_steps)))
