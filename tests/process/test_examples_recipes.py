"""The recipes in examples/, trimmed: each produces a bundle from few rows, whatever its accuracy."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from convert.pipeline import execution, recipe
from edge_agent.formats.manifest import parse

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS_PER_LABEL = {"train": 6, "importance": 1, "calibration": 3, "test": 3}


def trimmed(name: str, folder: Path) -> recipe.Recipe:
    """Copy the examples, keep a few rows of each label, train one epoch, and accept any loss."""
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("report", "*.gguf"))
    script = folder / name.split("/")[0] / "make_data.py"
    if script.is_file():
        subprocess.run([sys.executable, script], check=True, capture_output=True)
    file = folder / name / "recipe.yaml"
    plain: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for split in ROWS_PER_LABEL.keys() & plain["data"].keys():
        trim(file.parent / plain["data"][split], ROWS_PER_LABEL[split])
    plain["work"] = "work"
    plain["finetune"] |= {"epochs": 1}
    plain["quantize"] = {"types": plain["quantize"]["types"][-1:]}
    plain["budget"] = {"agreement_min": 0.0, "kl_mean_max": 100.0, "accuracy_loss_max": 1.0, "golden_cases_min": 0}
    file.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return recipe.read(file.parent)


def trim(file: Path, rows_per_label: int) -> None:
    seen: dict[str, int] = {}
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        label = json.loads(line).get("label", "")
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= (rows_per_label if label else 2 * rows_per_label):
            kept.append(line)
    file.write_text("".join(kept), encoding="utf-8")


@pytest.mark.release
@pytest.mark.parametrize(
    "name", ["pos-intent", "pos-intent/encoder", "retail-categories", "home-intents", "home-intents/slots"]
)
def test_a_trimmed_recipe_makes_a_bundle(tmp_path: Path, name: str):
    """Every stage of a trimmed recipe runs; the bundle has an adapter of at most 2 MB if its runtime is llama, and it
    always escalates because the rows are too few."""
    written = trimmed(name, tmp_path / "examples")
    records = execution.run(written)
    assert list(execution.STAGES) == [record.stage for record in records]
    manifest = parse((tmp_path / "examples" / name / "work" / "assemble" / "bundle" / "manifest.json").read_bytes())
    assert manifest.confidence.policy == "always_escalate"
    adapters = manifest.by_role("adapter")
    assert len(adapters) == (1 if manifest.runtime == "llama" else 0)
    assert all(artifact.size_bytes <= 2_000_000 for artifact in adapters)


@pytest.mark.slow
def test_redaction_splits_match_their_data_sheet(tmp_path: Path):
    """The redaction example generates the splits that docs/data.md describes, on every day, although Faker counts ages
    back from today."""
    if not (find_spec("mimesis") and find_spec("ingredient_parser")):
        pytest.skip("needs the extra 'recipes'")
    command = [sys.executable, EXAMPLES / "redact" / "make_data.py", "--out", tmp_path / "data"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    made = re.findall(r"^(\w+): (\d+) texts, (\d+) clean, (\d+) families", said, re.MULTILINE)
    sheet = (EXAMPLES.parent / "docs" / "data.md").read_text(encoding="utf-8").partition("\n## redact\n")[2]
    described = re.findall(r"^\| (\w+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", sheet, re.MULTILINE)[:3]
    assert sorted(made) == sorted(tuple(cell.replace(",", "") for cell in row) for row in described)
