"""The calibrate stage of a redaction model: asks it about labelled documents, and proves what it misses.

Documents are read as a site reads them (evaluate/site_redaction.py). The cut-off and its bound go to the manifest's
section `redaction`. If no cut-off is proved, the one of task.yaml serves, and the manifest has no bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from convert.calibrate.division import family
from convert.calibrate.missed_values import CUTOFFS, CutoffChoice, MarkedDocument, MissedTarget, choose_cutoff
from convert.data import row_files
from convert.data.row_files import DataRow, TextSpan
from convert.evaluate.predictions import FoundEntity
from convert.evaluate.redaction_quality import redaction_figures, remaining
from convert.evaluate.serving import BundleFolder, ServedBundles, serve_bundles
from convert.evaluate.site_redaction import SITE_RULES, redact_as_site
from convert.pipeline.stage import Progress, Report
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats.redaction_section import MissedBound

LABELED_BY_NAMES_MAX = 10


@dataclass(frozen=True)
class CutoffCalibration:
    """What the stage found."""

    section: dict[str, Any]
    """Keys of the manifest's section `redaction`; empty = nothing is proved, and task.yaml's cut-off serves."""
    report: Report


def calibrate_cutoff(
    bundle: BundleFolder, rows: Sequence[DataRow], target: MissedTarget, progress: Progress
) -> CutoffCalibration:
    """Choose the cut-off of a bundle of kind redact on labelled documents. Raises as serving."""
    reader = _Reader(bundle, rows, progress)
    with serve_bundles([bundle]) as served:
        documents = reader.read_first(served)
        choice = choose_cutoff(documents, lambda cutoff: reader.missed(served, cutoff), target)
        cutoff = bundle.manifest.redaction_rule.cutoff if choice.cutoff is None else choice.cutoff
        figures = redaction_figures(*reader.answered(served, cutoff))
    said = labeled_by(rows)
    report: Report = {
        **{"kind": "redact", "verdict": verdict(choice, target, cutoff), "cutoff": cutoff},
        **{"proved": choice.cutoff is not None, "missed_max": target.missed_max, "delta": target.delta},
        **{key: each for key, each in asdict(choice).items() if key not in ("cutoff", "tests")},
        "tests": [asdict(each) for each in choice.tests if each.verdict != "not tested"],
        "failed": len(rows) - len(documents),
        "rules": SITE_RULES,
        "labeled_by": said,
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
        labeled_by=said,
    )
    return CutoffCalibration({"cutoff": choice.cutoff, "bound": bound.model_dump(mode="json")}, report)


class _Reader:
    """The documents, and what a site replaces in them at each cut-off."""

    def __init__(self, bundle: BundleFolder, rows: Sequence[DataRow], progress: Progress) -> None:
        counted = set(bundle.manifest.redaction_rule.counted(bundle.manifest.task.labels))
        self._bundle, self._progress = bundle, progress
        self._rows = list(rows)
        self._values: list[list[TextSpan]] = [[each for each in row.spans if each.label in counted] for row in rows]
        self._found: dict[float, list[list[FoundEntity] | None] | None] = {}

    def read_first(self, served: ServedBundles) -> list[MarkedDocument]:
        """Drop the documents that the model cannot read at any cut-off, and return the others."""
        cutoff = self._bundle.manifest.redaction_rule.cutoff
        found = redact_as_site(served, self._bundle, [row.text for row in self._rows], self._progress)
        kept = [place for place, each in enumerate(found) if each is not None]
        self._rows = [self._rows[place] for place in kept]
        self._values = [self._values[place] for place in kept]
        self._found[cutoff] = [found[place] for place in kept]
        return [MarkedDocument(family(row), len(each)) for row, each in zip(self._rows, self._values, strict=True)]

    def missed(self, served: ServedBundles, cutoff: float) -> list[int] | None:
        """Return how many values remain in each document; None = no site loads the bundle with this cut-off."""
        found = self._at(served, cutoff)
        if found is None:
            return None
        # What the model does not read at this cut-off is not kept by a site, so nothing of it remains there.
        return [
            len(remaining(row.text, values, each)) if each is not None else 0
            for row, values, each in zip(self._rows, self._values, found, strict=True)
        ]

    def answered(
        self, served: ServedBundles, cutoff: float
    ) -> tuple[list[tuple[str, Sequence[TextSpan]]], list[list[FoundEntity]], list[str]]:
        """Return texts with their values, what is replaced in each, and its family."""
        found = self._at(served, cutoff) or [None] * len(self._rows)
        there = [place for place, each in enumerate(found) if each is not None]
        texts: list[tuple[str, Sequence[TextSpan]]] = [(self._rows[at].text, self._values[at]) for at in there]
        return texts, [each for each in found if each is not None], [family(self._rows[at]) for at in there]

    def _at(self, served: ServedBundles, cutoff: float) -> list[list[FoundEntity] | None] | None:
        if cutoff not in self._found:
            at = self._bundle.at_cutoff(cutoff)
            try:
                self._found[cutoff] = redact_as_site(served, at, [row.text for row in self._rows], self._progress)
            except ModelLoadFailed:
                self._found[cutoff] = None
        return self._found[cutoff]


def labeled_by(rows: Sequence[DataRow]) -> str:
    """Return where the labels come from, and the names of people or models that gave them if the rows have any."""
    sources = ", ".join(f"{count} {source}" for source, count in row_files.count_label_sources(list(rows)).items())
    names = sorted({row.labeled_by for row in rows if row.labeled_by})
    more = f" and {len(names) - LABELED_BY_NAMES_MAX} more" if len(names) > LABELED_BY_NAMES_MAX else ""
    listed = ", ".join(names[:LABELED_BY_NAMES_MAX])
    return f"{sources}; by {listed}{more}"[:500] if names else sources[:500]


def verdict(choice: CutoffChoice, target: MissedTarget, cutoff: float) -> str:
    """Return the result as sentences."""
    share, sure = f"{100 * target.missed_max:g}%", f"{100 * (1 - target.delta):g}%"
    if choice.cutoff is not None:
        return (
            f"At the cut-off {cutoff:g} at most {share} of the personal values remain, with {sure} certainty, for"
            f" documents like the {choice.documents} that proved it (one of more than {choice.values_max} values counts"
            f" as {choice.values_max}), after this model and the built-in rules."
        )
    said = (
        f"No cut-off between {CUTOFFS[0]:g} and {CUTOFFS[-1]:g} is proved to leave at most {share} of the personal"
        f" values with {sure} certainty. The cut-off of task.yaml, {cutoff:g}, serves, and the bundle promises nothing."
    )
    if choice.needed is None:
        return f"{said} More documents alone do not help: train a better model, or accept a larger share."
    return f"{said} About {choice.needed} more labelled documents are needed, if what is missed stays the same."
