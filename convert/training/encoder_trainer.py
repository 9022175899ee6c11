"""Trains an encoder to answer questions about a text, or to tag each word; the whole model or its head.

Outputs that a new head shares with the head of the checkpoint start with the checkpoint's weights, so a model that gets
one more type of value keeps the others. transformers would drop the whole head if the number of labels differs.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BatchEncoding,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from convert.data.data_row import DataRow, output_names, rows_of
from convert.encoder import logistic_regression, pooling
from convert.encoder.bio_tags import tag_tokens
from convert.pipeline.stage import Progress
from convert.training.checkpoint_loading import encode_text, labels_of
from convert.training.encoder_objective import RATE_FACTOR, CosineMargin, EncodedRow, EncoderObjective
from convert.training.training_loop import ValidationResult
from edge_agent.errors import InvalidRequest, ModelLoadFailed
from edge_agent.formats.manifest import TaskSpec

WEIGHT, BIAS = "classifier.weight", "classifier.bias"


def keep_known_outputs(head: Any, checkpoint: Path, old_labels: Sequence[str], new_labels: Sequence[str]) -> int:
    """Copy the weights of the labels that both heads have; return their number.

    Args:
        head: the new linear layer, [new labels, hidden].
        checkpoint: a folder with *.safetensors.
        old_labels: the labels of the checkpoint's head, in the order of its outputs.
        new_labels: those of the new one.
    """
    pairs = [(old_labels.index(label), index) for index, label in enumerate(new_labels) if label in old_labels]
    old_head = _read_head(checkpoint)
    if not pairs or old_head is None or old_head[0].shape != (len(old_labels), head.weight.shape[1]):
        return 0
    old, new = (torch.tensor(indexes) for indexes in zip(*pairs, strict=True))
    with torch.no_grad():
        head.weight[new] = old_head[0][old].float()
        head.bias[new] = old_head[1][old].float()
    return len(pairs)


def _read_head(checkpoint: Path) -> tuple[torch.Tensor, torch.Tensor] | None:
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if {WEIGHT, BIAS} <= set(tensors.keys()):
                return tensors.get_tensor(WEIGHT), tensors.get_tensor(BIAS)
    return None


OUTLIER_SHARE, OUTLIER_WEIGHT = 0.25, 0.5
"""Largest number of outliers per row of a batch, and the weight of their loss."""
HEAD_RATE_FACTOR = 5.0
"""Learning rate of a new head as a multiple of the body's; 1 for a head that was fitted first."""
WEIGHT_DECAY = 0.01
_VALIDATION_ROWS = 32
_START_ROWS_MAX = 20_000
_KEYS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one part, with counts of unusable ones."""

    items: tuple[EncodedRow, ...]
    too_long: int
    misfits: int
    """extract: spans that begin or end inside a word."""
    unanswered: int = 0
    """decide: rows that answer no question, and teach nothing."""


@dataclass(frozen=True)
class RowEncoder:
    """Encodes rows."""

    tokenizer: PreTrainedTokenizerBase
    task: TaskSpec
    tokens_max: int

    def encode(self, rows: Sequence[DataRow]) -> EncodedRows:
        """Encode rows. Raises InvalidRequest if all have more than `tokens_max` tokens."""
        answering = [row for row in rows if row.answers] if self.task.kind == "decide" else rows
        items = tuple(item for item in map(self._encode_row, answering) if item.length <= self.tokens_max)
        if not items:
            message = f"all {len(answering)} training rows have more than {self.tokens_max} tokens"
            raise InvalidRequest(message, remedy="Raise 'tokens_max' under 'finetune', or shorten the rows.")
        misfits = sum(item.misfits for item in items)
        return EncodedRows(items, len(answering) - len(items), misfits, len(rows) - len(answering))

    def encode_outliers(self, rows: Sequence[DataRow]) -> tuple[EncodedRow, ...]:
        """Encode texts without a label; those with more than `tokens_max` tokens are left out."""
        items = (EncodedRow(_model_inputs(encode_text(self.tokenizer, row.text))) for row in rows)
        return tuple(item for item in items if item.length <= self.tokens_max)

    def _encode_row(self, row: DataRow) -> EncodedRow:
        if self.task.kind in ("extract", "redact"):
            encoding = encode_text(self.tokenizer, row.text, offsets=True)
            token_tags = tag_tokens(row.text, encoding, row.spans, self.task.labels)
            return EncodedRow(_model_inputs(encoding), token_tags.tags, misfits=token_tags.misfits)
        return EncodedRow(_model_inputs(encode_text(self.tokenizer, row.text)), targets=targets_of(row, self.task))


def targets_of(row: DataRow, task: TaskSpec) -> tuple[float, ...]:
    """Return the probability of each output of all questions; all 0 for a question that the row does not answer."""
    targets: list[float] = []
    for question in task.questions_asked:
        [(_, answer)] = rows_of(task, question, [row]) or [(0, DataRow(""))]
        shares = dict(answer.shares or ([(answer.label, 1.0)] if answer.label else []))
        targets += [shares.get(output, 0.0) for output in question.outputs]
    return tuple(targets)


def _model_inputs(encoding: BatchEncoding) -> dict[str, list[int]]:
    return {key: encoding[key] for key in _KEYS if key in encoding}


def classifier(checkpoint: str, task: TaskSpec, method: str) -> Any:
    """Load an encoder with a head for the task's labels: the checkpoint's head if it has these labels; of tags, those
    that the checkpoint has keep its weights.

    With method `head`, all but the head is frozen. Raises InvalidRequest if the model is a decoder, or if transformers
    knows no such head for the architecture; ModelLoadFailed if weights below the head are missing.
    """
    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys():
        # transformers would add a head, but not the one that is served by ONNX Runtime.
        raise InvalidRequest(
            f"a model of type {config.model_type!r} is a decoder; '{method}' trains encoders",
            remedy="Use 'method: lora' and 'runtime: llama', or start from a BERT-type encoder.",
        )
    model = _load_with_head(checkpoint, config, task)
    if method == "head":
        for name, weight in model.named_parameters():
            weight.requires_grad = _in_head(model, name)
    return model


def _load_with_head(checkpoint: str, config: Any, task: TaskSpec) -> Any:
    tags_words = task.kind in ("extract", "redact")
    kind = AutoModelForTokenClassification if tags_words else AutoModelForSequenceClassification
    if kind is AutoModelForSequenceClassification and pooling.takes_mean(config.to_dict()):
        kind = pooling.MeanPooledBert
    names = dict(enumerate(output_names(task)))
    old_labels, is_new = labels_of(config.to_dict()), config.id2label != names
    config.num_labels = len(names)
    config.id2label, config.label2id = names, {label: index for index, label in names.items()}
    options = {"config": config, "dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    try:
        model, loading_info = kind.from_pretrained(
            checkpoint, ignore_mismatched_sizes=is_new, output_loading_info=True, **options
        )
    except ValueError as error:
        raise InvalidRequest(
            f"a model of type {config.model_type!r} cannot be trained as a classifier: {str(error)[:200]}",
            remedy="Start from a BERT-type encoder, or use 'method: lora' for a decoder.",
        ) from None
    missing = sorted(name for name in loading_info["missing_keys"] if not _in_head(model, name))
    if missing:
        raise ModelLoadFailed(
            f"{checkpoint} lacks {len(missing)} weights below the head, such as {missing[0]}",
            remedy="Save the checkpoint again with the version of transformers that it was trained with.",
        )
    if is_new and tags_words and isinstance(getattr(model, "classifier", None), torch.nn.Linear):
        keep_known_outputs(model.classifier, Path(checkpoint), old_labels, list(names.values()))
    return model


def start_head(
    model: Any,
    rows: EncodedRows,
    sizes: Sequence[int],
    progress: Progress,
    weights: Sequence[float],
    log_priors: Sequence[float],
) -> bool:
    """Fit a new head on mean token vectors as linear classifiers, one for each question with `sizes` outputs; return
    whether the head is of that kind. `weights` and `log_priors` of all outputs, or none, are those of the loss.

    Training then starts from the encoder's own features and distorts them less (Kumar et al. 2022, arXiv 2202.10054).
    """
    if not isinstance(model, pooling.MeanPooledBert):
        return False
    items = rows.items[:_START_ROWS_MAX]
    vectors = pooling.mean_vectors(model.bert.eval(), [item.inputs["input_ids"] for item in items], 0, progress)
    targets, begin = np.array([item.targets for item in items]), 0
    for size in sizes:
        outputs = slice(begin, begin := begin + size)
        answering = targets[:, outputs].sum(axis=1) > 0
        if answering.any():
            linear = logistic_regression.fit_shares(
                vectors[answering], targets[answering, outputs], weights=np.asarray(weights[outputs] or 1.0)
            )
            bias = linear.bias - np.asarray(log_priors[outputs] or 0.0)
            with torch.no_grad():
                model.classifier.weight[outputs].copy_(torch.from_numpy(linear.weight))
                model.classifier.bias[outputs].copy_(torch.from_numpy(bias))
    return True


def _in_head(model: Any, name: str) -> bool:
    """Return whether a weight belongs to the head, which includes the pooler."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name


class EncoderTrainer:
    """An encoder with a head, and its rows."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        parts: tuple[EncodedRows, EncodedRows],
        learning_rate: float,
        objective: EncoderObjective,
        outliers: Sequence[EncodedRow] = (),
        margin: CosineMargin | None = None,
    ) -> None:
        """Take a model from `classifier`, the rows for training and for validation, texts without a label, and a margin
        between the labels of a classify task, which needs a MeanPooledBert."""
        self._model, self._tokenizer, self._rate = model, tokenizer, learning_rate
        self._objective, self._margin = objective, margin
        self._train, self._validation = parts[0].items, parts[1].items
        self._lengths = [item.length for item in self._train]
        self._outliers = shuffle_endlessly(outliers)
        # At most as often as a training row: texts that are repeated in every batch would be memorized (decision 61).
        self._outliers_a_row = min(OUTLIER_SHARE, len(outliers) / len(self._train))
        self._outliers_due = 0.0
        self._head_only = not all(weight.requires_grad for weight in model.parameters())

    @property
    def lengths(self) -> list[int]:
        """Return the tokens of each row to train on."""
        return self._lengths

    def groups(self) -> list[dict[str, Any]]:
        """Return parameter groups: body and head, each with and without weight decay (biases and norms have none)."""
        groups: dict[tuple[float, float], list[Any]] = defaultdict(list)
        random_head = not (self._head_only or isinstance(self._model, pooling.MeanPooledBert))
        for name, weight in self._model.named_parameters():
            if weight.requires_grad:
                factor = HEAD_RATE_FACTOR if random_head and _in_head(self._model, name) else 1.0
                groups[self._rate * factor, WEIGHT_DECAY * (weight.ndim > 1)].append(weight)
        if self._margin:
            groups[RATE_FACTOR * self._rate, 0.0].append(self._margin.directions)
        return [{"params": weights, "lr": rate, "weight_decay": decay} for (rate, decay), weights in groups.items()]

    def loss(self, rows: Sequence[int]) -> torch.Tensor:
        """Return the loss of a batch."""
        self._model.train()
        if self._head_only:
            self._model.base_model.eval()
        loss = self._answer_loss([self._train[row] for row in rows])
        self._outliers_due += self._outliers_a_row * len(rows)
        count = int(self._outliers_due)
        self._outliers_due -= count
        outliers = list(islice(self._outliers, count))
        return loss + OUTLIER_WEIGHT * self._objective.uniformity(self.answers(outliers)) if outliers else loss

    def _answer_loss(self, items: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the loss of the answers and of the margin."""
        if not self._margin:
            return self._objective.loss(self.answers(items), items)
        vectors = self._model.vectors(**self._batch(items))
        labels = torch.tensor([item.targets for item in items], device=vectors.device).argmax(-1)
        return self._objective.loss(self._model.answers(vectors), items) + self._margin.loss(vectors, labels)

    def validate(self) -> ValidationResult:
        """Return the mean loss per answer or word, and the share of right answers, or of entirely right rows."""
        self._model.eval()
        sums = torch.zeros(4)
        for start in range(0, len(self._validation), _VALIDATION_ROWS):
            items = self._validation[start : start + _VALIDATION_ROWS]
            with torch.inference_mode():
                sums += self._objective.validation_sums(self.answers(items), items)
        loss_sum, losses, right, answers = sums.tolist()
        return ValidationResult(loss_sum / max(1, losses), right / max(1, answers))

    def answers(self, items: Sequence[EncodedRow]) -> torch.Tensor:
        """Return logits, [rows, outputs], or of tags [rows, tokens, tags]."""
        logits: torch.Tensor = self._model(**self._batch(items)).logits
        return logits

    def _batch(self, items: Sequence[EncodedRow]) -> BatchEncoding:
        """Return the inputs of the model, padded, on its device."""
        fills = {"input_ids": self._tokenizer.pad_token_id or 0}
        padded = {
            key: pad_sequence([torch.tensor(item.inputs[key]) for item in items], True, fills.get(key, 0))
            for key in items[0].inputs
        }
        return BatchEncoding(padded).to(self._model.device)


def shuffle_endlessly(items: Sequence[EncodedRow]) -> Iterator[EncodedRow]:
    """Yield the items endlessly, shuffled again in each round; nothing without items."""
    order = random.Random(len(items))  # noqa: S311 - an order, no secret
    shuffled = list(items)
    while shuffled:
        order.shuffle(shuffled)
        yield from shuffled
