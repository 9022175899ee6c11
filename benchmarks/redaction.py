"""How much personal data is found in texts that others wrote: rules, Rampart, both; --data FOLDER [--json].

    scripts/bench redaction --data FOLDER [--json] [--with presidio] [--without rampart] [--limit N]

    --data FOLDER      marked texts, *.jsonl: benchmarks/redacting/labelled_texts.py shows the layout
    --with presidio    also the rules of presidio-analyzer, in an environment of their own (250 MB, the first time)
    --without rampart  only the rules: nothing is fetched
    --limit N          only the first N texts, to see that it runs

A value counts as found when every letter and digit of it is covered; a text leaks when one of a value that counts is
not. Values of organizations, places, dates, titles, ages and nationalities do not count, and replacing them is no error
in "precision"; it is one in "strict precision". Nothing of the texts is used to make rules or to choose settings. Then
come texts in twelve languages, composed of sentences and Faker's values (benchmarks/redacting/composed_texts.py), and
texts without personal data, in which nothing should be replaced. First comes the bound on missed values, on made-up
documents with a known truth (benchmarks/redacting/bound.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.bars import Bar
from benchmarks.redacting.bound import bound_bars
from benchmarks.redacting.composed_texts import composed_texts
from benchmarks.redacting.figures import RedactionFigures, measure_redaction
from benchmarks.redacting.labelled_texts import MarkedText, clean_texts, read_marked
from benchmarks.redacting.redactors import (
    TimedSpans,
    rampart_model,
    rule_finder,
    run_presidio,
    run_redactor,
    union,
)

CLEAN_SHARE_MAX = 0.03
RULES, RAMPART, BOTH, PRESIDIO = "rules", "Rampart", "rules and Rampart", "Presidio's rules"
RECALL_MIN, LEAK_SHARE_MAX, PRECISION_MIN = 0.95, 0.06, 0.88
LANGUAGE_RECALL_MIN = 0.95
CUTOFF = 0.05
"""Of 0.5, 0.3, 0.2, 0.1, 0.05 and 0.02 the largest with which 95% of the values of the composed texts are found."""
LOW = f"rules and Rampart from {CUTOFF}"


def main() -> int:
    """Measure, print, and return the exit code: 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench redaction", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--with", dest="others", action="append", choices=("presidio",), default=[])
    parser.add_argument("--without", action="append", choices=("rampart",), default=[])
    parser.add_argument("--limit", type=int, default=None, metavar="N")
    asked = parser.parse_args()
    try:
        marked = read_marked(asked.data)[: asked.limit]
    except (LookupError, OSError, KeyError, ValueError) as error:
        parser.error(f"--data: {error}")
    met = True
    names = ([RAMPART, BOTH] if not asked.without else []) + ([PRESIDIO] if asked.others else [])
    for bar in measure(marked, clean_texts(), names):
        met = met and bar.ok
        print(json.dumps(asdict(bar)) if asked.json else bar.line(), flush=True)  # noqa: T201 - its output
    return 0 if met else 1


def measure(marked: Sequence[MarkedText], clean: Mapping[str, Sequence[str]], names: Sequence[str]) -> Iterator[Bar]:
    """Run the rules and the redactors of those names over marked and clean texts."""
    texts = [each.text for each in marked]
    yield from bound_bars()
    harmless = [text for group in clean.values() for text in group]
    runs = _run(texts, names)
    clean_runs = _run(harmless, [name for name in names if name != PRESIDIO])
    ours = LOW if LOW in runs else RULES
    for name, run in runs.items():
        yield from _bars(name, measure_redaction(marked, run.replaced), run, judged=name == ours)
    yield from _bars_by_language(names)
    for name, run in clean_runs.items():
        touched = [bool(spans) for spans in run.replaced]
        limit = CLEAN_SHARE_MAX if name in (RULES, ours) else None
        yield Bar(f"{name}: clean texts touched", sum(touched) / len(touched), limit, "lower")
        at = 0
        for group, group_texts in clean.items():
            part = touched[at : at + len(group_texts)]
            yield Bar(f"{name}: touched of {group} ({len(part)})", sum(part) / max(len(part), 1), None, "lower")
            at += len(group_texts)


def _bars_by_language(names: Sequence[str]) -> Iterator[Bar]:
    """Measure the composed texts: each redactor over all, by language and by class."""
    marked = composed_texts()
    runs = _run([each.text for each in marked], [name for name in names if name != PRESIDIO])
    ours = LOW if LOW in runs else RULES
    for name, run in runs.items():
        figures = measure_redaction(marked, run.replaced)
        yield Bar(f"{name}: composed texts, values found", figures.recall, None, "higher")
        yield Bar(f"{name}: composed texts that leak", figures.leak_share, None, "lower")
        yield Bar(f"{name}: composed texts, precision", figures.precision, None, "higher")
        limit = LANGUAGE_RECALL_MIN if name == ours else None
        for language, recall in _recall_by_language(marked, run).items():
            yield Bar(f"{name}: composed texts, found in {language}", recall, limit, "higher")
        for label, number in sorted(figures.marked.items()):
            yield Bar(f"{name}: composed texts, {label}", figures.found[label] / number, None, "higher")


def _recall_by_language(marked: Sequence[MarkedText], run: TimedSpans) -> dict[str, float]:
    """Return the share of values found, by language."""
    recalls: dict[str, float] = {}
    for language in sorted({each.language for each in marked}):
        places = [at for at, each in enumerate(marked) if each.language == language]
        part = measure_redaction([marked[at] for at in places], [run.replaced[at] for at in places])
        recalls[language] = part.recall
    return recalls


def _run(texts: Sequence[str], names: Sequence[str]) -> dict[str, TimedSpans]:
    runs = {RULES: run_redactor(rule_finder(), texts)}
    if RAMPART in names:
        runs[RAMPART] = run_redactor(rampart_model().find, texts)
        runs[BOTH] = union(runs[RULES], runs[RAMPART])
        runs[LOW] = union(runs[RULES], run_redactor(rampart_model(CUTOFF).find, texts))
    if PRESIDIO in names:
        runs[PRESIDIO] = run_presidio(texts)
    return runs


def _bars(name: str, figures: RedactionFigures, run: TimedSpans, *, judged: bool) -> Iterator[Bar]:
    def bar(what: str, value: float, limit: float, better: str) -> Bar:
        return Bar(f"{name}: {what}", value, limit if judged else None, "lower" if better == "lower" else "higher")

    yield Bar(f"{name}: values to find", sum(figures.marked.values()), None, "higher")
    yield Bar(f"{name}: values found", sum(figures.found.values()), None, "higher")
    yield bar("share of values found", figures.recall, RECALL_MIN, "higher")
    yield bar("share of texts that leak", figures.leak_share, LEAK_SHARE_MAX, "lower")
    yield bar("precision by characters", figures.precision, PRECISION_MIN, "higher")
    yield Bar(f"{name}: strict precision by characters", figures.strict_precision, None, "higher")
    yield Bar(f"{name}: milliseconds a text, median", float(np.median(run.milliseconds)), None, "lower")
    yield Bar(f"{name}: milliseconds a text, 99%", float(np.quantile(run.milliseconds, 0.99)), None, "lower")
    for label, number in sorted(figures.marked.items()):
        yield Bar(f"{name}: found of {number} {label}", figures.found[label] / number, None, "higher")


if __name__ == "__main__":
    sys.exit(main())
