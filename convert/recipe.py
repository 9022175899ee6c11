"""task.yaml: what a bundle says of itself, before there are files. Pure, but for reading the file.

It holds the sections of the manifest except `schema` and `artifacts`, which `assemble` adds. An unknown key is an
error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from edge_agent.errors import FileMissing, ManifestInvalid
from edge_agent.formats.manifest import SCHEMA, Artifact, Manifest, parse

RECIPE_NAME = "task.yaml"
RECIPE_BYTES_MAX = 4 * 1024 * 1024
_SEE = "examples/echo/task.yaml is a small example; docs/task-yaml.md explains every key."
_ADDED = ("schema", "schema_", "artifacts")


def find(path: Path) -> Path:
    """Return the recipe that a directory or a file name means. Raises FileMissing."""
    recipe = path / RECIPE_NAME if path.is_dir() else path
    if not recipe.is_file():
        raise FileMissing(f"{recipe} does not exist", remedy=f"Name a {RECIPE_NAME}, or a directory that holds one.")
    return recipe


def read(recipe: Path) -> dict[str, Any]:
    """Read a recipe and check its keys. Raises ManifestInvalid."""
    with recipe.open("rb") as file:
        text = file.read(RECIPE_BYTES_MAX + 1)
    if len(text) > RECIPE_BYTES_MAX:
        raise ManifestInvalid(f"{recipe} has more than {RECIPE_BYTES_MAX} bytes", remedy=_SEE)
    try:
        plain = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ManifestInvalid(f"{recipe} is not valid YAML: {error}", remedy="Correct that line.") from None
    if not isinstance(plain, dict):
        raise ManifestInvalid(f"{recipe} must hold keys and values", remedy=_SEE)
    known = [key for key in Manifest.model_fields if key not in _ADDED]
    _check_keys(plain, [Manifest], known, str(recipe))
    return plain


def manifest_of(plain: dict[str, Any], artifacts: Sequence[Artifact], source: str) -> Manifest:
    """Build the manifest of a recipe and its files. Raises ManifestInvalid, naming `source`."""
    whole = {**plain, "schema": SCHEMA, "artifacts": [artifact.model_dump() for artifact in artifacts]}
    try:
        return parse(json.dumps(whole, default=str).encode())
    except ManifestInvalid as error:
        said = f"{source}: {error.message.removeprefix('manifest.json: ')}"
        raise ManifestInvalid(said, remedy=error.remedy) from None


def _check_keys(plain: dict[Any, Any], models: list[type[BaseModel]], known: list[str], where: str) -> None:
    for key, value in plain.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            remedy = f"Did you mean '{close[0]}'?" if close else f"Known keys there: {', '.join(known)}."
            raise ManifestInvalid(f"{where}: unknown key '{key}'", remedy=remedy)
        inner = [sub for model in models if key in model.model_fields for sub in _sections(model, key)]
        if inner and isinstance(value, dict):
            _check_keys(
                value, inner, list(dict.fromkeys(name for sub in inner for name in sub.model_fields)), f"{where}: {key}"
            )


def _sections(model: type[BaseModel], key: str) -> Iterator[type[BaseModel]]:
    """Yield the sections a field may hold: one, or each member of a union."""
    pending: list[Any] = [model.model_fields[key].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        pending += get_args(annotation)
