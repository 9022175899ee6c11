"""What `edge-convert evaluate` says of the rows that it is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convert.cli import run
from edge_agent.formats.manifest import TaskSpec


@pytest.mark.parametrize(("source", "warned"), [("teacher", True), ("reviewed", False)])
def test_labels_of_a_machine_are_warned_of(tmp_path: Path, capsys, source: str, warned: bool):
    """Figures on them say how far the bundle agrees with that machine."""
    path = tmp_path / "rows.jsonl"
    row = {"text": "t", "label": "refund", "label_source": source, "labeled_by": "large-1"}
    path.write_text(json.dumps(row) + "\n")
    assert 1 == len(run._read_rows(path, TaskSpec(name="t", kind="classify", labels=("refund", "price")), None))
    said = " ".join(capsys.readouterr().err.split())
    assert warned == ("1 row was labelled by a machine (1 by teacher large-1)" in said)
