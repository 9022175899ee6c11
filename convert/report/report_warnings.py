"""Warnings of the report, which are reasons to doubt its figures; and the proved bound of a redaction bundle. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from convert.report.run_summary import RunSummary, brief, by_question, exact_percent, interval, percent, table
from edge_agent.errors import InputTooLong
from edge_agent.formatting import counted

SHOWN = {"proved": "proved", "not proved": "not proved, so the test ends", "replaces harmless texts": "skipped: a site"
         " refuses a bundle that replaces harmless texts"}  # fmt: skip

_NO_ANSWER = " Most often an input is longer than 'input_tokens_max' under 'limits' in task.yaml."
_LONG = "more tokens than 'input_tokens_max' under 'limits' in task.yaml allows; a site refuses such inputs."


def missed_bound(calibrate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the section about missed values; without a target in the recipe, only that nothing is proved."""
    yield "## What the redaction misses"
    yield calibrate["verdict"]
    if "tests" not in calibrate:
        yield "The recipe has no 'redaction.missed_max', so no bound on what is missed is proved."
        return
    yield assumptions(calibrate)
    rows = [
        [f"{each['cutoff']:g}", each["missed"], f"{each['capital']:.3g}", SHOWN[each["verdict"]]]
        for each in calibrate["tests"]
    ]
    yield (
        f"{counted(calibrate['documents'], 'document')} of {counted(calibrate['families'], 'family')} with"
        f" {counted(calibrate['values'], 'personal value')} were tested. A capital of {1 / calibrate['delta']:g} proves"
        " a cut-off:"
    )
    yield table(["cut-off", "values that remain", "capital", "result"], rows)
    if calibrate["failed"]:
        unread = counted(calibrate["failed"], "document")
        yield f"The model did not read {unread}; a site with 'without_model: hold' keeps no such text."
    figures = calibrate["as_a_site_redacts"]
    yield f"With the model and the rules, at the cut-off {calibrate['cutoff']:g}, on the calibration documents:"
    shares = {"values found": "values_found", "texts in which something remains": "texts_that_leak",
              "texts without personal data in which something is replaced": "clean_touched"}  # fmt: skip
    measured = [[name, interval(figures[key])] for name, key in shares.items() if figures[key]]
    if figures["precision"] is not None:
        measured.append(["characters replaced that are personal", percent(figures["precision"])])
    yield table(["figure", "share"], measured)


def assumptions(calibrate: Mapping[str, Any]) -> str:
    """Return what the bound assumes, as sentences."""
    return (
        "The bound is for documents like those of the calibration split, in which each family is equally frequent, and"
        f" it counts as personal what their labels mark ({calibrate['labeled_by']}). It assumes the built-in rules of"
        f" version {calibrate['rules']} in addition to the model, and a site that holds texts which it cannot read"
        " ('without_model: hold'). A site's own patterns and regions only find more. Check it at the site: with"
        " 'redaction.audit_share' in agent.yaml a person compares a random part of the texts with their originals."
    )


_WIDTH_MAX = 0.10
_ROWS_MIN = 20
_RECALL_MIN = 0.5
_LABELS_NAMED = 5
_COVERAGE_MIN = 0.3


def doubts(run: RunSummary) -> list[str]:
    """Return every warning, the most serious first."""
    return [
        *_grouped(run.report("calibrate"), _confidence_warnings),
        *quality_warnings(run.report("evaluate")),
        *_weight_warnings(run.chosen),
        *_training_warnings(run),
        *run.data.warnings,
    ]


def _grouped(report: Mapping[str, Any], warnings: Callable[[Mapping[str, Any]], Iterator[str]]) -> Iterator[str]:
    """Yield the warnings of a report; a warning of several questions comes once, with their names."""
    questions_by_warning: dict[str, list[str]] = {}
    for name, each in by_question(report):
        for warning in warnings(each):
            questions_by_warning.setdefault(warning, []).append(name)
    for warning, names in questions_by_warning.items():
        yield f"{', '.join(names)}: {warning}" if any(names) else warning


def _confidence_warnings(calibrate: Mapping[str, Any]) -> Iterator[str]:
    if not calibrate:
        return
    if calibrate.get("kind") == "redact":
        if calibrate.get("proved"):
            yield assumptions(calibrate)
        else:
            yield "Nothing is proved of what the bundle misses: the manifest has no 'redaction.bound'."
        return
    if failed := calibrate.get("rows", {}).get("failed"):
        yield f"{counted(failed, 'calibration row')} got no answer and took no part in the calibration.{_NO_ANSWER}"
    if calibrate.get("threshold") is None:
        yield f"No answer of this bundle is confident. {calibrate.get('verdict', '')}"
        return
    if calibrate.get("coverage", 1.0) < _COVERAGE_MIN:
        yield f"Only {percent(calibrate['coverage'])} of the answers are confident; all others escalate."
    if calibrate.get("gate", {}).get("score") == "none":
        yield "The bundle has no gate, so inputs unlike the training data are not recognized."
    yield (
        f"The risk guarantee (at most {exact_percent(calibrate['target_risk'])} wrong, with"
        f" {exact_percent(1 - calibrate['delta'])} certainty) holds for inputs like the calibration rows, and not for"
        " other inputs. Have people check a small random part of the confident answers."
    )
    if sampling := calibrate.get("sampling", {}).get("said"):
        yield f"Calibration: {sampling[0].lower()}{sampling[1:]}"


def quality_warnings(evaluate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the warnings of an evaluation."""
    for reason, count in evaluate.get("failed", {}).items():
        verb = "counts" if count == 1 else "count"
        remedy = f" {'It has' if count == 1 else 'They have'} {_LONG}" if reason == InputTooLong.reason else ""
        yield f"{counted(count, 'test row')} got no answer ({reason}) and {verb} as wrong.{remedy}"
    if problem := evaluate.get("batch_invariance", {}).get("problem"):
        yield f"No answer of this bundle is confident on a site like this machine: {problem}."
    yield from _grouped(evaluate, _answer_warnings)


def _answer_warnings(evaluate: Mapping[str, Any]) -> Iterator[str]:
    if evaluate.get("type") and not evaluate["rows"]:
        yield "No test row answers this question, so its quality is unknown."
    accuracy = evaluate.get("accuracy", {"high": 0.0, "low": 0.0})
    width = accuracy["high"] - accuracy["low"]
    if width > _WIDTH_MAX:
        yield f"The test split is small: the accuracy is only known to about ±{percent(width / 2)}."
    per_label = evaluate.get("per_label", {})
    for label, each in per_label.items():
        rows, recall = each["rows"], each["recall"]["value"]
        if rows < _ROWS_MIN:
            yield f"'{label}' has {counted(rows, 'test row')}: its figures are uncertain."
        elif recall is not None and recall < _RECALL_MIN:
            yield f"'{label}' is found in only {percent(recall)} of its rows."
    if gate := evaluate.get("gate"):
        yield from _gate_warnings(gate, per_label)


def _gate_warnings(gate: Mapping[str, Any], per_label: Mapping[str, Any]) -> Iterator[str]:
    """Warn if the gate holds up more than `held_up_max` of all test rows, or of the rows of some labels."""
    limit = gate["held_up_max"]
    if gate["held_up"]["low"] > limit:
        yield (
            f"The gate holds up {interval(gate['held_up'])} of the test rows, more than the {percent(limit)} of"
            " ordinary inputs: the test rows may be unlike the calibration rows, or the calibration rows are few."
        )
    shares = {label: each["held_up"] for label, each in per_label.items() if "held_up" in each}
    above = {label: share for label, share in shares.items() if share["low"] > limit}
    if above:
        worst = sorted(above, key=lambda label: -above[label]["value"])[:_LABELS_NAMED]
        listing = ", ".join(f"'{label}' ({brief(above[label])})" for label in worst)
        more = f" and {counted(len(above) - len(worst), 'other label')}" if len(above) > len(worst) else ""
        yield (
            f"The gate holds up more of the test rows of {listing}{more} than the {percent(limit)} of all ordinary"
            " inputs: such inputs may be more varied than the training rows of the label."
        )


def _weight_warnings(chosen: Mapping[str, Any]) -> Iterator[str]:
    fallback = chosen.get("fallback_tensors")
    if fallback and chosen["name"] != "fp32":  # fp32 quantizes nothing, so every tensor is a fallback
        yield (
            f"{counted(fallback, 'tensor')} could not be stored as {chosen['name']} and got a larger type: the file"
            f" has {chosen['bits_per_weight']:.2f} bits per weight, more than its name suggests."
        )


def _training_warnings(run: RunSummary) -> Iterator[str]:
    finetune = run.report("finetune")
    too_long = finetune.get("rows", {}).get("too_long")
    if too_long:
        verb = "was" if too_long == 1 else "were"
        yield f"{counted(too_long, 'training row')} {verb} longer than 'finetune.tokens_max' and {verb} left out."
    if "epochs" in finetune and finetune["best_epoch"] == len(finetune["epochs"]):
        yield "The last epoch of the training was the best one: more epochs can help."
    synthetic = run.data.synthetic.get("train")
    if synthetic:
        yield f"{synthetic} of {run.data.rows['train']} training rows were written by a model, not by people."
