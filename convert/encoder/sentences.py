"""Turns texts into vectors with an encoder's checkpoint: the mean of the token vectors of the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from convert.encoder.pooling import mean_of
from convert.pipeline.stage import Progress
from convert.training import checkpoint_loading

_BATCH_ROWS = 32
_TOKENS_MAX = 256


def sentence_vectors(checkpoint: Path, texts: Sequence[str], progress: Progress) -> npt.NDArray[np.float32]:
    """Return [texts, size]. Long texts are truncated.

    Raises:
        ModelLoadFailed: the checkpoint does not open.
    """
    model, tokenizer = (
        checkpoint_loading.open_model(checkpoint, None, "none"),
        checkpoint_loading.open_tokenizer(checkpoint),
    )
    room = min(_TOKENS_MAX, checkpoint_loading.positions_of(checkpoint_loading.read_config(checkpoint)) or _TOKENS_MAX)
    tokens = [checkpoint_loading.encoded(tokenizer, text)["input_ids"][:room] for text in texts]
    return mean_vectors(model, tokens, tokenizer.pad_token_id or 0, progress)


def mean_vectors(
    model: Any, tokens: Sequence[Sequence[int]], padding: int, progress: Progress
) -> npt.NDArray[np.float32]:
    """Return the mean token vector of each row of tokens, by an encoder without a head."""
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    found = np.zeros((len(tokens), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH_ROWS):
            batch = order[start : start + _BATCH_ROWS]
            rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens[row]) for row in batch], True, padding)
            mask = torch.nn.utils.rnn.pad_sequence(
                [torch.ones(len(tokens[row]), dtype=torch.long) for row in batch], True
            )
            device = model.device
            hidden = model(input_ids=rows.to(device), attention_mask=mask.to(device)).last_hidden_state
            found[batch] = mean_of(hidden, mask.to(device)).cpu().numpy()
            progress("vectors of texts", min(start + _BATCH_ROWS, len(order)), len(order))
    return found
