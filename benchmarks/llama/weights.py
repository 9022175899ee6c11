"""The model files: SmolLM2-135M as its package ships it, and requantized, once, into .cache/models."""

from __future__ import annotations

from pathlib import Path

from convert import gguf
from tests import models

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "models"
SHIPPED = "Q4_1"
QUANTIZATIONS = ("Q4_0", "Q4_1", "Q8_0")


def smollm2(quantization: str) -> Path:
    """Return SmolLM2-135M at that quantization. Speed does not depend on what rounding it twice has cost."""
    target = CACHE / f"SmolLM2-135M-{quantization}.gguf"
    if not target.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a link to where the package was
        if quantization == SHIPPED:
            target.symlink_to(models.smollm2_path())
        else:
            gguf.quantize(gguf.Request(models.smollm2_path(), target, quantization, requantize=True))
    return target
