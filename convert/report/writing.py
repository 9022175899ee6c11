"""Writing report.json, report.md and the plots.

Everything in it comes from the records of the stages; nothing is measured here. A stage that is not there, or that
reports less, leaves its part out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convert.report import plots, text
from convert.report.made import JSON_NAME, TEXT_NAME, RunSummary


def write(folder: Path, made: RunSummary) -> Path:
    """Write report.json, report.md and its plots into a folder; return the path of report.md. Raises OSError."""
    drawn = plots.write(folder, made)
    (folder / TEXT_NAME).write_text(text.markdown(made, drawn), encoding="utf-8")
    (folder / JSON_NAME).write_text(_json(made), encoding="utf-8")
    return folder / TEXT_NAME


def _json(made: RunSummary) -> str:
    plain: Mapping[str, Any] = {
        "task": made.task,
        "version": made.version,
        "recipe": made.recipe.model_dump(mode="json"),
        "data": asdict(made.data),
        "stages": {record.stage: asdict(record) for record in made.records},
        "seconds": round(made.seconds, 3),
        "memory_peak_bytes": made.memory_peak_bytes,
    }
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
