"""Files with decrypted examples are readable by their owner alone, whatever the umask."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convert.cli import app
from convert.pipeline.execution import RunDisplay, run
from tests.support.examples import feedback, prediction
from tests.support.modes import not_private, open_umask
from tests.support.pipeline_stages import STAGES
from tests.support.recipes import recipe_of
from tests.support.segments import CentralTeam, SealingSite


@pytest.fixture
def collected(tmp_path: Path) -> Path:
    """Collect a prediction and its correction under an open umask."""
    site = SealingSite(tmp_path / "store")
    site.seal([prediction(1, input="how much is the kettle"), feedback(1)])
    site.say()
    with open_umask():
        CentralTeam(tmp_path).collect(tmp_path / "store")
    return tmp_path / "collected"


def test_collected_examples_are_private_and_receipts_are_not(tmp_path: Path, collected: Path):
    """The receipts stay readable because the site's uplink, another user, reads them."""
    assert (collected / "raw").is_dir()
    assert [] == not_private(collected)
    receipts = tmp_path / "store" / "site=site-1" / "receipts.json"
    assert 0o644 == stat.S_IMODE(receipts.stat().st_mode)


@pytest.mark.parametrize("form", ["text-label", "label-studio"])
def test_training_rows_and_review_folders_are_private(tmp_path: Path, collected: Path, form: str):
    """Datasets and Label Studio tasks are private, also after a second run with --force."""
    which = ["--which", "unreviewed"] if form == "label-studio" else []
    with open_umask():
        site = SealingSite(tmp_path / "store", "site-2")
        site.seal([prediction(2, input="do you deliver")])
        CentralTeam(tmp_path).collect(tmp_path / "store")
        for force in ([], ["--force"]):
            asked = ["dataset", str(collected), "--task", "pos-intent", "--format", form, *which, *force]
            made = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "data")])
            assert 0 == made.exit_code, made.output
            assert [] == not_private(tmp_path / "data")


def test_work_folder_is_private(tmp_path: Path):
    """Files that stages write with plain calls are private, and a second run closes a work folder that was open."""
    recipe = recipe_of(tmp_path)
    for _ in range(2):
        with open_umask():
            run(recipe, "first", display=RunDisplay(), stages=STAGES)
        assert [] == not_private(tmp_path / "work")
        (tmp_path / "work").chmod(0o755)
        (tmp_path / "work" / "first" / "rows").chmod(0o644)
