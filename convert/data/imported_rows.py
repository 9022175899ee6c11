"""Rows that no site sent, such as a team's own file: they pass the redaction that a site's examples pass.

Rows of `edge-convert dataset` were redacted by their site, and composed rows have no person's values. Every other row
is imported: made-up values stand for what the rules of redaction find, in every split, or the recipe waives that and
explains why. A redaction model learns from values, so its rows stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from convert.data.data_row import DataRow
from convert.pipeline.late_loading import load_module
from convert.pipeline.recipe import PrivacySection
from edge_agent.formats.manifest import Kind

if TYPE_CHECKING:
    from convert.dataset.row_redaction import RowRedactor

_SEED = "imported rows"
_KEPT_ROWS = 200_000


def is_imported(row: DataRow) -> bool:
    """Return whether nobody has redacted the row."""
    return not (row.record or row.composed)


def redact(rows: Sequence[DataRow], privacy: PrivacySection, kind: Kind) -> list[DataRow]:
    """Return a task's rows with surrogates in those that are imported; rows that cannot be redacted are left out.

    Raises InvalidRequest for a locale that is not known.
    """
    if privacy.imported_data == "waived" or kind == "redact":
        return list(rows)
    found = [_redacted(row, privacy.locales) if is_imported(row) else row for row in rows]
    return [row for row in found if row is not None]


def sentence(rows: Sequence[DataRow], privacy: PrivacySection, kind: Kind) -> str:
    """Return what was done with the imported ones of a task's rows as they are in their file."""
    if kind == "redact":
        return "not redacted, as a redaction model learns from values"
    imported = [row for row in rows if is_imported(row)]
    if not imported:
        return "no imported rows"
    if privacy.imported_data == "waived":
        return f"{len(imported)} imported rows, redaction waived: {privacy.waiver.strip()}"
    found = [_redacted(row, privacy.locales) for row in imported]
    changed = sum(new is not None and new != row for new, row in zip(found, imported, strict=True))
    left_out = sum(new is None for new in found)
    said = f"{len(imported)} imported rows, made-up values in {changed}"
    return f"{said}, {left_out} left out" if left_out else said


@lru_cache(_KEPT_ROWS)
def _redacted(row: DataRow, locales: tuple[str, ...]) -> DataRow | None:
    found = _redactor(locales).redact(row)
    return found.row if found else None


@lru_cache(4)
def _redactor(locales: tuple[str, ...]) -> RowRedactor:
    # What makes values takes a moment to load, which commands that read no rows do not spend.
    module = load_module("convert.dataset.row_redaction")
    made: RowRedactor = module.RowRedactor(module.SurrogateSettings(locales=locales), _SEED)
    return made
