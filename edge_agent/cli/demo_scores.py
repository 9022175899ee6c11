"""Labelled messages of `edge-agent demo`, and how many answers to them are right and confident."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.statistics import Interval, share_of_families

_REMEDY = "Write one JSON object a line, with 'text', and 'label' or 'answers' by question."


@dataclass(frozen=True)
class LabelledMessage:
    """A message and what it wants."""

    text: str
    label: str = ""
    """Of a task that classifies."""
    family: str = ""
    """Messages of one are right or wrong together; empty = on its own."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """Of a task with several questions, by question."""


@dataclass(frozen=True)
class DemoAnswer:
    """What a bundle said to one message."""

    label: str
    sure: bool
    milliseconds: float


@dataclass(frozen=True)
class DemoScore:
    """What a bundle's answers are worth."""

    rows: int
    right: Interval
    sure: int
    sure_right: Interval
    """Of the sure answers."""
    milliseconds: float
    """Median of a call, as the caller sees it."""


def read_labelled(path: Path) -> tuple[LabelledMessage, ...]:
    """Read JSON lines with "text", and "label" or "answers". Raises FileMissing, InvalidRequest."""
    if not path.is_file():
        raise FileMissing(f"{path} does not exist", remedy=_REMEDY)
    rows = _rows(path.read_text(encoding="utf-8"))
    if not rows:
        raise InvalidRequest(f"{path} must hold labelled messages", remedy=_REMEDY)
    return rows


def _rows(lines: str) -> tuple[LabelledMessage, ...]:
    """Return nothing where a line is no labelled message."""
    try:
        return tuple(_labelled(json.loads(line)) for line in lines.split("\n") if line.strip())
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def _labelled(plain: dict[str, Any]) -> LabelledMessage:
    text, family = str(plain["text"]), str(plain.get("family") or "")
    if "answers" not in plain:
        return LabelledMessage(text, str(plain["label"]), family)
    answers = {str(name): str(answer) for name, answer in plain["answers"].items()}
    return LabelledMessage(text, family=family, answers=answers)


def sample(rows: Sequence[LabelledMessage], rows_max: int) -> list[LabelledMessage]:
    """Return at most `rows_max` rows, spread over all of them; always the same ones."""
    if rows_max >= len(rows):
        return list(rows)
    return [rows[at * len(rows) // rows_max] for at in range(rows_max)]


def score(rows: Sequence[LabelledMessage], said: Sequence[DemoAnswer]) -> DemoScore:
    """Count what was right, and what was right among the sure answers."""
    right = [(row, each.label == row.label) for row, each in zip(rows, said, strict=True)]
    sure = [pair for pair, each in zip(right, said, strict=True) if each.sure]
    return DemoScore(len(right), _share(right), len(sure), _share(sure), median(each.milliseconds for each in said))


def _share(right: Sequence[tuple[LabelledMessage, bool]]) -> Interval:
    """Return the share of right answers with its interval, by families of messages."""
    families: dict[str, list[bool]] = {}
    for row, good in right:
        families.setdefault(row.family or f"\n{row.text}", []).append(good)
    return share_of_families([(sum(each), len(each)) for each in families.values()])


def plus_minus(share: Interval) -> str:
    """Return a share with half of its 95% interval, both in percent; "-" of nothing."""
    return "-" if math.isnan(share.value) else f"{share.value:.0%} ±{50 * (share.high - share.low):.0f}"


def format_milliseconds(milliseconds: float) -> str:
    """Return a time of a call, with a decimal where it is short."""
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
