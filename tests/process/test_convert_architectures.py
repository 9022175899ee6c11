"""docs/architectures.md is correct."""

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
    """The document has one row for each case, in their order."""
    assert [case.key for case in CASES] == [line[: len(case.key)] for case, line in zip(CASES, rows(), strict=True)]


def test_nothing_is_answered_wrongly() -> None:
    """Every architecture works to its end, or is refused before it is served."""
    for line in rows():
        export, verify, serve = line.strip("| ").split(" | ")[3:]
        refused = [cell.startswith("refused: ") for cell in (export, verify, serve)]
        assert ("works", "same as PyTorch", "works") == (export, verify, serve) or any(refused), line


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.key.strip("| "))
def test_row_is_what_is_found_out_again(tmp_path: Path, case: Case) -> None:
    """Making the row anew gives the very text of the document."""
    assert architectures.row(case, tmp_path) in rows()


@pytest.mark.release
@pytest.mark.parametrize("case", [case for case in CASES if case not in QUICK], ids=lambda case: case.key.strip("| "))
def test_slower_row_is_what_is_found_out_again(tmp_path: Path, case: Case) -> None:
    """Likewise for the others."""
    assert architectures.row(case, tmp_path) in rows()
