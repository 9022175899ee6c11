"""How many requests, and cells of the key-value cache, an engine gets for the available memory."""

from __future__ import annotations

import dataclasses

import pytest

from edge_agent.engine.protocol import LoadRequest
from edge_agent.engine.runtimes.llama.gguf_header import GgufHeader
from edge_agent.engine.runtimes.llama.memory_estimate import (
    CACHE_SHARE,
    FULL_MAX,
    FULL_USUAL,
    PLACES_MAX,
    ContextCapacity,
    context_capacity,
    record_bytes,
)
from tests.unit.engine.llama.test_memory_estimate import HEADER

FILE_BYTES = 100_000_000
CONTEXT_TOKENS = 4096


def capacity(available: int, *, asked: int = 0, device: str = "cpu", header: GgufHeader = HEADER) -> ContextCapacity:
    load = LoadRequest(
        runtime="llama",
        context_tokens=CONTEXT_TOKENS,
        sequences_max=asked,
        memory_bytes_max=available,
        device=device,
    )
    return context_capacity(header, FILE_BYTES, load)


def full_requests(found: ContextCapacity) -> int:
    """Return how many full-length requests the cells of a capacity hold in addition to the prefixes."""
    return found.shape.cells // CONTEXT_TOKENS - 2


def test_configured_number_of_requests_applies() -> None:
    """A configured number of requests is used whatever the available memory is; a later check refuses what does not
    fit."""
    found = capacity(1, asked=5)
    assert (5, 5) == (found.places, full_requests(found))


def test_much_memory_allows_the_maximum() -> None:
    """With enough memory there are 32 requests, and cells for 16 of full length."""
    found = capacity(10**12)
    assert (PLACES_MAX, FULL_MAX) == (found.places, full_requests(found))


def test_unmeasured_memory_gives_the_usual_cells() -> None:
    """If memory was not measured, and on a device, whose memory the layers need, there are cells for eight full
    requests."""
    assert (PLACES_MAX, FULL_USUAL) == (capacity(0).places, full_requests(capacity(0)))
    assert FULL_USUAL == full_requests(capacity(10**12, device="cuda"))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_additional_cells_take_a_share_of_the_memory(share: float) -> None:
    """Between eight and sixteen full requests, the cache takes at most a quarter of the available memory."""
    header = dataclasses.replace(HEADER, cell_elements=10 * HEADER.cell_elements)
    eight, sixteen = (capacity(0, asked=each, header=header).need.cache for each in (FULL_USUAL, FULL_MAX))
    available = int((eight + share * (sixteen - eight)) / CACHE_SHARE)
    found = capacity(available, header=header)
    assert FULL_USUAL < full_requests(found) < FULL_MAX
    assert found.need.cache <= CACHE_SHARE * available


def test_little_memory_reduces_cells_first() -> None:
    """With little memory there are fewer cells; if not even one request fits, the capacity has the need of one, so the
    model is refused with that number."""
    need_of_two = capacity(0, asked=2).need.total
    found = capacity(need_of_two + 20 * 2**20)
    assert 2 <= full_requests(found) < FULL_USUAL
    assert found.need.total <= need_of_two + 20 * 2**20
    assert 1 == full_requests(capacity(1))


def test_places_leave_memory_for_writing_records() -> None:
    """Where memory does not suffice for writing a record in each place at once, there are fewer places, but at least
    one for each full request."""
    header = dataclasses.replace(HEADER, cell_elements=100 * HEADER.cell_elements)
    total = capacity(0, header=header).need.total
    found = capacity(total + record_bytes(header.vocabulary, 12), header=header)
    assert (12, FULL_USUAL) == (found.places, full_requests(found))
    assert FULL_USUAL == capacity(total, header=header).places
