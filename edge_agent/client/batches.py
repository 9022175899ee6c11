"""Many inputs in requests of a few, and what became of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from edge_agent.client.answers import Failure
from edge_agent.client.failure import CallFailed

INPUTS_MAX = 16
"""Of a request, unless the caller says otherwise: few enough that results come while inputs are still read."""

# What fails a request of one input and would be that input's own error among others (proto: InferenceService).
_OF_INPUTS = {"INPUT_EMPTY", "INPUT_TOO_LONG", "INPUT_QUARANTINED", "MODEL_FAILED", "ENGINE_CRASHED"}
_T = TypeVar("_T")


def batched(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yield the items in lists of `size`, the last one shorter; read no further than needed."""
    pending = iter(items)
    while batch := list(islice(pending, size)):
        yield batch


def of_input(failed: CallFailed, inputs: int) -> Failure:
    """Return the error of the only input of a request. Raises `failed` when it concerns more than that."""
    if inputs > 1 or failed.reason not in _OF_INPUTS:
        raise failed
    return Failure(failed.reason, failed.message, failed.metadata, failed.remedy)
