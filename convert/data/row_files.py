"""Reads the rows of a recipe's four splits, checks them against the task and each other, and refuses data that would
falsify figures.

`row_lines` reads the files. A text in two splits is refused, by a hash of its normalised form. Rows made by a model are
refused where only people's texts count. A label that the task lacks is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from convert.data import imported_rows, probability_sampling, splits
from convert.data.data_row import LABEL_SOURCES, MACHINES, DataRow, LabelSource, labels_of, output_names, rows_of
from convert.data.probability_sampling import ProbabilitySample, RowSampling, equal_probability
from convert.data.row_lines import SEE as _SEE
from convert.data.row_lines import format_of, read_rows
from convert.data.splits import NearDuplicates
from convert.pipeline import task_file as tasks
from convert.pipeline.recipe import DataFormat, Recipe, Split
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Kind, TaskSpec
from edge_agent.formats.questions import QuestionSpec
from edge_agent.formatting import counted
from edge_agent.statistics import divided_delta, rows_min

SPLITS: tuple[Split, ...] = get_args(Split)
MEASURED: tuple[Split, ...] = ("calibration", "test")
"""Splits that figures rest on."""
_SHOWN_MAX = 3
# The formats from which a kind of task is trained and measured. Importance and embed need only the text.
_FORMATS: dict[str, tuple[DataFormat, ...]] = {
    "classify": ("text-label", "prompt-completion", "messages"),
    "decide": ("text-answers",),
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
    """One for each pair of splits that must be independent."""


def read_for(path: Path, kind: Kind, format: DataFormat | None = None) -> list[DataRow]:  # noqa: A002 - the key's name
    """Read rows to measure a bundle of that kind on; without a format, it is detected from the first row's keys.

    Raises what `read_rows` raises.
    """
    data_rows = read_rows(path, format or format_of(path), text_only=kind == "embed")
    return [_with_label(row) for row in data_rows] if kind == "classify" else data_rows


def read_for_task(path: Path, task: TaskSpec, format: DataFormat | None = None) -> list[DataRow]:  # noqa: A002 - likewise
    """Read rows to measure a bundle of that task on, as `read_for` does.

    Raises what `read_rows` raises; InvalidRequest for an answer that no question of the task has.
    """
    if task.kind != "decide":
        return read_for(path, task.kind, format)
    data_rows = read_rows(path, "text-answers", questions=_question_names(task))
    check_answers(data_rows, task)
    return data_rows


def _question_names(task: TaskSpec) -> tuple[str, ...]:
    return tuple(question.name for question in task.questions_asked) if task.kind == "decide" else ()


def rows(recipe: Recipe, split: Split) -> list[DataRow]:
    """Return the rows of `sample`. Raises what that raises."""
    return sample(recipe, split).rows


def sample(recipe: Recipe, split: Split) -> ProbabilitySample[DataRow]:
    """Read one split of a recipe and check it against the task; an importance split left out is the training one.

    Calibration and test give the rows that figures rest on (probability_sampling.py), the others all rows.

    Raises:
        FileMissing, ManifestInvalid: the file or the task is not there, or the task breaks a rule.
        InvalidRequest: no such split, no rows, a label that the task lacks, one label only, synthetic rows in a split
            that figures rest on, or no row with a sampling probability in a file with such keys.
    """
    file_name = _split_file(recipe, split)
    if not file_name:
        raise InvalidRequest(f"the recipe names no {split} split", remedy=f"Name its file: '{split}' under 'data'.")
    task = tasks.of(recipe.path(recipe.task))
    formats = _FORMATS["generate" if task.record_schema is not None else task.kind]  # a record is a text, too
    if recipe.data.format not in formats:
        message = f"data.format '{recipe.data.format}' does not fit a task of kind {task.kind}"
        message += " with 'record_schema'" if task.record_schema is not None else ""
        raise InvalidRequest(message, remedy=f"Use one of: {', '.join(formats)}. {_SEE}")
    _check_trainable(recipe, task)
    path, text_only = recipe.path(file_name), _is_text_only(recipe, split, task)
    data_rows = unredacted_rows(recipe, split, task)
    data_rows = imported_rows.redact(data_rows, recipe.privacy, task.kind, recipe.redaction_bundle)
    if task.kind == "classify" and not text_only:
        data_rows = [_with_label(row) for row in data_rows]
    _check_split(data_rows, split, task, path, text_only)
    if split not in MEASURED:
        return ProbabilitySample(data_rows)
    drawn = _representative_sample(data_rows, path)
    _check_split(drawn.rows, split, task, path, text_only)
    return drawn


def unredacted_rows(recipe: Recipe, split: Split, task: TaskSpec) -> list[DataRow]:
    """Read one split of a recipe as it is in its file. Raises what `read_rows` raises."""
    path = recipe.path(_split_file(recipe, split))
    text_only = _is_text_only(recipe, split, task)
    return read_rows(path, recipe.data.format, text_only=text_only, questions=_question_names(task))


def _is_text_only(recipe: Recipe, split: Split, task: TaskSpec) -> bool:
    """Return whether only the texts of a split are used."""
    return task.kind == "embed" or (split == "importance" and bool(recipe.data.importance))


def calibration_sample(path: Path, task: TaskSpec) -> ProbabilitySample[DataRow]:
    """Read a file of rows that a threshold can rest on, for a bundle of that task.

    Raises what `read_for_task` raises; InvalidRequest for texts or labels that a machine made, and if no row has a
    sampling probability in a file with such keys.
    """
    data_rows = read_for_task(path, task)
    _check_made_by_people(data_rows, "calibration", path)
    return _representative_sample(data_rows, path)


def _representative_sample(data_rows: list[DataRow], path: Path) -> ProbabilitySample[DataRow]:
    drawn = equally_likely(data_rows)
    if not drawn.rows:
        message = (
            f"{path}: none of {counted(len(data_rows), 'row')} has a known sampling probability, so they do not"
            " represent all inputs"
        )
        raise InvalidRequest(message, remedy="Use rows of the random audit: docs/training-data.md explains them.")
    return drawn


def equally_likely(data_rows: Sequence[DataRow]) -> ProbabilitySample[DataRow]:
    """Return the rows that figures rest on (probability_sampling.py)."""
    return equal_probability(data_rows, lambda row: RowSampling(row.key, row.sampling_probability, row.review_stream))


def outliers(recipe: Recipe) -> list[DataRow]:
    """Read the texts that do not belong to the task; empty if the recipe names no file.

    Raises what `read_rows` raises; InvalidRequest for a task that cannot learn from them.
    """
    if not recipe.data.outliers:
        return []
    task = tasks.of(recipe.path(recipe.task))
    if not task.questions_asked or recipe.finetune is None or recipe.finetune.method == "lora":
        message = "'data.outliers' is for an encoder that is trained to classify or to decide"
        raise InvalidRequest(message, remedy=f"Take it out of the recipe, or add 'finetune: {{method: full}}'. {_SEE}")
    return read_rows(recipe.path(recipe.data.outliers), "text-label", text_only=True)


def check(recipe: Recipe) -> DataSummary:
    """Read every split that the recipe names, and refuse any text that is in two of them, or in one and in the
    outliers.

    Raises what `rows` raises; InvalidRequest for an overlap, which the message counts and shows, and for more near
    duplicates than the recipe accepts.
    """
    named_splits = [split for split in SPLITS if getattr(recipe.data, split)]
    samples = {split: sample(recipe, split) for split in named_splits}
    by_split = {split: each.rows for split, each in samples.items()}
    texts: dict[str, list[DataRow]] = {**dict(by_split.items()), "outliers": outliers(recipe)}
    for (first, left), (second, right) in itertools.combinations(texts.items(), 2):
        _check_overlap(first, left, second, right)
    copies = _near_copies(by_split, recipe)
    task = tasks.of(recipe.path(recipe.task))
    counts = {split: Counter(labels(by_split[split])) for split in named_splits}
    known = known_labels(task)
    return DataSummary(
        rows={split: len(by_split[split]) for split in named_splits},
        labels={split: _in_task_order(counts[split], known) for split in named_splits},
        synthetic={split: sum(row.synthetic for row in by_split[split]) for split in named_splits},
        label_sources={split: count_label_sources(by_split[split]) for split in named_splits},
        warnings=(
            *probability_sampling.warnings(samples),
            *_conflicts_and_repeats(by_split),
            *_shared_families(by_split),
            *_missing_labels(counts, known),
            *_rows_short_of_proof(_calibration_counts(task, by_split["calibration"]), recipe),
            *splits.accepted_copies(copies),
        ),
        near_copies=copies,
    )


def _near_copies(by_split: dict[Split, list[DataRow]], recipe: Recipe) -> tuple[NearDuplicates, ...]:
    """Count near duplicates between splits. Raises InvalidRequest for more than the recipe accepts."""
    copies = splits.copies_between({split: [row.asked for row in members] for split, members in by_split.items()})
    splits.require_few_copies(copies, recipe.data.near_copies_max)
    return copies


def count_label_sources(data_rows: Sequence[DataRow]) -> dict[LabelSource, int]:
    """Count rows by label source."""
    counts = Counter(row.label_source for row in data_rows)
    return {source: counts[source] for source in LABEL_SOURCES if counts[source]}


def _check_trainable(recipe: Recipe, task: TaskSpec) -> None:
    """Raise InvalidRequest for a task that a recipe cannot make: without questions there is nothing to calibrate, and
    an encoder that extracts learns tags, which need spans."""
    if task.kind == "decide" and not task.questions_asked:
        raise InvalidRequest(
            "the task takes its questions only from calls, so a recipe has nothing to calibrate or measure",
            remedy="Add 'questions' to task.yaml; or make the bundle from a model file: edge-convert assemble.",
        )
    runtime = tasks.read(tasks.find(recipe.path(recipe.task))).get("runtime")
    if runtime == "onnx" and task.kind == "extract" and recipe.data.format != "text-spans":
        message = f"data.format '{recipe.data.format}' names no spans, which an encoder (runtime onnx) needs to extract"
        raise InvalidRequest(message, remedy=f"Use text-spans, or a decoder: 'runtime: llama'. {_SEE}")


def _split_file(recipe: Recipe, split: Split) -> str:
    file_name: str = getattr(recipe.data, split)
    return file_name or (recipe.data.train if split == "importance" else "")


# --- rows against the task, and against each other ----------------------------------------------------------------


def _with_label(row: DataRow) -> DataRow:
    return replace(row, label=row.label or row.completion.strip())


def known_labels(task: TaskSpec) -> tuple[str, ...]:
    """Return the labels that a row can have: for extract and redact, the tags B-x and I-x mean the label x; for decide
    QUESTION/OUTPUT."""
    if task.kind not in ("extract", "redact"):
        return output_names(task)
    return tuple(dict.fromkeys(tag[2:] for tag in task.labels if tag[:2] in ("B-", "I-")))


def _in_task_order(counts: Counter[str], known: Sequence[str]) -> dict[str, int]:
    return {label: counts[label] for label in known if label in counts}


def labels(split: Sequence[DataRow]) -> Iterator[str]:
    """Yield the labels of the rows, of their spans, or of their answers."""
    for row in split:
        yield from labels_of(row)


def _check_split(data_rows: list[DataRow], split: Split, task: TaskSpec, path: Path, text_only: bool) -> None:
    if split in MEASURED:
        _check_made_by_people(data_rows, split, path)
    if text_only:
        return
    check_labels(data_rows, task)
    seen = set(labels(data_rows))
    if task.kind == "classify" and len(seen) < 2:
        message = f"{path}: every row of the {split} split has the label '{next(iter(seen))}'"
        raise InvalidRequest(message, remedy="Divide the splits again, so that each has rows of several labels.")
    if task.kind == "decide" and split == "train":
        _check_learnable(data_rows, task, path)


def check_labels(data_rows: Sequence[DataRow], task: TaskSpec) -> None:
    """Raise InvalidRequest, naming the row, for a label that the task lacks or an answer that no question has."""
    check_answers(data_rows, task)
    known = known_labels(task)
    accepted = set(known)
    for row in data_rows if known else ():
        label = next((each for each in labels_of(row) if each not in accepted), None)
        if label is None:
            continue
        count = sum(label in labels_of(each) for each in data_rows)
        more = f" ({count} rows have it)" if count > 1 else ""
        message = f"{row.place}: label '{label}', which the task lacks{more}"
        remedy = f"{_hint(label, known, 'The task has')} Correct the label, or add it to task.yaml."
        raise InvalidRequest(message, remedy=remedy)


def check_answers(data_rows: Sequence[DataRow], task: TaskSpec) -> None:
    """Raise InvalidRequest, naming the row, for an answer that no question of the task has."""
    questions = {question.name: question for question in task.questions_asked}
    for row in data_rows:
        for answer in row.answers:
            message = f"{row.place}: the task has no question '{answer.question}'"
            _require(answer.question, questions, message, "questions")
            question = questions[answer.question]
            for output in [name for name, _ in answer.shares] or [answer.label]:
                message = f"{row.place}: '{output}' is not an answer to '{answer.question}'"
                _require(output, question.outputs, message, "answers", can_grow=question.type != "predicate")
        for output, _ in row.shares:
            _require(output, task.labels, f"{row.place}: the task has no label '{output}'", "labels")


def _require(
    name: str, known: Sequence[str] | Mapping[str, QuestionSpec], message: str, what: str, *, can_grow: bool = True
) -> None:
    if name not in known:
        correction = "Correct that row, or add it to task.yaml." if can_grow else "Correct that row."
        raise InvalidRequest(message, remedy=f"{_hint(name, list(known), f'The {what} are')} {correction}")


def _hint(name: str, known: Sequence[str], introduction: str) -> str:
    close_matches = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{close_matches[0]}'?" if close_matches else f"{introduction}: {', '.join(known)[:500]}."


def _check_learnable(data_rows: Sequence[DataRow], task: TaskSpec, path: Path) -> None:
    """Raise InvalidRequest for a question that no row of the training split teaches."""
    for question in task.questions_asked:
        members = [row for _, row in rows_of(task, question, data_rows)]
        if not members:
            message = f"{path}: no row of the training split answers '{question.name}'"
            raise InvalidRequest(message, remedy="Add rows that answer it, or take the question out of task.yaml.")
        if len({row.label for row in members}) < 2 and not any(row.shares for row in members):
            subject = "the only row that answers" if len(members) == 1 else f"all {len(members)} rows that answer"
            have = "has" if len(members) == 1 else "have"
            message = f"{path}: {subject} '{question.name}' {have} the answer '{members[0].label}'"
            remedy = "Add rows with its other answers, or take the question out of task.yaml."
            raise InvalidRequest(message, remedy=remedy)


def _check_made_by_people(data_rows: list[DataRow], split: Split, path: Path) -> None:
    """Raise InvalidRequest for texts or labels that a machine made."""
    if any(row.synthetic for row in data_rows):
        count = sum(row.synthetic for row in data_rows)
        are = "is" if count == 1 else "are"
        message = f"{path}: {counted(count, 'row')} {are} synthetic; the {split} split accepts none"
        raise InvalidRequest(message, remedy="Move them to the training split: figures must come from real texts.")
    machine = labelled_by_machine(data_rows)
    if machine:
        message = f"{path}: {machine}; the {split} split accepts only labels of people"
        raise InvalidRequest(message, remedy="Move them to the training split, or have people review them.")


def labelled_by_machine(data_rows: Sequence[DataRow]) -> str:
    """Return how many rows a large model or the local model labelled, with its name; empty = none."""
    rows = [row for row in data_rows if row.label_source in MACHINES]
    if not rows:
        return ""
    counts = Counter((row.label_source, row.labeled_by) for row in rows)
    parts = [f"{count} by {' '.join(filter(None, by))}" for by, count in counts.most_common(_SHOWN_MAX)]
    more = f" and {len(counts) - _SHOWN_MAX} others" if len(counts) > _SHOWN_MAX else ""
    were = "was" if len(rows) == 1 else "were"
    return f"{counted(len(rows), 'row')} {were} labelled by a machine ({', '.join(parts)}{more})"


def _check_overlap(first: str, left: list[DataRow], second: str, right: list[DataRow]) -> None:
    keys = {row.key for row in left}
    common = list(dict.fromkeys(row.text for row in right if row.key in keys))
    if common:
        shown = "; ".join(repr(text[:80]) for text in common[:_SHOWN_MAX])
        are = "is" if len(common) == 1 else "are"
        message = f"{counted(len(common), 'text')} {are} in both the {first} and the {second} split, such as {shown}"
        raise InvalidRequest(
            message,
            remedy="Remove them from one of the splits. Texts that differ only in case, spaces and final"
            f" punctuation are the same. {_SEE}",
        )


def _conflicts_and_repeats(by_split: dict[Split, list[DataRow]]) -> Iterator[str]:
    for split, members in by_split.items():
        answers: dict[tuple[str, str], dict[str, DataRow]] = defaultdict(dict)
        for row in members:
            for question, label in _claims(row):
                answers[row.key, question].setdefault(label, row)
        conflicts = {key: [*rows.values()] for (key, _), rows in answers.items() if len(rows) > 1}
        if conflicts:
            first, second, *_ = next(iter(conflicts.values()))
            yield (
                f"{counted(len(conflicts), 'text')} of the {split} split {'has' if len(conflicts) == 1 else 'have'}"
                f" conflicting labels, such as {first.text[:80]!r}:"
                f" see {first.place} and {second.place}."
            )
        repeats = len(members) - len({row.key for row in members})
        if repeats and split in MEASURED:
            verb = "repeats" if repeats == 1 else "repeat"
            yield (
                f"{counted(repeats, 'row')} of the {split} split {verb} a text, so its figures seem more certain than"
                " they are."
            )


def _claims(row: DataRow) -> Iterator[tuple[str, str]]:
    """Yield question and label of each answer of a row; the question is empty for tasks without named questions."""
    if not row.answers:
        yield "", row.label or row.completion or repr(row.spans)
    for answer in row.answers:
        yield answer.question, answer.label


def _shared_families(by_split: dict[Split, list[DataRow]]) -> Iterator[str]:
    names = {split: {name for row in rows for name in (row.family, row.own_family)} for split, rows in by_split.items()}
    for first, second in itertools.combinations(by_split, 2):
        common = names[first] & names[second] - {""}
        if common:
            families, are = ("1 family", "is") if len(common) == 1 else (f"{len(common)} families", "are")
            yield (
                f"{families} of rows, such as '{min(common)}', {are} in both the {first} and the {second}"
                " split: figures are too good for a model that has seen the phrasing."
            )


def _missing_labels(counts: dict[Split, Counter[str]], known: Sequence[str]) -> Iterator[str]:
    for split, seen in counts.items():
        absent = [label for label in known if label not in seen]
        if absent and seen:
            yield f"The {split} split has no row of: {', '.join(absent)[:500]}."


def _calibration_counts(task: TaskSpec, calibration: Sequence[DataRow]) -> dict[QuestionSpec | None, int]:
    """Return the number of rows for each threshold; None stands for a task without named questions."""
    if task.kind != "decide":
        return {None: len(calibration)}
    return {question: len(rows_of(task, question, calibration)) for question in task.questions_asked}


def _rows_short_of_proof(counts: Mapping[QuestionSpec | None, int], recipe: Recipe) -> Iterator[str]:
    """Warn of thresholds with too few calibration rows for any proof."""
    target, delta = recipe.risk.target, recipe.risk.delta
    delta_of_each, _ = divided_delta(counts, target, delta)
    # The message names a number that suffices even if every question gets enough rows, and so a part of delta.
    least, needed = rows_min(target, delta_of_each), rows_min(target, delta / len(counts))
    for question, count in counts.items():
        if count >= least:
            continue
        answers = "calibration rows" if question is None else f"calibration rows that answer '{question.name}'"
        subject = "The bundle" if question is None else f"'{question.name}'"
        yield (
            f"{count} {answers} cannot prove a risk of {target:g} even without an error among them: that needs"
            f" {needed}. {subject} will always escalate."
        )
