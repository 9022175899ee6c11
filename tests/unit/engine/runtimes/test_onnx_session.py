"""Which provider onnxruntime is asked for, what is said of one that is not there, and which graphs are refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.onnx_session import (
    BATCH_ROWS_MAX,
    BATCH_TOKENS_MAX,
    OnnxSession,
    choose_batch,
    pad_rows,
    providers,
)
from edge_agent.errors import DeviceUnusable, ModelLoadFailed
from tests.support import bundles
from tests.support.fuzz import corpus

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_the_cpu_is_asked_for_alone():
    """Nothing else may compute, whatever onnxruntime has."""
    assert [CPU] == providers("cpu", -1, [CUDA, CPU])


@pytest.mark.parametrize(("index", "device_id"), [(-1, "0"), (0, "0"), (3, "3")])
def test_a_device_is_asked_for_by_its_number(index: int, device_id: str):
    """With full float32, and the CPU for operators that it lacks."""
    assert [(CUDA, {"device_id": device_id, "use_tf32": "0"}), CPU] == providers("cuda", index, [CUDA, CPU])


@pytest.mark.parametrize("device", ["cuda", "vulkan"])
def test_a_provider_that_is_not_installed_is_named(device: str):
    """With what this onnxruntime has; trying again is in vain."""
    with pytest.raises(DeviceUnusable, match="this onnxruntime has CPUExecutionProvider, and no ") as caught:
        providers(device, -1, [CPU])
    assert caught.value.lasting


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_session_asks_what_is_installed(tmp_path):
    """The real library, without CUDA: refused before the model is opened; on the CPU it opens."""
    weights = bundles.paths_of(bundles.tiny_onnx_bundle(tmp_path / "tiny"))["weights"]
    with pytest.raises(DeviceUnusable):
        OnnxSession(weights, "cuda")
    assert "cpu" == OnnxSession(weights).device


def spoiled(how: str) -> bytes:
    """Return a sound graph without outputs, or with a name that is no text."""
    model = onnx.ModelProto.FromString(corpus.sound("onnx-graph"))
    name = model.graph.output[0].name.encode()
    if how == "no output":
        del model.graph.output[:]
    raw = model.SerializeToString()
    return raw.replace(name, b"\xff" * len(name)) if how == "no text" else raw


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no output", "m.onnx has no output"),
        ("no text", "m.onnx does not load: a name in its graph is not UTF-8"),
    ],
)
def test_a_graph_that_nobody_can_read_from_is_refused(how: str, said: str, tmp_path: Path):
    """Without outputs, or with names that are no text: with the file's name and a reason. Fuzzing found both."""
    (tmp_path / "m.onnx").write_bytes(spoiled(how))
    with pytest.raises(ModelLoadFailed, match=said):
        OnnxSession(str(tmp_path / "m.onnx"))


def test_oldest_alone():
    """One waiting input is computed at once."""
    assert [0] == choose_batch([5], BATCH_ROWS_MAX)


def test_nearest_in_length_first():
    """Of many waiting inputs those whose length is nearest to the oldest's go with it, older ones first."""
    assert [0, 3, 1, 5] == choose_batch([10, 12, 40, 10, 60, 8], 4)


def test_padding_bounds_the_batch():
    """An input that would stretch the batch over the token limit waits; shorter ones still go."""
    assert [0, 2] == choose_batch([200, BATCH_TOKENS_MAX // 2 + 1, 190, 180], BATCH_ROWS_MAX)


def test_long_input_goes_alone():
    """An input longer than the token limit is computed, and nothing with it."""
    assert [0] == choose_batch([BATCH_TOKENS_MAX + 1, 1, 1], BATCH_ROWS_MAX)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(1, BATCH_ROWS_MAX))
def test_batches_keep_their_limits_and_starve_nobody(lengths, rows_max):
    """Whatever waits: the oldest is in, no input twice, and rows and padded tokens stay within their limits."""
    batch = choose_batch(lengths, rows_max)
    assert batch[0] == 0
    assert len(set(batch)) == len(batch) <= rows_max
    assert len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= BATCH_TOKENS_MAX


def test_padding_is_zeros_behind():
    """Ids, mask and type ids keep their beginning and are filled up with zeros; the mask says what is filling."""
    ids, mask, types = pad_rows([([7, 8, 9], [0, 0, 1]), ([5], [2])]).tolist()
    assert ([[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 0, 1], [2, 0, 0]]) == (ids, mask, types)


def test_one_row_needs_no_padding():
    """One input is computed as it is, and all of it counts."""
    assert [[[7, 8]], [[1, 1]], [[0, 1]]] == pad_rows([([7, 8], [0, 1])]).tolist()
