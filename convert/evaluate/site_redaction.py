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

import numpy as np

from convert.clustered_statistics import Numbers, clustered_share, family_numbers
from convert.data.data_row import DataRow, TextSpan
from convert.evaluate.predictions import FoundEntity, ServedPrediction
from convert.evaluate.serving import BundleFolder, ServedBundles, open_bundle, quiet, serve_bundles
from convert.pipeline.stage import Progress
from edge_agent.capture.redact import RULES_VERSION
from edge_agent.capture.redact.model_findings import (
    FoundValue,
    ModelFindings,
    join_windows,
    narrower_windows,
    windows,
)
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
    redactor, found = Redactor(), list[list[FoundEntity] | None]()
    for text, values in zip(texts, _read(served, bundle, texts, progress), strict=True):
        if values is None:
            found.append(None)
        else:
            spans = redactor.start(findings=ModelFindings({text: values})).find_values(text)
            found.append([FoundEntity(start, end, rule) for start, end, rule, _ in spans])
    return found


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
            self._values.update(zip(new, _read(served, self._bundle, new, progress), strict=True))

    def findings(self, texts: Sequence[str]) -> ModelFindings | None:
        """Return what it found in texts; None = it fails on one of them. Reads those that it has not read yet."""
        self.read(texts)
        found = {text: self._values[text] for text in texts if text.strip()}
        known = {text: values for text, values in found.items() if values is not None}
        return ModelFindings(known, self.name) if len(known) == len(found) else None


def _read(
    served: ServedBundles, bundle: BundleFolder, texts: Sequence[str], progress: Progress
) -> list[tuple[FoundValue, ...] | None]:
    """Return what the model finds in each text; None = it fails on a part of it."""
    found: list[tuple[FoundValue, ...] | None] = []
    for begin in range(0, len(texts), BLOCK_TEXTS):
        found += _read_block(served, bundle, texts[begin : begin + BLOCK_TEXTS])
        progress(bundle.name, len(found), len(texts))
    return found


def _read_block(
    served: ServedBundles, bundle: BundleFolder, texts: Sequence[str]
) -> list[tuple[FoundValue, ...] | None]:
    """Read the windows of several texts at once, so that the engine does not wait for the next window."""
    found: list[list[FoundValue] | None] = [[] for _ in texts]
    waiting = _windows(texts)
    while waiting:
        parts, waiting = waiting, []
        predictions = served.predict(bundle, [texts[place][start:end] for place, start, end in parts], at_once=AT_ONCE)
        for (place, start, end), answer in zip(parts, predictions, strict=True):
            narrower = _narrower(answer, texts[place], start, end)
            values = found[place] if narrower or _is_read(answer) else None
            found[place] = None if values is None else [*values, *_moved(answer, start)]
            waiting += [(place, first, last) for first, last in narrower]
    return [None if values is None else join_windows(values) for values in found]


def _windows(texts: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return the windows that are not blank, each as index of its text, start and end."""
    every = ((place, start, end) for place, text in enumerate(texts) for start, end in windows(text))
    return [(place, start, end) for place, start, end in every if texts[place][start:end].strip()]


def _is_read(answer: ServedPrediction) -> bool:
    return answer.failure in ("", EmptyInput.reason)


def _narrower(answer: ServedPrediction, text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Split a window with too many tokens; return the non-blank parts as places in the text, none if it fits."""
    if answer.failure != InputTooLong.reason:
        return []
    parts = [(start + first, start + last) for first, last in narrower_windows(text[start:end])]
    return [(first, last) for first, last in parts if text[first:last].strip()]


def _moved(answer: ServedPrediction, start: int) -> list[FoundValue]:
    return [FoundValue(each.start + start, each.end + start, each.label) for each in answer.entities]


Stretch = TextSpan | FoundEntity
"""A stretch of a text: `text[start:end]`."""
MarkedText = tuple[str, Sequence[TextSpan]]
"""A text with its personal values."""


def remaining(text: str, wanted: Sequence[Stretch], found: Sequence[Stretch]) -> list[Stretch]:
    """Return the values of which a letter or digit remains."""
    covered = _places(found)
    return [each for each in wanted if _marks(text, each) - covered]


def measure_redaction(
    rows: Sequence[DataRow], predictions: Sequence[ServedPrediction], families: Numbers
) -> dict[str, Any]:
    """Return the figures of some rows.

    Keys: `values_found`, a share with its interval; `per_type`, values and found ones by label; `texts_that_leak`, of
    those with a value; `clean_touched`, of those without one; `precision`, by characters, None where nothing was
    replaced.
    """
    texts = [(row.text, row.spans) for row in rows]
    return _figures(texts, [said.entities for said in predictions], families)


def redaction_figures(
    texts: Sequence[MarkedText], replaced: Sequence[Sequence[Stretch]], families: Sequence[str]
) -> dict[str, Any]:
    """Return the figures of `measure_redaction` for texts with their values, and what is replaced in each."""
    return _figures(texts, replaced, family_numbers(families))


def _figures(texts: Sequence[MarkedText], replaced: Sequence[Sequence[Stretch]], families: Numbers) -> dict[str, Any]:
    hits: list[tuple[int, bool]] = []
    types: dict[str, list[int]] = {}
    leaks: list[tuple[int, bool]] = []
    touched: list[tuple[int, bool]] = []
    right = characters = 0
    for place, ((text, spans), found) in enumerate(zip(texts, replaced, strict=True)):
        left = remaining(text, spans, found)
        for span in spans:
            hits.append((place, span not in left))
            count = types.setdefault(span.label, [0, 0])
            count[0] += 1
            count[1] += span not in left
        (leaks if spans else touched).append((place, bool(left if spans else found)))
        taken = set().union(*(_marks(text, each) for each in found))
        right += len(taken & _places(spans))
        characters += len(taken)
    return {
        "values_found": _share(hits, families),
        "per_type": {label: {"values": values, "found": found} for label, (values, found) in sorted(types.items())},
        "texts_that_leak": _share(leaks, families),
        "clean_touched": _share(touched, families),
        "precision": right / characters if characters else None,
    }


def _share(places: Sequence[tuple[int, bool]], families: Numbers) -> dict[str, Any] | None:
    if not places:
        return None
    rows = np.array([row for row, _ in places], dtype=np.int64)
    return clustered_share(np.array([hit for _, hit in places], dtype=np.bool_), families[rows]).plain()


def _marks(text: str, stretch: Stretch) -> set[int]:
    """Return the places of the letters and digits of a stretch."""
    return {place for place in range(stretch.start, stretch.end) if text[place].isalnum()}


def _places(stretches: Sequence[Stretch]) -> set[int]:
    return {place for each in stretches for place in range(each.start, each.end)}
