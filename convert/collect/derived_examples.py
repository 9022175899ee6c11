"""Derives examples from raw records: erases what tombstones name, then joins the tasks whose records have changed.

DuckDB reads the collected files with bounded memory, and a temporary folder for the rest. Version 0.1 stored one
`output`, of either model, with the scores and confidence of the local model. The local answer is derived from such a
row as `edge_agent/formats/example_records.py` does for a record. If it is unknown, the confidence is dropped too.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from convert.collect import example_join, record_files
from convert.collect.record_files import LATER_COLUMNS, SCHEMA
from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest

_BY_TEACHER = "(route = 'upstream' OR coalesce(model, '') <> '')"
_LOCAL_ANSWER = f"CASE WHEN NOT {_BY_TEACHER} THEN nullif(output, '') ELSE scores[1].label END"
# Column of the first version with two answers: if it is null, the row is older.
_SEPARATE_ANSWERS = f"""
    * REPLACE (
        CASE WHEN collected_at IS NULL AND {{prediction}} THEN {_LOCAL_ANSWER} ELSE local_answer END AS local_answer,
        CASE WHEN collected_at IS NULL AND {{prediction}} AND {_BY_TEACHER} THEN output ELSE teacher_answer END
            AS teacher_answer
    )
"""
_LOCAL_GRADES = """
    * REPLACE (
        CASE WHEN local_answer IS NOT NULL THEN confidence END AS confidence,
        CASE WHEN local_answer IS NOT NULL THEN threshold END AS threshold,
        CASE WHEN local_answer IS NULL AND {prediction} THEN false ELSE sure END AS sure,
        CASE WHEN local_answer IS NOT NULL THEN label_mass END AS label_mass
    )
"""


def split_answers(
    rows: duckdb.DuckDBPyRelation, columns: Mapping[str, str], prediction: str = "true"
) -> duckdb.DuckDBPyRelation:
    """Return rows with separate answers, and with missing `columns` (name: SQL type) as NULL.

    Args:
        rows: rows of any version.
        columns: what the rows should have.
        prediction: SQL condition for predictions among the records.
    """
    missing = [f"NULL::{type_} AS {name}" for name, type_ in columns.items() if name not in rows.columns]
    complete = rows.project(", ".join(["*", *missing])) if missing else rows
    separate = complete.project(_SEPARATE_ANSWERS.format(prediction=prediction))
    return separate.project(_LOCAL_GRADES.format(prediction=prediction))


MEMORY_BYTES_DEFAULT = 1024**3
MEMORY_BYTES_MIN = 256 * 1024**2
_BYTES_PER_THREAD = 512 * 1024**2


@contextmanager
def open_database(folder: Path, spill: Path, memory_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with a view `records` over the raw files; `row_id` identifies a row while it is open."""
    shutil.rmtree(spill, ignore_errors=True)
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_bytes // 1024**2}MiB",
        "temp_directory": str(spill),
        # Each thread holds blocks that cannot be spilled.
        "threads": max(1, min(len(os.sched_getaffinity(0)), memory_bytes // _BYTES_PER_THREAD)),
        # Queries that need an order use ORDER BY; preserving that of the files costs memory.
        "preserve_insertion_order": False,
        # Never download an extension of DuckDB; none is needed.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=config) as connection:
        files = [str(path) for path in record_files.files(folder)]
        if files:
            rows = connection.read_parquet(files, filename=True, file_row_number=True, union_by_name=True)
            numbered = rows.project("*, (file_index::BIGINT << 40) + file_row_number AS row_id")
            split_answers(numbered, LATER_COLUMNS, "type = 'prediction'").create_view("records")
        else:
            empty = connection.from_arrow(SCHEMA.empty_table())
            empty.project("*, NULL::VARCHAR AS filename, NULL::BIGINT AS row_id").create("records")
        try:
            yield connection
        finally:
            shutil.rmtree(spill, ignore_errors=True)


_STATE, _SPILL = "done.json", ".spill"
# Increase the number when the same records give different examples than before: everything is then joined again.
_FORM = f"6 duckdb {duckdb.__version__}"
_FINGERPRINTS = """
    SELECT task, count(*) || '-' || bit_xor(hash(site, epoch, sequence, line, record_id))
    FROM records WHERE task IS NOT NULL GROUP BY task ORDER BY task
"""


# Tombstones stay, so that a prediction that arrives late, or again, is erased too. A tombstone counts for its own site
# only.
_ERASABLE = """
    SELECT DISTINCT r.filename, r.site, r.prediction_id
    FROM records r
    JOIN (SELECT DISTINCT site, prediction_id FROM records WHERE type = 'tombstone') t USING (site, prediction_id)
    WHERE r.type <> 'tombstone'
    ORDER BY ALL
"""


@dataclass(frozen=True)
class DerivedExamples:
    """The erased records, and the counts of each task."""

    records_erased: int
    erased: tuple[str, ...]
    """Erased predictions, as SITE/PREDICTION_ID."""
    tasks: list[example_join.TaskExampleCounts]


def derive(
    out: Path,
    memory_bytes: int,
    progress: Callable[[str], None],
    before_erasure: Callable[[Sequence[str]], None] = lambda _: None,
) -> DerivedExamples:
    """Bring the examples below `out` up to date with the raw files there.

    `before_erasure` is called with the predictions, as SITE/PREDICTION_ID, before the first of them is erased. After a
    kill the next run erases the rest, and calls it again.

    Raises:
        InvalidRequest: the memory is not enough.
        OSError: a file cannot be written; the next run continues from there.
    """
    folder = out / record_files.FOLDER
    try:
        progress("erase records")
        with open_database(folder, out / _SPILL, memory_bytes) as connection:
            erased, names = erase(connection, before_erasure)
        with open_database(folder, out / _SPILL, memory_bytes) as connection:
            return DerivedExamples(erased, names, _join(connection, out, progress))
    except duckdb.OutOfMemoryException:
        message = f"{memory_bytes // 1024**2} MiB of memory are not enough to join the collected records"
        remedy = "Allow more with --memory-mib, and run the command again: the segments are stored."
        raise InvalidRequest(message, remedy=remedy) from None


def _join(
    connection: duckdb.DuckDBPyConnection, out: Path, progress: Callable[[str], None]
) -> list[example_join.TaskExampleCounts]:
    examples, stored = out / example_join.FOLDER, out / _STATE
    state: dict[str, Any] = json.loads(stored.read_bytes()) if stored.is_file() else {}
    examples.mkdir(exist_ok=True)
    fingerprints = {task: f"{_FORM} {value}" for task, value in connection.execute(_FINGERPRINTS).fetchall()}
    for task, fingerprint in fingerprints.items():
        files = _file_sizes(examples / f"task={task}")
        if task not in state or (state[task]["fingerprint"], state[task]["files"]) != (fingerprint, files):
            counts = example_join.join(connection, task, examples, progress)
            files = _file_sizes(examples / f"task={task}")
            state[task] = {"fingerprint": fingerprint, "files": files, "counts": asdict(counts)}
            _write_state(out, state)
    for task in state.keys() - fingerprints.keys():  # all of its records have been erased
        shutil.rmtree(examples / f"task={task}", ignore_errors=True)
        del state[task]
        _write_state(out, state)
    return [example_join.TaskExampleCounts(**state[task]["counts"]) for task in fingerprints]


def _file_sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _write_state(out: Path, state: dict[str, Any]) -> None:
    atomic_files.write_atomically(out / _STATE, json.dumps(state, indent=1, sort_keys=True).encode() + b"\n")


def erase(
    connection: duckdb.DuckDBPyConnection, before_erasure: Callable[[Sequence[str]], None]
) -> tuple[int, tuple[str, ...]]:
    """Rewrite every file that still holds an erased prediction.

    Returns the number of removed records, and the erased predictions as SITE/PREDICTION_ID.

    Raises:
        OSError: a file cannot be written; files already rewritten stay so.
    """
    by_file: dict[str, set[tuple[str, str]]] = {}
    for filename, site, prediction_id in connection.execute(_ERASABLE).fetchall():
        by_file.setdefault(filename, set()).add((site, prediction_id))
    erased = tuple(sorted({f"{site}/{prediction}" for names in by_file.values() for site, prediction in names}))
    if erased:
        before_erasure(erased)
    return sum(record_files.forget(Path(filename), names) for filename, names in by_file.items()), erased
