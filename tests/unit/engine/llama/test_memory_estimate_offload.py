"""How many layers of a model are offloaded to a device: the policy alone, and with the header of a real model."""

from __future__ import annotations

import dataclasses

import pytest

from edge_agent.engine.memory_cap import MemoryNeed
from edge_agent.engine.runtimes.llama import gguf_header, memory_estimate
from edge_agent.engine.runtimes.llama.gguf_header import GgufHeader
from edge_agent.engine.runtimes.llama.llama_context import ContextShape
from edge_agent.engine.runtimes.llama.memory_estimate import (
    ON_CPU,
    GpuOffload,
    ModelPlacement,
    need_beside_device,
    plan_offload,
    shortfall,
    usable_bytes,
)
from edge_agent.errors import DeviceUnusable
from tests.support import models

GIB = 2**30
SHAPE = ContextShape(cells=1000, sequences=80, kv_type="f16", threads=1)
HEADER = GgufHeader(
    version=3,
    architecture="llama",
    layers=3,
    width=64,
    feed_forward=96,
    cell_elements=96,
    vocabulary=1000,
    product_bytes={2: 1_000_000},
    layer_bytes=(100_000, 200_000, 300_000),
    layer_cell_elements=(32, 32, 32),
    output_bytes=400_000,
)
CACHE = 1024 * 32 * 2
"""Of one layer."""
WORK = plan_offload(HEADER, SHAPE, "vulkan", GIB).compute_bytes


def test_all_layers_are_offloaded_if_they_fit():
    """All layers are offloaded if they fit, with the output counted as one layer; weights, cache and work memory are
    reported separately."""
    whole = plan_offload(HEADER, SHAPE, "vulkan", GIB)
    assert (4, 4, 1_000_000, 3 * CACHE) == (whole.layers, whole.layers_all, whole.weights_bytes, whole.cache_bytes)
    assert whole.needed_bytes == whole.wanted_bytes == 1_000_000 + 3 * CACHE + WORK


@pytest.mark.parametrize(
    ("beside_work", "layers", "weights", "caches"),
    [
        (400_000, 1, 400_000, 0),
        (699_999 + CACHE, 1, 400_000, 0),
        (700_000 + CACHE, 2, 700_000, 1),
        (900_000 + 2 * CACHE, 3, 900_000, 2),
        (999_999 + 3 * CACHE, 3, 900_000, 2),
        (1_000_000 + 3 * CACHE, 4, 1_000_000, 3),
    ],
)
def test_as_many_layers_as_fit_are_offloaded(beside_work: int, layers: int, weights: int, caches: int):
    """The output is offloaded first, then whole layers from the last one on, as in llama.cpp."""
    found = plan_offload(HEADER, SHAPE, "vulkan", WORK + beside_work)
    assert (layers, weights, caches * CACHE) == (found.layers, found.weights_bytes, found.cache_bytes)
    assert found.needed_bytes <= WORK + beside_work


def test_configured_layer_limit_applies():
    """The site's limit is the maximum number of layers; a limit above the model's layers offloads all."""
    assert [2, 4] == [plan_offload(HEADER, SHAPE, "vulkan", GIB, limit).layers for limit in (2, 99)]


def test_device_that_fits_no_layer_is_unusable():
    """If not even one layer fits, the error has the needed and the free memory, and the failure is not lasting."""
    with pytest.raises(DeviceUnusable, match=r"need 7\d\.\d MB; 1\.0 MB is free") as caught:
        plan_offload(HEADER, SHAPE, "vulkan", 10**6)
    assert (str(WORK + 400_000), str(10**6)) == tuple(
        caught.value.metadata[key] for key in ("needed_bytes", "available_bytes")
    )
    assert not caught.value.lasting


@pytest.mark.parametrize(
    ("free", "limit", "said"),
    [
        (WORK + 700_000 + CACHE, -1, "2 of 4 layers fit on the device: all 4 need"),
        (WORK + 700_000 + CACHE, 3, "2 of 3 layers fit on the device: all 4 need"),
        (WORK + 700_000 + CACHE, 2, ""),
        (GIB, -1, ""),
        (GIB, 99, ""),
    ],
)
def test_shortfall_of_layers_is_reported(free: int, limit: int, said: str):
    """If fewer layers fit than were requested, the message has the numbers; a limit that the site set itself causes no
    message."""
    found = shortfall(plan_offload(HEADER, SHAPE, "vulkan", free, limit), limit)
    assert found.startswith(said)
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("free", "total", "most", "usable"),
    [
        (8 * GIB, 8 * GIB, 0, 8 * GIB - 128 * 2**20 - int(8 * GIB * 0.02)),
        (8 * GIB, 8 * GIB, GIB, GIB),
        (100 * 2**20, 8 * GIB, 0, 0),
        (100 * 2**20, 8 * GIB, GIB, 0),
    ],
)
def test_usable_device_memory_excludes_a_reserve(free: int, total: int, most: int, usable: int):
    """The usable memory of a device is the free memory without a reserve, or the site's limit if that is lower."""
    assert usable == usable_bytes(free, total, most)


def test_smollm2_has_31_layers_to_offload():
    """SmolLM2-135M has 30 layers and the output; the token table, which is also the output, is counted once."""
    head = gguf_header.read_header(str(models.smollm2_path()))
    found = plan_offload(head, SHAPE, "vulkan", 4 * GIB)
    assert (31, 31) == (found.layers, found.layers_all)
    assert found.weights_bytes == sum(head.product_bytes.values())


NEED = MemoryNeed(weights=1000, copies=700, cache=300, compute=50, process=10)
SOME = GpuOffload(2, 4, weights_bytes=800, cache_bytes=100, compute_bytes=5, wanted_bytes=0, free_bytes=0)


def test_offloaded_memory_is_subtracted_from_the_need():
    """Offloaded weights and cache, and copies of offloaded weights, are subtracted from the need of main memory; the
    driver's memory is added."""
    assert dataclasses.replace(NEED, weights=200, copies=200, cache=200, process=70) == need_beside_device(
        NEED, 800, 100, 60
    )
    assert ModelPlacement("vulkan:0", 1, SOME, driver_bytes=60).beside(NEED).total == 200 + 200 + 200 + 50 + 70


def test_device_with_shared_memory_saves_nothing():
    """A device that uses the machine's memory, such as integrated graphics or a software driver, does not reduce the
    need and adds the driver's memory."""
    shared = ModelPlacement("vulkan:0", 1, SOME, driver_bytes=60, shares_memory=True)
    assert NEED.total + 5 + 60 == shared.beside(NEED).total


def test_placement_on_the_cpu_changes_nothing():
    """Without a device the memory need stays as it is and no layer is offloaded."""
    assert (NEED, 0, None) == (ON_CPU.beside(NEED), ON_CPU.layers, ON_CPU.pointer)


def test_driver_memory_depends_on_the_device():
    """The memory that a backend takes for itself is counted for each kind of device."""
    cuda, vulkan = (plan_offload(HEADER, SHAPE, device, GIB).compute_bytes for device in ("cuda", "vulkan"))
    assert memory_estimate.DRIVER_BYTES["cuda"] - memory_estimate.DRIVER_BYTES["vulkan"] == cuda - vulkan
