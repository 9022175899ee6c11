"""A text classifier called directly: tokenizer, one-thread session, softmax."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers


class Encoder:
    """The model of a bundle directory."""

    def __init__(self, folder: Path) -> None:
        """Open model.onnx and tokenizer.json."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = str(folder / "model.onnx")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def tokens(self, text: str) -> int:
        """Return the length of a text in tokens."""
        return len(self._tokenizer.encode(text).ids)

    def classify(self, text: str) -> list[float]:
        """Return the probability of each label."""
        encoding = self._tokenizer.encode(text)
        ids = np.array([encoding.ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (logits,) = self._session.run(["logits"], feed)
        weights = np.exp(logits[0] - logits[0].max())
        scores: list[float] = (weights / weights.sum()).tolist()
        return scores
