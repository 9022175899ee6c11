"""Provenance of a bundle: the model, the data with hashes, the converters with versions, the licence."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from convert.data import imported_rows, row_files
from convert.data.row_files import SPLITS, DataRow
from convert.pipeline import fingerprint
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import Recipe
from convert.pipeline.stage import StageJob

LICENCE_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
_TOOLS = {
    "llama": ("torch", "transformers", "peft", "llama-cpp-python"),
    "onnx": ("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime"),
}


def section(job: StageJob) -> dict[str, Any]:
    """Return the manifest's `provenance`; base and licence of task.yaml take precedence over detected ones."""
    plain = tasks.read(tasks.find(job.recipe.path(job.recipe.task)))
    written = plain.get("provenance") or {}
    return {
        "base": written.get("base") or _base(job.recipe),
        "licence": written.get("licence") or "",
        "sources": {**dict(_sources(job)), **written.get("sources", {})},
        "converter": {**written.get("converter", {}), **_versions(str(plain.get("runtime")))},
    }


def licence_file(recipe: Recipe) -> Path | None:
    """Return the name of the licence file in the source's directory, if there is one."""
    folder = recipe.path(_base(recipe))
    places = (folder / name for name in LICENCE_NAMES)
    return next((place for place in places if place.is_file()), None)


def _base(recipe: Recipe) -> str:
    source = recipe.source
    return source.checkpoint or source.base or source.gguf or source.onnx


def _sources(job: StageJob) -> Iterator[tuple[str, str]]:
    recipe = job.recipe
    for name, digest in fingerprint.of_source(recipe, job.progress).items():
        yield name, f"sha256 {digest}"
    for split in SPLITS:
        written = getattr(recipe.data, split)
        if written:
            rows, path = row_files.rows(recipe, split), recipe.path(written)
            digest = fingerprint.of_place(path, job.progress)
            said = f"{len(rows)} rows, {_synthetic(rows)}, {_labelled(rows)}, {_imported(recipe, path)}"
            yield f"data.{split}", f"{said}, sha256 {digest}"
    if recipe.data.outliers:
        digest = fingerprint.of_place(recipe.path(recipe.data.outliers), job.progress)
        yield "data.outliers", f"{len(row_files.outliers(recipe))} rows, sha256 {digest}"


def _synthetic(rows: list[DataRow]) -> str:
    made = list(filter(attrgetter("synthetic"), rows))
    models = sorted(set(map(attrgetter("model"), made)) - {""})
    return " by ".join(filter(None, (f"{len(made)} synthetic", ", ".join(models))))


def _labelled(rows: list[DataRow]) -> str:
    """Return the label sources in words; labels of the team's own files are assumed to come from people."""
    counts = row_files.count_label_sources(rows)
    return f"labels: {', '.join(f'{count} {source}' for source, count in counts.items())}"


def _imported(recipe: Recipe, path: Path) -> str:
    """Return what was done with rows that no site had redacted."""
    raw = row_files.read_rows(path, recipe.data.format, text_only=True)
    kind = tasks.of(recipe.path(recipe.task)).kind
    return imported_rows.sentence(raw, recipe.privacy, kind, recipe.redaction_bundle)


def _versions(runtime: str) -> dict[str, str]:
    found = fingerprint.versions(_TOOLS.get(runtime, ()))
    return {name.removeprefix("version of "): version for name, version in found.items() if version[:1].isdigit()}
