"""Warnings of `edge-convert evaluate` on the rows that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.cli import run
from edge_agent.formats.manifest import TaskSpec


@pytest.mark.parametrize(("source", "warned"), [("teacher", True), ("reviewed", False)])
def test_rows_labelled_by_a_machine_give_a_warning(tmp_path: Path, capsys, source: str, warned: bool):
    """Rows that a teacher labelled cause a warning with their number, because figures on them only measure agreement
    with that teacher."""
    path = tmp_path / "rows.jsonl"
    row = {"text": "t", "label": "refund", "label_source": source, "labeled_by": "large-1"}
    path.write_text(json.dumps(row) + "\n")
    assert 1 == len(run._read_rows(path, TaskSpec(name="t", kind="classify", labels=("refund", "price")), None))
    said = " ".join(capsys.readouterr().err.split())
    assert warned == ("1 row was labelled by a machine (1 by teacher large-1)" in said)
