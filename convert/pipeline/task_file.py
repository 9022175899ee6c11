"""task.yaml: the manifest of a bundle before its files are known. Pure, apart from reading the file.

It has the sections of the manifest except `schema` and `artifacts`, which `assemble` adds. An unknown key is an error
that names the nearest known one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from convert import yaml_file
from edge_agent.durable.atomic_files import is_dir, is_file
from edge_agent.errors import FileMissing, ManifestInvalid
from edge_agent.formats.manifest import SCHEMA, Artifact, Manifest, TaskSpec, parse

TASK_NAME = "task.yaml"
_SEE = "examples/echo/task.yaml is a small example; docs/task-yaml.md explains every key."
_ADDED_KEYS = ("schema", "schema_", "artifacts")


def find(path: Path) -> Path:
    """Return the task.yaml in a directory, or the file itself. Raises FileMissing."""
    task = path / TASK_NAME if is_dir(path) else path
    if not is_file(task):
        raise FileMissing(f"{task} does not exist", remedy=f"Name a {TASK_NAME}, or a directory that holds one.")
    return task


def read(task: Path) -> dict[str, Any]:
    """Read a task.yaml and check its keys. Raises ManifestInvalid."""
    return yaml_file.read(task, Manifest, [key for key in Manifest.model_fields if key not in _ADDED_KEYS], _SEE)


def of(path: Path) -> TaskSpec:
    """Return the task that a task.yaml, or the one in a directory, describes. Raises FileMissing, ManifestInvalid."""
    file = find(path)
    try:
        return TaskSpec.model_validate(read(file).get("task"))
    except ValidationError as error:
        raise ManifestInvalid(f"{file}: {yaml_file.first_problem(error, 'task')}", remedy=_SEE) from None


def manifest_of(plain: dict[str, Any], artifacts: Sequence[Artifact], source: str) -> Manifest:
    """Build the manifest of a task.yaml and its files. Raises ManifestInvalid, naming `source`."""
    manifest = {**plain, "schema": SCHEMA, "artifacts": [artifact.model_dump() for artifact in artifacts]}
    try:
        return parse(json.dumps(manifest, default=str).encode())
    except ManifestInvalid as error:
        message = f"{source}: {error.message.removeprefix('manifest.json: ')}"
        raise ManifestInvalid(message, remedy=error.remedy) from None
