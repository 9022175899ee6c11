"""The comparison of two bundles on the same rows, as Markdown. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from convert.report.run_summary import UNKNOWN, brief, by_question, interval, number, table
from edge_agent.formatting import counted

_LABELS_SHOWN_MAX = 10


def comparison(report: Mapping[str, Any]) -> str:
    """Return the comparison of two bundles as Markdown."""
    first, second = report["bundles"]
    return "\n\n".join([f"# {first} and {second}", *_paragraphs(report)]) + "\n"


def _paragraphs(report: Mapping[str, Any]) -> Iterator[str]:
    rows = counted(report["rows"], "row")
    if "cosine" in report:
        yield f"The vectors of {rows} have a mean cosine of {number(report['cosine'].get('mean', math.nan))}."
        return
    for name, part in by_question(report):
        if name:
            yield f"## {name}"
        yield from _answer_comparison(part)
    times = [report["latency_ms"][which].get("p50", math.nan) for which in ("first", "second")]
    yield f"A median answer takes {times[0]:.1f} ms from the first and {times[1]:.1f} ms from the second."


def _answer_comparison(report: Mapping[str, Any]) -> Iterator[str]:
    rows = counted(report["rows"], "row")
    yield _verdict(report)
    yield (
        f"Both give the same answer on {interval(report['same_answer'])} of {rows}, and agree in answer and"
        f" confidence on {interval(report['agreement'])}. Only the first is right on"
        f" {counted(report['only_first'], 'row')}, only the second on {report['only_second']}."
    )
    yield table(["", "first", "second", "second minus first", "p"], _figure_rows(report))
    yield (
        "Intervals have a level of 95% and account for families of rows. p is the probability of such a difference"
        " between equally good versions: McNemar's exact test for accuracy and coverage, a permutation test for the"
        " others, adjusted for four tests (Holm)."
    )
    yield from _label_comparison(report.get("per_label", {}))


FIGURES = {
    "accuracy": "right answers",
    "coverage": "confident answers",
    "wrong": "wrong among the confident",
    "calibration_error": "calibration error",
}


def worse_figures(report: Mapping[str, Any]) -> list[str]:
    """Return the figures in which the second is worse by more than chance, with the question if there are several."""
    return [
        f"{FIGURES[name]} of '{question}'" if question else FIGURES[name]
        for question, each in by_question(report)
        for name in each.get("worse", ())
    ]


def _verdict(report: Mapping[str, Any]) -> str:
    worse, better = ([FIGURES[name] for name in report[which]] for which in ("worse", "better"))
    if not worse and not better:
        return "No difference between the two is statistically significant."
    parts = [f"{word} in {_join_words(names)}" for names, word in ((worse, "worse"), (better, "better")) if names]
    return f"The second is {', and '.join(parts)}; the difference is statistically significant."


def _join_words(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def _figure_rows(report: Mapping[str, Any]) -> Iterator[list[object]]:
    for name, title in FIGURES.items():
        difference = report["differences"].get(name)
        if difference is not None:
            values = [_figure(report[which], name) for which in ("first", "second")]
            p_value = UNKNOWN if difference["p_value"] is None else f"{difference['p_adjusted']:.3g}"
            yield [title, *values, brief(difference), p_value]


def _figure(summary: Mapping[str, Any], name: str) -> str:
    sections: dict[str, Mapping[str, Any]] = {"accuracy": summary, "calibration_error": summary.get("calibration", {})}
    figure = sections.get(name, summary.get("sure", {})).get(name)
    return brief(figure) if figure else "none"


def _label_comparison(per_label: Mapping[str, Any]) -> Iterator[str]:
    rows = [(min(each["p_right"], each["p_confident"]), label, each) for label, each in per_label.items()]
    if not rows:
        return
    shown = sorted(rows, key=lambda row: row[:2])[:_LABELS_SHOWN_MAX]
    left_out = len(rows) - len(shown)
    more = f"; {counted(left_out, 'label')} more in the JSON" if left_out else ""
    yield f"By label, the largest differences first{more}:"
    columns = ["label", "rows", "right, first", "second", "p", "confident, first", "second", "p"]
    columns += ["wrong of these, first", "second"]
    yield table(columns, ([label, each["rows"], *_label_pair(each)] for _, label, each in shown))


def _label_pair(label: Mapping[str, Any]) -> Iterator[str]:
    for name, p in (("accuracy", "p_right"), ("coverage", "p_confident"), ("wrong", "")):
        yield from (brief(label[which][name]) for which in ("first", "second"))
        if p:
            yield f"{label[p]:.2g}"
