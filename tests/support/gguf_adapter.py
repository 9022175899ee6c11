"""Writes random LoRA adapters as GGUF files (format: ggml-org/ggml, docs/gguf.md)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SMOLLM2 = 576, 30
"""Width and layers of SmolLM2-135M."""
TINY = 32, 3
"""Of the model of tests/support/tiny_gguf.py."""
RANK = 4
_ALIGNMENT = 32
_TYPE_STRING, _TYPE_FLOAT32 = 8, 6
_TENSOR_F32 = 0


def write_adapter(path: Path, seed: int, *, spoil: bool = False, model: tuple[int, int] = SMOLLM2) -> Path:
    """Write an adapter of rank 4 on every attention query; `spoil` puts one NaN into the first layer."""
    width, layers = model
    random = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for layer in range(layers):
        for half, shape in (("lora_a", (RANK, width)), ("lora_b", (width, RANK))):
            values = random.normal(0, 0.3, shape).astype(np.float32)
            tensors[f"blk.{layer}.attn_q.weight.{half}"] = values
    if spoil:
        tensors["blk.0.attn_q.weight.lora_b"][0, 0] = np.nan
    path.write_bytes(_gguf(tensors))
    return path


def _gguf(tensors: dict[str, NDArray[np.float32]]) -> bytes:
    texts = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(texts) + 1)
    for key, text in texts.items():
        head += _string(key) + struct.pack("<I", _TYPE_STRING) + _string(text)
    head += _string("adapter.lora.alpha") + struct.pack("<If", _TYPE_FLOAT32, RANK)
    data = b""
    for name, values in tensors.items():
        rows, columns = values.shape
        head += _string(name) + struct.pack("<IQQIQ", 2, columns, rows, _TENSOR_F32, len(data))
        data += _padded(values.tobytes())
    return _padded(head) + data


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
