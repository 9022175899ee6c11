"""Which rows can become golden cases, what of them is replaced first, and the sentence about it in the bundle.

A bundle goes to every site and cannot be changed, so `erase` does not reach its golden cases. By default they come from
test rows in which made-up values stand for what the rules of redaction find; the recipe can ask for composed or
consented rows instead (`privacy.golden_cases`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.data import imported_rows
from convert.data.data_row import DataRow
from convert.dataset.row_redaction import RULE_SET, RowRedactor
from convert.dataset.surrogates import SurrogateSettings
from convert.package.golden_cases import tried
from convert.pipeline.recipe import GoldenRule, PrivacySection
from edge_agent.formats.golden_cases import GoldenCase
from edge_agent.formats.manifest import TaskSpec

PROVENANCE_KEY = "golden cases"
"""Key in provenance.converter: where the texts of the golden cases come from."""
_SEED = "golden cases"


@dataclass(frozen=True)
class GoldenCandidates:
    """Rows whose texts can travel in the bundle."""

    rule: GoldenRule
    rows: tuple[DataRow, ...]
    replaced: Mapping[str, Mapping[str, int]]
    """By text of a row: replaced values by the rule that found them."""
    unusable: int = 0
    """Rows left out because a span ends inside a replaced value, or because the redaction model fails on them."""
    finders: str = RULE_SET
    """What found the replaced values, in words."""


@dataclass(frozen=True)
class GoldenOrigin:
    """Where the texts of a bundle's golden cases come from."""

    rule: GoldenRule
    cases: int
    samples: int
    """Of these, lines of samples.txt."""
    records: tuple[str, ...]
    """The records of sites that cases were made of, as SITE/PREDICTION_ID."""
    replaced_cases: int
    replaced: Mapping[str, int]
    """Replaced values by the rule that found them."""
    finders: str = RULE_SET
    """What found them, in words."""

    def plain(self) -> dict[str, Any]:
        """Return it for reports."""
        figures = {key: value for key, value in vars(self).items() if key != "records"}
        more = {"collected": len(self.records), "replaced": dict(self.replaced), "sentence": self.sentence()}
        return figures | more

    def sentence(self) -> str:
        """Return it in words, for the manifest and for those who sign."""
        if not self.cases:
            return "there are no golden cases"
        said = f"{self.cases} cases, {self.samples} of them from samples.txt, {len(self.records)} from records of sites"
        if self.rule == "surrogates":
            values = sum(self.replaced.values())
            return (
                f"{said}; surrogates: {values} values in {self.replaced_cases} cases replaced by made-up ones"
                f" ({self.finders}); what these do not find is still there"
            )
        marks = "composed" if self.rule == "composed" else "composed, or with recorded consent"
        return f"{said}; the rows are marked as {marks}; nothing was replaced"


def candidates(
    privacy: PrivacySection, task: TaskSpec, rows: Sequence[DataRow], bundle: Path | None = None
) -> GoldenCandidates:
    """Return some rows of each label that can become golden cases (golden_cases.py), as their texts may travel.

    A redaction bundle finds values beside the rules. Raises as `imported_rows.redact`.
    """
    rule = privacy.golden_cases
    if rule != "surrogates":
        marked = [row for row in rows if row.composed or (rule == "consented" and row.consented)]
        return GoldenCandidates(rule, tuple(tried(task, marked)), {})
    redactor = RowRedactor(SurrogateSettings(locales=privacy.locales), _SEED, imported_rows.finder(bundle))
    wanted = tried(task, rows)
    redactor.read(wanted)
    found = [each for each in map(redactor.redact, wanted) if each is not None]
    replaced = {each.row.text: each.counts for each in found if each.counts}
    kept = tuple(each.row for each in found)
    return GoldenCandidates(rule, kept, replaced, len(wanted) - len(kept), imported_rows.finders(bundle))


def origin_of(chosen: GoldenCandidates, cases: Sequence[GoldenCase], samples: int) -> GoldenOrigin:
    """Return the origin of the chosen cases, of which the first `samples` are lines of samples.txt."""
    of = {row.text: row.record for row in chosen.rows if row.record}
    found = [chosen.replaced[case.input] for case in cases[samples:] if case.input in chosen.replaced]
    total = Counter[str]()
    for counts in found:
        total.update(counts)
    records = tuple(of[case.input] for case in cases[samples:] if case.input in of)
    return GoldenOrigin(chosen.rule, len(cases), samples, records, len(found), dict(total), chosen.finders)
