"""A classifier on the mean of the token vectors, for encoders that were trained with mean pooling.

transformers puts a classification head for BERT on the first token, after a layer (the pooler) that is untrained in a
sentence encoder. `1_Pooling/config.json` of such a checkpoint defines how its token vectors become one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from convert.pipeline.stage import Progress

POOLING = "classifier_pooling"
"""Key of config.json, as in ModernBERT: `mean`, or the architecture's default if it is missing."""
_SENTENCE_POOLING = Path("1_Pooling", "config.json")
_BATCH_ROWS = 32
_BUILDABLE = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}


class MeanPooledBert(BertForSequenceClassification):  # type: ignore[misc] # transformers is not read for its types
    """BERT with a linear head on the mean of its token vectors."""

    def __init__(self, config: Any) -> None:
        """Make it without the pooler."""
        super().__init__(config)
        self.bert.pooler = None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return the logits; the mean is over the tokens that `attention_mask` marks."""
        return SequenceClassifierOutput(logits=self.answers(self.vectors(input_ids, attention_mask, token_type_ids)))

    def vectors(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the mean token vectors, [rows, size]."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.bert(input_ids, attention_mask=mask, token_type_ids=token_type_ids).last_hidden_state
        return mean_of(hidden, mask)

    def answers(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the logits of mean token vectors, [rows, labels]."""
        return torch.as_tensor(self.classifier(self.dropout(vectors)))


def mean_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return [rows, size] from [rows, tokens, size]: the mean over the tokens that the mask marks."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def takes_mean(config: Mapping[str, Any]) -> bool:
    """Return by a checkpoint's config.json whether its classifier is a MeanPooledBert."""
    return config.get("model_type") == "bert" and config.get(POOLING) == "mean"


def of_source(source: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the pooling of a source checkpoint for config.json.

    It is the mean if the checkpoint was trained for mean sentence vectors, has no head of its own, and has the shape
    that `bert_graph` builds.
    """
    file = source / _SENTENCE_POOLING
    headless = not any("For" in name for name in config.get("architectures") or ())
    supported = all(config.get(key, value) == value for key, value in _BUILDABLE.items())
    if POOLING in config or not (supported and headless and file.is_file()):
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return {POOLING: "mean"} if isinstance(settings, dict) and settings.get("pooling_mode_mean_tokens") is True else {}


def mean_vectors(
    model: Any, tokens: Sequence[Sequence[int]], padding: int, progress: Progress
) -> npt.NDArray[np.float32]:
    """Return the mean token vector of each row of tokens, by an encoder without a head."""
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    vectors = np.zeros((len(tokens), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH_ROWS):
            batch = order[start : start + _BATCH_ROWS]
            rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens[row]) for row in batch], True, padding)
            ones = [torch.ones(len(tokens[row]), dtype=torch.long) for row in batch]
            mask = torch.nn.utils.rnn.pad_sequence(ones, True)
            device = model.device
            hidden = model(input_ids=rows.to(device), attention_mask=mask.to(device)).last_hidden_state
            vectors[batch] = mean_of(hidden, mask.to(device)).cpu().numpy()
            progress("vectors of texts", min(start + _BATCH_ROWS, len(order)), len(order))
    return vectors
