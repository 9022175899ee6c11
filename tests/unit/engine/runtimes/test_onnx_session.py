"""Which provider onnxruntime is asked for, what is said of one that is not there, and which graphs are refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from edge_agent.engine.runtimes.onnx_session import OnnxSession, providers
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
