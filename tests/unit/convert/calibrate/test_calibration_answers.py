"""Recording a bundle's answers to its calibration rows when the bundle gives none."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convert.calibrate.calibration_answers import Answers, record_answers
from convert.calibrate.calibration_split import divide_rows
from convert.calibrate.temperature import Fit
from convert.data.data_row import DataRow
from convert.evaluate.serving import BundleFolder, open_bundle
from tests.support import bundles


def test_without_an_answer_no_temperature_is_fitted(tmp_path: Path):
    """A bundle that fails on every row, for example because the texts are too long, gets the default temperature and no
    rows."""
    bundle = open_bundle(bundles.echo_bundle(tmp_path / "orders", kind="extract"))

    def ask(_bundle: BundleFolder, _rows: Sequence[DataRow]) -> Answers:
        return Answers([], [], np.zeros(0, np.bool_))

    parts = divide_rows([DataRow(f"text {number}") for number in range(200)])
    assert len(parts.tuning) == 60
    found = record_answers(ask, bundle, parts)
    assert ([Fit()], 0) == ([each.fit for each in found.subjects], len(found.every.rows))
