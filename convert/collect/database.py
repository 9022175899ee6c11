"""DuckDB over the collected files, in bounded memory: what does not fit goes to a folder that is emptied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from convert.collect import raw
from convert.collect.rows import SCHEMA

MEMORY_BYTES_DEFAULT = 1024**3
MEMORY_BYTES_MIN = 256 * 1024**2


@contextmanager
def opened(folder: Path, spill: Path, memory_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with a view `records` over the raw files; `filename` and `file_row_number` name a row."""
    shutil.rmtree(spill, ignore_errors=True)
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_bytes // 1024**2}MiB",
        "temp_directory": str(spill),
        # The site of DuckDB's extensions is not asked for anything; nothing here needs one.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=config) as connection:
        files = [str(path) for path in raw.files(folder)]
        if files:
            given = connection.read_parquet(files, filename=True, file_row_number=True)
            given.create_view("records")
        else:
            empty = connection.from_arrow(SCHEMA.empty_table())
            empty.project("*, NULL::VARCHAR AS filename, NULL::BIGINT AS file_row_number").create("records")
        try:
            yield connection
        finally:
            shutil.rmtree(spill, ignore_errors=True)
