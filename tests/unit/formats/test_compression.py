"""Bounded decompression: only whole frames, and never more bytes than the limit."""

from __future__ import annotations

import pytest
import zstandard

from edge_agent.errors import DocumentInvalid
from edge_agent.formats.compression import TooLarge, compress, decompress

PLAIN = b"".join(b"record %d\n" % (number * number) for number in range(60_000))
PACKED = compress(PLAIN, 3)


@pytest.mark.parametrize("level", [1, 19])
@pytest.mark.parametrize("plain", [b"", b"x", PLAIN])
def test_compressed_data_is_restored(plain, level):
    """A whole frame decompresses, an empty one included, with a limit of exactly its size."""
    assert plain == decompress(compress(plain, level), len(plain))


def test_a_frame_without_its_size_decompresses():
    """Programs that compress a stream leave the size out of the frame's head."""
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    assert PLAIN == decompress(stream.compress(PLAIN) + stream.flush(), len(PLAIN))


@pytest.mark.parametrize("kept", [0, 3, 6, len(PACKED) // 2, len(PACKED) - 5, len(PACKED) - 1])
def test_truncated_frame_is_refused(kept):
    """A truncated frame is an error and not a shorter text."""
    with pytest.raises(DocumentInvalid, match="ends before"):
        decompress(PACKED[:kept], len(PLAIN))


def test_data_behind_the_frame_is_refused():
    """A second frame, or any other data after the frame, is an error."""
    with pytest.raises(DocumentInvalid, match=f"{len(PACKED)} bytes follow"):
        decompress(PACKED + PACKED, 3 * len(PLAIN))


def test_damaged_data_is_refused():
    """Data that is not Zstandard is refused with the library's reason."""
    with pytest.raises(DocumentInvalid):
        decompress(b"not compressed", 100)


def test_more_than_the_limit_is_refused():
    """1 MiB of zeros in a few bytes is refused as too large, whether or not the frame is complete."""
    bomb = compress(bytes(2**20), 3)
    for packed in (bomb, bomb[:-1]):
        with pytest.raises(TooLarge, match="more than 1000 bytes"):
            decompress(packed, 1000)
