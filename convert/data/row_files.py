"""The rows of a recipe's four splits: reads them, and refuses data that would falsify figures.

Each split is a JSONL file, one JSON object a line; docs/data-formats.md shows the four formats. A text in two splits is
refused, by a hash of its normalised form. Rows made by a model are refused where only people's texts count. A label
that the task lacks is an error that names the nearest one. Unknown keys are ignored, so data can have columns of its
own.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from convert.data import imported_rows, probability_sampling, split_leakage
from convert.data.data_row import (
    LABEL_SOURCES,
    LABELED_BY_CHARS_MAX,
    MACHINES,
    ChatMessage,
    DataRow,
    LabelSource,
    TextSpan,
)
from convert.data.probability_sampling import ProbabilitySample, RowSampling, equal_probability
from convert.data.split_leakage import NearDuplicates
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import DataFormat, Recipe, Split
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats import strict_json
from edge_agent.formats.manifest import Kind, TaskSpec

__all__ = ["LABELED_BY_CHARS_MAX", "LABEL_SOURCES", "MACHINES", "ChatMessage", "DataRow", "LabelSource", "TextSpan"]
LINE_BYTES_MAX = 1024 * 1024
SPLITS: tuple[Split, ...] = get_args(Split)
MEASURED: tuple[Split, ...] = ("calibration", "test")
"""Splits that figures rest on."""
_SHOWN_MAX = 3
_SEE = "docs/data-formats.md shows the formats."
# The formats that a kind of task trains on and is measured on. Importance and embed need only the text.
_MARKS: dict[str, DataFormat] = {"messages": "messages", "prompt": "prompt-completion", "spans": "text-spans"}
_FORMATS: dict[str, tuple[DataFormat, ...]] = {
    "classify": ("text-label", "prompt-completion", "messages"),
    "extract": ("text-spans", "prompt-completion", "messages"),
    "generate": ("prompt-completion", "messages"),
    **{"embed": ("text-label",), "redact": ("text-spans",)},
}


@dataclass(frozen=True)
class DataSummary:
    """The result of checking all splits."""

    rows: dict[Split, int]
    labels: dict[Split, dict[str, int]]
    """Rows of each label, in the order of the task."""
    synthetic: dict[Split, int]
    warnings: tuple[str, ...]
    """Whole sentences for the report."""
    label_sources: dict[Split, dict[LabelSource, int]] = field(default_factory=dict)
    """Rows by label source, in the order of LABEL_SOURCES."""
    near_copies: tuple[NearDuplicates, ...] = ()
    """Of each pair of splits that must be independent."""


def read_rows(path: Path, format: DataFormat, *, text_only: bool = False) -> list[DataRow]:  # noqa: A002 - the key's name
    """Read a file; with `text_only`, of a text-label or text-spans row only the text is needed.

    Raises:
        FileMissing: it is not there.
        InvalidRequest: a line is not a row of that format, or there is no line; the message names file and line.
    """
    if not path.is_file():
        raise FileMissing(f"{path} does not exist", remedy="Correct the path under 'data' in the recipe.")
    rows = [_row(line, format, text_only, f"{path}:{number}") for number, line in _lines(path)]
    if not rows:
        raise InvalidRequest(f"{path} has no rows", remedy="Add examples, one JSON object per line.")
    return rows


def read_for(path: Path, kind: Kind, format: DataFormat | None = None) -> list[DataRow]:  # noqa: A002 - the key's name
    """Read rows to measure a bundle of that kind on; without a format, it is detected from the first row's keys.

    Raises what `read_rows` raises.
    """
    found = read_rows(path, format or format_of(path), text_only=kind == "embed")
    return [_classified(row) for row in found] if kind == "classify" else found


def format_of(path: Path) -> DataFormat:
    """Detect the format by the keys of a file's first row. Raises FileMissing, InvalidRequest."""
    if not path.is_file():
        raise FileMissing(f"{path} does not exist", remedy="Name a file of rows: docs/data-formats.md.")
    first = next((plain for _, plain in _lines(path)), {})
    return next((format_ for key, format_ in _MARKS.items() if key in first), "text-label")


def rows(recipe: Recipe, split: Split) -> list[DataRow]:
    """Return the rows of `sample`. Raises what that raises."""
    return sample(recipe, split).rows


def sample(recipe: Recipe, split: Split) -> ProbabilitySample[DataRow]:
    """Read one split of a recipe and check it against the task; an importance split left out is the training one.

    Calibration and test give the rows that figures rest on (probability_sampling.py), the others all rows.

    Raises:
        FileMissing, ManifestInvalid: the file or the task is not there, or the task breaks a rule.
        InvalidRequest: no such split, no rows, a label that the task lacks, one label only, synthetic rows where they
            would flatter the figures, or no row of known probability in a file that knows of such.
    """
    written = _written(recipe, split)
    if not written:
        raise InvalidRequest(f"the recipe names no {split} split", remedy=f"Name its file: '{split}' under 'data'.")
    task = tasks.of(recipe.path(recipe.task))
    fitting = _FORMATS["generate" if task.record_schema is not None else task.kind]  # a record is a text, too
    if recipe.data.format not in fitting:
        said = f"data.format '{recipe.data.format}' does not fit a task of kind {task.kind}"
        said += " with 'record_schema'" if task.record_schema is not None else ""
        raise InvalidRequest(said, remedy=f"Use one of: {', '.join(fitting)}. {_SEE}")
    _check_trainable(recipe, task)
    path = recipe.path(written)
    bare = task.kind == "embed" or (split == "importance" and bool(recipe.data.importance))
    found = read_rows(path, recipe.data.format, text_only=bare)
    found = imported_rows.redact(found, recipe.privacy, task.kind)
    if task.kind == "classify" and not bare:
        found = [_classified(row) for row in found]
    _check_split(found, split, task, path, bare)
    if split not in MEASURED:
        return ProbabilitySample(found)
    drawn = equally_likely(found)
    if not drawn.rows:
        said = (
            f"{path}: none of {len(found)} rows has a known sampling probability, so they do not represent all inputs"
        )
        raise InvalidRequest(said, remedy="Use rows of the random audit: docs/training-data.md explains them.")
    _check_split(drawn.rows, split, task, path, bare)
    return drawn


def equally_likely(found: Sequence[DataRow]) -> ProbabilitySample[DataRow]:
    """Return the rows that figures rest on (probability_sampling.py)."""
    return equal_probability(found, lambda row: RowSampling(row.key, row.sampling_probability, row.review_stream))


def outliers(recipe: Recipe) -> list[DataRow]:
    """Read the texts that do not belong to the task; empty if the recipe names no file.

    Raises what `read_rows` raises; InvalidRequest for a task that cannot learn from them.
    """
    if not recipe.data.outliers:
        return []
    task = tasks.of(recipe.path(recipe.task))
    if task.kind != "classify" or recipe.finetune is None or recipe.finetune.method == "lora":
        said = "'data.outliers' is for an encoder that is trained to classify"
        raise InvalidRequest(said, remedy=f"Take it out of the recipe, or add 'finetune: {{method: full}}'. {_SEE}")
    return read_rows(recipe.path(recipe.data.outliers), "text-label", text_only=True)


def check(recipe: Recipe) -> DataSummary:
    """Read every split that the recipe names, and refuse any text that is in two of them, or in one and in the
    outliers.

    Raises what `rows` raises; InvalidRequest for an overlap, which the message counts and shows, and for more near
    duplicates than the recipe accepts.
    """
    named = [split for split in SPLITS if getattr(recipe.data, split)]
    samples = {split: sample(recipe, split) for split in named}
    found = {split: each.rows for split, each in samples.items()}
    texts: dict[str, list[DataRow]] = {**dict(found.items()), "outliers": outliers(recipe)}
    for (first, left), (second, right) in itertools.combinations(texts.items(), 2):
        _check_overlap(first, left, second, right)
    copies = _near_copies(found, recipe)
    task = tasks.of(recipe.path(recipe.task))
    counts = {split: Counter(labels(found[split])) for split in named}
    known = known_labels(task)
    return DataSummary(
        rows={split: len(found[split]) for split in named},
        labels={split: _in_order(counts[split], known) for split in named},
        synthetic={split: sum(row.synthetic for row in found[split]) for split in named},
        label_sources={split: count_label_sources(found[split]) for split in named},
        warnings=(
            *probability_sampling.warnings(samples),
            *_doubts(found),
            *_families(found),
            *_absent(counts, known),
            *_few(len(found["calibration"]), recipe),
            *split_leakage.accepted(copies),
        ),
        near_copies=copies,
    )


def _near_copies(found: dict[Split, list[DataRow]], recipe: Recipe) -> tuple[NearDuplicates, ...]:
    """Count near duplicates between splits. Raises InvalidRequest for more than the recipe accepts."""
    copies = split_leakage.between({split: [row.asked for row in members] for split, members in found.items()})
    split_leakage.require_few(copies, recipe.data.near_copies_max)
    return copies


def count_label_sources(found: Sequence[DataRow]) -> dict[LabelSource, int]:
    """Count rows by label source."""
    counts = Counter(row.label_source for row in found)
    return {source: counts[source] for source in LABEL_SOURCES if counts[source]}


def _check_trainable(recipe: Recipe, task: TaskSpec) -> None:
    """Raise InvalidRequest for completions of an encoder that extracts: it learns tags, and completions name no
    spans."""
    runtime = tasks.read(tasks.find(recipe.path(recipe.task))).get("runtime")
    if runtime == "onnx" and task.kind == "extract" and recipe.data.format != "text-spans":
        raise InvalidRequest(
            f"data.format '{recipe.data.format}' names no spans, which an encoder (runtime onnx) needs to extract",
            remedy=f"Use text-spans, or a decoder: 'runtime: llama'. {_SEE}",
        )


def _written(recipe: Recipe, split: Split) -> str:
    written: str = getattr(recipe.data, split)
    return written or (recipe.data.train if split == "importance" else "")


# --- lines to rows ------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            where = f"{path}:{number}"
            if len(raw) > LINE_BYTES_MAX:
                raise InvalidRequest(f"{where} has more than {LINE_BYTES_MAX} bytes", remedy="Shorten that row.")
            if not raw.strip():
                continue
            try:
                plain = strict_json.decode(raw)
            except ValueError as error:  # ValueError: also for bytes that are not UTF-8
                raise InvalidRequest(f"{where} is not JSON: {error}", remedy="Correct that line.") from None
            if not isinstance(plain, dict):
                raise InvalidRequest(f"{where} must be a JSON object", remedy=_SEE)
            yield number, plain


def _row(plain: dict[str, Any], format: DataFormat, text_only: bool, where: str) -> DataRow:  # noqa: A002 - the key's name
    marks = {key: _mark(plain, key, where) for key in ("synthetic", "composed", "consented")}
    synthetic = marks.pop("synthetic")
    record = {key: plain[key] for key in ("site", "prediction_id") if isinstance(plain.get(key), str)}
    origin = {**_origin(plain, where), **marks, **record}
    if text_only and format in ("text-label", "text-spans"):
        return replace(DataRow(_text(plain, "text", where), synthetic=synthetic), **origin)
    named = {key: plain[key] for key in ("family", "model", "review_stream") if isinstance(plain.get(key), str)}
    named["sampling_probability"] = probability_sampling.probability_of(plain, where)
    return replace(_READERS[format](plain, where, synthetic), **named, **origin)


def _mark(plain: dict[str, Any], key: str, where: str) -> bool:
    value = plain.get(key, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where}: '{key}' must be true or false", remedy=_SEE)
    return value


def _origin(plain: dict[str, Any], where: str) -> dict[str, Any]:
    """Read the source of a label; a file without these keys is the team's own."""
    source, by = plain.get("label_source", "imported"), plain.get("labeled_by", "")
    if source not in LABEL_SOURCES:
        said = f"{where}: 'label_source' must be one of {', '.join(LABEL_SOURCES)}"
        raise InvalidRequest(said, remedy=f"Correct that row. {_SEE}")
    if not isinstance(by, str) or len(by) > LABELED_BY_CHARS_MAX:
        said = f"{where}: 'labeled_by' must be text of at most {LABELED_BY_CHARS_MAX} characters"
        raise InvalidRequest(said, remedy=f"Correct that row. {_SEE}")
    return {"label_source": source, "labeled_by": by}


def _text(plain: dict[str, Any], key: str, where: str) -> str:
    value = plain.get(key)
    if not isinstance(value, str) or not value.strip():
        problem = f"lacks '{key}'" if key not in plain else f"'{key}' must be text that is not empty"
        raise InvalidRequest(f"{where}: {problem}", remedy=f"Correct that row. {_SEE}")
    return value


def _text_label(plain: dict[str, Any], where: str, synthetic: bool) -> DataRow:
    return DataRow(_text(plain, "text", where), label=_text(plain, "label", where), synthetic=synthetic)


def _prompt_completion(plain: dict[str, Any], where: str, synthetic: bool) -> DataRow:
    prompt, completion = _text(plain, "prompt", where), _text(plain, "completion", where)
    return DataRow(prompt, completion=completion, synthetic=synthetic)


def _conversation(plain: dict[str, Any], where: str, synthetic: bool) -> DataRow:
    turns = plain.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InvalidRequest(f"{where}: 'messages' must be a list of objects with 'role' and 'content'", remedy=_SEE)
    messages = tuple(ChatMessage(_text(turn, "role", where), _text(turn, "content", where)) for turn in turns)
    if [turn.role for turn in messages[-2:]] != ["user", "assistant"]:
        raise InvalidRequest(f"{where}: 'messages' must end with a user's turn and the assistant's", remedy=_SEE)
    return DataRow(messages[-2].content, completion=messages[-1].content, messages=messages, synthetic=synthetic)


def _text_spans(plain: dict[str, Any], where: str, synthetic: bool) -> DataRow:
    text, listed = _text(plain, "text", where), plain.get("spans")
    if not isinstance(listed, list) or not all(isinstance(span, dict) for span in listed):
        said = f"{where}: 'spans' must be a list of objects with 'start', 'end' and 'label'"
        raise InvalidRequest(said, remedy=_SEE)
    spans = sorted((_span(span, len(text), where) for span in listed), key=lambda span: span.start)
    for before, after in itertools.pairwise(spans):
        if after.start < before.end:
            raise InvalidRequest(f"{where}: spans {before} and {after} overlap", remedy="Correct that row.")
    return DataRow(text, spans=tuple(spans), synthetic=synthetic)


def _span(plain: dict[str, Any], length: int, where: str) -> TextSpan:
    start, end = plain.get("start"), plain.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        said = f"{where}: a span must have 0 <= start < end <= {length}, the text's length in characters"
        raise InvalidRequest(said, remedy="Correct that row.")
    return TextSpan(start, end, _text(plain, "label", where))


_READERS: dict[DataFormat, Callable[[dict[str, Any], str, bool], DataRow]] = {
    "text-label": _text_label,
    "prompt-completion": _prompt_completion,
    "messages": _conversation,
    "text-spans": _text_spans,
}


# --- rows against the task, and against each other ----------------------------------------------------------------


def _classified(row: DataRow) -> DataRow:
    return replace(row, label=row.label or row.completion.strip())


def known_labels(task: TaskSpec) -> tuple[str, ...]:
    """Return the labels that a row can have: for extract and redact, the tags B-x and I-x mean the label x."""
    if task.kind not in ("extract", "redact"):
        return task.labels
    return tuple(dict.fromkeys(tag[2:] for tag in task.labels if tag[:2] in ("B-", "I-")))


def _in_order(counts: Counter[str], known: Sequence[str]) -> dict[str, int]:
    return {label: counts[label] for label in known if label in counts}


def labels(split: Sequence[DataRow]) -> Iterator[str]:
    """Yield the labels of the rows, or of their spans."""
    for row in split:
        yield from ([row.label] if row.label else [span.label for span in row.spans])


def _check_split(found: list[DataRow], split: Split, task: TaskSpec, path: Path, bare: bool) -> None:
    if split in MEASURED:
        _check_made_by_people(found, split, path)
    seen = Counter(labels(found))
    known = known_labels(task)
    for label in seen if known else ():
        if label not in known:
            close = difflib.get_close_matches(label, known, n=1)
            near = f"Did you mean '{close[0]}'? " if close else f"The task has: {', '.join(known)[:500]}. "
            said = f"{path}: {seen[label]} rows have label '{label}', which the task lacks"
            raise InvalidRequest(said, remedy=f"{near}Correct the rows, or add the label to task.yaml.")
    if task.kind == "classify" and not bare and len(seen) < 2:
        said = f"{path}: every row of the {split} split has the label '{next(iter(seen))}'"
        raise InvalidRequest(said, remedy="Divide the splits again, so that each has rows of several labels.")


def _check_made_by_people(found: list[DataRow], split: Split, path: Path) -> None:
    """Raise InvalidRequest for texts or labels that a machine made."""
    if any(row.synthetic for row in found):
        said = f"{path}: {sum(row.synthetic for row in found)} rows are synthetic; the {split} split accepts none"
        raise InvalidRequest(said, remedy="Move them to the training split: figures must come from real texts.")
    machine = labelled_by_machine(found)
    if machine:
        said = f"{path}: {machine}; the {split} split accepts only labels of people"
        raise InvalidRequest(said, remedy="Move them to the training split, or have people review them.")


def labelled_by_machine(found: Sequence[DataRow]) -> str:
    """Return how many rows a large model or the local model labelled, with its name; empty = none."""
    rows = [row for row in found if row.label_source in MACHINES]
    if not rows:
        return ""
    counts = Counter((row.label_source, row.labeled_by) for row in rows)
    each = [f"{count} by {' '.join(filter(None, by))}" for by, count in counts.most_common(_SHOWN_MAX)]
    more = f" and {len(counts) - _SHOWN_MAX} others" if len(counts) > _SHOWN_MAX else ""
    return f"{len(rows)} rows were labelled by a machine ({', '.join(each)}{more})"


def _check_overlap(first: str, left: list[DataRow], second: str, right: list[DataRow]) -> None:
    keys = {row.key for row in left}
    common = list(dict.fromkeys(row.text for row in right if row.key in keys))
    if common:
        shown = "; ".join(repr(text[:80]) for text in common[:_SHOWN_MAX])
        said = f"{len(common)} texts are in both the {first} and the {second} split, such as {shown}"
        raise InvalidRequest(
            said,
            remedy="Remove them from one of the splits. Texts that differ only in case, spaces and final"
            f" punctuation are the same. {_SEE}",
        )


def _doubts(found: dict[Split, list[DataRow]]) -> Iterator[str]:
    for split, members in found.items():
        answers: dict[str, set[str]] = {}
        for row in members:
            answers.setdefault(row.key, set()).add(row.label or row.completion or repr(row.spans))
        torn = sum(len(said) > 1 for said in answers.values())
        if torn:
            yield f"{torn} texts of the {split} split have conflicting labels."
        twice = len(members) - len(answers)
        if twice and split in MEASURED:
            yield f"{twice} rows of the {split} split repeat a text, so its figures seem more certain than they are."


def _families(found: dict[Split, list[DataRow]]) -> Iterator[str]:
    for first, second in itertools.combinations(found, 2):
        common = {row.family for row in found[first]} & {row.family for row in found[second]} - {""}
        if common:
            yield (
                f"{len(common)} families of rows, such as '{min(common)}', are in both the {first} and the {second}"
                " split: figures are too good for a model that has seen the phrasing."
            )


def _absent(counts: dict[Split, Counter[str]], known: Sequence[str]) -> Iterator[str]:
    for split, seen in counts.items():
        absent = [label for label in known if label not in seen]
        if absent and seen:
            yield f"The {split} split has no row of: {', '.join(absent)[:500]}."


def _few(n: int, recipe: Recipe) -> Iterator[str]:
    needed = math.ceil(math.log(recipe.risk.delta) / math.log(1 - recipe.risk.target))
    if n < needed:
        yield (
            f"{n} calibration rows cannot prove a risk of {recipe.risk.target:g} even without an error among them:"
            f" that needs {needed}. The bundle will always escalate."
        )
