"""What the installed libraries and the machine offer to compute on, by the files that are there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.engine import accelerator_detection
from edge_agent.engine.accelerator_policy import DeviceSupport


def lay(root: Path, *paths: str) -> Path:
    """Make empty files."""
    root.mkdir(exist_ok=True)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.mark.parametrize(
    ("runtime", "files", "offered"),
    [
        ("llama", (), DeviceSupport(("cuda", "vulkan"), [], [])),
        ("llama", ("bin/libggml-vulkan.so",), DeviceSupport(("cuda", "vulkan"), ["vulkan"], [])),
        ("llama", ("llama_cpp/lib/libggml-cuda.so",), DeviceSupport(("cuda", "vulkan"), ["cuda"], [])),
        ("onnx", ("bin/libggml-cuda.so",), DeviceSupport(("cuda",), [], [])),
        ("onnx", ("onnxruntime/capi/libonnxruntime_providers_cuda.so",), DeviceSupport(("cuda",), ["cuda"], [])),
        ("echo", ("bin/libggml-cuda.so",), DeviceSupport((), [], [])),
    ],
)
def test_a_build_is_known_by_its_libraries(
    tmp_path: Path, runtime: str, files: tuple[str, ...], offered: DeviceSupport
):
    """Of the portable build in a folder of their own, otherwise beside the library."""
    assert offered == accelerator_detection.detect_support(
        runtime, tmp_path / "root", lay(tmp_path / "packages", *files)
    )


@pytest.mark.parametrize(
    ("nodes", "present"),
    [
        ((), []),
        (("dri/card0",), []),
        (("dri/renderD128",), ["vulkan"]),
        (("dri/renderD129",), ["vulkan"]),
        (("nvidia0", "nvidiactl"), ["cuda", "vulkan"]),
        (("nvidiactl",), []),
    ],
)
def test_a_device_is_known_by_its_node(tmp_path: Path, nodes: tuple[str, ...], present: list[str]):
    """A render node, or a numbered card of NVIDIA, which also speaks Vulkan; its control node alone is no card."""
    assert present == accelerator_detection.devices_present(lay(tmp_path, *(f"dev/{node}" for node in nodes)))


def test_looking_loads_nothing():
    """The daemon asks without loading a library that only a child may have."""
    script = (
        "import sys; from edge_agent.engine.accelerator_detection import detect_support as detect; "
        "detect('llama'); detect('onnx'); "
        "print({'llama_cpp', 'onnxruntime', 'numpy'} & set(sys.modules))"
    )
    assert (
        "set()\n" == subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    )
