"""Redacts rows that no site sent, such as a team's own file, as a site redacts its examples.

Rows of `edge-convert dataset` were redacted by their site, and composed rows have no person's values. Every other row
is imported: in every split, made-up values replace what the rules of redaction find, and what a redaction bundle finds
if the recipe names one; or the recipe waives that and explains why. A redaction model learns from values, so its rows
stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from convert.data.data_row import DataRow
from convert.pipeline.recipe import PrivacySection
from convert.pipeline.stage import load_module
from edge_agent.formats.manifest import Kind
from edge_agent.formatting import counted

if TYPE_CHECKING:
    from convert.dataset.surrogates import FindsValues, RowRedactor
    from convert.evaluate.site_redaction import ValueReader

_SEED = "imported rows"
_CACHED_ROWS = 200_000


def is_imported(row: DataRow) -> bool:
    """Return whether nobody has redacted the row."""
    return not (row.record or row.composed)


def redact(rows: Sequence[DataRow], privacy: PrivacySection, kind: Kind, bundle: Path | None = None) -> list[DataRow]:
    """Return a task's rows with surrogates in those that are imported; rows that cannot be redacted are left out.

    Args:
        rows: of the task.
        privacy: of the recipe.
        kind: of the task.
        bundle: a redaction bundle, which finds values in addition to the rules.

    Raises:
        InvalidRequest: a locale that is not known, a bundle of another kind.
        As `open_bundle` and serving, with a bundle.
    """
    if privacy.imported_data == "waived" or kind == "redact":
        return list(rows)
    if imported := [row for row in rows if is_imported(row)]:
        _redactor(privacy.locales, bundle).read(imported)
    redacted = [(row, _redacted(row, privacy.locales, bundle) if is_imported(row) else row) for row in rows]
    # The cached result can come from an equal row of another line, so the place of this row is restored.
    return [replace(result, place=row.place) for row, result in redacted if result is not None]


def sentence(rows: Sequence[DataRow], privacy: PrivacySection, kind: Kind, bundle: Path | None = None) -> str:
    """Return what `redact` does with these rows of a file, in words."""
    if kind == "redact":
        return "not redacted, as a redaction model learns from values"
    imported = [row for row in rows if is_imported(row)]
    if not imported:
        return "no imported rows"
    if privacy.imported_data == "waived":
        return f"{counted(len(imported), 'imported row')}, redaction waived: {privacy.waiver.strip()}"
    _redactor(privacy.locales, bundle).read(imported)
    redacted = [_redacted(row, privacy.locales, bundle) for row in imported]
    changed = sum(result is not None and result != row for result, row in zip(redacted, imported, strict=True))
    left_out = sum(result is None for result in redacted)
    message = f"{counted(len(imported), 'imported row')}, made-up values in {changed}"
    if bundle is not None:
        message += f" ({finder_names(bundle)})"
    return f"{message}, {left_out} left out" if left_out else message


@lru_cache(_CACHED_ROWS)
def _redacted(row: DataRow, locales: tuple[str, ...], bundle: Path | None) -> DataRow | None:
    result = _redactor(locales, bundle).redact(row)
    return result.row if result else None


@lru_cache(4)
def _redactor(locales: tuple[str, ...], bundle: Path | None) -> RowRedactor:
    # Imported late: the library of made-up values takes a moment to load, and many commands read no rows.
    module = load_module("convert.dataset.surrogates")
    redactor: RowRedactor = module.RowRedactor(module.SurrogateSettings(locales=locales), _SEED, value_finder(bundle))
    return redactor


def value_finder(bundle: Path | None) -> FindsValues | None:
    """Return the function that finds values with a redaction bundle; None without one. Raises as `redact`."""
    return _reader(bundle).findings if bundle is not None else None


def finder_names(bundle: Path | None) -> str:
    """Return the names of the rules and of the bundle that find values."""
    rules: str = load_module("convert.dataset.surrogates").RULE_SET
    return rules if bundle is None else f"{rules} and {_reader(bundle).name}"


@lru_cache(4)
def _reader(bundle: Path) -> ValueReader:
    reader: ValueReader = load_module("convert.evaluate.site_redaction").ValueReader(bundle)
    return reader
