"""Warnings of the report: reasons to doubt its figures, as whole sentences. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from convert.report import missed_bound
from convert.report.run_summary import RunSummary, by_question, percent, plural

_WIDTH_MAX = 0.10
_ROWS_MIN = 20
_RECALL_MIN = 0.5
_COVERAGE_MIN = 0.3


def doubts(made: RunSummary) -> list[str]:
    """Return every warning, the most serious first."""
    return [
        *_about(made.report("calibrate"), _confidence),
        *of_quality(made.report("evaluate")),
        *_weights(made.chosen),
        *_training(made),
        *made.data.warnings,
    ]


def _about(report: Mapping[str, Any], warnings: Callable[[Mapping[str, Any]], Iterator[str]]) -> Iterator[str]:
    """Yield the warnings of a report, with the name of the question; what all questions share comes once."""
    found: dict[str, list[str]] = {}
    for name, each in by_question(report):
        for said in warnings(each):
            found.setdefault(said, []).append(name)
    for said, names in found.items():
        yield f"{', '.join(names)}: {said}" if any(names) else said


def _confidence(calibrate: Mapping[str, Any]) -> Iterator[str]:
    if not calibrate:
        return
    if calibrate.get("kind") == "redact":
        if calibrate.get("proved"):
            yield missed_bound.assumptions(calibrate)
        else:
            yield "Nothing is proved of what the bundle misses: the manifest has no 'redaction.bound'."
        return
    if calibrate.get("threshold") is None:
        yield f"No answer of this bundle is confident. {calibrate.get('verdict', '')}"
        return
    if calibrate.get("coverage", 1.0) < _COVERAGE_MIN:
        yield f"Only {percent(calibrate['coverage'])} of the answers are confident; all others escalate."
    if calibrate.get("gate", {}).get("score") == "none":
        yield "The bundle has no gate, so inputs unlike the training data are not recognized."
    yield (
        f"The risk guarantee (at most {percent(calibrate['target_risk'], 0)} wrong, with"
        f" {percent(1 - calibrate['delta'], 0)} certainty) holds for inputs like the calibration rows, and not for"
        " other inputs. Have people check a small random part of the confident answers."
    )
    if said := calibrate.get("sampling", {}).get("said"):
        yield f"Calibration: {said[0].lower()}{said[1:]}"


def of_quality(evaluate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the warnings of an evaluation."""
    for reason, count in evaluate.get("failed", {}).items():
        verb = "counts" if count == 1 else "count"
        yield f"{plural(count, 'test row')} got no answer ({reason}) and {verb} as wrong."
    if problem := evaluate.get("batch_invariance", {}).get("problem"):
        yield f"No answer of this bundle is confident on a site like this machine: {problem}."
    yield from _about(evaluate, _answers)


def _answers(evaluate: Mapping[str, Any]) -> Iterator[str]:
    if evaluate.get("type") and not evaluate["rows"]:
        yield "No test row answers this question, so its quality is unknown."
    accuracy = evaluate.get("accuracy", {"high": 0.0, "low": 0.0})
    width = accuracy["high"] - accuracy["low"]
    if width > _WIDTH_MAX:
        yield f"The test split is small: the accuracy is only known to about ±{percent(width / 2)}."
    for label, each in evaluate.get("per_label", {}).items():
        yield from _label(label, each["rows"], each["recall"]["value"])


def _label(label: str, rows: int, recall: float | None) -> Iterator[str]:
    if rows < _ROWS_MIN:
        yield f"'{label}' has {plural(rows, 'test row')}: its figures are uncertain."
    elif recall is not None and recall < _RECALL_MIN:
        yield f"'{label}' is found in only {percent(recall)} of its rows."


def _weights(chosen: Mapping[str, Any]) -> Iterator[str]:
    fallback = chosen.get("fallback_tensors")
    if fallback and chosen["name"] != "fp32":  # fp32 quantizes nothing, so every tensor is a fallback
        yield (
            f"{plural(fallback, 'tensor')} could not be stored as {chosen['name']} and got a larger type: the file"
            f" has {chosen['bits_per_weight']:.2f} bits per weight, more than its name suggests."
        )


def _training(made: RunSummary) -> Iterator[str]:
    finetune = made.report("finetune")
    long = finetune.get("rows", {}).get("too_long")
    if long:
        yield f"{plural(long, 'training row')} were longer than 'finetune.tokens_max' and were left out."
    if "epochs" in finetune and finetune["best_epoch"] == len(finetune["epochs"]):
        yield "The last epoch of the training was the best one: more epochs can help."
    synthetic = made.data.synthetic.get("train")
    if synthetic:
        yield f"{synthetic} of {made.data.rows['train']} training rows were written by a model, not by people."
