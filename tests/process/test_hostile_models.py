"""A bundle that allocates without end is refused with its limit, and other bundles are not affected."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine import memory_need
from edge_agent.engine.pool import EnginePool
from edge_agent.errors import ModelLoadFailed
from tests.support import bundles, hostile_models

MB = 10**6


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[EnginePool]:
    """Yield engines with one thread each, in which a good bundle answers."""
    made = EnginePool(EngineConfig(cpu_threads=1), lambda: None, [tmp_path])
    await bundles.attach_bundle(made, bundles.tiny_onnx_bundle(tmp_path / "good"), "good")
    yield made
    assert made.ready("good")
    assert [0] == [each.restarts for each in made.statuses()]
    await made.stop()


async def refusal(pool: EnginePool, folder: Path) -> ModelLoadFailed:
    with pytest.raises(ModelLoadFailed) as caught:
        await bundles.attach_bundle(pool, folder, "hostile")
    return caught.value


def check_numbers(refused: ModelLoadFailed) -> None:
    """Check that the refusal has the estimate and the limit, in the message and as numbers."""
    estimated, limit = (int(refused.metadata[f"memory_{name}_bytes"]) for name in ("estimated", "limit"))
    assert f"estimated to need {estimated / MB:.1f} MB of memory and limited to {limit / MB:.1f} MB" in refused.message
    assert estimated < limit <= 2 * estimated + memory_need.RUNTIME_BYTES + memory_need.THREAD_BYTES
    assert limit < 1000 * MB
    assert int(refused.metadata["memory_peak_bytes"]) <= limit + 100 * MB  # mapped files are in the one alone


@pytest.mark.slow
async def test_growing_tokenizer_is_stopped_by_the_memory_limit(pool: EnginePool, tmp_path: Path) -> None:
    """A tokenizer that expands a few kilobytes to 10^12 characters ends its child at the memory limit; the error has
    the limit and the estimate, and the good bundle is not affected."""
    folder = hostile_models.bundle(tmp_path / "hostile", tokenizer=hostile_models.growing_tokenizer())
    check_numbers(await refusal(pool, folder))


async def test_graph_with_a_computed_huge_tensor_is_stopped_by_the_limit(pool: EnginePool, tmp_path: Path) -> None:
    """A tensor of 4 GB whose size is only known after computation is stopped by the memory limit with the same
    numbers."""
    folder = hostile_models.bundle(tmp_path / "hostile", hostile_models.computed_filling_graph())
    check_numbers(await refusal(pool, folder))


async def test_graph_with_a_declared_huge_tensor_is_not_opened(pool: EnginePool, tmp_path: Path) -> None:
    """A graph whose file declares a tensor over the limit is refused before onnxruntime opens it."""
    refused = await refusal(pool, hostile_models.bundle(tmp_path / "hostile", hostile_models.filling_graph()))
    assert (
        "model.onnx has a node ConstantOfShape that makes 1000000000 elements; the limit is 67108864" == refused.message
    )


@pytest.mark.slow
async def test_endless_graph_is_stopped_by_the_time_limit(tmp_path: Path) -> None:
    """A loop of 2^60 iterations is stopped by the child's alarm while the library computes it."""
    pool = EnginePool(EngineConfig(cpu_threads=1, attach_seconds_max=2), lambda: None, [tmp_path])
    refused = await refusal(pool, hostile_models.bundle(tmp_path / "hostile", hostile_models.endless_graph()))
    await pool.stop()
    assert ("attach took longer than 2 s", "2.0") == (refused.message, refused.metadata["limit_seconds"])
