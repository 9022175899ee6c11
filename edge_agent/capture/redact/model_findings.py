"""What a redaction model found in the texts of one example, and the division of long texts into windows. Pure.

The model reads every text of an example before the example is redacted, because a redaction session runs on a thread
that must not wait for a model. `texts_of` lists these texts as the session will read them; a session that meets another
text fails, so no text passes unread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edge_agent.errors import RedactionHeld

WINDOW_CHARACTERS = 640
"""Length of a window: most texts of this length are within the model's token limit."""
WINDOW_CHARACTERS_MIN = 16
"""For texts with many tokens for their length; a window of this length that exceeds the limit is given up."""
OVERLAP_SHARE = 4
"""Windows overlap by at least one part in this many: longer than a value, so that each value is whole in one."""
MODEL_RULE = "model:"
"""Prefix of the type in the rule name of a replacement: "model:given_name"."""
ECHO_CHARACTERS_MIN = 3
"""A shorter value is replaced only where the model found it."""


class FoundValue(NamedTuple):
    """A personal value: [start, end) in code points, its type, and the probability that it is personal."""

    start: int
    end: int
    label: str
    score: float = 1.0


@dataclass(frozen=True)
class ModelFindings:
    """The personal values of each text of an example, by text."""

    values: Mapping[str, tuple[FoundValue, ...]] = field(default_factory=dict)
    model: str = ""
    """The bundle that found them, task@version."""

    def of(self, text: str) -> tuple[FoundValue, ...]:
        """Return what was found in a text. Raises RedactionHeld for a text that the model has not read."""
        if text not in self.values:
            raise RedactionHeld("a text of the example was not read by the redaction model")
        return self.values[text]

    def echoes(self) -> dict[str, str]:
        """Return the found values to replace in all texts of the example, with their types."""
        labels = {text[each.start : each.end]: each.label for text, values in self.values.items() for each in values}
        return {value: label for value, label in labels.items() if _is_distinctive(value)}


def texts_of_value(value: Any, key: str = "") -> Iterator[str]:
    """Yield the texts of a JSON value as a session reads them: each value after its key, each key alone."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from texts_of_value(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from texts_of_value(each, key)
    elif value is not None and not isinstance(value, bool):
        yield context_of(key) + (value if isinstance(value, str) else json.dumps(value))


def context_of(key: str) -> str:
    """Return the context to put before a value: its key, which may show what the value is."""
    return f"{key.replace('_', ' ')}: " if key else ""


def windows(text: str, characters_max: int = WINDOW_CHARACTERS) -> list[tuple[int, int]]:
    """Divide a text into overlapping windows, [start, end) in code points; each begins between two words if possible.

    Args:
        text: of any length.
        characters_max: of one window, at least 8.
    """
    spans, start, overlap = [], 0, characters_max // OVERLAP_SHARE
    while len(text) - start > characters_max:
        end = _gap_before(text, start + characters_max, start + characters_max - overlap // 2)
        spans.append((start, end))
        start = _gap_before(text, end - overlap, end - 2 * overlap)
    return [*spans, (start, len(text))]


def narrower_windows(text: str) -> list[tuple[int, int]]:
    """Divide a window that has too many tokens for the model; empty = it cannot be divided further."""
    if len(text) <= WINDOW_CHARACTERS_MIN:
        return []
    return windows(text, max(len(text) // 2, WINDOW_CHARACTERS_MIN // 2))


def join_windows(values: Iterable[FoundValue]) -> tuple[FoundValue, ...]:
    """Join overlapping values of overlapping windows into one; the longer one gives the type."""
    joined: list[FoundValue] = []
    for value in sorted(values):
        last = joined[-1] if joined else None
        if last is None or value.start >= last.end:
            joined.append(value)
            continue
        longer = max(last, value, key=lambda each: each.end - each.start)
        end, score = max(last.end, value.end), max(last.score, value.score)
        joined[-1] = FoundValue(last.start, end, longer.label, score)
    return tuple(joined)


def _gap_before(text: str, position: int, lower_bound: int) -> int:
    """Return the last position after white space in (lower_bound, position]; `position` if there is none."""
    return next((gap for gap in range(position, lower_bound, -1) if text[gap - 1].isspace()), position)


def _is_distinctive(value: str) -> bool:
    letters = len(re.findall(r"[^\W_]", value))
    return letters >= ECHO_CHARACTERS_MIN and not (value.isdecimal() and letters < 2 * ECHO_CHARACTERS_MIN)
