"""Bounded decompression of Zstandard data (RFC 8878) that others made."""

from __future__ import annotations

import zstandard

from edge_agent.errors import DocumentInvalid


class TooLarge(DocumentInvalid):
    """Data that decompresses to more than its reader takes."""


def compress(plain: bytes, level: int) -> bytes:
    """Compress; `level` is 1 (fast) to 22 (small)."""
    return zstandard.ZstdCompressor(level=level).compress(plain)


def decompress(packed: bytes, bytes_max: int) -> bytes:
    """Decompress one frame to at most so many bytes.

    Raises:
        TooLarge: it holds more than `bytes_max` bytes; no more than that were written.
        DocumentInvalid: it is not whole Zstandard data.
    """
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            plain = reader.read(bytes_max + 1)
    except zstandard.ZstdError as error:
        raise DocumentInvalid(str(error)) from None
    if len(plain) > bytes_max:
        raise TooLarge(f"it decompresses to more than {bytes_max} bytes")
    return plain
