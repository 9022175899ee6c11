"""Reads a YAML file with the keys of a pydantic model: an unknown key is an error that names the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from edge_agent.errors import ManifestInvalid
from edge_agent.formats.strict_yaml import load_yaml

FILE_BYTES_MAX = 4 * 1024 * 1024


def read(path: Path, model: type[BaseModel], known: Sequence[str], see: str) -> dict[str, Any]:
    """Read a file and check its keys against those of `model`; at its top level, only `known` ones.

    Raises:
        ManifestInvalid: not YAML, too large, or a key is unknown or occurs twice; `see` refers to the documentation of
            the keys.
    """
    with path.open("rb") as file:
        text = file.read(FILE_BYTES_MAX + 1)
    if len(text) > FILE_BYTES_MAX:
        raise ManifestInvalid(f"{path} has more than {FILE_BYTES_MAX} bytes", remedy=see)
    try:
        plain = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or number
        raise ManifestInvalid(f"{path} is not valid YAML: {error}", remedy="Correct that line.") from None
    if not isinstance(plain, dict):
        raise ManifestInvalid(f"{path} must contain keys and values", remedy=see)
    _check_keys(plain, [model], known, str(path))
    return plain


def first_problem(error: ValidationError, whole: str) -> str:
    """Return the first broken rule and the key it belongs to; `whole` replaces the key for a rule of no single key."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or whole
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}"


def _check_keys(plain: dict[Any, Any], models: list[type[BaseModel]], known: Sequence[str], where: str) -> None:
    for key, value in plain.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            remedy = f"Did you mean '{close[0]}'?" if close else f"Known keys there: {', '.join(known)}."
            raise ManifestInvalid(f"{where}: unknown key '{key}'", remedy=remedy)
        for section_models, section, section_path in _subsections(models, key, value):
            names = list(dict.fromkeys(name for sub in section_models for name in sub.model_fields))
            _check_keys(section, section_models, names, f"{where}: {section_path}")


def _subsections(
    models: list[type[BaseModel]], key: str, value: Any
) -> Iterator[tuple[list[type[BaseModel]], dict[Any, Any], str]]:
    """Yield each section of a value: its possible models, its keys and values, and its place."""
    fields = [model.model_fields[key] for model in models if key in model.model_fields]
    inner = [sub for field in fields for sub in _section_models(field)]
    if not inner or not isinstance(value, dict):
        return
    if any(get_origin(field.annotation) is dict for field in fields):  # its keys are names that a user gives
        yield from ((inner, each, f"{key}: {name}") for name, each in value.items() if isinstance(each, dict))
    else:
        yield inner, value, key


def _section_models(field: FieldInfo) -> Iterator[type[BaseModel]]:
    """Yield the sections a field may hold: one, or each member of a union, by name or not."""
    pending: list[Any] = [field.annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        pending += get_args(annotation)
