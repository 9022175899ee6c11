"""Model files spoiled at random, each by its seed: the same seed spoils the same file the same way.

One copy of the original is patched in place and mended afterwards: a model file is large, and a spoiled place is small.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EDGE_BYTES = 8192
FLIPS_MAX = 3  # more would all but always hit a length, and nothing behind the first check would be reached
# What a length, a count or an offset becomes when it is attacked.
EXTREMES = tuple(value.to_bytes(8, "little") for value in (0, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1))


@dataclass(frozen=True)
class Corruption:
    """The changes to a file: bytes that are overwritten at offsets, then possibly a new length."""

    patches: tuple[tuple[int, bytes], ...] = ()
    length: int | None = None


def corruption(seed: int, data: bytes, header: int) -> Corruption:
    """Return the corruption of that seed for a file whose first `header` bytes describe the rest.

    One in five each: bits flipped in the first 8 kB, in the last 8 kB of the header, or anywhere; an extreme number
    written over eight bytes of the header; the file cut off, half of the time within its header.
    """
    rng = random.Random(seed)
    kind = seed % 5
    first, last, whole = range(min(EDGE_BYTES, header)), range(max(header - EDGE_BYTES, 0), header), range(len(data))
    if kind == 3:
        at = rng.choice(rng.choice((first, last)))
        return Corruption(patches=((at, rng.choice(EXTREMES)[: len(data) - at]),))
    if kind == 4:
        return Corruption(length=rng.randrange(rng.choice((header, len(data)))))
    places = rng.sample((first, last, whole)[kind], rng.randint(1, FLIPS_MAX))
    return Corruption(patches=tuple((at, bytes([data[at] ^ 1 << rng.randrange(8)])) for at in places))


@contextlib.contextmanager
def corrupted(path: Path, original: Path, how: Corruption) -> Iterator[None]:
    """Spoil `path`, a copy of `original`, inside the block."""
    with path.open("r+b") as file:
        for offset, data in how.patches:
            file.seek(offset)
            file.write(data)
        if how.length is not None:
            file.truncate(how.length)
    try:
        yield
    finally:
        with path.open("r+b") as file, original.open("rb") as source:
            for offset, data in how.patches:
                source.seek(offset)
                file.seek(offset)
                file.write(source.read(len(data)))
            if how.length is not None:
                source.seek(how.length)
                file.seek(how.length)
                shutil.copyfileobj(source, file, 1 << 20)
