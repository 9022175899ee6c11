"""Paths that the user has no permission to read, on every version of Python."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.data import row_lines
from convert.package import question_calibration
from convert.pipeline import recipe, task_file
from convert.publish import central_keys, keyring
from tests.support.rights import without_root


@pytest.mark.parametrize(
    "look",
    [
        pytest.param(lambda path: row_lines.require_file(path, ""), id="rows"),
        pytest.param(recipe.read, id="recipe"),
        pytest.param(task_file.find, id="task"),
        pytest.param(question_calibration.read_questions, id="questions"),
        pytest.param(lambda path: list(keyring.read_folder(path)), id="signing keys"),
        pytest.param(central_keys.is_encrypted, id="central keys"),
    ],
)
def test_path_without_permission_is_not_reported_as_missing(look: Callable[[Path], object]):
    """Each reader raises the system's PermissionError, also where Path.is_file hides it (Python 3.14)."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0o700)
        Path(folder).chmod(0o755)
        with without_root(), pytest.raises(PermissionError):
            look(closed / "there")
