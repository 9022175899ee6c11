"""Calibrates adapter.gguf as committed, and writes `confidence` of task.yaml: minutes, and no training.

    scripts/demo                                                # makes .cache/demo/pos-intent
    .venv/bin/python examples/pos-intent/calibrate_adapter.py   # reads it, or the bundle in an argument

A run of recipe.yaml trains an adapter of its own, and calibrates that. Afterwards assemble the bundle again:
`scripts/demo` does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from convert.calibrate.calibrate_stage import CalibrationSettings, calibrate
from convert.calibrate.threshold import Risk
from convert.data.row_files import read_for
from convert.evaluate.serving import open_bundle

HERE = Path(__file__).parent
RISK, SETTINGS = Risk(0.05, 0.1), CalibrationSettings(floor=0.5, held_up_max=0.03)
"""The defaults of a recipe."""
AFTER = "\nprovenance:\n"
"""The key after the section in task.yaml."""


def main(bundle: str = ".cache/demo/pos-intent") -> None:
    """Calibrate, and replace the section."""
    found = calibrate(
        open_bundle(Path(bundle)), read_for(HERE / "data" / "calibration.jsonl", "classify"), RISK, settings=SETTINGS
    )
    section = yaml.safe_dump(
        {"confidence": found.confidence.model_dump(mode="json")}, sort_keys=False, width=120, default_flow_style=None
    )
    task = HERE / "task.yaml"
    before, after = task.read_text(encoding="utf-8").split(AFTER)
    task.write_text(before[: before.index("\nconfidence:\n") + 1] + section + AFTER + after, encoding="utf-8")
    sys.stdout.write(f"{found.report['verdict']}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
