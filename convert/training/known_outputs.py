"""Outputs of a token classifier that a new head shares with the checkpoint's own: they start as they are there.

A model that gets one more type of value keeps what it knows of the others. transformers drops the whole head where the
number of labels differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

WEIGHT, BIAS = "classifier.weight", "classifier.bias"


def keep_known_outputs(head: Any, checkpoint: Path, before: Sequence[str], now: Sequence[str]) -> int:
    """Copy the rows of labels that both have; return how many.

    Args:
        head: the new linear layer, [labels now, hidden].
        checkpoint: a folder with *.safetensors.
        before: the labels of the checkpoint's head, in the order of its outputs.
        now: those of the new one.
    """
    pairs = [(before.index(label), place) for place, label in enumerate(now) if label in before]
    held = _head_of(checkpoint)
    if not pairs or held is None or held[0].shape != (len(before), head.weight.shape[1]):
        return 0
    old, new = (torch.tensor(places) for places in zip(*pairs, strict=True))
    with torch.no_grad():
        head.weight[new] = held[0][old].float()
        head.bias[new] = held[1][old].float()
    return len(pairs)


def _head_of(checkpoint: Path) -> tuple[torch.Tensor, torch.Tensor] | None:
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if {WEIGHT, BIAS} <= set(tensors.keys()):
                return tensors.get_tensor(WEIGHT), tensors.get_tensor(BIAS)
    return None
