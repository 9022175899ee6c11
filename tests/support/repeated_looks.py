"""False proofs of a test that is evaluated repeatedly. Exact, for a risk equal to the target."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable


def false_proofs(looks: int, rows: int, target: float, proves: Callable[[int, int], bool]) -> float:
    """Return the probability that one of repeated tests wrongly proves the target, if the risk equals the target.

    `proves` gets the errors and the rows so far.
    """
    step = [math.comb(rows, errors) * target**errors * (1 - target) ** (rows - errors) for errors in range(rows + 1)]
    unproved, proved = {0: 1.0}, 0.0
    for look in range(1, looks + 1):
        reached: dict[int, float] = defaultdict(float)
        for before, chance in unproved.items():
            for errors, more in enumerate(step):
                reached[before + errors] += chance * more
        passes = {errors for errors in reached if proves(errors, look * rows)}
        proved += sum(reached.pop(errors) for errors in passes)
        unproved = reached
    return proved
