"""Autotuning of llama.cpp: which setting is adopted, and to which machine and model a stored setting applies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.engine.protocol import TUNING_DETAILS, LoadRequest
from edge_agent.engine.runtimes.llama import autotune
from edge_agent.engine.runtimes.llama.autotune import SAME, TunedSettings, TuningTrial
from edge_agent.engine.runtimes.llama.llama_context import ContextShape
from edge_agent.engine.runtimes.llama.step_costs import ROWS_BLOCK, ROWS_GROUP

SHAPE = ContextShape(cells=1000, sequences=10, kv_type="f16", threads=4, rows=256)
SPEC = LoadRequest(runtime="llama", threads=4)
KEY = autotune.tuning_key(SPEC, SHAPE, "zen4, Ryzen")


@pytest.mark.parametrize(
    ("trial", "why"),
    [
        (TuningTrial(0.8), ""),
        (TuningTrial(0.89), ""),
        (TuningTrial(0.8, moved=0.5), ""),
        (TuningTrial(0.91), "-9% time"),
        (TuningTrial(1.5), "+50% time"),
        (TuningTrial(1.5, moved=3.0, same_token=False, is_independent=False), "+50% time"),
        (TuningTrial(0.5, moved=0.51), "-50% time, refused: logits would move by 0.51"),
        (TuningTrial(0.5, moved=0.2, same_token=False), "-50% time, refused: logits would move by 0.20"),
        (TuningTrial(0.5, is_independent=False), "-50% time, refused: scores would depend on what else is computed"),
    ],
)
def test_setting_is_adopted_if_faster_and_equally_good(trial: TuningTrial, why: str) -> None:
    """A tested setting is adopted if it saves at least a tenth of the time, no logit moves far, the likeliest token
    stays and scores stay independent of other rows; otherwise the verdict has the reason."""
    assert why == autotune.trial_verdict(1.0, trial)


def test_measured_settings_are_applied_at_the_next_load() -> None:
    """The settings in the details of a load, as the daemon stores them, are restored at the next load."""
    measured = TunedSettings(
        replace(SHAPE, threads=2, rows=128, flash=False, groups=16), KEY, "measured", "64 rows: +2% time", SAME, SAME
    )
    kept = {name: value for name, value in measured.details().items() if name in TUNING_DETAILS}
    assert measured.shape == autotune.remembered_shape(kept, KEY, SHAPE)
    assert set(TUNING_DETAILS) | {"tuned"} == set(measured.details())


@pytest.mark.parametrize(
    ("seconds", "groups"),
    [
        ([(1.5, 1.2), (3.0, 2.7)], ROWS_GROUP),
        ([(1.5, 1.2), (3.0, 2.9)], ROWS_BLOCK),
        ([(1.5, 1.45), (3.0, 2.7)], 0),
        ([(1.5, 1.6), (3.0, 3.2)], 0),
    ],
)
def test_rows_are_padded_where_more_rows_are_faster(seconds: list[tuple[float, float]], groups: int) -> None:
    """Rows are padded to groups where a filled-up step is at least a twentieth faster; the second measurement counts
    only if the first shows a gain."""
    assert groups == autotune.row_groups(seconds)


@pytest.mark.parametrize(
    "changed",
    [
        autotune.tuning_key(SPEC, SHAPE, "haswell, Ryzen"),
        autotune.tuning_key(LoadRequest(runtime="llama", threads=2), SHAPE, "zen4, Ryzen"),
        autotune.tuning_key(SPEC, replace(SHAPE, kv_type="q8_0"), "zen4, Ryzen"),
        autotune.tuning_key(SPEC, replace(SHAPE, rows=64), "zen4, Ryzen"),
    ],
)
def test_settings_of_another_configuration_are_ignored(changed: str) -> None:
    """Settings that were measured for another processor variant, thread count, cache type or batch size are not
    applied."""
    assert changed != KEY
    assert autotune.remembered_shape(TunedSettings(SHAPE, KEY, "measured").details(), changed, SHAPE) is None


@pytest.mark.parametrize(
    "spoiled",
    [
        {"threads": "5"},
        {"threads": "0"},
        {"threads": "all"},
        {"bulk_rows": "257"},
        {"bulk_rows": ""},
        {"tuned_for": ""},
    ],
)
def test_invalid_stored_settings_are_ignored(spoiled: dict[str, str]) -> None:
    """Stored settings above the engine's limits, of zero, or without a number, as in an edited file, are not
    applied."""
    assert autotune.remembered_shape(TunedSettings(SHAPE, KEY, "measured").details() | spoiled, KEY, SHAPE) is None
