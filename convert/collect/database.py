"""Opens DuckDB over the collected files with bounded memory, and a temporary folder for the rest.

Version 0.1 stored one `output`, of either model, with the scores and confidence of the local model. The local answer is
derived from such a row as `edge_agent/formats/example_records.py` does for a record. If it is unknown, the confidence
is dropped too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb

from convert.collect import record_files
from convert.collect.record_files import LATER_COLUMNS, SCHEMA

_TAUGHT = "(route = 'upstream' OR coalesce(model, '') <> '')"
_LOCAL = f"CASE WHEN NOT {_TAUGHT} THEN nullif(output, '') ELSE scores[1].label END"
# Column of the first version with two answers: if it is null, the row is older.
_APART = f"""
    * REPLACE (
        CASE WHEN collected_at IS NULL AND {{prediction}} THEN {_LOCAL} ELSE local_answer END AS local_answer,
        CASE WHEN collected_at IS NULL AND {{prediction}} AND {_TAUGHT} THEN output ELSE teacher_answer END
            AS teacher_answer
    )
"""
_GRADED = """
    * REPLACE (
        CASE WHEN local_answer IS NOT NULL THEN confidence END AS confidence,
        CASE WHEN local_answer IS NOT NULL THEN threshold END AS threshold,
        CASE WHEN local_answer IS NULL AND {prediction} THEN false ELSE sure END AS sure,
        CASE WHEN local_answer IS NOT NULL THEN label_mass END AS label_mass
    )
"""


def split_answers(
    given: duckdb.DuckDBPyRelation, columns: Mapping[str, str], prediction: str = "true"
) -> duckdb.DuckDBPyRelation:
    """Return rows with separate answers, and with missing `columns` (name: SQL type) as NULL.

    Args:
        given: rows of any version.
        columns: what the rows should have.
        prediction: SQL condition for predictions among the records.
    """
    missing = [f"NULL::{type_} AS {name}" for name, type_ in columns.items() if name not in given.columns]
    whole = given.project(", ".join(["*", *missing])) if missing else given
    return whole.project(_APART.format(prediction=prediction)).project(_GRADED.format(prediction=prediction))


MEMORY_BYTES_DEFAULT = 1024**3
MEMORY_BYTES_MIN = 256 * 1024**2
_BYTES_A_THREAD = 512 * 1024**2


@contextmanager
def opened(folder: Path, spill: Path, memory_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with a view `records` over the raw files; `row_id` identifies a row while it is open."""
    shutil.rmtree(spill, ignore_errors=True)
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_bytes // 1024**2}MiB",
        "temp_directory": str(spill),
        # Each thread holds blocks that cannot be spilled.
        "threads": max(1, min(len(os.sched_getaffinity(0)), memory_bytes // _BYTES_A_THREAD)),
        # Queries that need an order use ORDER BY; preserving that of the files costs memory.
        "preserve_insertion_order": False,
        # Never download an extension of DuckDB; none is needed.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=config) as connection:
        files = [str(path) for path in record_files.files(folder)]
        if files:
            given = connection.read_parquet(files, filename=True, file_row_number=True, union_by_name=True)
            numbered = given.project("*, (file_index::BIGINT << 40) + file_row_number AS row_id")
            split_answers(numbered, LATER_COLUMNS, "type = 'prediction'").create_view("records")
        else:
            empty = connection.from_arrow(SCHEMA.empty_table())
            empty.project("*, NULL::VARCHAR AS filename, NULL::BIGINT AS row_id").create("records")
        try:
            yield connection
        finally:
            shutil.rmtree(spill, ignore_errors=True)
