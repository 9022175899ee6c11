"""report.md: what came of a run in sentences and tables, with everything to doubt in one list. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from convert.data import LabelSource, Summary
from convert.recipe import Split
from convert.report.doubts import doubts, of_quality
from convert.report.made import UNKNOWN, Made, duration, interval, number, percent, plural, size

_CONFUSIONS_MAX = 10
_VALUE_MAX = 300
_CHANCE_MAX = 0.05
LABEL_SOURCES: dict[LabelSource, str] = {
    "reviewed": "labels that people confirmed",
    "corrected": "labels that people corrected",
    "teacher": "labels of a large model",
    "model": "labels of the local model",
    "imported": "labels of the team's own files",
}
# They have a place of their own.
_SHOWN = ("confusion", "per_label", "reliability")


def markdown(made: Made, plots: Sequence[str]) -> str:
    """Return report.md; plots are names of files beside it."""
    parts = [
        f"# {made.task} {made.version}",
        " ".join(_sentences(made)),
        *_list("What to doubt", doubts(made)),
        *_quality(made.report("evaluate")),
        *_confidence(made.report("calibrate"), plots),
        *_candidates(made, plots),
        *_data(made),
        *_run(made),
        *_details(made),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def measured(name: str, evaluate: Mapping[str, Any]) -> str:
    """Return what an evaluation of one bundle found, as Markdown."""
    first = [f"# {name}", " ".join(_quality_sentences(evaluate))]
    return "\n\n".join([*first, *_list("What to doubt", list(of_quality(evaluate))), *_quality(evaluate)]) + "\n"


def compared(report: Mapping[str, Any]) -> str:
    """Return what a comparison of two bundles found, as Markdown."""
    first, second = report["bundles"]
    return "\n\n".join([f"# {first} and {second}", *_comparison(report)]) + "\n"


def _comparison(report: Mapping[str, Any]) -> Iterator[str]:
    first, second = report["bundles"]
    rows = plural(report["rows"], "row")
    if "cosine" in report:
        yield f"The vectors of {rows} have a mean cosine of {number(report['cosine'].get('mean', math.nan))}."
        return
    yield f"Of {rows}, {first} is right on {interval(report['first'])}, {second} on {interval(report['second'])}."
    yield (
        f"They give the same answer on {percent(report['agreement']['value'])}. Only the first is right on"
        f" {report['only_first']}, only the second on {report['only_second']}."
    )
    yield f"{_verdict(report)} (exact McNemar test, p = {report['p_value']:.3g})."
    times = [report["latency_ms"][which].get("p50", math.nan) for which in ("first", "second")]
    yield f"A median answer takes {times[0]:.1f} ms from the first and {times[1]:.1f} ms from the second."


def _verdict(report: Mapping[str, Any]) -> str:
    difference = report["difference"]
    if report["p_value"] > _CHANCE_MAX:
        return f"The difference, {interval(difference)}, may be chance"
    better = "second" if difference["value"] > 0 else "first"
    return f"The {better} is better; second less first is {interval(difference)}"


def _quality_sentences(quality: Mapping[str, Any]) -> Iterator[str]:
    if "accuracy" in quality:
        yield f"It is right on {interval(quality['accuracy'])} of {plural(quality['rows'], 'test row')}."
    if "sure" in quality:
        coverage, wrong = interval(quality["sure"]["coverage"]), interval(quality["sure"]["wrong"])
        yield f"{coverage} of the answers are sure, and {wrong} of these wrong."
    if invariance := quality.get("batch_invariance"):
        yield _in_company(invariance)
    times = quality.get("latency_ms")
    if times:
        yield f"An answer takes {times['p50']:.1f} ms, 99 % of them at most {times['p99']:.1f} ms, on this machine."


def _in_company(invariance: Mapping[str, Any]) -> str:
    texts, sizes = plural(invariance["texts"], "text"), " and ".join(map(str, invariance["batches"]))
    same = "are the same to the last bit"
    if invariance["varied"]:
        same = f"differ for {invariance['varied']}, by up to {invariance['difference_max']:.2g}"
    return f"Its answers to {texts} alone and in batches of {sizes} {same} ({invariance['build']})."


def _sentences(made: Made) -> Iterator[str]:
    chosen = made.chosen
    if chosen:
        yield f"The artefact is {chosen['name']}, {size(chosen['size_bytes'])}{_bits(chosen)}."
    yield from _quality_sentences(made.report("evaluate"))
    verify = made.report("verify")
    if "kl_mean" in verify:
        yield (
            "The export computes what the checkpoint computes: the same best choice in"
            f" {percent(verify['same_top'])} of {plural(verify['rows'], 'place')}, mean divergence"
            f" {verify['kl_mean']:.1g}."
        )
    if "agreement" in chosen:
        yield f"It gives the same answer as the full-precision model on {interval(chosen['agreement'])} of the rows."
    yield made.report("calibrate").get("verdict", "Nothing is calibrated yet.")


def _bits(candidate: Mapping[str, Any]) -> str:
    bits = candidate.get("bits_per_weight")
    return f", {bits:.2f} bits per weight" if bits else ""


def _list(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"## {title}"
        yield "\n".join(map("- {}".format, lines))


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; all columns but the first hold numbers."""
    marks = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(map(_line, (columns, marks, *rows)))


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _quality(evaluate: Mapping[str, Any]) -> Iterator[str]:
    if not evaluate:
        return
    yield "## Quality on the test rows"
    yield from _labels(evaluate.get("per_label", {}))
    yield from _fields(evaluate.get("fields", {}))
    if "neighbours" in evaluate:
        yield f"The nearest other text has the same label for {interval(evaluate['neighbours'])} of the rows."
    yield from _confused(evaluate.get("confusion", {}))
    times = evaluate.get("latency_ms")
    if times:
        yield "Time of an answer, one text at a time:"
        yield _table(["", *times], [["ms", *map("{:.1f}".format, times.values())]])


def _labels(per_label: Mapping[str, Any]) -> Iterator[str]:
    figures = ("precision", "recall", "f1")
    rows = [[label, each["rows"], *map(percent, map(each.get, figures))] for label, each in per_label.items()]
    if rows:
        yield _table(["label", "rows", "precision", "recall", "F1"], rows)


def _fields(fields: Mapping[str, Any]) -> Iterator[str]:
    if fields:
        yield _table(["field", "right"], zip(fields, map(interval, fields.values()), strict=True))


def _confused(confusion: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    wrong = [(-count, true, said) for true, row in confusion.items() for said, count in row.items() if said != true]
    if wrong:
        yield "Most frequent confusions:"
        rows = [(true, said, -count) for count, true, said in sorted(wrong)[:_CONFUSIONS_MAX]]
        yield _table(["label", "answered", "rows"], rows)


def _confidence(calibrate: Mapping[str, Any], plots: Sequence[str]) -> Iterator[str]:
    if not calibrate:
        return
    yield "## Confidence"
    yield calibrate["verdict"]
    if "rows" in calibrate:
        yield _how(calibrate["rows"], calibrate["temperature"])
    yield from _images(plots, "reliability.png", "risk-coverage.png")


def _how(rows: Mapping[str, int], temperature: float) -> str:
    fitted = f"The temperature, {number(temperature)}, was fitted on {plural(rows['temperature'], 'row')}"
    if not rows["temperature"]:
        fitted = "There were too few rows to fit a temperature as well"
    return (
        f"{fitted}; the threshold was tested on {plural(rows['threshold'], 'other row')}, of each family one. Those of"
        " the temperature said where to begin, and from there each lower threshold was tested in turn: it passes when"
        " so few wrong answers would be that unlikely if more than the target were wrong (exact binomial test, Learn"
        " then Test). The last that passed before the first that failed is the threshold; errors further down are not"
        " looked at, and the certainty is of the target, not of the share that was seen."
    )


def _images(plots: Sequence[str], *names: str) -> Iterator[str]:
    yield from (f"![{name.removesuffix('.png')}]({name})" for name in names if name in plots)


def _candidates(made: Made, plots: Sequence[str]) -> Iterator[str]:
    found = made.report("quantize").get("candidates")
    if not found:
        return
    yield "## Candidates"
    yield "Each was measured through the agent's engine on this machine. The fastest inside the budget is taken."
    titles = [
        "candidate",
        "size",
        "bits per weight",
        "p50 ms",
        "same answer",
        "KL mean",
        "KL 99.9 %",
        "accuracy",
        "budget",
    ]
    yield _table(titles, map(_candidate, found))
    yield from _images(plots, "candidates.png")


def _candidate(each: Mapping[str, Any]) -> list[object]:
    shares = [percent((each.get(key) or {}).get("value")) for key in ("agreement", "accuracy")]
    return [
        each["name"],
        size(each["size_bytes"]),
        _number(each.get("bits_per_weight")),
        _number(each.get("latency_ms", {}).get("p50")),
        shares[0],
        *(_number(each.get(key)) for key in ("kl_mean", "kl_p999")),
        shares[1],
        "inside" if each.get("inside_budget") else "; ".join(each.get("outside", ["outside"])),
    ]


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else number(value)


def _data(made: Made) -> Iterator[str]:
    yield "## Data"
    splits, data = list(made.data.rows), made.data
    rows = [["all rows", *data.rows.values()], ["made by a model", *data.synthetic.values()]]
    rows += _label_sources([data.label_sources.get(split, {}) for split in splits])
    for label in dict.fromkeys(label for counts in data.labels.values() for label in counts):
        rows.append([label, *(data.labels[split].get(label, 0) for split in splits)])
    yield _table(["", *splits], rows)
    yield from _assumed(data)


def _label_sources(counts: Sequence[Mapping[LabelSource, int]]) -> list[list[object]]:
    """Return a row for each source that labels come from."""
    sources = [source for source in LABEL_SOURCES if any(source in found for found in counts)]
    return [[LABEL_SOURCES[source], *(found.get(source, 0) for found in counts)] for source in sources]


def _assumed(data: Summary) -> Iterator[str]:
    """Say what figures rest on that no row shows."""
    measured: tuple[Split, ...] = ("calibration", "test")
    imported = [split for split in measured if data.label_sources.get(split, {}).get("imported")]
    if imported:
        yield (
            f"Rows of the team's own files do not say who labelled them ({' and '.join(imported)}). It is assumed that"
            " people did: figures and threshold rest on that."
        )


def _run(made: Made) -> Iterator[str]:
    yield "## The run"
    yield (
        f"All stages took {duration(made.seconds)} of work. Peak memory, children included, was"
        f" {size(made.memory_peak_bytes)}."
    )
    rows = [[each.stage, duration(each.seconds), size(each.memory_peak_bytes)] for each in made.records]
    yield _table(["stage", "time", "peak memory"], rows)


def _details(made: Made) -> Iterator[str]:
    """Show the plain values of every stage's report; lists are in report.json."""
    yield "## Details"
    for record in made.records:
        yield f"### {record.stage}"
        yield _table(["", "value"], _flat(record.report, ""))


def _flat(report: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in report.items():
        if isinstance(value, Mapping) and key not in _SHOWN:
            yield from _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping | list | tuple):
            yield f"{prefix}{key}", _said(value)


def _said(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return UNKNOWN if value is None else str(value)[:_VALUE_MAX]
