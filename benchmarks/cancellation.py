"""Calls cancelled at every await leave nothing behind, and acknowledged data is kept.

    python -m benchmarks.cancellation [--json] [--only WORDS]

The daemon runs in this process. Each call of each service is made again and again, and its caller is cancelled at the
first await that it passes through, at the second, and so on: while it waits, at the moment when what it waits for has
come, and over the socket; and at the awaits of tasks that the call begins. After each point every call has to be
answered; no task, lock, reservation, place, file, descriptor or child may be left over; what was acknowledged has to be
there, also when the daemon is started again. It takes some minutes. A line for each call, and what is found, goes to
standard error; `--only` sweeps the calls whose line has these words in it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from benchmarks.bars import Bar, main, option
from tests.support.cancelling.calls import CALLS, Call
from tests.support.cancelling.site import Site
from tests.support.cancelling.sweep import TITLES, SweepResults, sweep
from tests.support.rpcs import METHODS

POINTS_MIN = 850
"""The sweep has about 950: how many awaits a call passes through changes a little from run to run."""


def measure() -> list[Bar]:
    """Sweep all calls, or those named on the command line."""
    words = option("--only")
    calls = [call for call in CALLS if words in str(call)]
    if not calls:
        sys.exit(f"There is no call with {words!r} in its line; there are: {'; '.join(map(str, CALLS))}.")
    swept, lost_at_last = uvloop.run(_swept(calls))
    methods = len({each.call.method for each in swept})
    whole = len(calls) == len(CALLS)
    return [
        Bar("methods of which every await was tried", methods, len(METHODS) if whole else None, "higher"),
        Bar("points tried", sum(each.points for each in swept), POINTS_MIN if whole else None, "higher"),
        Bar("points after which a call hung", sum(len(each.hung) for each in swept), 0, "lower"),
        Bar("points after which something was left over", sum(len(each.leaked) for each in swept), 0, "lower"),
        Bar("points after which what was acknowledged was lost", sum(len(each.lost) for each in swept), 0, "lower"),
        Bar("acknowledged and lost after a new start", len(lost_at_last), 0, "lower"),
    ]


async def _swept(calls: Sequence[Call]) -> tuple[list[SweepResults], list[str]]:
    """Sweep; return the result of each call, and the data lost after a restart of the daemon."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        async with Site(Path(folder)) as site:
            _say(TITLES)
            async for swept in sweep(site, calls):
                found.append(swept)
                _say(str(swept), *swept.findings)
            await site.restart()
            lost = await site.lost()
            _say(*(f"after a new start: {each}" for each in lost))
    return found, lost


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    sys.exit(main(measure))
