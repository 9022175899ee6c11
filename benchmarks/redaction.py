"""Personal data found in texts of other authors: by rules, a model, Rampart; --data FOLDER [--json].

    scripts/bench redaction --data FOLDER [--model BUNDLE] [--json] [--with presidio] [--without rampart] [--limit N]

    --data FOLDER      marked texts, *.jsonl: benchmarks/redacting/labelled_texts.py shows the layout
    --model BUNDLE     also the model of a bundle of kind redact, such as build/pii/assemble/bundle of examples/redact,
                       at its cut-off; the bars are then those of the rules with it
    --cutoff SHARE     another cut-off for it
    --learn            also train heads on texts that it redacted, and on raw ones: a minute
    --with presidio    also the rules of presidio-analyzer, in an environment of their own (250 MB, the first time)
    --without rampart  only the rules: nothing is fetched
    --clean N          only N texts without personal data of each kind, drawn by a seed; all of them take minutes
    --limit N          only the first N texts, to see that it runs

A value counts as found when every letter and digit of it is covered; a text leaks when one of a value that counts is
not. Values of organizations, places, dates, titles, ages and nationalities do not count, and replacing them is no error
in "precision"; it is one in "strict precision". Nothing of the texts is used to make rules or to choose settings. Then
come texts in twelve languages, composed of sentences and Faker's values (benchmarks/redacting/composed_texts.py), and
texts without personal data, in which nothing should be replaced: also those of FOLDER/banking77 and FOLDER/clinc150,
where they exist. Last comes the bound on missed values, on made-up documents (benchmarks/redacting/bound.py).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bars import Bar, printed
from benchmarks.redacting.bound import bound_bars
from benchmarks.redacting.bundle_model import BundleModel
from benchmarks.redacting.composed_texts import composed_texts
from benchmarks.redacting.figures import RedactionFigures, measure_redaction
from benchmarks.redacting.labelled_texts import MarkedText, clean_texts, read_marked
from benchmarks.redacting.redactors import (
    TimedSpans,
    rule_finder,
    run_presidio,
    run_rampart,
    run_redactor,
    union,
)
from benchmarks.redacting.training_value import training_bars
from edge_agent.errors import EdgeAgentError

CLEAN_SHARE_MAX = 0.03
RULES, RAMPART, BOTH, PRESIDIO = "rules", "Rampart", "rules and Rampart", "Presidio's rules"
RECALL_MIN, LEAK_SHARE_MAX, PRECISION_MIN = 0.95, 0.06, 0.88
LANGUAGE_RECALL_MIN = 0.95
CUTOFF = 0.05
"""Of 0.5, 0.3, 0.2, 0.1, 0.05 and 0.02 the largest with which 95% of the values of the composed texts are found."""
LOW = f"rules and Rampart from {CUTOFF}"
MODEL, OURS = "the model", "rules and the model"
GAIN_MIN = 0.12
"""Share of values found, over Rampart by its likeliest labels."""
COST_SHARE_MAX = 1.2


@dataclass(frozen=True)
class ComparedRedactors:
    """The redactors that are compared with the rules."""

    names: tuple[str, ...]
    bundle: BundleModel | None = None
    learns: bool = False
    """Whether models are trained on redacted texts, too."""

    @property
    def judged(self) -> str:
        """The one that is held against the bars."""
        if self.bundle:
            return OURS
        return LOW if RAMPART in self.names else RULES

    def of_composed(self) -> ComparedRedactors:
        """Return those that read other texts than English ones."""
        return ComparedRedactors(tuple(name for name in self.names if name != PRESIDIO), self.bundle)


def main() -> int:
    """Measure, print, and return the exit code: 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench redaction", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", required=True)
    parser.add_argument("--model", type=Path, default=None, metavar="BUNDLE")
    parser.add_argument("--cutoff", type=float, default=None, metavar="SHARE")
    parser.add_argument("--learn", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--with", dest="others", action="append", choices=("presidio",), default=[])
    parser.add_argument("--without", action="append", choices=("rampart",), default=[])
    parser.add_argument("--clean", type=int, default=None, metavar="N")
    parser.add_argument("--limit", type=int, default=None, metavar="N")
    asked = parser.parse_args()
    try:
        marked = read_marked(asked.data)[: asked.limit]
    except (LookupError, OSError, KeyError, ValueError) as error:
        parser.error(f"--data: {error}")
    names = (*((RAMPART,) if not asked.without else ()), *((PRESIDIO,) if asked.others else ()))
    try:
        bundle = BundleModel(asked.model, asked.cutoff) if asked.model else None
    except (EdgeAgentError, ValueError) as error:
        parser.error(f"--model: {error}")
    compared = ComparedRedactors(names, bundle, asked.learn)

    def every() -> Iterator[Bar]:
        return itertools.chain(measure(marked, clean_texts(asked.data, asked.clean), compared), bound_bars())

    return printed(every, as_json=asked.json)


def measure(
    marked: Sequence[MarkedText], clean: Mapping[str, Sequence[str]], compared: ComparedRedactors
) -> Iterator[Bar]:
    """Run the rules and the redactors over marked and clean texts."""
    runs = _run([each.text for each in marked], compared)
    figures = {name: measure_redaction(marked, run.replaced) for name, run in runs.items()}
    for name, run in runs.items():
        yield from _bars(name, figures[name], run, judged=name == compared.judged)
    if RAMPART in figures and compared.bundle:
        gain = figures[OURS].recall - figures[RAMPART].recall
        yield Bar(f"{OURS}: share found more than Rampart", gain, GAIN_MIN, "higher")
    if compared.bundle:
        redacting, classifying = compared.bundle.cost_share()
        yield Bar("the model: milliseconds for 32 tokens", redacting, None, "lower")
        yield Bar("the model: of the same encoder classifying", redacting / classifying, COST_SHARE_MAX, "lower")
    yield from _bars_by_language(compared.of_composed())
    yield from _bars_of_clean(clean, compared.of_composed())
    if compared.bundle and compared.learns:
        yield from training_bars(compared.bundle.values)


def _bars_of_clean(clean: Mapping[str, Sequence[str]], compared: ComparedRedactors) -> Iterator[Bar]:
    """Measure how many texts without personal data are touched, all and by where they come from."""
    harmless = [text for group in clean.values() for text in group]
    for name, run in _run(harmless, compared).items():
        touched = [bool(spans) for spans in run.replaced]
        limit = CLEAN_SHARE_MAX if name in (RULES, compared.judged) else None
        yield Bar(f"{name}: clean texts touched", sum(touched) / len(touched), limit, "lower")
        at = 0
        for group, group_texts in clean.items():
            part = touched[at : at + len(group_texts)]
            yield Bar(f"{name}: touched of {group} ({len(part)})", sum(part) / max(len(part), 1), None, "lower")
            at += len(group_texts)


def _bars_by_language(compared: ComparedRedactors) -> Iterator[Bar]:
    """Measure the composed texts: each redactor over all, by language and by class."""
    marked = composed_texts()
    for name, run in _run([each.text for each in marked], compared).items():
        figures = measure_redaction(marked, run.replaced)
        yield Bar(f"{name}: composed texts, values found", figures.recall, None, "higher")
        yield Bar(f"{name}: composed texts that leak", figures.leak_share, None, "lower")
        yield Bar(f"{name}: composed texts, precision", figures.precision, None, "higher")
        limit = LANGUAGE_RECALL_MIN if name == compared.judged else None
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


def _run(texts: Sequence[str], compared: ComparedRedactors) -> dict[str, TimedSpans]:
    runs = {RULES: run_redactor(rule_finder(), texts)}
    if RAMPART in compared.names:
        cutoff = compared.bundle.cutoff if compared.bundle else CUTOFF
        runs[RAMPART], low = run_rampart(texts, cutoff)
        runs[BOTH] = union(runs[RULES], runs[RAMPART])
        runs[f"rules and Rampart from {cutoff}"] = union(runs[RULES], low)
    if compared.bundle:
        runs[MODEL] = run_redactor(compared.bundle.find, texts)
        runs[OURS] = union(runs[RULES], runs[MODEL])
    if PRESIDIO in compared.names:
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
