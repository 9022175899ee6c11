"""The queries in docs/collect.md run on collected files and return the expected number of rows."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.examples import feedback, opinion, prediction
from tests.support.segments import CentralTeam, SealingSite

DOCUMENT = Path(__file__).parents[4] / "docs" / "collect.md"
QUERIES = re.findall(r"\n([^\n]+):\n\n```sql\n(.*?);\n```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
DRAWN = {"review_stream": "audit", "sampling_probability": 0.1}
# By the first words above the query: how many rows the scene below gives.
ROWS = {
    "How many": 1,
    "How often": 1,
    "What is confused": 1,
    "Where the model": 1,
    "What reviewers": 2,
    "What the large": 1,
    "Sites whose": 1,
    "A training file": 1,
    "Reviews whose": 1,
}


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with examples of every kind: right, wrong and confident, with conflicting labels, and waiting for
    the prediction."""
    root = tmp_path_factory.mktemp("docs")
    SealingSite(root / "store").seal(
        [
            prediction(1, input="give me my money back", sure=True, confidence=0.9, **DRAWN),
            feedback(1),
            prediction(2, input="what does the kettle cost"),
            feedback(2),
            feedback(2, record_id="feedback:f-9", feedback_id="f-9", reviewer="ben", value="stock"),
            prediction(3, input="is there a blue one left"),
            opinion(3, why="audit"),
            feedback(4),
        ]
    )
    CentralTeam(root).collect(root / "store")
    return root


def test_every_query_of_the_page_is_tested():
    """Each query of docs/collect.md has its number of rows in ROWS."""
    assert set(ROWS) == {next((start for start in ROWS if title.startswith(start)), title) for title, _ in QUERIES}


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_queries_of_the_page_run(collected: Path, monkeypatch: pytest.MonkeyPatch, title: str, query: str):
    """Each query of docs/collect.md runs unchanged in the folder that contains collected/."""
    monkeypatch.chdir(collected)
    with duckdb.connect() as connection:
        found = connection.execute(query).fetchall()
    assert next(rows for start, rows in ROWS.items() if title.startswith(start)) == len(found)


def test_every_column_is_explained(collected: Path):
    """docs/collect.md names each column of the examples."""
    with duckdb.connect() as connection:
        query = f"DESCRIBE FROM '{collected}/collected/examples/**/*.parquet'"
        columns = {name for name, *_ in connection.execute(query).fetchall()}
    text = DOCUMENT.read_text(encoding="utf-8")
    assert set() == {name for name in columns if f"`{name}`" not in text}


def test_column_types_are_readable_by_other_programs(collected: Path):
    """As docs/collect.md states, only redaction_counts is a map; times are microseconds without a time zone, for
    Spark."""
    table = pq.read_table(collected / "collected" / "examples")
    fields = list(table.schema)
    assert ["redaction_counts"] == [field.name for field in fields if "map<" in str(field.type)]
    assert {"timestamp[us]"} == {str(field.type) for field in fields if pa.types.is_timestamp(field.type)}
    assert "redaction_counts" not in table.drop_columns(["redaction_counts"]).column_names
    assert '.drop_columns(["redaction_counts"])' in DOCUMENT.read_text(encoding="utf-8")
