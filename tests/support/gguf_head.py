"""Writes small GGUF files key by key, valid and invalid ones (format: ggml-org/ggml, docs/gguf.md)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

ALIGNMENT = 32
U32, I32, F32, STRING, ARRAY, U64 = 4, 5, 6, 8, 9, 10
Q4_0, TYPE_F32 = 2, 0

LLAMA: dict[str, bytes] = {
    "general.architecture": struct.pack("<IQ", STRING, 5) + b"llama",
    "llama.block_count": struct.pack("<II", U32, 2),
    "llama.embedding_length": struct.pack("<II", U32, 64),
    "llama.feed_forward_length": struct.pack("<II", U32, 96),
    "llama.attention.head_count": struct.pack("<II", U32, 4),
    "llama.attention.head_count_kv": struct.pack("<II", U32, 2),
    "tokenizer.ggml.tokens": struct.pack("<IIQ", ARRAY, STRING, 2) + (struct.pack("<Q", 1) + b"a") * 2,
}
"""Two layers of 4 heads of 16 values, 2 of them for keys and values; two tokens."""

TENSORS = (("token_embd.weight", TYPE_F32, 512), ("blk.0.attn_q.weight", Q4_0, 2304), ("output.weight", Q4_0, 128))
"""Name, type and bytes."""


def number(value: int, kind: int = U32) -> bytes:
    """Return a number as a value."""
    return struct.pack("<I", kind) + value.to_bytes({U32: 4, U64: 8}[kind], "little")


def numbers(values: Sequence[int]) -> bytes:
    """Return a list of numbers as a value."""
    return struct.pack(f"<IIQ{len(values)}i", ARRAY, I32, len(values), *values)


def gguf(
    keys: Mapping[str, bytes] = LLAMA,
    tensors: Sequence[tuple[str, int, int]] = TENSORS,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """Return a file; `counts` replaces the numbers of tensors and keys that it claims to have."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(keys))))
    for key, value in keys.items():
        head += _text(key) + value
    start = 0
    for name, kind, size in tensors:
        head += _text(name) + struct.pack("<IQQIQ", 2, 64, size // 64, kind, start)
        start += size
    return head + bytes(-len(head) % ALIGNMENT) + bytes(start)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
