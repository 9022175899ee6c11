"""The inputs of a stage as a flat dict of names to hashes. When one changes, the stage runs again and reports which.

Files are hashed by content, not by path or time, so that a recipe can move and copied data is the same data.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from convert.pipeline.recipe import Recipe, SourceSection
from convert.pipeline.stage import Progress, Report
from edge_agent.errors import FileMissing

_SKIPPED = {".git", "__pycache__", ".cache"}


def of_text(text: str) -> str:
    """Return the sha256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def of_output(folder: Path, report: Report, progress: Progress) -> str:
    """Return the hash of a stage's results: its files and its report, which later stages read as well."""
    return of_text(json.dumps([of_place(folder, progress), report], sort_keys=True))


def of_place(path: Path, progress: Progress) -> str:
    """Return the hash of a file, or of all files below a directory. Raises FileMissing."""
    if not path.exists():
        raise FileMissing(f"{path} does not exist", remedy="Correct the path in the recipe.")
    if path.is_file():
        return _of_file(path, progress)
    files = sorted(_files(path))
    return of_text(json.dumps([[str(file.relative_to(path)), _of_file(file, progress)] for file in files]))


def of_source(recipe: Recipe, progress: Progress) -> dict[str, str]:
    """Return the hash of each path that `source` names."""
    named = ((key, getattr(recipe.source, key)) for key in SourceSection.model_fields)
    return {
        f"source.{key}": of_place(recipe.path(written), progress)
        for key, written in named
        if isinstance(written, str) and written
    }


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the version of each distribution, with a marker for one that is not installed."""
    found = {}
    for name in distributions:
        try:
            found[f"version of {name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[f"version of {name}"] = "not installed"
    return found


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the inputs that have changed."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def _files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir():
            if entry.name not in _SKIPPED:
                yield from _files(entry)
        elif entry.is_file():
            yield entry


def _of_file(path: Path, progress: Progress) -> str:
    progress(f"reading {path.name}", 0, 0)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
