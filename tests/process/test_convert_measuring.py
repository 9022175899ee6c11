"""`edge-convert evaluate` and `compare`: their text and JSON output, measured through real engines."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convert.cli import app
from tests.support.bundles import INTENTS, echo_bundle


def edge_convert(*arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and its output."""
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    return result.exit_code, result.output


def as_json(*arguments: object) -> dict[str, Any]:
    """Run a command in a separate process; return the JSON from its standard output."""
    command = [sys.executable, "-c", "from convert.cli import main; main()", *map(str, arguments), "--json"]
    plain: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return plain


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """Write rows whose label is in the text, so that echo answers them correctly, and as many that it answers
    wrongly."""
    right = [{"text": f"message {i} about {INTENTS[i % 8]}", "label": INTENTS[i % 8]} for i in range(40)]
    wrong = [{"text": f"note {i} about {INTENTS[i % 8]}", "label": INTENTS[(i + 1) % 8]} for i in range(40)]
    path = tmp_path / "field.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in right + wrong))
    return path


@pytest.mark.slow
def test_evaluate_reports_accuracy_as_text_and_json(tmp_path: Path, field: Path):
    """`edge-convert evaluate` prints the accuracy with its interval and a warning about a small test split; `--json`
    prints the same figures."""
    bundle = echo_bundle(tmp_path / "bundle")
    code, said = edge_convert("evaluate", bundle, field)
    assert code == 0
    assert "It is right on 50.0% (95% interval 38.6% to 61.4%) of 80 test rows." in said
    assert "The test split is small: the accuracy is only known to about ±11.4%." in said
    assert "| refund | exchange |" not in said  # echo answers what stands in the text, and that is one to the left
    plain = as_json("evaluate", bundle, field)
    assert (plain["rows"], plain["accuracy"]["value"]) == (80, 0.5)
    assert sum(row["rows"] for row in plain["per_label"].values()) == 80


@pytest.mark.slow
def test_two_bundles_are_compared_on_the_same_rows(tmp_path: Path, field: Path):
    """`edge-convert compare` of a bundle with itself reports no significant difference, and neither bundle as
    better."""
    bundle = echo_bundle(tmp_path / "bundle")
    code, said = edge_convert("compare", bundle, bundle, field)
    assert code == 0
    assert "No difference between the two is statistically significant." in said
    assert "Both give the same answer on 100.0%" in said
    assert "Only the first is right on 0 rows, only the second on 0." in said
    assert re.search(r"A median answer takes \d+\.\d ms from the first and", said)
    plain = as_json("compare", bundle, bundle, field)
    assert ([], [], 1.0) == (plain["better"], plain["worse"], plain["differences"]["accuracy"]["p_value"])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('{"text": "a", "label": "nothing like it"}\n', "1 label of the rows is not one of"),
        ('{"prompt": "a", "completion": "refund"}\n{"text": "b"}\n', "rows.jsonl:2: lacks 'prompt'"),
        ("", "has no rows"),
        (None, "does not exist"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, rows: str | None, said: str):
    """`edge-convert evaluate` refuses unsuitable rows with exit code 2 and names the file or the labels."""
    file = tmp_path / "rows.jsonl"
    if rows is not None:
        file.write_text(rows)
    code, text = edge_convert("evaluate", echo_bundle(tmp_path / "bundle"), file)
    assert code == 2
    assert said in text


def test_folder_without_a_manifest_is_refused(tmp_path: Path, field: Path):
    """`edge-convert evaluate` refuses a directory without a manifest with exit code 2."""
    code, text = edge_convert("evaluate", tmp_path, field)
    assert code == 2
    assert "is not a bundle directory" in text
