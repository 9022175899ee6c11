"""Whether a device computes for a bundle what was computed where it was made: its golden cases, asked at attach.

Another device rounds differently, and a broken driver computes nonsense without an error. The rule is the self-test's:
answers that a rounding error may turn count for nothing, scores have the tolerance of
their case, and nearly all of the others must be alike. Only a device is asked; of the processor the self-test of an
update asks more.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edge_agent.engine.job_requests import golden_answer, golden_job
from edge_agent.engine.protocol import Event, FailureReport, JobRequest, JobResult, TextChunk
from edge_agent.engine.runtimes import Runtime
from edge_agent.errors import BundleUnreadable, CallerError, DeviceUnusable
from edge_agent.formats.golden_cases import GoldenCase, differences, is_binding, parse
from edge_agent.formats.manifest import Manifest

CASES_MAX = 32
SECONDS_MAX = 15.0
"""No further case is begun after that; what is known by then decides."""
DIFFERENT_PERCENT_MAX = 5
SHOWN_MAX = 2

Others = Callable[[Iterable[Event]], None]
"""Takes what came of other bundles' jobs meanwhile."""


def check_golden_answers(runtime: Runtime, digest: str, manifest: Manifest, golden: str, others: Others) -> None:
    """Ask a bundle that is attached its golden cases; `golden` empty = it has none, and the device is taken as it is.

    Raises:
        DeviceUnusable: too many were not.
    """
    deadline = time.monotonic() + SECONDS_MAX
    cases = itertools.takewhile(lambda _: time.monotonic() < deadline, _cases(golden))
    found = [
        _difference(runtime, golden_job(manifest, digest, case.input, "golden"), case, manifest, others)
        for case in cases
    ]
    wrong = list(filter(None, found))
    if 100 * len(wrong) > DIFFERENT_PERCENT_MAX * len(found):
        told = (
            f"{len(wrong)} of {len(found)} golden inputs are answered otherwise there: {'; '.join(wrong[:SHOWN_MAX])}"
        )
        raise DeviceUnusable(told, lasting=True, wrong=len(wrong), asked=len(found))


def _cases(golden: str) -> Sequence[GoldenCase]:
    try:
        found = parse(Path(golden).read_bytes())
    except (OSError, BundleUnreadable):  # there is none, or its own fault is the self-test's to tell
        return []
    return list(filter(is_binding, found))[:CASES_MAX]


def _difference(runtime: Runtime, job: JobRequest, case: GoldenCase, manifest: Manifest, others: Others) -> str:
    """Return in what the answer differs, with its input; empty = in nothing."""
    try:
        runtime.submit(job)
    except CallerError as error:
        return f"{case.input[:60]!r}: {error.message}"
    *chunks, end = _events(runtime, job, others)
    if isinstance(end, FailureReport):
        return f"{case.input[:60]!r}: {end.message}"
    assert isinstance(end, JobResult)
    written = "".join(each.text for each in chunks if isinstance(each, TextChunk))
    found = differences(case, golden_answer(manifest, written, end), vector=manifest.task.kind == "embed")
    return f"{case.input[:60]!r}: {found[0]}" if found else ""


def _events(runtime: Runtime, job: JobRequest, others: Others) -> list[Event]:
    """Return all that comes of a job."""
    mine: list[Event] = []
    while not (mine and isinstance(mine[-1], JobResult | FailureReport)):
        rest: list[Event] = []
        for event in runtime.step():
            (mine if event.job_id == job.job_id else rest).append(event)
        others(rest)
    return mine
