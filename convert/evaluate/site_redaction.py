"""Redacts texts as a site does: its built-in rules, and the bundle in windows that overlap, by the serving engine.

A site's own patterns, regions of telephone numbers and a detector of names only find more, so they are left out.

The figures of a bundle of kind redact: a value counts as found when every letter and digit of it is covered, whatever
type the model gives it. A text leaks if a value of it is not found. Precision is by characters: of the letters and
digits that are replaced, the share that a label covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convert.clustered_statistics import Numbers, family_numbers
from convert.data.data_row import DataRow, TextSpan
from convert.evaluate.predictions import FoundEntity, ServedPrediction
from convert.evaluate.quality_metrics import RowHit, hit_share
from convert.evaluate.serving import BundleFolder, ServedBundles, open_bundle, quiet, serve_bundles
from convert.pipeline.stage import Progress
from edge_agent.capture.redact import RULES_VERSION
from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings, join_windows, narrower_windows, windows
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.errors import EmptyInput, InputTooLong, InvalidRequest

SITE_RULES = RULES_VERSION
"""Version of the built-in rules."""
TEXTS_KEPT_MAX = 400_000
"""Texts whose findings are kept in memory."""
BLOCK_TEXTS, AT_ONCE = 64, 8
"""Texts whose windows are sent together, and windows in the engine at a time, which computes one after the other."""
CPU_THREADS = 1
"""Windows are short: on a busy machine a second thread costs more than it gains."""


def redact_as_site(
    served: ServedBundles, bundle: BundleFolder, texts: Sequence[str], progress: Progress
) -> list[list[FoundEntity] | None]:
    """Return what a site replaces in each text; None = the model fails on it, and a site with
    `without_model: hold` does not keep it.

    Raises as serving.
    """
    redactor, results = Redactor(), list[list[FoundEntity] | None]()
    for text, values in zip(texts, _find_values(served, bundle, texts, progress), strict=True):
        if values is None:
            results.append(None)
        else:
            spans = redactor.start(findings=ModelFindings({text: values})).find_values(text)
            results.append([FoundEntity(start, end, rule) for start, end, rule, _ in spans])
    return results


class ValueReader:
    """Reads texts with a redaction bundle, each text once: what it found is kept while the command runs."""

    def __init__(self, folder: Path, texts_kept_max: int = TEXTS_KEPT_MAX) -> None:
        """Open the bundle. Raises BundleError, FileMissing; InvalidRequest if it is of another kind."""
        self._bundle, self._texts_kept_max = open_bundle(folder), texts_kept_max
        self._values: dict[str, tuple[FoundValue, ...] | None] = {}
        if self._bundle.manifest.task.kind != "redact":
            raise InvalidRequest(
                f"{folder} is a bundle of kind {self._bundle.manifest.task.kind}, and only one of kind redact redacts",
                remedy="Name the folder of a redaction bundle: docs/redaction.md explains them.",
            )

    @property
    def name(self) -> str:
        """TASK@VERSION."""
        return f"{self._bundle.manifest.task.name}@{self._bundle.manifest.version}"

    def read(self, texts: Iterable[str], progress: Progress = quiet) -> None:
        """Read the texts that it has not read yet. Raises as serving."""
        distinct = list(dict.fromkeys(text for text in texts if text.strip()))
        new = [text for text in distinct if text not in self._values]
        if not new:
            return
        if len(self._values) + len(new) > self._texts_kept_max:
            self._values.clear()
            new = distinct
        with serve_bundles([self._bundle], cpu_threads=CPU_THREADS) as served:
            self._values.update(zip(new, _find_values(served, self._bundle, new, progress), strict=True))

    def findings(self, texts: Sequence[str]) -> ModelFindings | None:
        """Return what it found in texts; None = it fails on one of them. Reads those that it has not read yet."""
        self.read(texts)
        values_of = {text: self._values[text] for text in texts if text.strip()}
        readable = {text: values for text, values in values_of.items() if values is not None}
        return ModelFindings(readable, self.name) if len(readable) == len(values_of) else None


def _find_values(
    served: ServedBundles, bundle: BundleFolder, texts: Sequence[str], progress: Progress
) -> list[tuple[FoundValue, ...] | None]:
    """Return what the model finds in each text; None = it fails on a part of it."""
    results: list[tuple[FoundValue, ...] | None] = []
    for begin in range(0, len(texts), BLOCK_TEXTS):
        results += _read_block(served, bundle, texts[begin : begin + BLOCK_TEXTS])
        progress(bundle.name, len(results), len(texts))
    return results


def _read_block(
    served: ServedBundles, bundle: BundleFolder, texts: Sequence[str]
) -> list[tuple[FoundValue, ...] | None]:
    """Read the windows of several texts at once, so that the engine does not wait for the next window."""
    values_of: list[list[FoundValue] | None] = [[] for _ in texts]
    pending = _windows(texts)
    while pending:
        batch, pending = pending, []
        predictions = served.predict(bundle, [texts[index][start:end] for index, start, end in batch], at_once=AT_ONCE)
        for (index, start, end), answer in zip(batch, predictions, strict=True):
            narrower = _narrower_parts(answer, texts[index], start, end)
            values = values_of[index] if narrower or answer.failure in ("", EmptyInput.reason) else None
            if values is not None:
                values += [FoundValue(each.start + start, each.end + start, each.label) for each in answer.entities]
            values_of[index] = values
            pending += [(index, first, last) for first, last in narrower]
    return [None if values is None else join_windows(values) for values in values_of]


def _windows(texts: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return the windows that are not blank, each as index of its text, start and end."""
    all_windows = ((index, start, end) for index, text in enumerate(texts) for start, end in windows(text))
    return [(index, start, end) for index, start, end in all_windows if texts[index][start:end].strip()]


def _narrower_parts(answer: ServedPrediction, text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Split a window with too many tokens; return the non-blank parts as places in the text, none if it fits."""
    if answer.failure != InputTooLong.reason:
        return []
    parts = [(start + first, start + last) for first, last in narrower_windows(text[start:end])]
    return [(first, last) for first, last in parts if text[first:last].strip()]


Stretch = TextSpan | FoundEntity
"""A stretch of a text: `text[start:end]`."""
MarkedText = tuple[str, Sequence[TextSpan]]
"""A text with its personal values."""


def remaining(text: str, values: Sequence[Stretch], replaced: Sequence[Stretch]) -> list[Stretch]:
    """Return the values of which a letter or digit remains."""
    covered = _places(replaced)
    return [each for each in values if _letter_places(text, each) - covered]


def measure_redaction(
    rows: Sequence[DataRow], predictions: Sequence[ServedPrediction], families: Numbers
) -> dict[str, Any]:
    """Return the figures of some rows.

    Keys: `values_found`, a share with its interval; `per_type`, values and found ones by label; `texts_that_leak`, of
    those with a value; `clean_touched`, of those without one; `precision`, by characters, None where nothing was
    replaced.
    """
    texts = [(row.text, row.spans) for row in rows]
    return _figures(texts, [prediction.entities for prediction in predictions], families)


def redaction_figures(
    texts: Sequence[MarkedText], replaced: Sequence[Sequence[Stretch]], families: Sequence[str]
) -> dict[str, Any]:
    """Return the figures of `measure_redaction` for texts with their values, and what is replaced in each."""
    return _figures(texts, replaced, family_numbers(families))


def _figures(texts: Sequence[MarkedText], replaced: Sequence[Sequence[Stretch]], families: Numbers) -> dict[str, Any]:
    hits: list[RowHit] = []
    types: dict[str, list[int]] = {}
    leaks: list[RowHit] = []
    touched: list[RowHit] = []
    covered = characters = 0
    for index, ((text, spans), replacements) in enumerate(zip(texts, replaced, strict=True)):
        missed = remaining(text, spans, replacements)
        for span in spans:
            hits.append((index, span not in missed))
            count = types.setdefault(span.label, [0, 0])
            count[0] += 1
            count[1] += span not in missed
        (leaks if spans else touched).append((index, bool(missed if spans else replacements)))
        replaced_places = set().union(*(_letter_places(text, each) for each in replacements))
        covered += len(replaced_places & _places(spans))
        characters += len(replaced_places)
    return {
        "values_found": _share(hits, families),
        "per_type": {label: {"values": values, "found": found} for label, (values, found) in sorted(types.items())},
        "texts_that_leak": _share(leaks, families),
        "clean_touched": _share(touched, families),
        "precision": covered / characters if characters else None,
    }


def _share(hits: Sequence[RowHit], families: Numbers) -> dict[str, Any] | None:
    return hit_share(hits, families).plain() if hits else None


def _letter_places(text: str, stretch: Stretch) -> set[int]:
    """Return the places of the letters and digits of a stretch."""
    return {index for index in range(stretch.start, stretch.end) if text[index].isalnum()}


def _places(stretches: Sequence[Stretch]) -> set[int]:
    return {index for each in stretches for index in range(each.start, each.end)}
