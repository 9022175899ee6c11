"""The demo's comparison: bundles for one task, the same labelled messages, through the daemon, one call at a time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_agent.byte_sizes import format_bytes
from edge_agent.cli.output import print_trimmed, table
from edge_agent.client import Classification, Client, Failure
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats.manifest import Manifest
from edge_agent.statistics import Interval, share_of_families

SHOWN_ROWS = 8
CALL_SECONDS_MAX = 60.0
"""On a machine that does much else besides."""


@dataclass(frozen=True)
class Labelled:
    """A message and what it wants."""

    text: str
    label: str
    family: str = ""
    """Messages of one are right or wrong together; empty = on its own."""


@dataclass(frozen=True)
class Said:
    """What a bundle said to one message."""

    label: str
    sure: bool
    milliseconds: float


@dataclass(frozen=True)
class Score:
    """What a bundle's answers are worth."""

    rows: int
    right: Interval
    sure: int
    sure_right: Interval
    """Of the sure answers."""
    milliseconds: float
    """Median of a call, as the caller sees it."""


def read_labelled(path: Path) -> tuple[Labelled, ...]:
    """Read JSON lines with "text" and "label". Raises FileMissing, InvalidRequest."""
    if not path.is_file():
        raise FileMissing(f"{path} does not exist", remedy="Name a file of JSON lines with 'text' and 'label'.")
    rows = _rows(path.read_text(encoding="utf-8"))
    if not rows:
        remedy = "Write one JSON object with 'text' and 'label' a line."
        raise InvalidRequest(f"{path} must hold labelled messages", remedy=remedy)
    return rows


def _rows(lines: str) -> tuple[Labelled, ...]:
    """Return nothing where a line is no labelled message."""
    try:
        return tuple(_labelled(json.loads(line)) for line in lines.split("\n") if line.strip())
    except (ValueError, KeyError, TypeError):
        return ()


def _labelled(plain: dict[str, Any]) -> Labelled:
    return Labelled(str(plain["text"]), str(plain["label"]), str(plain.get("family") or ""))


def sample(rows: Sequence[Labelled], rows_max: int) -> list[Labelled]:
    """Return at most `rows_max` rows, spread over all of them; always the same ones."""
    if rows_max >= len(rows):
        return list(rows)
    return [rows[at * len(rows) // rows_max] for at in range(rows_max)]


def fits(manifest: Manifest, rows: Sequence[Labelled]) -> bool:
    """Tell whether a bundle can be right about every row."""
    return manifest.task.kind == "classify" and {row.label for row in rows} <= set(manifest.task.labels)


def ask(client: Client, task: str, rows: Sequence[Labelled], done: Callable[[int], None]) -> list[Said]:
    """Classify the rows one call at a time, as a till would; a failure is an answer that is wrong."""
    client.classify(
        task, [rows[0].text], top_k=1, timeout_seconds=CALL_SECONDS_MAX
    )  # The first call warms the connection up.
    said = []
    for row in rows:
        started = time.monotonic()
        (result,) = client.classify(task, [row.text], top_k=1, timeout_seconds=CALL_SECONDS_MAX)
        said.append(_said(result, (time.monotonic() - started) * 1000))
        done(len(said))
    return said


def _said(result: Classification | Failure, milliseconds: float) -> Said:
    if isinstance(result, Failure):
        return Said(result.reason, False, milliseconds)
    return Said(result.label, not result.below_threshold, milliseconds)


def score(rows: Sequence[Labelled], said: Sequence[Said]) -> Score:
    """Count what was right, and what was right among the sure answers."""
    right = [(row, each.label == row.label) for row, each in zip(rows, said, strict=True)]
    sure = [pair for pair, each in zip(right, said, strict=True) if each.sure]
    return Score(len(right), _share(right), len(sure), _share(sure), median(each.milliseconds for each in said))


def _share(right: Sequence[tuple[Labelled, bool]]) -> Interval:
    """Return the share of right answers with its interval, by families of messages."""
    families: dict[str, list[bool]] = {}
    for row, good in right:
        families.setdefault(row.family or f"\n{row.text}", []).append(good)
    return share_of_families([(sum(each), len(each)) for each in families.values()])


def show(console: Console, manifests: Sequence[Manifest], rows: Sequence[Labelled], said: Sequence[list[Said]]) -> None:
    """Print a few messages with every bundle's answer, then the figures."""
    print_trimmed(console, _answers(manifests, rows, said))
    console.print()
    print_trimmed(console, _figures(manifests, rows, said))


def _answers(manifests: Sequence[Manifest], rows: Sequence[Labelled], said: Sequence[list[Said]]) -> Table:
    names = _short([manifest.task.name for manifest in manifests])
    made = table("message", "wants", *names, wrap=("message",))
    for row, *answers in list(zip(rows, *said, strict=True))[:: _step(rows)][:SHOWN_ROWS]:
        made.add_row(Text(row.text), Text(row.label, style="bold"), *_marks(answers, row.label))
    return made


def _step(rows: Sequence[Labelled]) -> int:
    return max(1, len(rows) // SHOWN_ROWS)


def _marks(answers: Sequence[Said], wanted: str) -> list[Text]:
    return [_mark(answer, wanted) for answer in answers]


def _mark(answer: Said, wanted: str) -> Text:
    right = answer.label == wanted
    return Text(f"{'✓' if right else '✗'} {answer.label}", style="green" if right else "red")


def _short(names: Sequence[str]) -> list[str]:
    """Return what tells the names apart: without the beginning that all share, but for a name that is just that."""
    shortest = min(names, key=len)
    return [name.removeprefix(f"{shortest}-") for name in names]


def _figures(manifests: Sequence[Manifest], rows: Sequence[Labelled], said: Sequence[list[Said]]) -> Table:
    numbers = ("right", "sure", "right when sure", "median call", "own files")
    made = table("task", "model", *numbers, right=numbers, wrap=("model",))
    shared = _shared(manifests)
    for manifest, answers in zip(manifests, said, strict=True):
        found = score(rows, answers)
        name, model = Text(manifest.task.name, style="bold"), Text(manifest.provenance.base)
        cells = (_plus_minus(found.right), *_sureness(manifest, found), _duration(found.milliseconds))
        made.add_row(name, model, *cells, format_bytes(_own_bytes(manifest, shared)))
    return made


def _sureness(manifest: Manifest, found: Score) -> tuple[str, str]:
    """Return the share of sure answers, and how many of them are right; nothing where nothing is calibrated."""
    if manifest.confidence.policy != "threshold":
        return "-", "-"
    return f"{found.sure / found.rows:.0%}", _plus_minus(found.sure_right)


def _own_bytes(manifest: Manifest, shared: set[str]) -> int:
    return sum(artifact.size_bytes for artifact in manifest.artifacts if artifact.sha256 not in shared)


def _shared(manifests: Sequence[Manifest]) -> set[str]:
    """Return the files that more than one of the bundles has: they are on the disk and in memory once."""
    every = [artifact.sha256 for manifest in manifests for artifact in manifest.artifacts]
    return {sha256 for sha256 in every if every.count(sha256) > 1}


def _plus_minus(share: Interval) -> str:
    """Return a share with half of its 95 % interval, both in percent; "-" of nothing."""
    return "-" if math.isnan(share.value) else f"{share.value:.0%} ±{50 * (share.high - share.low):.0f}"


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
