"""Which waiting inputs an encoder computes together, and how they lie in one array. Pure.

Padding is computed for nothing, so nobody ever waits for a batch to fill: it takes the oldest input and those of the
nearest length that are there already. What batches gain: `scripts/bench encoders`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids and type ids of one input."""

ROWS_MAX = 8  # beyond that throughput is flat and every further row only delays the first
TOKENS_MAX = 512  # padding included; bounds a step, and with it the wait for a cancel or a newcomer, at some 60 ms


def chosen(lengths: Sequence[int], rows_max: int) -> list[int]:
    """Return the places of the inputs to compute next: the first always, then the nearest in length that fit."""
    batch, longest = [0], lengths[0]
    if rows_max == 1:
        return batch
    for place in sorted(range(1, len(lengths)), key=lambda place: abs(lengths[place] - lengths[0])):
        if len(batch) == rows_max:
            break
        width = max(longest, lengths[place])
        if width * (len(batch) + 1) <= TOKENS_MAX:
            batch.append(place)
            longest = width
    return batch


def padded(rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """Return token ids, attention mask and type ids, [3, rows, longest], filled up with zeros.

    The mask makes the filling count for nothing.
    """
    longest = max(len(ids) for ids, _ in rows)
    if len(rows) == 1:
        ((ids, types),) = rows
        return np.array(((ids,), ((1,) * longest,), (types,)), np.int64)
    array = np.zeros((3, len(rows), longest), np.int64)
    for place, (ids, types) in enumerate(rows):
        array[0, place, : len(ids)], array[1, place, : len(ids)], array[2, place, : len(ids)] = ids, 1, types
    return array
