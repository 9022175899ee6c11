"""What a tokenizer.json may be, found out before the tokenizers library parses it: size, nesting, number of texts.

The library takes memory by what the file says, not by its size: a vocabulary of type Unigram becomes a trie with a hash
map for each byte of its tokens, 120 times the file. One pass over the bytes counts; nothing is built from them. What a
file hides from it (`"\\u0055nigram"`) meets the limits of the child on memory and time.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from edge_agent.engine.runtimes.onnx_need import UNIGRAM_TOKEN_BYTES, tokenizer_bytes
from edge_agent.errors import ModelLoadFailed

FILE_BYTES_MAX = 128 << 20
"""The largest in use have a quarter of a million tokens and 34 MB."""
NESTING_MAX = 32
"""Real files have up to 8; each level is a call on the stack of the parser."""
TEXTS_MAX = 4 << 20
"""Keys and values that are texts: each token is one, and each merge one or two."""
BRACKETS_MAX = 8 << 20
"""Objects and arrays, counted at both ends."""
TEXT_BYTES_MAX = 1 << 20
"""Of one text; the longest in use is the table of a normalizer, 400 kB."""

_UNIGRAM = re.compile(rb'"type"\s*:\s*"Unigram"')
# A text that does not end goes on to the end of the file: else each quote in it would be tried as a beginning.
_ITEM = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_OPENING = b"[{"


def check(path: str) -> int:
    """Return what a tokenizer will take, in bytes. Raises ModelLoadFailed if its file is over a limit or not there."""
    name = Path(path).name
    try:
        size = Path(path).stat().st_size
        if size > FILE_BYTES_MAX:
            raise _over(name, "bytes", size, FILE_BYTES_MAX)
        if not size:
            return tokenizer_bytes(path)
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text_bytes = _counted(name, data)
            unigram = _UNIGRAM.search(data) is not None
    except OSError as error:
        raise ModelLoadFailed(f"tokenizer {name} cannot be read: {error.strerror}") from None
    return tokenizer_bytes(path) + (text_bytes * UNIGRAM_TOKEN_BYTES if unigram else 0)


def _counted(name: str, data: mmap.mmap) -> int:
    """Return the bytes of all texts."""
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
