"""Writes files of training rows: SPLIT.jsonl for each split and dataset.json, all of them or none."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import duckdb

from convert.collect import status_folder
from convert.collect.status_folder import AuditLosses
from convert.dataset import lineage, selection
from convert.dataset.example_scope import ScopedExamples, open_examples
from convert.dataset.lineage import LineageDocument
from convert.dataset.row_builder import RedactedExample, RowBuilder
from convert.dataset.row_formats import CollectedExample, Format, Row
from convert.dataset.selection import AuditSample, DatasetSelection, SelectionCounts
from convert.dataset.surrogates import SurrogateSettings
from convert.fleet import accountability
from edge_agent.durable import atomic_files
from edge_agent.durable.atomic_files import make_private, private_folder
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Kind
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formatting import counted

REPORT_NAME = "dataset.json"
TASKS_NAME, INTERFACE_NAME, LABEL_ERRORS_NAME = "tasks.json", "interface.xml", "label-errors.json"
_REPLACED = ".replaced"
_ROWS_AT_ONCE = 10_000
_LABELS_MAX = 1000
_PURPOSES: dict[Format, str] = {"preference": "corrected", "unpaired": "judged"}
_ROWS = """
    SELECT c.place, e.kind, e.redaction_counts,
           e.site, e.prediction_id, e.input, e.output, {right}, e.verdict, {source}, {by},
           e.review_stream, e.sampling_probability, e.question, {probabilities},
           CASE WHEN count(DISTINCT e.text_key) OVER (PARTITION BY e.cluster) > 1 THEN e.cluster::VARCHAR END
    FROM chosen c JOIN examples e USING (site, prediction_id)
    ORDER BY {order}
"""
_ORDER = "c.place, e.moment, e.site, e.prediction_id"
# Orders answers about one text with the same label source and sampling next to each other: they make one row.
_ORDER_ANSWERS = "c.place, e.text_key, e.site, e.input, 10, 11, e.review_stream, e.sampling_probability, e.question"


@dataclass(frozen=True)
class DatasetSummary:
    """The written dataset, as its report describes it."""

    task: str
    format: Format
    purpose: str
    split_by: str
    rows: dict[str, int]
    """By split."""
    labels: dict[str, dict[str, int]]
    """Labels by split, the most frequent first; empty if there are too many different ones. text-spans: labels of
    spans."""
    left_out: SelectionCounts
    label_sources: dict[str, dict[str, int]]
    """Examples by split and label source."""
    scope: ScopedExamples
    """Bundles that answered, and sites with a wrong clock."""
    audit: AuditSample
    """The random sample for calibration and test."""
    sites: AuditLosses
    collected: str
    """The collection that the rows were made from; lineage is stored there."""
    surrogates: dict[str, Any] = field(default_factory=dict)
    """Placeholders: how many were filled, by type, with the locales and seed."""
    spans: dict[str, Any] = field(default_factory=dict)
    """text-spans: how values were found in the texts, and which records were left out because they were not."""


def purpose_of(form: Format, answers: selection.Answers) -> str:
    """Return the purpose of a selection for a format: preferences need corrections, judgements use every review."""
    return _PURPOSES.get(form, answers)


def write(
    choice: DatasetSelection,
    form: Format,
    out: Path,
    *,
    force: bool = False,
    surrogates: SurrogateSettings = SurrogateSettings(),  # noqa: B008 - it cannot change
) -> DatasetSummary:
    """Select examples, and write a folder.

    Raises:
        FileMissing: nothing was collected of the task.
        InvalidRequest: nothing is left to write, `out` exists, the format does not suit the task, or a locale or a kind
            of surrogate is not known.
        OSError: it cannot be written; an existing folder is unchanged.
    """
    builder = RowBuilder(form, surrogates, choice.seed)
    with duckdb.connect() as connection, replace_folder(out, REPORT_NAME, force=force) as folder:
        several = form == "text-answers"
        scoped = open_examples(connection, choice.collected, choice.task, choice.scope, whole=several)
        counts = selection.choose(connection, choice)
        names = list(choice.split_shares)
        if not counts.chosen:
            message = f"task {choice.task} has no example that is {choice.purpose}, of {counts.examples}"
            remedy = "'edge-convert assess' shows the existing examples, and what is missing."
            raise InvalidRequest(message, remedy=remedy)
        purpose = choice.purpose
        query = _ROWS.format(
            right=selection.right_answer(purpose),
            source=selection.label_source(purpose),
            by=selection.labeled_by(purpose),
            probabilities=selection.probabilities(purpose),
            order=_ORDER_ANSWERS if several else _ORDER,
        )
        values = {"task": choice.task} if "$task" in query else {}
        paths, consented = [folder / f"{name}.jsonl" for name in names], accountability.consents(choice.collected)
        rows, labels = _write_rows(connection.execute(query, values), builder, paths, consented)
        if not any(rows):
            reasons = json.dumps(builder.report()["spans"]["left_out"], ensure_ascii=False)
            message = (
                f"of {counted(counts.chosen, 'record')}, none has a unique place in its text for every value: {reasons}"
            )
            raise InvalidRequest(message, remedy="Check some records: text-spans needs values that occur in the text.")
        summary = DatasetSummary(
            choice.task,
            form,
            choice.purpose,
            choice.by,
            dict(zip(names, rows, strict=True)),
            dict(zip(names, map(_count_labels, labels), strict=True)),
            counts,
            _label_sources(connection, choice),
            scoped,
            selection.audit(connection, choice),
            status_folder.losses(choice.collected),
            str(choice.collected.resolve()),
            **builder.report(),
        )
        content = json.dumps({"schema": "edge-agent/dataset/v1", **asdict(summary)}, indent=1, ensure_ascii=False)
        (folder / REPORT_NAME).write_text(content + "\n", encoding="utf-8")
        lineage.register(choice.collected, _lineage(connection, choice, out, paths))
        return summary


@contextmanager
def replace_folder(out: Path, mark: str, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder that replaces `out` at the end; `mark` is the file that identifies a folder written here.

    The folder and its files are for their owner alone.

    Raises:
        InvalidRequest: `out` exists, and must not be replaced; or somebody put other files into it; or another run
            writes it now; or a run that was stopped has left the folder that it was replacing.
    """
    if out.exists() and not force:
        raise InvalidRequest(f"{out} exists", remedy="Name another --out, or replace it with --force.")
    target = out.resolve()  # a link stays a link, and "." has a name
    if out.exists():
        _check_replaceable(target, mark)
    staging, earlier = (target.with_name(target.name + suffix) for suffix in (atomic_files.PARTIAL, _REPLACED))
    if earlier.exists():
        remedy = "A stopped run has left there the folder that it was replacing: look into it, then move it away."
        raise InvalidRequest(f"{earlier} exists, where an existing folder is kept while it is replaced", remedy=remedy)
    with _exclusive_folder(staging, out):
        with private_folder(staging):
            yield staging
        if target.exists():
            target.rename(earlier)
        try:
            staging.rename(target)
        except OSError:
            if earlier.exists():
                earlier.rename(target)
            raise
    shutil.rmtree(earlier, ignore_errors=True)


@contextmanager
def _exclusive_folder(staging: Path, out: Path) -> Iterator[None]:
    """Make a folder for this run alone, and delete it at the end; the remains of a stopped run are deleted first."""
    busy = InvalidRequest(f"another run writes {out} now", remedy="Wait until it has ended, or name another --out.")
    if staging.exists():
        with _locked(staging, busy):
            shutil.rmtree(staging, ignore_errors=True)
    try:
        make_private(staging)
    except FileExistsError:
        raise busy from None
    with _locked(staging, busy) as fd:
        try:
            yield
        finally:
            if _is_at(staging, fd):  # and not the folder of a later run
                shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path, busy: InvalidRequest) -> Iterator[int]:
    """Lock a folder for the block; some shares have no locks. Raises `busy` if another run has it."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except FileNotFoundError:
        raise busy from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass
        if not _is_at(folder, fd):  # deleted by another run in between
            raise busy
        yield fd
    finally:
        os.close(fd)


def _is_at(folder: Path, fd: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _check_replaceable(folder: Path, mark: str) -> None:
    """Raise InvalidRequest for a folder that was not written here, that has other files, or that a shell is in."""
    if not (folder / mark).is_file():
        raise InvalidRequest(f"{folder} has no {mark}, so --force does not replace it", remedy="Name another --out.")
    ours = {REPORT_NAME, TASKS_NAME, INTERFACE_NAME, LABEL_ERRORS_NAME, *_split_files(folder / mark)}
    others = sorted({path.name for path in folder.iterdir()} - ours)
    if others:
        message = f"{folder} also has {', '.join(others)[:200]}, which --force would delete"
        raise InvalidRequest(message, remedy="Move that to another folder, or name another --out.")
    if Path.cwd().is_relative_to(folder):
        message = f"--force would replace {folder}, which is the current folder"
        raise InvalidRequest(message, remedy="Change to another folder, and name this one with --out.")


def _split_files(report: Path) -> list[str]:
    """Return the names of the split files that a data sheet lists; empty if it is damaged."""
    try:
        return [f"{split}.jsonl" for split in json.loads(report.read_bytes())["rows"]]
    except (ValueError, KeyError, TypeError):
        return []


def _write_rows(
    result: duckdb.DuckDBPyConnection, builder: RowBuilder, paths: list[Path], consented: frozenset[str]
) -> tuple[list[int], list[Counter[str]]]:
    counts, labels = [0] * len(paths), [Counter[str]() for _ in paths]
    with ExitStack() as stack:
        files: list[IO[str]] = [stack.enter_context(path.open("w", encoding="utf-8")) for path in paths]
        for split, (rows, row_labels) in _build_rows(_fetch_rows(result), builder):
            for row in rows:
                ids = row.get("prediction_ids") or [row["prediction_id"]]
                if all(f"{row['site']}/{each}" in consented for each in ids):
                    row["consented"] = True
                files[split].write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[split] += 1
            if len(labels[split]) <= _LABELS_MAX:
                labels[split].update(row_labels)
    return counts, labels


def _build_rows(
    result: Iterator[tuple[Any, ...]], builder: RowBuilder
) -> Iterator[tuple[int, tuple[list[Row], list[str]]]]:
    """Yield the rows of each example, or of the answers about one text, and their labels."""
    examples = ((split, _redacted_example(*fields)) for split, *fields in result)
    if not builder.joins_answers:
        yield from ((split, builder.build(redacted)) for split, redacted in examples)
        return
    for (split, *_), group in itertools.groupby(examples, lambda pair: (pair[0], *_shared_fields(pair[1].example))):
        yield split, builder.build_answers([redacted for _, redacted in group])


def _redacted_example(kind: Kind, redacted: Mapping[str, int], *fields: Any) -> RedactedExample:
    *shared, question, scores, family = fields
    probabilities = {pair["label"]: pair["score"] for pair in scores or ()}
    details = {"question": question, "probabilities": probabilities, "family": family or ""}
    return RedactedExample(replace(CollectedExample(*shared), **details), kind, redacted)


def _shared_fields(example: CollectedExample) -> tuple[Any, ...]:
    """Return what the answers of one row have in common."""
    sampling = (example.review_stream, example.sampling_probability)
    return (example.site, example.input, example.label_source, example.labeled_by, *sampling)


def _lineage(
    connection: duckdb.DuckDBPyConnection, choice: DatasetSelection, out: Path, paths: list[Path]
) -> LineageDocument:
    names = list(choice.split_shares)
    records: dict[str, list[str]] = {name: [] for name in names}
    query = "SELECT place, site || '/' || prediction_id AS record FROM chosen ORDER BY ALL"
    for split, record in connection.execute(query).fetchall():
        records[names[split]].append(record)
    files = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in zip(names, paths, strict=True)}
    return LineageDocument("dataset", choice.task, records, files, str(out.resolve()), at=format_timestamp(time.time()))


def _label_sources(connection: duckdb.DuckDBPyConnection, choice: DatasetSelection) -> dict[str, dict[str, int]]:
    query = (
        f"SELECT place, {selection.label_source(choice.purpose)} AS source, count(*)"  # noqa: S608 - of this package
        " FROM chosen JOIN examples USING (site, prediction_id) GROUP BY ALL ORDER BY count(*) DESC, source"
    )
    sources: dict[str, dict[str, int]] = {name: {} for name in choice.split_shares}
    names = list(sources)
    for split, source, count in connection.execute(query).fetchall():
        sources[names[split]][source] = count
    return sources


def _fetch_rows(result: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := result.fetchmany(_ROWS_AT_ONCE):
        yield from rows


def _count_labels(labels: Counter[str]) -> dict[str, int]:
    return {} if len(labels) > _LABELS_MAX else dict(labels.most_common())
