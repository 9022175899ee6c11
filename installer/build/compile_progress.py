"""Progress and remaining time of a build with ninja, from its planned and finished steps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

_STEP = re.compile(r"^\[\d+/\d+\] (.+)$")
_OBJECT = re.compile(r"^Building \w+ object (?:.*/)?([^/]+)\.o$")
_BAR = 10
_ASSUMED_SECONDS = 20.0
"""Work at the assumed speed that counts as measured, because the first objects alone would mislead."""
OTHER_SECONDS = 0.2
"""Cost of a step that compiles nothing: linking, archives, symbolic links."""


def planned(output: str) -> tuple[str, ...]:
    """Return the steps that `ninja -n` printed: the remaining ones."""
    return tuple(found[1] for line in output.splitlines() if (found := _STEP.match(line)))


class CompileProgress:
    """Counts objects, weighted by their cost: some of llama.cpp's take fifty times as long as others."""

    def __init__(self, steps: Sequence[str], jobs: int, costs: Mapping[str, float], usual_seconds: float) -> None:
        """Begin before the first of `steps`; `costs` has seconds by file name; other files cost `usual_seconds`."""
        self._open, self._jobs, self._costs, self._usual = Counter(steps), jobs, costs, usual_seconds
        self.objects = sum(1 for step in steps if _OBJECT.match(step))
        self.compiled = 0
        self._work_open = sum(map(self._cost, steps))
        self._work_done = 0.0

    def see(self, line: str) -> None:
        """Count a line that ninja printed; ignore lines of nested builds and of compilers."""
        found = _STEP.match(line)
        if found and self._open[found[1]] > 0:
            step = found[1]
            self._open[step] -= 1
            self._work_open -= self._cost(step)
            self._work_done += self._cost(step)
            self.compiled += bool(_OBJECT.match(step))

    def seconds_left(self, elapsed: float) -> float:
        """Estimate the remaining time from the time that the finished steps have taken."""
        slowness = (elapsed * self._jobs + _ASSUMED_SECONDS) / (self._work_done + _ASSUMED_SECONDS)
        return max(self._work_open, 0.0) * slowness / self._jobs

    def describe(self, elapsed: float) -> str:
        """Return for example "[###.......] 120 of 305, about 6 min left", which fits into 80 columns with a title."""
        filled = _BAR * self.compiled // max(self.objects, 1)
        bar = f"[{'#' * filled}{'.' * (_BAR - filled)}]"
        return f"{bar} {self.compiled} of {self.objects}, {rough_time(self.seconds_left(elapsed))} left"

    def _cost(self, step: str) -> float:
        found = _OBJECT.match(step)
        return self._costs.get(found[1], self._usual) if found else OTHER_SECONDS


def rough_time(seconds: float) -> str:
    """Return for example "about 6 min": whole minutes, because it is an estimate."""
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes else "less than 1 min"
