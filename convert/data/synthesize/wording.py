"""What the large model is asked, in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convert.data.row_files import DataRow, known_labels
from convert.pipeline.recipe import DataFormat
from edge_agent.formats.manifest import TaskSpec

_SYSTEM = (
    "You write training data for a small text model. Write what real people would write: short and long, casual and"
    " formal, different words and sentence forms each time, no two rows alike. Answer with one JSON object and"
    " nothing else."
)
_ROW = {
    "classify": '{"text": "..."}',
    "generate": '{"text": "what a person asks", "answer": "what the model is to answer"}',
    "extract": '{"text": "...", "found": [{"label": "...", "text": "the exact words in the text"}]}',
}


@dataclass(frozen=True)
class GenerationRequest:
    """One question to the model."""

    task: TaskSpec
    format: DataFormat
    about: str
    label: str
    """classify: the label that all rows of the answer are to have."""
    examples: Sequence[DataRow]
    count: int

    @property
    def kind(self) -> str:
        """Return what a row of the answer looks like: a key of the table above."""
        if self.task.kind == "extract" and self.format != "text-spans":
            return "generate"
        return self.task.kind


def messages(request: GenerationRequest) -> list[dict[str, str]]:
    """Return the chat messages of a request."""
    lines = [f"The task: {request.about}"]
    if request.kind == "classify":
        others = ", ".join(label for label in request.task.labels if label != request.label)
        lines += [f"Every text must belong to the label '{request.label}' and to none of: {others}."]
    elif request.kind == "extract":
        lines += [f"What is to be found in a text: {', '.join(known_labels(request.task))}."]
    if request.examples:
        lines += ["Examples:", *(json.dumps(_shown(row, request.kind), ensure_ascii=False) for row in request.examples)]
    lines += [f'Write {request.count} new ones, as {{"rows": [{_ROW[request.kind]}, ...]}}.']
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n".join(lines)}]


def _shown(row: DataRow, kind: str) -> dict[str, Any]:
    if kind == "generate":
        return {"text": row.text, "answer": row.completion}
    if kind == "extract":
        found = [{"label": span.label, "text": row.text[span.start : span.end]} for span in row.spans]
        return {"text": row.text, "found": found}
    return {"text": row.text}
