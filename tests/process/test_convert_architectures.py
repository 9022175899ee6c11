"""docs/architectures.md matches what the conversion toolkit does with each architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import architectures
from tests.support.architectures import CASES, Case

QUICK = [case for case in CASES if "gemma3," in case.name or case == Case("bert", "classify", "onnx")]


def rows() -> list[str]:
    """Return the rows of the document."""
    lines = architectures.PAGE.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith("| architecture")]


def test_every_architecture_has_its_row() -> None:
    """docs/architectures.md has one row for each case, in the order of the cases."""
    assert [case.key for case in CASES] == [line[: len(case.key)] for case, line in zip(CASES, rows(), strict=True)]


def test_every_architecture_works_or_is_refused() -> None:
    """In each row an architecture works through all stages or is refused before it is served."""
    for line in rows():
        export, verify, serve = line.strip("| ").split(" | ")[3:]
        refused = [cell.startswith("refused: ") for cell in (export, verify, serve)]
        assert ("works", "same as PyTorch", "works") == (export, verify, serve) or any(refused), line


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.key.strip("| "))
def test_row_is_reproduced(tmp_path: Path, case: Case) -> None:
    """Converting the architecture again produces exactly the row of docs/architectures.md."""
    assert architectures.row(case, tmp_path) in rows()


@pytest.mark.release
@pytest.mark.parametrize("case", [case for case in CASES if case not in QUICK], ids=lambda case: case.key.strip("| "))
def test_slower_row_is_reproduced(tmp_path: Path, case: Case) -> None:
    """Converting one of the slower architectures again produces exactly the row of docs/architectures.md."""
    assert architectures.row(case, tmp_path) in rows()
