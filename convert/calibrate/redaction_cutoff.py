"""The calibrate stage of a redaction model: chooses its cut-off so that a bound on what it misses is proved.

The promise: of all personal values in documents like the calibration ones, at most `missed_max` remain, with certainty
1 - `delta`. A value remains if a letter or digit of it does. The rate is of values, and not the mean share per
document, because a person's value in a long document is worth as much as one in a short document; the unit of the test
is the document, or its family, because values of one document are found or missed together.

Fixed-sequence testing (Learn then Test, arXiv 2110.01052): the cut-offs are fixed beforehand. The first is the lowest,
which replaces most; each is tested by the capital of a bettor against "more than `missed_max` remains"
(statistics.missed_log_capital). The test ends at the first cut-off that is not proved, and the last proved one is the
result: of the cut-offs that keep the promise, the one that replaces least of what is harmless.

A document counts as `values_max` values at most: without a limit, one unseen document could hold all that is missed.
The limit comes from a tenth of the families, chosen by a hash, which have no further part in the test.

Documents are read as a site reads them (evaluate/site_redaction.py). The cut-off and its bound go to the manifest's
section `redaction`. If no cut-off is proved, the one of task.yaml serves, and the manifest has no bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from convert.calibrate.calibration_split import family, text_hash
from convert.data import row_files
from convert.data.data_row import DataRow, TextSpan
from convert.evaluate.predictions import FoundEntity
from convert.evaluate.serving import BundleFolder, ServedBundles, serve_bundles
from convert.evaluate.site_redaction import CPU_THREADS, SITE_RULES, redact_as_site, redaction_figures, remaining
from convert.pipeline.stage import Progress, Report
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats.calibration import MissedBound
from edge_agent.formatting import counted
from edge_agent.statistics import MissedValues, missed_log_capital, proof_rates

CUTOFFS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LIMIT_SHARE, LIMIT_FAMILIES_MIN, LIMIT_QUANTILE = 0.1, 10, 0.9
NEEDED_MAX = 1_000_000
_LOG_MAX = 700.0
"""Larger exponents overflow a float."""

CutoffVerdict = Literal["proved", "not proved", "replaces harmless texts", "not tested"]


_VERDICTS: dict[bool, CutoffVerdict] = {True: "proved", False: "not proved"}


@dataclass(frozen=True)
class MissedTarget:
    """The bound that is to be proved."""

    missed_max: float
    """Largest share of personal values that remain."""
    delta: float
    """Probability with which the proof may fail."""

    @property
    def evidence(self) -> float:
        """The logarithm of the capital that proves the bound."""
        return -math.log(self.delta)


@dataclass(frozen=True)
class MarkedDocument:
    """A labelled document, or a part of it, without its text."""

    family: str
    """Documents of one family are variants of one phrasing, and are missed together."""
    values: int
    """Personal values in it."""


@dataclass(frozen=True)
class CutoffTest:
    """One cut-off of the fixed sequence."""

    cutoff: float
    missed: int
    """Values of the proving documents that remain."""
    capital: float
    """Of the bettor; 1 / delta proves the cut-off."""
    verdict: CutoffVerdict


@dataclass(frozen=True)
class CutoffChoice:
    """The result of the fixed-sequence test."""

    cutoff: float | None
    """None: no cut-off is proved."""
    values_max: int
    """The largest number of values that a document counts as."""
    documents: int
    """Documents of the test, with and without values."""
    families: int
    values: int
    """Values in them, all counted."""
    tests: tuple[CutoffTest, ...]
    needed: int | None
    """Without a proof: about how many more documents would prove the lowest cut-off; None = more would not help."""


def divide_documents(documents: Sequence[MarkedDocument]) -> tuple[int, list[int]]:
    """Return the largest number of values that a document counts as, and the indexes of the documents of the test."""
    families = sorted({each.family for each in documents}, key=text_hash)
    count = min(len(families) // 2, max(LIMIT_FAMILIES_MIN, round(LIMIT_SHARE * len(families))))
    limit_families = set(families[:count])
    counts = sorted(each.values for each in documents if each.family in limit_families and each.values)
    limit = counts[math.ceil(LIMIT_QUANTILE * len(counts)) - 1] if counts else 1
    return limit, [index for index, each in enumerate(documents) if each.family not in limit_families]


def choose_cutoff(
    documents: Sequence[MarkedDocument], missed_at: Callable[[float], Sequence[int] | None], target: MissedTarget
) -> CutoffChoice:
    """Test the cut-offs in turn.

    Args:
        documents: labelled ones, that the model was not trained on.
        missed_at: returns for a cut-off how many values remain in each document when a site redacts, [documents]; None
            = no site would load the bundle with that cut-off. It is called only until the test ends.
        target: what is to be proved.
    """
    values_max, test_indexes = divide_documents(documents)
    documents_tested = [documents[index] for index in test_indexes]
    tests: list[CutoffTest] = []
    is_open, lowest_outcomes = True, dict[MissedValues, int]()
    for cutoff in CUTOFFS:
        missed = missed_at(cutoff) if is_open else None
        if missed is None:
            tests.append(CutoffTest(cutoff, 0, 1.0, "replaces harmless texts" if is_open else "not tested"))
            continue
        missed_values = [missed[index] for index in test_indexes]
        outcomes = family_means(documents_tested, missed_values, values_max)
        lowest_outcomes = lowest_outcomes or dict(outcomes)
        log_capital = missed_log_capital(outcomes, values_max, target.missed_max, proof_rates(target.missed_max))
        is_open = log_capital >= target.evidence
        tests.append(CutoffTest(cutoff, sum(missed_values), math.exp(min(log_capital, _LOG_MAX)), _VERDICTS[is_open]))
    return _choice(documents_tested, tests, lowest_outcomes, values_max, target)


def _choice(
    documents: Sequence[MarkedDocument],
    tests: Sequence[CutoffTest],
    lowest_outcomes: Mapping[MissedValues, int],
    values_max: int,
    target: MissedTarget,
) -> CutoffChoice:
    """Return the highest cut-off that is proved; `lowest_outcomes` are those at the lowest one that was tested."""
    chosen = max((each.cutoff for each in tests if each.verdict == "proved"), default=None)
    return CutoffChoice(
        cutoff=chosen,
        values_max=values_max,
        documents=len(documents),
        families=len({each.family for each in documents}),
        values=sum(each.values for each in documents),
        tests=tuple(tests),
        needed=None if chosen is not None else _documents_needed(lowest_outcomes, len(documents), values_max, target),
    )


def family_means(
    documents: Sequence[MarkedDocument], missed: Sequence[int], values_max: int
) -> Mapping[MissedValues, int]:
    """Return how often each outcome was seen; a family is one outcome, the mean of its documents."""
    families: dict[str, list[tuple[float, float]]] = {}
    for document, count in zip(documents, missed, strict=True):
        values = min(document.values, values_max)
        share = count / document.values if document.values else 0.0
        families.setdefault(document.family, []).append((values, values * share))
    means = (
        MissedValues(math.fsum(v for v, _ in members) / len(members), math.fsum(m for _, m in members) / len(members))
        for members in families.values()
    )
    return Counter(means)


def _documents_needed(
    outcomes: Mapping[MissedValues, int], documents: int, values_max: int, target: MissedTarget
) -> int | None:
    """Estimate how many more documents like these would prove the target; None = a reasonable number does not."""
    rates = proof_rates(target.missed_max)

    def proves(times: float) -> bool:
        scaled = {each: count * times for each, count in outcomes.items()}
        return missed_log_capital(scaled, values_max, target.missed_max, rates) >= target.evidence

    if not outcomes:
        return None
    low, high = 1.0, 2.0
    while not proves(high):
        low, high = high, 2 * high
        if high * documents > NEEDED_MAX:
            return None
    while (high - low) * documents > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return max(1, math.ceil((high - 1) * documents))


LABELED_BY_NAMES_MAX = 10


@dataclass(frozen=True)
class CutoffCalibration:
    """The result of the stage."""

    section: dict[str, Any]
    """Keys of the manifest's section `redaction`; empty = nothing is proved, and task.yaml's cut-off serves."""
    report: Report


def calibrate_cutoff(
    bundle: BundleFolder, rows: Sequence[DataRow], target: MissedTarget, progress: Progress
) -> CutoffCalibration:
    """Choose the cut-off of a bundle of kind redact on labelled documents. Raises as serving."""
    reader = _DocumentReader(bundle, rows, progress)
    with serve_bundles([bundle], cpu_threads=CPU_THREADS) as served:
        documents = reader.read_first(served)
        choice = choose_cutoff(documents, lambda cutoff: reader.missed(served, cutoff), target)
        cutoff = bundle.manifest.redaction_rule.cutoff if choice.cutoff is None else choice.cutoff
        figures = redaction_figures(*reader.readable_texts(served, cutoff))
    _, test_indexes = divide_documents(documents)
    label_sources = labeled_by([reader.rows[index] for index in test_indexes])
    report: Report = {
        **{"kind": "redact", "verdict": verdict(choice, target, cutoff), "cutoff": cutoff},
        **{"proved": choice.cutoff is not None, "missed_max": target.missed_max, "delta": target.delta},
        **{key: each for key, each in asdict(choice).items() if key not in ("cutoff", "tests")},
        "tests": [asdict(each) for each in choice.tests if each.verdict != "not tested"],
        "failed": len(rows) - len(documents),
        "rules": SITE_RULES,
        "labeled_by": label_sources,
        "as_a_site_redacts": figures,
    }
    if choice.cutoff is None:
        return CutoffCalibration({}, report)
    bound = MissedBound(
        target=target.missed_max,
        delta=target.delta,
        n=choice.documents,
        families=choice.families,
        values=choice.values,
        values_max=choice.values_max,
        bound=target.missed_max,
        rules=SITE_RULES,
        labeled_by=label_sources,
    )
    return CutoffCalibration({"cutoff": choice.cutoff, "bound": bound.model_dump(mode="json")}, report)


class _DocumentReader:
    """The documents, and what a site replaces in them at each cut-off.

    A document without a value can miss none, so it is read at the first cut-off and at the chosen one alone.
    """

    def __init__(self, bundle: BundleFolder, rows: Sequence[DataRow], progress: Progress) -> None:
        types = set(bundle.manifest.redaction_rule.counted(bundle.manifest.task.labels))
        self._bundle, self._progress = bundle, progress
        self.rows = list(rows)
        """After `read_first`, only the rows that the model can read."""
        self._values: list[list[TextSpan]] = [[each for each in row.spans if each.label in types] for row in rows]
        self._replacements: dict[float, dict[int, list[FoundEntity] | None] | None] = {}
        """By cut-off, then by index of the document; None = no site loads the bundle with this cut-off."""

    def read_first(self, served: ServedBundles) -> list[MarkedDocument]:
        """Drop the documents that the model cannot read at any cut-off, and return the others."""
        cutoff = self._bundle.manifest.redaction_rule.cutoff
        results = redact_as_site(served, self._bundle, [row.text for row in self.rows], self._progress)
        readable = [index for index, each in enumerate(results) if each is not None]
        self.rows = [self.rows[index] for index in readable]
        self._values = [self._values[index] for index in readable]
        self._replacements[cutoff] = {new: results[index] for new, index in enumerate(readable)}
        return [MarkedDocument(family(row), len(each)) for row, each in zip(self.rows, self._values, strict=True)]

    def missed(self, served: ServedBundles, cutoff: float) -> list[int] | None:
        """Return how many values remain in each document; None = no site loads the bundle with this cut-off."""
        replacements = self._replacements_at(served, cutoff, [index for index, each in enumerate(self._values) if each])
        if replacements is None:
            return None
        # A site does not keep a document that the model cannot read, so no value of it remains there.
        by_document = [replacements.get(index) for index in range(len(self.rows))]
        return [
            len(remaining(row.text, values, each)) if each is not None else 0
            for row, values, each in zip(self.rows, self._values, by_document, strict=True)
        ]

    def readable_texts(
        self, served: ServedBundles, cutoff: float
    ) -> tuple[list[tuple[str, Sequence[TextSpan]]], list[list[FoundEntity]], list[str]]:
        """Return texts with their values, what is replaced in each, and its family."""
        replacements = self._replacements_at(served, cutoff, range(len(self.rows))) or {}
        readable = [(index, each) for index in range(len(self.rows)) if (each := replacements.get(index)) is not None]
        texts: list[tuple[str, Sequence[TextSpan]]] = [
            (self.rows[index].text, self._values[index]) for index, _ in readable
        ]
        return texts, [each for _, each in readable], [family(self.rows[index]) for index, _ in readable]

    def _replacements_at(
        self, served: ServedBundles, cutoff: float, indexes: Sequence[int]
    ) -> dict[int, list[FoundEntity] | None] | None:
        """Return what is replaced at a cut-off, for at least these documents."""
        cached = self._replacements.setdefault(cutoff, {})
        if cached is None:
            return None
        missing = [index for index in indexes if index not in cached]
        try:
            texts = [self.rows[index].text for index in missing]
            results = redact_as_site(served, self._bundle.at_cutoff(cutoff), texts, self._progress) if missing else []
        except ModelLoadFailed:
            self._replacements[cutoff] = None
            return None
        cached.update(zip(missing, results, strict=True))
        return cached


def labeled_by(rows: Sequence[DataRow]) -> str:
    """Return where the labels come from, and the names of people or models that gave them if the rows have any."""
    sources = ", ".join(f"{count} {source}" for source, count in row_files.count_label_sources(list(rows)).items())
    names = sorted({row.labeled_by for row in rows if row.labeled_by})
    remainder = f" and {len(names) - LABELED_BY_NAMES_MAX} more" if len(names) > LABELED_BY_NAMES_MAX else ""
    listed = ", ".join(names[:LABELED_BY_NAMES_MAX])
    return f"{sources}; by {listed}{remainder}"[:500] if names else sources[:500]


def verdict(choice: CutoffChoice, target: MissedTarget, cutoff: float) -> str:
    """Return the result as sentences."""
    share, certainty = f"{100 * target.missed_max:g}%", f"{100 * (1 - target.delta):g}%"
    if choice.cutoff is not None:
        return (
            f"At the cut-off {cutoff:g} at most {share} of the personal values remain, with {certainty} certainty, for"
            f" documents like the {choice.documents} that proved it (one of more than {choice.values_max} values counts"
            f" as {choice.values_max}), after this model and the built-in rules."
        )
    message = (
        f"No cut-off between {CUTOFFS[0]:g} and {CUTOFFS[-1]:g} is proved to leave at most {share} of the personal"
        f" values with {certainty} certainty. The cut-off of task.yaml, {cutoff:g}, serves, and the bundle promises"
        " nothing."
    )
    if choice.needed is None:
        return f"{message} More documents alone do not help: train a better model, or accept a larger share."
    documents_needed = counted(choice.needed, "more labelled document")
    return f"{message} A proof needs about {documents_needed}, if what is missed stays the same."
