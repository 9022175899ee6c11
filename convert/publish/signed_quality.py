"""The quality figures from a bundle's report, signed with the bundle and shown to each person who signs. Pure.

The figures are those of the evaluate stage (convert/evaluate/quality_metrics.py), with their intervals. They come from
the bundle, or from metadata of others, so only numbers are copied.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from convert.publish.publishable_bundle import PublishableBundle
from edge_agent.formats import strict_json
from edge_agent.formats.questions import QUESTIONS_MAX

KEY, GOLDEN_KEY = "quality", "golden_cases"
_REPORT_BYTES_MAX = 16 * 1024 * 1024
_DIGITS = 4
_QUESTION = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_SENTENCE_MAX = 400
_PROVENANCE_KEY = "golden cases"  # of convert/package/assemble_stage.py
_PARTS = {"sure": ("coverage", "wrong"), "calibration": ("calibration_error",)}
_INTERVAL = ("value", "low", "high", "level")


def of_bundle(bundle: PublishableBundle) -> dict[str, Any]:
    """Return the headline figures of a bundle's report; empty without a report.

    Raises:
        FileMissing, HashMismatch: the report is not the file in the manifest.
    """
    artifact = next((each for each in bundle.manifest.artifacts if each.role == "report"), None)
    if artifact is None or artifact.size_bytes > _REPORT_BYTES_MAX:
        return {}
    with bundle.opened(artifact) as file:
        raw = file.read()
    try:
        plain = strict_json.decode(raw)
    except ValueError:
        return {}
    return taken(plain.get("evaluate") if isinstance(plain, dict) else None)


def golden_origin_of(bundle: PublishableBundle) -> str:
    """Return where the texts of the golden cases come from, by the bundle's provenance, or that it does not tell."""
    if not bundle.manifest.by_role("golden"):
        return "there are no golden cases"
    said = bundle.manifest.provenance.converter.get(_PROVENANCE_KEY, "")
    return printed(said) or "the bundle does not tell where their texts come from: read them before you sign"


def printed(said: object) -> str:
    """Return a sentence from a bundle, or from others' metadata, as one line of limited length."""
    return (
        "".join(char if char.isprintable() else " " for char in said)[:_SENTENCE_MAX] if isinstance(said, str) else ""
    )


def encode(figures: Mapping[str, Any]) -> str:
    """Write figures for signed metadata: as text, since canonical JSON has no fractions."""
    return json.dumps(figures, sort_keys=True, separators=(",", ":"))


def decode(written: object) -> dict[str, Any]:
    """Read the figures; invalid ones are left out."""
    try:
        return taken(strict_json.decode(written.encode())) if isinstance(written, str) else {}
    except ValueError:
        return {}


def taken(plain: object) -> dict[str, Any]:
    """Return only the figures of a headline, of a decide task for each question.

    Empty if they do not have the form of an evaluation's report.
    """
    questions = _mapping(_mapping(plain).get("questions"))
    if not questions:
        return _headline(plain)
    each = {name: _headline(questions[name]) for name in questions if _QUESTION.fullmatch(str(name))}
    found = dict([(name, figures) for name, figures in each.items() if figures][:QUESTIONS_MAX])
    return {"questions": found} if found else {}


def _headline(plain: object) -> dict[str, Any]:
    plain = _mapping(plain)
    accuracy = _interval(plain.get("accuracy"))
    if accuracy is None or not _is_count(plain.get("rows")):
        return {}
    found: dict[str, Any] = {"rows": plain["rows"], "accuracy": accuracy}
    if _is_count(plain.get("families")):
        found["families"] = plain["families"]
    for part, keys in _PARTS.items():
        figures = {key: _interval(_mapping(plain.get(part)).get(key)) for key in keys}
        if None not in figures.values():
            found[part] = figures
    copies = _mapping(plain.get("near_copies")).get("rows")
    if _is_count(copies):
        found["near_copies"] = {"rows": copies}
        without = _headline(plain.get("without_near_copies"))
        found |= {"without_near_copies": without} if without else {}
    return found


def _mapping(plain: object) -> Mapping[str, Any]:
    return plain if isinstance(plain, Mapping) else {}


def _interval(plain: object) -> dict[str, float | None] | None:
    if not isinstance(plain, Mapping) or not all(_is_share(plain.get(key)) for key in _INTERVAL[1:]):
        return None
    if plain.get("value") is not None and not _is_share(plain["value"]):
        return None
    return {key: None if plain.get(key) is None else round(float(plain[key]), _DIGITS) for key in _INTERVAL}


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12
