"""How much memory an ONNX encoder and its tokenizer take, from the sizes of their files; limits of a tokenizer.json.

Measured on onnxruntime 1.32 with MiniLM (86 MiB, fp32): 1.44 times the file after loading and 1.63 times while it
loads, then 28 to 42 MiB for each thread that computes 512 tokens. A longer input, which has a step of its own, takes
more: attention grows with the square.

The tokenizers library takes memory by the content of a tokenizer.json, not by its size: a vocabulary of type Unigram
becomes a trie with a hash map for each byte of its tokens, 120 times the file. `check_tokenizer_file` counts in one
pass over the bytes, before the library parses them, and builds nothing. What a file hides from the count
(`"\\u0055nigram"`) meets the limits of the child on memory and time.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from edge_agent.engine.memory_need import MemoryNeed
from edge_agent.errors import ModelLoadFailed

PROCESS_BYTES = 80 * 2**20  # Python with numpy, onnxruntime, tokenizers and one tokenizer: 80 MiB resident
ARENA_BYTES = 16 * 2**20  # for each thread, whatever the model
ARENA_SHARE = 0.3  # and as a share of the file, because activations grow with it
ARENA_BYTES_MAX = 128 * 2**20
TOKENS_COUNTED = 512  # of one input, in the figures above
ATTENTION_BYTES = 2 * 16 * 4  # for each pair of tokens: scores and their softmax, of 16 heads, as float32
TOKENIZER_BYTES = 4 * 2**20
TOKENIZER_SHARE = 4.0  # of its file: 3.5 to 3.8 measured while it loads, with 260,000 tokens of WordPiece and BPE
UNIGRAM_TOKEN_BYTES = 120  # for each byte of the tokens: 118 measured

DRIVER_BYTES = {"cuda": 640 * 2**20}  # in the machine's memory, as others report it

FILE_BYTES_MAX = 128 << 20
"""The largest in use have a quarter of a million tokens and 34 MB."""
NESTING_MAX = 32
"""Real files have up to 8; each level is a call on the stack of the parser."""
TEXTS_MAX = 4 << 20
"""Keys and values that are strings: each token is one, and each merge one or two."""
BRACKETS_MAX = 8 << 20
"""Objects and arrays, counted at both ends."""
TEXT_BYTES_MAX = 1 << 20
"""Of one string; the longest in use is the table of a normalizer, 400 kB."""

_UNIGRAM = re.compile(rb'"type"\s*:\s*"Unigram"')
# An unterminated string extends to the end of the file: otherwise each quote in it would be tried as a beginning.
_ITEM = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_OPENING = b"[{"


def estimate_memory(weights: str, threads: int, device: str = "cpu") -> MemoryNeed:
    """Return what loading the file and computing on that many threads takes; a missing file counts as empty.

    The memory of a device is not counted, because onnxruntime does not report how much of it is free.
    """
    path = Path(weights)
    size = path.stat().st_size if path.is_file() else 0
    return MemoryNeed(
        weights=size,
        copies=size,  # onnxruntime keeps matrices as they are in the file, and again packed for this processor
        cache=0,
        compute=threads * min(ARENA_BYTES + int(ARENA_SHARE * size), ARENA_BYTES_MAX),
        process=PROCESS_BYTES + DRIVER_BYTES.get(device, 0),
    )


def tokenizer_bytes(path: str) -> int:
    """Return what the tokenizer of a file takes, without a trie for Unigram; a missing file counts as empty."""
    file = Path(path)
    return TOKENIZER_BYTES + (int(file.stat().st_size * TOKENIZER_SHARE) if file.is_file() else 0)


def long_input_bytes(tokens: int) -> int:
    """Return what attention over one input takes in addition to `estimate_memory`, which counts TOKENS_COUNTED."""
    return max(0, tokens**2 - TOKENS_COUNTED**2) * ATTENTION_BYTES


def check_tokenizer_file(path: str) -> int:
    """Return what a tokenizer will take, in bytes. Raises ModelLoadFailed if its file is missing or over a limit."""
    name = Path(path).name
    try:
        size = Path(path).stat().st_size
        if size > FILE_BYTES_MAX:
            raise _over(name, "bytes", size, FILE_BYTES_MAX)
        if not size:
            return tokenizer_bytes(path)
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text_bytes = _string_bytes(name, data)
            unigram = _UNIGRAM.search(data) is not None
    except OSError as error:
        raise ModelLoadFailed(f"tokenizer {name} cannot be read: {error.strerror}") from None
    return tokenizer_bytes(path) + (text_bytes * UNIGRAM_TOKEN_BYTES if unigram else 0)


def _string_bytes(name: str, data: mmap.mmap) -> int:
    """Return the bytes of all strings."""
    depth = brackets = texts = text_bytes = 0
    for found in _ITEM.finditer(data):
        start, end = found.span()
        if end - start > 1:
            texts, text_bytes = texts + 1, text_bytes + end - start - 2
            if texts > TEXTS_MAX:
                raise _over(name, "texts", texts, TEXTS_MAX)
            if end - start > TEXT_BYTES_MAX:
                raise _over(name, "bytes in one text", end - start, TEXT_BYTES_MAX)
            continue
        brackets += 1
        if brackets > BRACKETS_MAX:
            raise _over(name, "objects and arrays, counted at both ends,", brackets, BRACKETS_MAX)
        depth += 1 if data[start] in _OPENING else -1
        if depth > NESTING_MAX:
            raise _over(name, "levels of nesting", depth, NESTING_MAX)
    return text_bytes


def _over(name: str, what: str, count: int, limit: int) -> ModelLoadFailed:
    return ModelLoadFailed(f"tokenizer {name} has {count} {what}; the limit is {limit}", count=count, limit=limit)
