"""Bounded decompression of untrusted Zstandard data (RFC 8878)."""

from __future__ import annotations

import zstandard

from edge_agent.errors import DocumentInvalid


class TooLarge(DocumentInvalid):
    """Data that decompresses to more than the limit."""


def compress(plain: bytes, level: int) -> bytes:
    """Compress; `level` is 1 (fast) to 22 (small)."""
    return zstandard.ZstdCompressor(level=level).compress(plain)


def decompress(packed: bytes, bytes_max: int) -> bytes:
    """Decompress one frame to at most `bytes_max` bytes.

    Raises:
        TooLarge: it holds more; decompression stopped there.
        DocumentInvalid: it is not exactly one frame: damaged, truncated, or followed by more data.
    """
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            plain = reader.read(bytes_max + 1)
        if len(plain) > bytes_max:
            raise TooLarge(f"it decompresses to more than {bytes_max} bytes")
        # The bounded reader cannot tell the end of the data from the end of the frame; this one can, but has no bound.
        frame.decompress(packed)
    except zstandard.ZstdError as error:
        raise DocumentInvalid(str(error)) from None
    if not frame.eof:
        raise DocumentInvalid("the data ends before its Zstandard frame does")
    if frame.unused_data:
        raise DocumentInvalid(f"{len(frame.unused_data)} bytes follow its Zstandard frame")
    return plain
