"""A run as its stages report it, with figures like those of a real one."""

from typing import Any

from convert.data.row_files import DataSummary
from convert.pipeline.recipe import BudgetSection, DataSection, FinetuneSection, Recipe, SourceSection
from convert.pipeline.workspace import StageRecord
from convert.report.run_summary import RunSummary

BINS = [(0.45, 0.4, 6), (0.55, 0.47, 17), (0.65, 0.52, 25), (0.75, 0.63, 30), (0.85, 0.76, 45), (0.97, 0.93, 288)]
CALMER = [(0.35, 0.4, 8), (0.46, 0.5, 20), (0.56, 0.55, 31), (0.66, 0.7, 40), (0.76, 0.77, 48), (0.95, 0.968, 264)]
# threshold, rows at or above it, errors among them, verdict
WALK = [
    (0.99, 31, 0, "too few"),
    (0.95, 102, 1, "passed"),
    (0.9, 188, 3, "passed"),
    (0.86, 224, 6, "passed"),
    (0.8, 261, 13, "failed"),
    (0.7, 309, 24, "not tested"),
    (0.6, 351, 38, "not tested"),
    (0.5, 385, 52, "not tested"),
    (0.3, 411, 65, "not tested"),
]


def share(value: float, half: float) -> dict[str, float]:
    """Return an interval as convert.clustered_statistics reports it."""
    return {"value": value, "low": value - half, "high": min(1.0, value + half), "level": 0.95}


CALIBRATE: dict[str, Any] = {
    "verdict": "At confidence 0.86 or more 54.5 % of the answers are sure; with 90 % certainty at most 4.64 % of them"
    " are wrong (target 5 %).",
    "threshold": 0.86,
    "target_risk": 0.05,
    "delta": 0.1,
    "bound": 0.0464,
    "coverage": 224 / 411,
    "labels_needed": None,
    "walk": [dict(zip(("threshold", "rows", "errors", "verdict"), step, strict=True)) for step in WALK],
    "temperature": 1.62,
    "temperature_fit": {"tried": 1.62, "gain": 0.031, "error": 0.008, "kept": True},
    "rows": {"temperature": 160, "gate": 160, "threshold": 411, "failed": 0},
    "gate": {"score": "label_mass", "held_up_max": 0.03, "rows": 160},
    "floor": 0.5,
    "held_up": {
        name: {"value": value, "low": value - 0.02, "high": value + 0.02, "level": 0.95}
        for name, value in (("gate", 0.027), ("floor", 0.05), ("threshold", 0.455), ("confident", 0.545))
    },
    "reliability": {
        when: {
            "bins": [
                {"from": x - 0.02, "to": x + 0.02, "confidence": x, "right": share(y, 0.06), "rows": n}
                for x, y, n in bins
            ],
            "calibration_error": share(gap, 0.017),
            "log_loss": loss,
            "note": "",
        }
        for when, bins, gap, loss in (("before", BINS, 0.061, 0.31), ("after", CALMER, 0.018, 0.27))
    },
}


def label(rows: int, precision: float | None, recall: float, f1: float) -> dict[str, Any]:
    """Return the figures of a label as the evaluate stage reports them."""
    unknown = {"value": None, "low": 0.0, "high": 1.0, "level": 0.95}
    first = unknown if precision is None else share(precision, 0.05)
    return {"rows": rows, "precision": first, "recall": share(recall, 0.05), "f1": share(f1, 0.05)}


def candidate(name: str, megabytes: float, milliseconds: float, agreement: float, *, inside: bool) -> dict[str, Any]:
    """Return a candidate as the quantize stage reports it."""
    return {
        "name": name,
        "size_bytes": int(megabytes * 1e6),
        "bits_per_weight": megabytes / 17,
        "fallback_tensors": 30 if name.startswith("Q4") else 0,
        "latency_ms": {"p50": milliseconds},
        "agreement": share(agreement, 0.012),
        "kl_mean": 0.2 * (1 - agreement),
        "accuracy": share(agreement - 0.12, 0.03),
        "inside_budget": inside,
    }


QUANTIZE: dict[str, Any] = {
    "chosen": "Q4_0",
    "candidates": [
        candidate("F16", 270.9, 41.2, 0.998, inside=True),
        candidate("Q8_0", 144.8, 29.2, 0.988, inside=True),
        candidate("Q4_0", 91.7, 20.1, 0.951, inside=True),
        candidate("IQ4_NL", 92.4, 24.8, 0.86, inside=False) | {"accuracy": None},
    ],
}
EVALUATE: dict[str, Any] = {
    "rows": 331,
    "failed": {"INPUT_TOO_LONG": 1},
    "accuracy": share(0.838, 0.04),
    "latency_ms": {"p50": 20.3, "p90": 24.0, "p95": 26.1, "p99": 31.0, "mean": 20.9},
    "confusion": {"refund": {"refund": 40, "exchange": 3, "a|b": 1}, "other": {"price": 9, "other": 14}},
    "per_label": {
        "refund": label(44, 0.95, 0.909, 0.93),
        "other": label(23, 0.8, 0.435, 0.7),
        "stock": label(7, None, 0.9, 0.7),
    },
}
FINETUNE: dict[str, Any] = {
    "method": "lora",
    "rows": {"train": 851, "validation": 95, "too_long": 2},
    "trainable_parameters": 461_000,
    "epochs": [{"validation_loss": 0.6}, {"validation_loss": 0.5}],
    "best_epoch": 2,
}
REPORTS: dict[str, dict[str, Any]] = {
    "prepare": {"architecture": "LlamaForCausalLM"},
    "verify": {"kl_mean": 6.1e-10, "kl_max": 4e-9, "same_top": 1.0, "rows": 819, "texts": 60},
    "finetune": FINETUNE,
    "quantize": QUANTIZE,
    "calibrate": CALIBRATE,
    "evaluate": EVALUATE,
}
RECIPE = Recipe(
    source=SourceSection(checkpoint="m"),
    data=DataSection(calibration="c", test="t"),
    finetune=FinetuneSection(method="lora"),
    budget=BudgetSection(agreement_min=0.9),
)
SUMMARY = DataSummary(
    rows={"train": 946, "calibration": 571, "test": 331},
    labels={"train": {"refund": 500, "other": 446}, "test": {"refund": 44, "other": 23}, "calibration": {"other": 9}},
    synthetic={"train": 12, "calibration": 0, "test": 0},
    label_sources={
        "train": {"corrected": 300, "teacher": 200, "imported": 446},
        "calibration": {"reviewed": 500, "imported": 71},
        "test": {"reviewed": 331},
    },
    warnings=("The calibration split has no row of: refund.",),
)


def made(**changed: dict[str, Any]) -> RunSummary:
    """Return a run; a report given as an empty dict is of a stage that has not run."""
    reports = {stage: report for stage, report in (REPORTS | changed).items() if report}
    records = [
        StageRecord(stage, {}, 40.25 * number, 700_000_000 + number, report)
        for number, (stage, report) in enumerate(reports.items(), 1)
    ]
    return RunSummary(RECIPE, "pos-intent", "0.2.0", SUMMARY, records)
