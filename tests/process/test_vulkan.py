"""llama.cpp's offload on a real driver: Vulkan, with Mesa's software driver, in confined children.

Needs the wheel that `scripts/build-installer --gpu vulkan` leaves in .cache, and the package mesa-vulkan-drivers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from installer.build.llama_recipe import BuildRecipe
from tests.support import bundles, tiny_gguf

ROOT = Path(__file__).parent.parent.parent
WHEELS = sorted((ROOT / ".cache/installer" / BuildRecipe("0.3.36", "vulkan").key).glob("llama_cpp_python-*.whl"))
DRIVER = Path("/usr/share/vulkan/icd.d/lvp_icd.json")
TEXTS = ["the first thing", "another one"]
TOLERANCE = 0.05
"""What a golden case allows."""

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(not WHEELS, reason="no build with Vulkan: 'scripts/build-installer --gpu vulkan' makes one"),
    pytest.mark.skipif(not DRIVER.exists(), reason="no driver: 'apt-get install mesa-vulkan-drivers' brings one"),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack llama.cpp with Vulkan into a folder that a child can read."""
    folder = tmp_path_factory.mktemp("vulkan") / "site-packages"
    with zipfile.ZipFile(WHEELS[-1]) as wheel:
        wheel.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny decoder that scores three labels: a software driver computes larger ones for minutes."""
    folder = tmp_path_factory.mktemp("bundle")
    weights = tiny_gguf.write(folder / "tiny.gguf", sharpened=True)
    fields = {
        "task": {"name": "tiny", "kind": "classify", "labels": ["one", "two", "three"]},
        "version": "1.0.0",
        "runtime": "llama",
        "engine": {"context_tokens": 128},
    }
    fields["task"]["limits"] = {"input_tokens_max": 100}
    return bundles.write(folder / "tiny", fields, {}, {"weights": ("model.gguf", weights)})


def told(packages: Path, bundle: Path, driver: Path = DRIVER, **settings: Any) -> dict[str, Any]:
    """Run the bundle with this build, driver and configuration; return the output of tests/support/offloaded.py."""
    environment = {**os.environ, "PYTHONPATH": f"{packages}:{ROOT}", "VK_DRIVER_FILES": str(driver)}
    command = [sys.executable, "-m", "tests.support.offloaded", str(bundle), json.dumps(settings), *TEXTS]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(process.stdout[process.stdout.index('{"device"') :])
    return found


@pytest.fixture(scope="module")
def whole(packages: Path, bundle: Path) -> dict[str, Any]:
    """Return the output for the bundle with all layers on the device. Takes minutes, mostly to compile kernels."""
    return told(packages, bundle, device="vulkan", gpu_index=0)


def farthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest difference between two scores."""
    pairs = zip(one["scores"], other["scores"], strict=True)
    return max(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True))


def test_device_scores_match_those_of_the_cpu(packages: Path, bundle: Path, whole: dict[str, Any]) -> None:
    """With all layers on the device each answer names it, the child is confined, and the scores match the CPU's within
    the tolerance of a golden case."""
    here = told(packages, bundle, device="cpu")
    assert ("vulkan:0", {}, "4 of 4") == (whole["device"], whole["shortfalls"], whole["details"]["gpu_layers"])
    assert [["vulkan:0", []]] * len(TEXTS) == whole["computed"]
    assert ["on", "on"] == [whole["details"][measure] for measure in ("seccomp", "landlock")]
    assert "llvmpipe" in whole["details"]["device_description"]
    assert farthest(here, whole) < TOLERANCE
    assert [["cpu", []]] * len(TEXTS) == here["computed"]


def test_layers_that_do_not_fit_are_computed_on_the_cpu(packages: Path, bundle: Path, whole: dict[str, Any]) -> None:
    """If device memory is too small for all layers, the CPU computes the rest with the same scores, and DEVICE_PARTIAL
    has the numbers."""
    needed = int(whole["details"]["device_memory_estimated_bytes"])
    some = told(packages, bundle, device="vulkan", gpu_index=0, gpu_memory_bytes_max=needed - 1)
    assert "3 of 4" == some["details"]["gpu_layers"]
    assert [["vulkan:0", ["DEVICE_PARTIAL"]]] * len(TEXTS) == some["computed"]
    wanted = f"3 of 4 layers fit on the device: all 4 need {needed / 1e6:.1f} MB"
    assert some["shortfalls"]["DEVICE_PARTIAL"].startswith(wanted)
    assert farthest(whole, some) < TOLERANCE


@pytest.mark.parametrize(
    ("driver", "settings", "why"),
    [
        (Path("/nowhere/icd.json"), {"gpu_index": 0}, "the driver has no vulkan device 0 for this process"),
        (DRIVER, {}, "the driver has no vulkan device for this process"),
        (DRIVER, {"gpu_index": 0, "gpu_memory_bytes_max": 10**6}, "MB; 1.0 MB is free on the device"),
    ],
)
def test_unusable_device_falls_back_to_the_cpu(
    packages: Path, bundle: Path, driver: Path, settings: dict[str, Any], why: str
) -> None:
    """Without a driver, with only a software driver that is not selected by its index, or without memory for one layer,
    the CPU answers with DEVICE_FALLBACK."""
    found = told(packages, bundle, driver, device="vulkan", **settings)
    assert why in found["shortfalls"]["DEVICE_FALLBACK"]
    assert [["cpu", ["DEVICE_FALLBACK"]]] * len(TEXTS) == found["computed"]
