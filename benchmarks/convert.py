"""Time and memory of edge-convert for the recipes in examples/: scripts/bench convert [FOLDER ...]."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bars import Bar, main

ROOT = Path(__file__).parents[1]
ENCODER_SECONDS_MAX, ADAPTER_SECONDS_MAX = 600.0, 2700.0
# A machine of 8 GB, with room for the system.
MEMORY_GIB_MAX = 6.0
SECONDS_MAX = {
    "retail-categories": ENCODER_SECONDS_MAX,
    "pos-intent/encoder": ENCODER_SECONDS_MAX,
    "home-intents": ADAPTER_SECONDS_MAX,
    "home-intents/slots": ADAPTER_SECONDS_MAX,
    "pos-intent": ADAPTER_SECONDS_MAX,
}


def measure() -> list[Bar]:
    """Run each recipe from nothing, or those that the command line names."""
    named = [each.removeprefix("examples/").rstrip("/") for each in sys.argv[1:] if not each.startswith("-")]
    if unknown := set(named) - set(SECONDS_MAX):
        sys.exit(f"No limit is set for {', '.join(sorted(unknown))}; there are: {', '.join(SECONDS_MAX)}.")
    return [bar for recipe in named or SECONDS_MAX for bar in _run(recipe)]


def _run(recipe: str) -> list[Bar]:
    script = shutil.which("edge-convert", path=str(Path(sys.executable).parent)) or "edge-convert"
    _make_data(recipe)
    with tempfile.TemporaryDirectory(prefix="edge-convert-bench-") as work:
        started = time.perf_counter()
        command = [script, "run", str(ROOT / "examples" / recipe), "--work", work]
        subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603 - our own command
        seconds = time.perf_counter() - started
        report = json.loads(Path(work, "report.json").read_bytes())
    slowest = max(report["stages"].values(), key=lambda stage: float(stage["seconds"]))
    return [
        Bar(f"convert {recipe}: seconds", seconds, SECONDS_MAX[recipe], "lower"),
        Bar(f"convert {recipe}: peak memory, GiB", report["memory_peak_bytes"] / 2**30, MEMORY_GIB_MAX, "lower"),
        Bar(f"convert {recipe}: seconds in {slowest['stage']}", slowest["seconds"], SECONDS_MAX[recipe], "lower"),
    ]


def _make_data(recipe: str) -> None:
    """Run the script that makes a recipe's data, if it has one."""
    maker = ROOT / "examples" / recipe.partition("/")[0] / "make_data.py"
    if maker.is_file():
        subprocess.run([sys.executable, str(maker)], check=True, stdout=sys.stderr)  # noqa: S603 - our own script


if __name__ == "__main__":
    sys.exit(main(measure))
