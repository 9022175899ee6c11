"""Turns texts into vectors with an encoder's checkpoint: the mean of the token vectors of the last layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.encoder.pooling import mean_vectors
from convert.pipeline.stage import Progress
from convert.training import checkpoint_loading

_TOKENS_MAX = 256


def sentence_vectors(checkpoint: Path, texts: Sequence[str], progress: Progress) -> npt.NDArray[np.float32]:
    """Return [texts, size]. Long texts are truncated.

    Raises:
        ModelLoadFailed: the checkpoint does not open.
    """
    model = checkpoint_loading.open_model(checkpoint, None, "none")
    tokenizer = checkpoint_loading.open_tokenizer(checkpoint)
    positions = checkpoint_loading.positions_of(checkpoint_loading.read_config(checkpoint))
    tokens_max = min(_TOKENS_MAX, positions or _TOKENS_MAX)
    tokens = [checkpoint_loading.encode_text(tokenizer, text)["input_ids"][:tokens_max] for text in texts]
    return mean_vectors(model, tokens, tokenizer.pad_token_id or 0, progress)
