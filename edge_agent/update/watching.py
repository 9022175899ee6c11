"""The probations of this process: what was counted before it, and what it has counted itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_agent.formats.plan import Probation
from edge_agent.store.update_records import UpdateProgress
from edge_agent.update.machine import Outcome
from edge_agent.update.probation import Seen, Watch, judge

SAVE_SECONDS = 600.0
"""How often what was counted is written down: a flash disk must not wear out by it."""


@dataclass
class _Watched:
    which: tuple[str, float]
    """The bundle, and when its probation began."""
    before: Watch
    """As it stood in the journal when this process began to watch."""
    began: float
    saved: float


class Watcher:
    """Watches every bundle in probation."""

    def __init__(self, seen: Callable[[str], Seen], monotonic: Callable[[], float]) -> None:
        """Watch by what the engines say of a digest, and a clock in seconds that never jumps."""
        self._seen, self._monotonic = seen, monotonic
        self._watched: dict[str, _Watched] = {}

    def begun(self, plan: Probation, incumbent: str) -> str:
        """Return what the journal has to say of a probation that begins when `incumbent` makes way."""
        return Watch.begin(plan, self._seen(incumbent)).encode()

    def begin(self, row: UpdateProgress) -> None:
        """Count the time of a probation from now on."""
        if row.state == "probation":
            self._of(row)

    def judge(self, row: UpdateProgress) -> Outcome | None:
        """Return what a probation came to; None while it goes on, or for a row of another state."""
        return judge(self._total(row), self._seen(row.candidate)) if row.state == "probation" else None

    def due(self, row: UpdateProgress) -> bool:
        """Tell whether what was counted should be written down again."""
        if row.state != "probation":
            return False
        watched = self._of(row)
        due = self._monotonic() - watched.saved >= SAVE_SECONDS
        watched.saved = self._monotonic() if due else watched.saved
        return due

    def noted(self, row: UpdateProgress) -> UpdateProgress:
        """Return the row of a probation with all that was counted."""
        return replace(row, watch=self._total(row).encode()) if row.state == "probation" else row

    def _total(self, row: UpdateProgress) -> Watch:
        watched = self._of(row)
        return watched.before.plus(self._seen(row.candidate), self._monotonic() - watched.began)

    def _of(self, row: UpdateProgress) -> _Watched:
        watched = self._watched.get(row.task)
        which = row.candidate, row.since
        if watched is None or watched.which != which:
            now = self._monotonic()
            watched = self._watched[row.task] = _Watched(which, Watch.decode(row.watch), now, now)
        return watched
