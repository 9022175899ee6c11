"""Customers' messages at a till with their intents (tests/data/pos_intents.jsonl), and a linear head fitted to them.

Every third sentence is held out: `train()` and `held_out()` share none.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import tokenizers

from tests.support import models

INTENTS = ("refund", "exchange", "price", "stock", "hours", "loyalty", "payment", "other")
_DATA = Path(__file__).parents[1] / "data" / "pos_intents.jsonl"
_STEPS, _RATE, _DECAY = 400, 0.5, 3e-3  # gradient descent; converged well before on these sentences

Floats = npt.NDArray[np.float32]


def _examples() -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in _DATA.read_text().splitlines()]
    return [(row["text"], row["intent"]) for row in rows]


def train() -> list[tuple[str, str]]:
    """Return (text, intent) of two thirds."""
    return [example for i, example in enumerate(_examples()) if i % 3 != 2]


def held_out() -> list[tuple[str, str]]:
    """Return (text, intent) of the other third."""
    return _examples()[2::3]


def mean_vectors(encoder: bytes, texts: list[str]) -> Floats:
    """Return the mean token vector of each text, by the shortest way: no masks, no batches, no runtime of ours."""
    tokenizer = tokenizers.Tokenizer.from_file(str(models.minilm_dir() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(encoder, providers=["CPUExecutionProvider"])
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        rows.append(session.run(["last_hidden_state"], feed)[0][0].mean(axis=0))
    return np.stack(rows)


def fitted_head(encoder: bytes) -> dict[str, Floats]:
    """Fit a multinomial logistic regression to `train()`; return it as `classifier.weight` and `classifier.bias`."""
    examples = train()
    vectors = mean_vectors(encoder, [text for text, _ in examples])
    central, scale = vectors.mean(axis=0), vectors.std()
    features = (vectors - central) / scale
    wanted = np.array([[intent == each for each in INTENTS] for _, intent in examples], np.float32)
    weight = np.zeros((len(INTENTS), features.shape[1]), np.float32)
    bias = np.zeros(len(INTENTS), np.float32)
    for _ in range(_STEPS):
        logits = features @ weight.T + bias
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        wrong = shares / shares.sum(axis=1, keepdims=True) - wanted
        weight -= _RATE * (wrong.T @ features / len(examples) + _DECAY * weight)
        bias -= _RATE * wrong.mean(axis=0)
    weight /= scale
    return {"classifier.weight": weight, "classifier.bias": bias - weight @ central}
