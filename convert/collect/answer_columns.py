"""The local answer and the large model's apart, in Parquet of any version: SQL over what version 0.1 wrote together.

Version 0.1 kept one `output`, beside which stood the scores and the confidence of the local model whoever had given it.
What such a row says of the local answer is read out of it as `edge_agent/formats/example_records.py` does with a
record; where it says nothing, the confidence goes as well, for it is of an answer that nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

_TAUGHT = "(route = 'upstream' OR coalesce(model, '') <> '')"
_LOCAL = f"CASE WHEN NOT {_TAUGHT} THEN nullif(output, '') ELSE scores[1].label END"
# By the first version with two answers: when it is null, the row was written before.
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
    """Return rows with their answers apart, and with those of the `columns` (name: SQL type) that they lack as NULL.

    Args:
        given: rows of any version.
        columns: what the rows should have.
        prediction: SQL that tells a prediction from other records.
    """
    missing = [f"NULL::{type_} AS {name}" for name, type_ in columns.items() if name not in given.columns]
    whole = given.project(", ".join(["*", *missing])) if missing else given
    return whole.project(_APART.format(prediction=prediction)).project(_GRADED.format(prediction=prediction))
