"""Lists the records that sites had erased: their tombstones stay in the collection."""

from __future__ import annotations

from pathlib import Path

from convert.collect import database, record_files

_ERASED = "SELECT DISTINCT site || '/' || prediction_id FROM records WHERE type = 'tombstone' ORDER BY 1"


def erased(collected: Path) -> list[str]:
    """Return the erased records of a collection, as SITE/PREDICTION_ID."""
    folder = collected / record_files.FOLDER
    with database.opened(folder, collected / ".erased", database.MEMORY_BYTES_DEFAULT) as connection:
        return [name for (name,) in connection.execute(_ERASED).fetchall()]
