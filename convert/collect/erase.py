"""Forgetting: what a tombstone names leaves every file, also those written long before it came.

Tombstones stay, so that a prediction that comes late, or again, is forgotten too. A tombstone counts for its own site
only.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from convert.collect import raw

_FORGOTTEN = """
    SELECT DISTINCT r.filename, r.site, r.prediction_id
    FROM records r
    JOIN (SELECT DISTINCT site, prediction_id FROM records WHERE type = 'tombstone') t USING (site, prediction_id)
    WHERE r.type <> 'tombstone'
    ORDER BY ALL
"""


def erase(connection: duckdb.DuckDBPyConnection) -> int:
    """Write every file anew that still holds what was to be forgotten; returns how many records went.

    Raises:
        OSError: a file cannot be written; whatever was done already stays done.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    for filename, site, prediction_id in connection.execute(_FORGOTTEN).fetchall():
        found.setdefault(filename, set()).add((site, prediction_id))
    return sum(raw.forget(Path(filename), names) for filename, names in found.items())
