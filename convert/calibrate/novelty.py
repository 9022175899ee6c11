"""Limits of ordinary inputs, as order statistics of the calibration texts. Pure.

The manifest contains them, and the agent marks answers to inputs outside of them. Each limit is the k-th smallest or
largest value, k = 1 + rows / 200 rounded down: another text of the same kind is beyond it with probability k / (rows +
1), about 0.5% with many rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge_agent.formats.calibration import TypicalInputs

ONE_IN = 200
ROWS_MIN = 30


def measure(label_masses: Sequence[float], input_tokens: Sequence[int]) -> TypicalInputs | None:
    """Return the limits, or None with fewer than ROWS_MIN rows."""
    if len(input_tokens) < ROWS_MIN:
        return None
    place = len(input_tokens) // ONE_IN
    tokens, masses = sorted(input_tokens), sorted(label_masses)
    return TypicalInputs(
        label_mass_min=math.floor(1e6 * masses[place]) / 1e6,
        input_tokens_min=tokens[place],
        input_tokens_max=tokens[-1 - place],
    )
