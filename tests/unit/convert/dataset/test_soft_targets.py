"""Probabilities of a large model as soft targets in training rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.dataset.dataset_files import write
from convert.dataset.selection import DatasetSelection
from tests.support.examples import feedback, opinion, prediction
from tests.support.segments import CentralTeam, SealingSite

TEXTS = (
    "how much does a large filter coffee cost",
    "when do you close on sundays",
    "please cancel order four hundred and two",
    "which size fits a tall teenager",
)
SHARES, LATER = [("hours", 0.75), ("price", 0.25)], [("stock", 0.5), ("hours", 0.5)]
LARGE: dict[str, Any] = {"route": "upstream", "model": "big-1", "output": "hours", "teacher_scores": SHARES}


def labels(folder: Path, out: Path, purpose: str) -> dict[str, Any]:
    """Write a dataset; return the label of each row."""
    write(DatasetSelection(folder, "pos-intent", purpose), "text-label", out, force=True)
    rows = [json.loads(line) for path in out.glob("*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["prediction_id"]: row["label"] for row in rows}


def test_large_model_probabilities_are_soft_targets(tmp_path: Path):
    """With `opinions`, a teacher label is its distribution if there is one; a person's label is a single label."""
    SealingSite(tmp_path / "store", "site-1").seal(
        [
            prediction(1, input=TEXTS[0], **LARGE),
            prediction(2, input=TEXTS[1]),
            opinion(2, scores=LATER),
            prediction(3, input=TEXTS[2], **LARGE),
            feedback(3, verdict="corrected", value="price"),
            prediction(4, input=TEXTS[3], **LARGE),
            opinion(4),
        ]
    )
    central = CentralTeam(tmp_path)
    central.collect(tmp_path / "store")
    found = labels(central.out, tmp_path / "data", "opinions")
    assert {"p-1": dict(SHARES), "p-2": dict(LATER), "p-3": "price", "p-4": "stock"} == found
    assert {"p-3": "price"} == labels(central.out, tmp_path / "data", "reviewed")
