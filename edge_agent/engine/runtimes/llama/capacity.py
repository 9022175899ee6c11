"""How many requests one engine computes together where nobody has set that: as many as memory allows. Pure.

A request needs a sequence, which costs next to nothing, and cells of the key-value cache for its tokens, which is
where the memory goes. So there are sequences for PLACES_MAX requests, and cells for as many requests of full length as
fit into a share of the memory that there is: short ones, which most are, come in as long as their own cells do
(`cache.py`, `admission.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from edge_agent.engine.memory_need import MemoryNeed
from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama.cache import shape_of
from edge_agent.engine.runtimes.llama.context import Shape
from edge_agent.engine.runtimes.llama.header import Header
from edge_agent.engine.runtimes.llama.need import kept_bytes, need_of, record_bytes

PLACES_MAX = 32
"""With 46 or more llama.cpp would keep room for the logits of 192 rows instead of 128."""
FULL_MAX, FULL_USUAL = 16, 8
"""Requests of full length that there are cells for, at most, and where they would take more than CACHE_SHARE."""
CACHE_SHARE = 0.25
"""Of the memory that there is, what more cells than those of FULL_USUAL requests may take."""


class Capacity(NamedTuple):
    """What an engine makes room for."""

    places: int
    """Requests computed together."""
    shape: Shape
    need: MemoryNeed


def capacity_of(header: Header, file_bytes: int, spec: LoadRequest) -> Capacity:
    """Return as many places as are asked for, or else as many as the memory holds; at least one, if it holds that."""
    if spec.sequences_max:
        return _with(header, file_bytes, spec, spec.sequences_max, spec.sequences_max)
    available = spec.memory_bytes_max
    most = FULL_MAX if available and spec.device == "cpu" else FULL_USUAL  # on a device, cells take layers' place
    for full in range(most, 0, -1):
        found = _with(header, file_bytes, spec, PLACES_MAX, full)
        usual = full <= FULL_USUAL or found.need.cache <= CACHE_SHARE * available
        if not available or (usual and found.need.total <= available):
            break
    left = available - found.need.total
    # What a record holds while it is written is asked for when the first task that writes some comes.
    fits = (each for each in range(PLACES_MAX, full, -1) if record_bytes(header.vocabulary, each) <= left)
    return found._replace(places=next(fits, full) if available else PLACES_MAX)


def _with(header: Header, file_bytes: int, spec: LoadRequest, places: int, full: int) -> Capacity:
    """Return places for so many requests, with cells for so many of full length."""
    shape = shape_of(spec.context_tokens, full, spec.kv_type, spec.threads)
    shape = replace(shape, sequences=shape.sequences + places - full)
    need = need_of(header, file_bytes, shape)
    kept = kept_bytes(header, shape, spec.context_tokens, spec.prompt_cache_bytes_max)
    return Capacity(places, shape, replace(need, cache=need.cache + kept))
