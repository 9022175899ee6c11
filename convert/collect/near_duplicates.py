"""Groups the equal and nearly equal texts of a task: the table `groups` (text_key, cluster).

Each text is compared with the first text and the previous text of each band of its sketch. Near duplicates are joined,
also through a third text. A cluster has the name of its smallest key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from convert.collect import minhash
from convert.data.data_row import normalised

_PAIRS_AT_ONCE = 20_000
# `kept` holds the distinct predictions of the task.
_TEXTS = """
    CREATE OR REPLACE TEMP TABLE texts AS
    SELECT r.text_key, any_value(r.sketch) AS sketch,
           any_value(CASE WHEN length(r.input) <= $letters THEN r.input END) AS short
    FROM records r JOIN kept USING (row_id)
    GROUP BY r.text_key
"""
_PAIRS = """
    CREATE OR REPLACE TEMP TABLE pairs AS
    WITH bands AS (
        SELECT text_key, unnest(sketch) AS band, generate_subscripts(sketch, 1) AS place FROM texts
    ), neighbours AS (
        SELECT text_key,
               first_value(text_key) OVER (PARTITION BY place, band ORDER BY text_key) AS first,
               lag(text_key) OVER (PARTITION BY place, band ORDER BY text_key) AS before
        FROM bands
        QUALIFY count(*) OVER (PARTITION BY place, band) > 1
    )
    SELECT DISTINCT text_key AS b, unnest([first, before]) AS a FROM neighbours
"""
_SKETCHES = """
    SELECT p.a, p.b, x.sketch AS left_sketch, y.sketch AS right_sketch, x.short AS left_text, y.short AS right_text
    FROM pairs p JOIN texts x ON x.text_key = p.a JOIN texts y ON y.text_key = p.b
    WHERE p.a <> p.b
"""

Keys = npt.NDArray[np.uint64]


def group_near_duplicates(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `groups` from the table `kept`."""
    connection.execute(_TEXTS, {"letters": minhash.SHORT_LETTERS_MAX})
    connection.execute(_PAIRS)
    keys, clusters = _components(list(_links(connection)))
    connection.register("linked", pa.table({"text_key": keys, "cluster": clusters}))
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE groups AS
        SELECT text_key, coalesce(l.cluster, text_key) AS cluster FROM texts LEFT JOIN linked l USING (text_key)
    """)
    connection.unregister("linked")
    connection.execute("DROP TABLE texts; DROP TABLE pairs")


def _links(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[Keys, Keys]]:
    """Yield the pairs of near duplicates."""
    reader: Any = connection.sql(_SKETCHES).to_arrow_reader(_PAIRS_AT_ONCE)
    for batch in reader:
        left, right = (batch[name].flatten().to_numpy(zero_copy_only=False) for name in ("left_sketch", "right_sketch"))
        texts = [
            (first and normalised(first), second and normalised(second))
            for first, second in zip(batch["left_text"].to_pylist(), batch["right_text"].to_pylist(), strict=True)
        ]
        alike = minhash.alike(left.reshape(-1, minhash.BANDS), right.reshape(-1, minhash.BANDS), texts)
        yield batch["a"].to_numpy()[alike], batch["b"].to_numpy()[alike]


def _components(links: list[tuple[Keys, Keys]]) -> tuple[Keys, Keys]:
    """Return each linked text, and the smallest key of its component."""
    if not links:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    left, right = (np.concatenate(side) for side in zip(*links, strict=True))
    keys, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    half = len(left)
    graph = sparse.coo_matrix((np.ones(half, np.int8), (places[:half], places[half:])), shape=(len(keys), len(keys)))
    component: npt.NDArray[np.int32] = sparse.csgraph.connected_components(graph, directed=False)[1]
    # Keys are sorted, so the first one of a component is its smallest.
    _, firsts = np.unique(component, return_index=True)
    return keys, keys[firsts][component]
