"""How often a threshold breaks its risk guarantee, and its coverage: 1,000 resamples of each task.

On tasks of a known risk (benchmarks/shapes.py), with independent rows and with families, beside the rule of version
0.1, which started at the strictest threshold; and on a real task, beside the naive rule and an oracle.

The task: which of 42 categories a description of food belongs to (ingredient-parser-nlp carries 11,105 of the USDA's,
in two systems whose categories overlap). The model: MiniLM with a linear head fitted to 2,000 of them, as a bundle; the
other 6,959 go through the engine, and are the population that benchmarks/resampling.py draws from.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import itertools
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.bars import Bar, main
from benchmarks.resampling import RESAMPLES, Floats, Integers, Population, broken_max, resample
from benchmarks.shapes import SHAPES, CalibrationDraws, from_the_strictest, with_start
from benchmarks.shapes import measure as measure_shape
from convert.calibrate.threshold import Risk
from convert.encoder import logistic_regression
from convert.evaluate.predictions import matrix
from convert.evaluate.scoring import vectors
from convert.evaluate.serving import predict
from edge_agent import logs
from edge_agent.config import LogConfig
from tests.support import bert_onnx, models
from tests.support.bundles import minilm_bundle, write

RISK = Risk(target=0.05, delta=0.1)
CALIBRATION_ROWS = 1000
TRAIN_ROWS, CATEGORY_ROWS_MIN = 2000, 50
COVERAGE_SHARE_MIN = 0.85
SHAPE_RISK = Risk(target=0.1, delta=0.1)
COVERAGES = (
    ("flat, half the target", 288, 0.499),
    ("flat, half the target", 1000, 0.854),
    ("the surest are the worst", 1000, 0.893),
)
COVERAGE_LOSS_MAX = 0.04
SEED = 1
_AT_ONCE = 8


def measure() -> list[Bar]:
    """Make the bundle and its answers, draw the resamples, and count."""
    logs.configure(LogConfig(level="warning"))  # standard output is for the bars
    population = Population(*_answers(descriptions()))
    found = resample(population, RISK, CALIBRATION_ROWS)
    rows = f"{len(population.truth)} rows, the model errs on {100 * (1 - population.right.mean()):.1f}%"
    sys.stderr.write(
        f"{rows}; {CALIBRATION_ROWS} for calibration: coverage {found.covered:.3f}, of the oracle {found.oracle:.3f}\n"
    )
    limit = broken_max(RISK)
    return [
        *_promises(),
        *_coverages(),
        Bar("threshold rule: resamples over the risk target", found.broken, limit, "lower"),
        Bar("threshold rule: coverage, of the oracle's", found.covered / found.oracle, COVERAGE_SHARE_MIN, "higher"),
        # No promise of ours: the reason for the rule.
        Bar("naive rule: resamples over the risk target", found.naive, limit, "higher"),
    ]


def _promises() -> list[Bar]:
    """Return how often a threshold is proved although none is valid: the risk of each is slightly above the target."""
    worst = SHAPES["flat, just over the target"]
    draws = [CalibrationDraws(CALIBRATION_ROWS, RESAMPLES)]
    draws += [CalibrationDraws(CALIBRATION_ROWS, RESAMPLES, rows, alike) for rows in (4, 8) for alike in (0.3, 0.6)]
    bars = []
    for each in draws:
        kind = f"families of {each.family_rows} at {each.correlation:g}" if each.correlation else "independent rows"
        found = measure_shape(worst, each, SHAPE_RISK)
        bars.append(Bar(f"false proofs, {kind}", round(found.broken, 4), broken_max(SHAPE_RISK), "lower"))
    return bars


def _coverages() -> list[Bar]:
    bars = []
    for name, rows, least in COVERAGES:
        found = measure_shape(SHAPES[name], CalibrationDraws(rows, RESAMPLES), SHAPE_RISK)
        bars.append(Bar(f"coverage, {name}, {rows} rows", round(found.covered, 4), least, "higher"))
    for name, rows in itertools.product(("graded", "graded, hard"), (288, 1000)):
        draws = CalibrationDraws(rows, RESAMPLES)
        found, before = (
            measure_shape(SHAPES[name], draws, SHAPE_RISK, rule) for rule in (with_start, from_the_strictest)
        )
        gained = round(found.covered - before.covered, 4)
        bars.append(Bar(f"coverage over that of 0.1, {name}, {rows} rows", gained, -COVERAGE_LOSS_MAX, "higher"))
        bars.append(Bar(f"false proofs, {name}, {rows} rows", round(found.broken, 4), broken_max(SHAPE_RISK), "lower"))
    return bars


def descriptions() -> list[tuple[str, str]]:
    """Return text and category, shuffled; categories with few descriptions are left out."""
    spec = importlib.util.find_spec("ingredient_parser")  # found and not imported: its code needs what is not here
    if spec is None or spec.origin is None:
        raise LookupError("package ingredient-parser-nlp is not installed; scripts/setup installs it")
    with gzip.open(Path(spec.origin).parent / "en/data/fdc_ingredients.csv.gz", "rt", encoding="utf-8") as file:
        rows = [(row["description"], row["category"]) for row in csv.DictReader(file)]
    counts = Counter(category for _, category in rows)
    kept = [row for row in rows if counts[row[1]] >= CATEGORY_ROWS_MIN]
    random.Random(SEED).shuffle(kept)  # noqa: S311 - not for secrets
    return kept


def _answers(rows: list[tuple[str, str]]) -> tuple[Floats, Integers]:
    """Return the log-probabilities that the served bundle gives to the rows it was not fitted to, and their labels."""
    texts = [text for text, _ in rows]
    labels = sorted({category for _, category in rows})
    truth = np.array([labels.index(category) for _, category in rows])
    with tempfile.TemporaryDirectory() as folder:
        encoder = minilm_bundle(Path(folder, "encoder"), "embed", engine={"normalize": False})
        seen = vectors(predict(encoder, texts[:TRAIN_ROWS], at_once=_AT_ONCE))
        bundle = _bundle(Path(folder, "bundle"), labels, _head(seen, truth[:TRAIN_ROWS], len(labels)))
        said = predict(bundle, texts[TRAIN_ROWS:], at_once=_AT_ONCE)
    return matrix(said), truth[TRAIN_ROWS:]


def _bundle(folder: Path, labels: list[str], head: dict[str, npt.NDArray[np.float32]]) -> Path:
    config, weights = bert_onnx.minilm()
    graph = bert_onnx.build(config, {**weights, **head}, "classify")
    task = {"name": "food", "kind": "classify", "labels": labels}
    fields = {"schema": "edge-agent/bundle/v1", "runtime": "onnx", "version": "1.0.0", "task": task}
    files: dict[str, tuple[str, bytes | Path]] = {
        "weights": ("model.onnx", graph),
        "tokenizer": ("tokenizer.json", models.minilm_dir() / "tokenizer.json"),
    }
    made: Path = write(folder, fields, {}, files)
    return made


def _head(seen: Floats, truth: Integers, labels: int) -> dict[str, npt.NDArray[np.float32]]:
    """Fit a linear classifier; return it as a checkpoint names it."""
    fitted = logistic_regression.fit(seen, truth, labels)
    return {
        "classifier.weight": fitted.weight.astype(np.float32),
        "classifier.bias": fitted.bias.astype(np.float32),
    }


if __name__ == "__main__":
    sys.exit(main(measure))
