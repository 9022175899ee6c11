"""report.md: the results of a run in sentences and tables, with all warnings in one list. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from convert.data.data_row import LabelSource
from convert.data.row_files import DataSummary
from convert.pipeline.recipe import Split
from convert.report.report_warnings import doubts, missed_bound, quality_warnings
from convert.report.run_summary import (
    UNKNOWN,
    RunSummary,
    brief,
    by_question,
    duration,
    exact_percent,
    interval,
    number,
    percent,
    table,
)
from edge_agent import statistics
from edge_agent.formatting import counted, format_bytes

_CONFUSIONS_MAX = 10
_VALUE_MAX = 300
LABEL_SOURCES: dict[LabelSource, str] = {
    "reviewed": "labels that people confirmed",
    "corrected": "labels that people corrected",
    "teacher": "labels of a large model",
    "model": "labels of the local model",
    "imported": "labels of the team's own files",
}
# Shown in sections of their own.
_SHOWN = ("per_type", "confusion", "per_label", "reliability", "calibration", "without_near_copies", "questions")


def markdown(run: RunSummary, plots: Sequence[str]) -> str:
    """Return report.md; plots are names of files in the same folder."""
    parts = [
        f"# {run.task} {run.version}",
        _summary(run),
        *_list("Warnings", doubts(run)),
        *_questions(run.report("evaluate"), run.report("calibrate")),
        *_quality(run.report("evaluate")),
        *_confidence(run.report("calibrate"), plots),
        *_candidates(run, plots),
        *_data(run),
        *_run(run),
        *_details(run),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def evaluation(name: str, evaluate: Mapping[str, Any]) -> str:
    """Return the evaluation of one bundle as Markdown."""
    first = [f"# {name}", " ".join([*headline(evaluate), *_speed(evaluate)])]
    parts = [*_list("Warnings", list(quality_warnings(evaluate))), *_questions(evaluate, {}), *_quality(evaluate)]
    return "\n\n".join([*first, *parts]) + "\n"


def _speed(quality: Mapping[str, Any]) -> Iterator[str]:
    if times := quality.get("latency_ms"):
        yield f"An answer takes {times['p50']:.1f} ms, 99% of them at most {times['p99']:.1f} ms, on this machine."
    if invariance := quality.get("batch_invariance"):
        texts, sizes = counted(invariance["texts"], "text"), " and ".join(map(str, invariance["batches"]))
        outcome = "are identical"
        if invariance["varied"]:
            outcome = f"differ for {invariance['varied']}, by up to {invariance['difference_max']:.2g}"
        yield f"Its answers to {texts} alone and in batches of {sizes} {outcome} ({invariance['build']})."


def headline(quality: Mapping[str, Any]) -> Iterator[str]:
    """Yield the quality of a version as sentences, with and without test rows that are near duplicates of others."""
    for name, each in quality.get("questions", {}).items():
        if "accuracy" in each:
            yield _question_sentence(name, each)
    if "accuracy" in quality:
        families = quality.get("families", quality["rows"])
        note = f" in {counted(families, 'family')}" if families < quality["rows"] else ""
        if "values_found" in quality:
            yield from _personal_values(quality)
            return
        yield f"It is right on {interval(quality['accuracy'])} of {counted(quality['rows'], 'test row')}{note}."
    yield from _selective(quality)
    copies = quality.get("near_copies")
    if copies is None:
        return
    if not copies["rows"]:
        yield "No test row is a near duplicate of a training or calibration row."
        return
    share = percent(copies["rows"] / quality["rows"])
    are = "is a near duplicate" if copies["rows"] == 1 else "are near duplicates"
    yield f"{counted(copies['rows'], 'test row')} ({share}) {are} of training or calibration rows."
    if without := quality.get("without_near_copies"):
        yield f"Without them it is right on {interval(without['accuracy'])} of {without['rows']}."
        yield from _selective(without)


def _question_sentence(name: str, quality: Mapping[str, Any]) -> str:
    """Return the quality of the answers to one question."""
    text = f"'{name}' is right on {interval(quality['accuracy'])} of {counted(quality['rows'], 'test row')}"
    if "sure" not in quality:
        return f"{text}; no answer is confident."
    sure = quality["sure"]
    return f"{text}; {percent(sure['coverage']['value'])} are confident, and {brief(sure['wrong'])} of these are wrong."


def plot_of(name: str, question: str) -> str:
    """Return the name of a plot's file, for one question of several."""
    return name.replace(".png", f"-{question}.png") if question else name


def _questions(evaluate: Mapping[str, Any], calibrate: Mapping[str, Any]) -> Iterator[str]:
    """Show the questions of a decide task in one table."""
    if not (questions := evaluate.get("questions", {})):
        return
    yield "## Questions"
    yield table(
        ["question", "type", "test rows", "right", "threshold", "confident", "wrong of these", "calibration error"],
        [_question_line(name, each) for name, each in questions.items()],
    )
    errors = [(name, each["score_error"]) for name, each in questions.items() if "score_error" in each]
    for name, error in errors:
        yield (
            f"The expected level of '{name}' is {error['mean']:.2f} levels from the true one on average; always the"
            f" median level would be {error['constant']:.2f}."
        )
    if "delta_of_each" in calibrate:
        delta, each = exact_percent(calibrate["delta"]), exact_percent(calibrate["delta_of_each"])
        yield (
            f"The recipe's delta of {delta} is divided equally among the questions with enough calibration rows, {each}"
            f" for each: with {exact_percent(1 - calibrate['delta'])} certainty all thresholds keep the target"
            " together."
        )


def _question_line(name: str, quality: Mapping[str, Any]) -> list[object]:
    if not quality["rows"]:
        return [name, quality["type"], 0, *[UNKNOWN] * 5]
    sure = quality.get("sure", {})
    shares = [brief(sure[key]) if sure else UNKNOWN for key in ("coverage", "wrong")]
    error = quality.get("calibration", {}).get("calibration_error")
    threshold = f"{sure['threshold']:g}" if sure else "always escalates"
    return [
        *(name, quality["type"], quality["rows"], brief(quality["accuracy"]), threshold, *shares),
        brief(error) if error else UNKNOWN,
    ]


def _selective(quality: Mapping[str, Any]) -> Iterator[str]:
    if "sure" in quality:
        coverage, wrong = interval(quality["sure"]["coverage"]), interval(quality["sure"]["wrong"])
        yield f"{coverage} of the answers are confident, and {wrong} of these are wrong."
    if "calibration" in quality:
        error = interval(quality["calibration"]["calibration_error"])
        yield f"The calibration error is {error}."


def _summary(run: RunSummary) -> str:
    """Return what a team asks first, as a list: how good, what is guaranteed, which file, how fast."""
    evaluate, golden = run.report("evaluate"), run.report("assemble").get("golden") or {}
    points = {
        "Quality": headline(evaluate),
        "Guarantee": [run.report("calibrate").get("verdict", "The calibrate stage has not run.")],
        "Model file": _artefact(run),
        "Speed": _speed(evaluate),
        "Golden cases, which travel to every site": [f"{golden['origin']['sentence']}."] if "origin" in golden else [],
    }
    texts = {title: " ".join(sentences) for title, sentences in points.items()}
    return "\n".join(f"- **{title}.** {text}" for title, text in texts.items() if text)


def _artefact(run: RunSummary) -> Iterator[str]:
    chosen, verify = run.chosen, run.report("verify")
    if chosen:
        bits = chosen.get("bits_per_weight")
        precision = f", {bits:.2f} bits per weight" if bits else ""
        yield f"It is {chosen['name']}, {format_bytes(chosen['size_bytes'])}{precision}."
    if "kl_mean" in verify:
        yield (
            f"The export matches the checkpoint: the same best choice in {percent(verify['same_top'])} of"
            f" {counted(verify['rows'], 'position')}, mean divergence {verify['kl_mean']:.1g}."
        )
    if "agreement" in chosen:
        yield f"It gives the same answer as the full-precision model on {interval(chosen['agreement'])} of the rows."


def _list(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"## {title}"
        yield "\n".join(map("- {}".format, lines))


def _quality(evaluate: Mapping[str, Any]) -> Iterator[str]:
    if not evaluate:
        return
    yield "## Quality on the test rows"
    for name, part in by_question(evaluate):
        if name:
            yield f"### Answers to '{name}'"
        yield from _answer_quality(part)
    times = evaluate.get("latency_ms")
    if times:
        yield "Time of an answer, one text at a time:"
        yield table(["", *times], [["ms", *map("{:.1f}".format, times.values())]])


def _answer_quality(evaluate: Mapping[str, Any]) -> Iterator[str]:
    yield from _labels(evaluate.get("per_label", {}))
    if gate := evaluate.get("gate"):
        limit, share = percent(gate["held_up_max"]), interval(gate["held_up"])
        yield (
            f"The gate holds up {share} of these rows. On average such a gate holds up at most {limit} of all ordinary"
            " inputs together, and not of each label."
        )
    if types := evaluate.get("per_type"):
        yield "Personal values, by type; a value is found when every letter and digit of it is replaced:"
        rows = [[name, each["values"], each["found"]] for name, each in types.items()]
        yield table(["type", "values", "found"], rows)
    if fields := evaluate.get("fields"):
        yield table(["field", "right"], zip(fields, map(interval, fields.values()), strict=True))
    if "neighbours" in evaluate:
        yield f"The nearest other text has the same label for {interval(evaluate['neighbours'])} of the rows."
    yield from _confused(evaluate.get("confusion", {}))


def _personal_values(quality: Mapping[str, Any]) -> Iterator[str]:
    """Yield the headline of a bundle that redacts."""
    if quality["values_found"]:
        yield f"It finds {interval(quality['values_found'])} of the personal values."
        yield f"Something personal remains in {interval(quality['texts_that_leak'])} of the texts that have any."
    if quality["clean_touched"]:
        yield f"It replaces something in {interval(quality['clean_touched'])} of the texts without personal data."
    if quality["precision"] is not None:
        yield f"Of the characters that it replaces, {percent(quality['precision'])} are personal."


def _labels(per_label: Mapping[str, Any]) -> Iterator[str]:
    names = {
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "coverage": "confident",
        "wrong": "wrong of these",
        "held_up": "held up by the gate",
    }
    present = [name for name in names if any(name in each for each in per_label.values())]
    rows = [[label, each["rows"], *(brief(each[name]) for name in present)] for label, each in per_label.items()]
    if rows:
        yield table(["label", "rows", *(names[name] for name in present)], rows)


def _confused(confusion: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    wrong = [
        (-count, true, answer) for true, row in confusion.items() for answer, count in row.items() if answer != true
    ]
    if wrong:
        yield "Most frequent confusions:"
        rows = [(true, answer, -count) for count, true, answer in sorted(wrong)[:_CONFUSIONS_MAX]]
        yield table(["label", "answered", "rows"], rows)


def _confidence(calibrate: Mapping[str, Any], plots: Sequence[str]) -> Iterator[str]:
    if not calibrate:
        return
    if calibrate.get("kind") == "redact":
        yield from missed_bound(calibrate)
        return
    yield "## Confidence"
    if "questions" in calibrate:
        yield calibrate["verdict"]
    for name, part in by_question(calibrate):
        if name:
            yield f"### Confidence of '{name}'"
        yield from _question_confidence(name, part, plots)


def _question_confidence(name: str, calibrate: Mapping[str, Any], plots: Sequence[str]) -> Iterator[str]:
    yield calibrate["verdict"]
    if "rows" in calibrate:
        yield _threshold_test(calibrate)
        if calibrate["walk"] and calibrate["walk"][-1]["verdict"] == "passed":
            yield (
                f"Every threshold from the start down to the lowest, {calibrate['walk'][-1]['threshold']:g}, passed:"
                " even all answers together are wrong less often than the target, so almost none must escalate."
                " Consider a lower 'risk.target'."
            )
        yield _temperature(calibrate)
        yield from dict.fromkeys(filter(None, (each.get("note") for each in calibrate["reliability"].values())))
    yield from _checks(calibrate)
    yield from _images(plots, *(plot_of(each, name) for each in ("reliability.png", "risk-coverage.png")))


_ROUNDING = 1e-6
_CHECKS = {
    "gate": "held up by the gate",
    "floor": "below the floor",
    "threshold": "below the threshold",
    "confident": "confident: none of these",
}


def _checks(calibrate: Mapping[str, Any]) -> Iterator[str]:
    """Show how many answers gate, floor and threshold each hold up."""
    shares, gate = calibrate.get("held_up"), calibrate.get("gate", {})
    if not shares:
        return
    if gate.get("score", "none") == "none":
        reason = gate.get("why", "")
        yield f"The bundle has no gate. {reason} An answer to an input unlike the training data can be confident."
    else:
        limit, rows = percent(gate["held_up_max"]), counted(gate["rows"], "held-out row")
        yield (
            f"The gate holds an input up if its p-value is at most {limit}, by {rows}. On average over samples of such"
            f" rows it holds up at most {limit} of the ordinary inputs; one such gate in ten holds up more than"
            f" {percent(_exceeded(gate['rows'], gate['held_up_max']))}. The floor is {number(calibrate['floor'])}. The"
            " threshold was proved with both active, so the risk guarantee is for answers that pass all three."
        )
    checks = [[check, interval(shares[key])] for key, check in _CHECKS.items()]
    yield table(["of the rows of the threshold", "share"], checks)
    if calibrate["threshold"] is not None and shares["confident"]["value"] - calibrate["coverage"] > _ROUNDING:
        yield (
            "The row at the gate's limit passes the gate, so it counts here as confident; the test of the threshold"
            f" leaves it out, so {percent(calibrate['coverage'])} are confident there."
        )


def _exceeded(rows: int, held_up_max: float) -> float:
    """Return the share of ordinary inputs that one gate in ten exceeds, over samples of held-out rows.

    The share of one gate has a Beta(k, rows + 1 - k) distribution, k = held_up_max (rows + 1) rounded down (Vovk 2012,
    arXiv 1209.2673). Its quantile is that of an exact upper bound with k - 1 errors.
    """
    return statistics.upper_bound(math.floor(held_up_max * (rows + 1) + 1e-9) - 1, rows, 0.1)


def _threshold_test(calibrate: Mapping[str, Any]) -> str:
    """Return the description of the test."""
    target, sure = exact_percent(calibrate["target_risk"]), exact_percent(1 - calibrate["delta"])
    tested = [step["threshold"] for step in calibrate["walk"] if step["verdict"] in ("passed", "failed")]
    start = f", here {max(tested):g}" if tested else ""
    return (
        f"The threshold was tested on {counted(calibrate['rows']['threshold'], 'row')}, one of each family, whose"
        f" labels had no other use. The rows of the temperature gave the first threshold to test{start}. From there"
        " each lower threshold was tested in turn (exact binomial test, Learn then Test): it passes if the observed"
        f" number of wrong answers, or fewer, has a probability of at most {exact_percent(calibrate['delta'])} when"
        f" more than {target} are wrong. The last threshold before the first failure is chosen. At this threshold at"
        f" most {target} of the answers are wrong with {sure} certainty; thresholds below the first failure do not"
        " count, even with fewer errors."
    )


def _temperature(calibrate: Mapping[str, Any]) -> str:
    fit, rows = calibrate["temperature_fit"], calibrate["rows"]["temperature"]
    if not rows:
        return "There were too few rows to fit a temperature, so it is 1."
    after = calibrate["reliability"]["after"]["log_loss"]
    before = calibrate["reliability"]["before"]["log_loss"]
    fitted = (
        f"A temperature of {number(fit['tried'])} was fitted on {counted(rows, 'row')}. On held-out rows it changes"
        f" the log loss by {-fit['gain']:+.4f} (standard error {fit['error']:.4f}):"
    )
    if not fit["kept"]:
        return f"{fitted} no significant gain, so the temperature stays 1."
    message = f"{fitted} it is kept. On the rows of the threshold the log loss changes from {before:.4f}"
    worse = ", which is worse, so do not expect better calibration" if after > before else ""
    return f"{message} to {after:.4f}{worse}."


def _images(plots: Sequence[str], *names: str) -> Iterator[str]:
    yield from (f"![{name.removesuffix('.png')}]({name})" for name in names if name in plots)


def _candidates(run: RunSummary, plots: Sequence[str]) -> Iterator[str]:
    candidates = run.report("quantize").get("candidates")
    if not candidates:
        return
    yield "## Candidates"
    yield "Each was measured through the agent's engine on this machine. The fastest one inside the budget is chosen."
    yield table(
        ["candidate", "size", "bits per weight", "p50 ms", "same answer", "KL mean", "KL 99.9%", "accuracy", "budget"],
        map(_candidate, candidates),
    )
    yield from _images(plots, "candidates.png")


def _candidate(candidate: Mapping[str, Any]) -> list[object]:
    shares = [percent((candidate.get(key) or {}).get("value")) for key in ("agreement", "accuracy")]
    return [
        candidate["name"],
        format_bytes(candidate["size_bytes"]),
        _number(candidate.get("bits_per_weight")),
        _number(candidate.get("latency_ms", {}).get("p50")),
        shares[0],
        *(_number(candidate.get(key)) for key in ("kl_mean", "kl_p999")),
        shares[1],
        "inside" if candidate.get("inside_budget") else "; ".join(candidate.get("outside", ["outside"])),
    ]


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else number(value)


def _data(run: RunSummary) -> Iterator[str]:
    yield "## Data"
    splits, data = list(run.data.rows), run.data
    rows = [["all rows", *data.rows.values()], ["made by a model", *data.synthetic.values()]]
    by_source = [data.label_sources.get(split, {}) for split in splits]
    for source, title in LABEL_SOURCES.items():
        if any(source in each for each in by_source):
            rows.append([title, *(each.get(source, 0) for each in by_source)])
    for label in dict.fromkeys(label for counts in data.labels.values() for label in counts):
        rows.append([label, *(data.labels[split].get(label, 0) for split in splits)])
    yield table(["", *splits], rows)
    yield from _assumed(data)
    for copies in data.near_copies:
        yield f"{copies.sentence()}."


def _assumed(data: DataSummary) -> Iterator[str]:
    """Yield the assumptions behind the figures."""
    measured: tuple[Split, ...] = ("calibration", "test")
    imported = [split for split in measured if data.label_sources.get(split, {}).get("imported")]
    if imported:
        yield (
            f"Rows of the team's own files do not name the source of their labels ({' and '.join(imported)})."
            " Figures and threshold assume that people labelled them."
        )


def _run(run: RunSummary) -> Iterator[str]:
    yield "## The run"
    yield (
        f"All stages took {duration(run.seconds)}. Peak memory, including child processes, was"
        f" {format_bytes(run.memory_peak_bytes)}."
    )
    rows = [[each.stage, duration(each.seconds), format_bytes(each.memory_peak_bytes)] for each in run.records]
    yield table(["stage", "time", "peak memory"], rows)


def _details(run: RunSummary) -> Iterator[str]:
    """Show the plain values of every stage's report; lists are in report.json."""
    yield "## Details"
    for record in run.records:
        yield f"### {record.stage}"
        yield table(["", "value"], _flat(record.report, ""))


def _flat(report: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in report.items():
        if isinstance(value, Mapping) and key not in _SHOWN:
            yield from _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping | list | tuple):
            yield f"{prefix}{key}", _plain_value(value)


def _plain_value(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return UNKNOWN if value is None else str(value)[:_VALUE_MAX]
