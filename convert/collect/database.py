"""Opens DuckDB over the collected files with bounded memory, and a temporary folder for the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from convert.collect import answer_columns, record_files
from convert.collect.record_columns import LATER_COLUMNS, SCHEMA

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
            answer_columns.split_answers(numbered, LATER_COLUMNS, "type = 'prediction'").create_view("records")
        else:
            empty = connection.from_arrow(SCHEMA.empty_table())
            empty.project("*, NULL::VARCHAR AS filename, NULL::BIGINT AS row_id").create("records")
        try:
            yield connection
        finally:
            shutil.rmtree(spill, ignore_errors=True)
