"""SQL that separates the local answer from the large model's in Parquet files of version 0.1.

Version 0.1 stored one `output`, of either model, with the scores and confidence of the local model. The local answer is
derived from such a row as `edge_agent/formats/example_records.py` does for a record. If it is unknown, the confidence
is dropped too.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

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
