"""The job messages that the daemon sends to a child, and how clients share the child."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.engine import protocol
from edge_agent.engine.job_dispatch import (
    BY_CPU,
    LATENCIES_MAX,
    BundleStats,
    JobDispatcher,
)
from edge_agent.engine.protocol import FailureReport, JobResult
from edge_agent.engine.restart_policy import Quarantine
from edge_agent.engine.runtimes import failure_report
from edge_agent.errors import (
    DeadlineUnattainable,
    EdgeAgentError,
    EmptyInput,
    EngineNotReady,
    InputTooLong,
    InvalidRequest,
)
from tests.support.call_counting import calls_of
from tests.support.eventually import turns
from tests.support.simulated_time import advance, simulated


class Site:
    """Jobs, and a child that takes one at a time and stores the messages sent to it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[protocol.ToChild] = asyncio.Queue()
        self.jobs = JobDispatcher(10, 1, Quarantine(60.0))
        self.jobs.child = self
        self.asked: list[asyncio.Task[object]] = []

    def begin_work(self) -> None:
        """Send nothing, because the child is idle."""

    def send(self, message: protocol.ChildMessage) -> None:
        """Store the message for `next`."""
        (body,) = protocol.FrameSplitter().feed(protocol.frame(message))
        self.sent.put_nowait(protocol.decode_to_child(body))

    def ask(self, job_id: str, seconds: float, priority: int, client: str = "till") -> None:
        """Start a caller that waits for this many seconds."""
        run = protocol.JobRequest(job_id=job_id, digest=client, text=job_id)
        deadline = asyncio.get_running_loop().time() + seconds
        self.asked.append(asyncio.create_task(self.jobs.answer(run, deadline, priority, client)))

    async def next(self) -> protocol.JobRequest:
        """Return the next job that is sent to the child."""
        run = await self.sent.get()
        assert isinstance(run, protocol.JobRequest)
        return run

    def finish(self, job_id: str, rows: int = 0) -> None:
        """Answer a job as the child."""
        assert self.jobs.finish(protocol.JobResult(job_id=job_id, rows=rows))


async def test_job_message_has_priority_and_remaining_seconds() -> None:
    """The message to the child has the job's priority and the seconds left until the caller's deadline."""
    site = Site()
    site.ask("a", 30.0, 1)
    run = await site.next()
    assert 1 == run.priority
    assert run.seconds == pytest.approx(30.0, abs=1.0)
    site.finish("a")
    await asyncio.gather(*site.asked)


def test_remaining_seconds_exclude_time_already_waited() -> None:
    """Time spent in the queue, and with a child that died, is subtracted from the seconds that the child is given."""

    async def work() -> list[tuple[str, float]]:
        site = Site()
        site.ask("first", 30.0, 0)
        site.ask("second", 30.0, 0)
        sent = [await site.next()]
        await advance(4)
        site.jobs.child_died(to_blame=False)
        site.jobs.pump()
        sent.append(await site.next())
        await advance(5)
        site.finish("first")
        sent.append(await site.next())
        site.finish("second")
        await asyncio.gather(*site.asked)
        return [(run.job_id, run.seconds) for run in sent]

    assert [("first", 30.0), ("first", 26.0), ("second", 21.0)] == simulated(work())


async def test_passed_deadline_differs_from_no_deadline() -> None:
    """A job whose deadline has passed is sent with a tiny positive time, so the child does not treat it as a job
    without a deadline."""
    site = Site()
    site.ask("late", -1.0, 0)
    assert 0 < (await site.next()).seconds < 0.01
    site.finish("late")
    await asyncio.gather(*site.asked)


async def test_clients_share_the_child_by_rows() -> None:
    """Two clients with jobs of 320 and of 32 rows, both always waiting, each get about half of the computed rows."""
    site = Site()
    rows = {"large": 320, "small": 32}
    site.jobs.stats = {client: BundleStats() for client in rows}
    for number in range(4):
        for client in rows:
            site.ask(f"{client} {number}", 30.0, 0, client)
    computed = dict.fromkeys(rows, 0)
    for number in range(300):
        run = await site.next()
        computed[run.digest] += rows[run.digest]
        site.finish(run.job_id, rows[run.digest])
        site.ask(f"{run.digest} after {number}", 30.0, 0, run.digest)
        await turns(3)
    # Before the first answers nothing is known of either, and both have a turn by turn until then.
    assert 0.4 <= computed["small"] / sum(computed.values()) <= 0.6
    site.jobs.fail_all(EngineNotReady("the test is over"))
    await asyncio.gather(*site.asked, return_exceptions=True)


@pytest.mark.parametrize("refused", [InputTooLong, EmptyInput, InvalidRequest, DeadlineUnattainable])
async def test_refused_input_costs_its_client_little(refused: type[EdgeAgentError]) -> None:
    """A client that had nine inputs refused by the child is not nine turns behind: its next job starts second at the
    latest."""
    site = Site()
    site.ask("running", 30.0, 0, "other")
    await site.next()
    for number in range(9):
        site.ask(f"refused {number}", 30.0, 0, "till")
    await turns(3)
    site.finish("running")
    for number in range(9):
        await site.next()
        assert site.jobs.finish(failure_report(f"refused {number}", refused("no")))
    site.ask("running", 30.0, 0, "other")
    await site.next()
    for number in range(4):
        site.ask(f"other {number}", 30.0, 0, "other")
    site.ask("till", 30.0, 0, "till")
    await turns(3)
    site.finish("running")
    started = []
    for _ in range(5):
        started.append((await site.next()).job_id)
        site.finish(started[-1])
    await asyncio.gather(*site.asked, return_exceptions=True)
    assert started.index("till") <= 1


async def test_one_client_cannot_take_all_places_of_a_child() -> None:
    """Of the eight places that a child reports, one client gets at most six although it asks for more; another client
    gets the rest."""
    site = Site()
    site.jobs.child_loaded(BY_CPU, protocol.LoadRequest(runtime="llama", sequences_max=0), {protocol.SEQUENCES: "8"})
    for number in range(10):
        site.ask(f"many {number}", 30.0, 0, "many")
    many = [await site.next() for _ in range(6)]
    assert {"many"} == {run.digest for run in many}
    for number in range(3):
        site.ask(f"few {number}", 30.0, 0, "few")
    assert ["few", "few"] == [(await site.next()).digest for _ in range(2)]
    assert site.sent.empty()
    assert 8 == site.jobs.in_flight
    site.finish(many[0].job_id)
    assert "many" == (await site.next()).digest, "its turn is older"
    site.jobs.fail_all(EngineNotReady("the test is over"))
    await asyncio.gather(*site.asked, return_exceptions=True)


CALLS_MAX = 4
"""Of functions, for each answer that is counted: the counting itself, and what it calls."""


@pytest.mark.parametrize(
    ("reason", "counted"),
    [
        ("MODEL_FAILED", (1, 1)),
        ("ENGINE_CRASHED", (1, 1)),
        ("INPUT_TOO_LONG", (0, 0)),
        ("CANCELLED", (0, 0)),
        ("MADE_UP", (0, 0)),
    ],
)
def test_only_model_failures_count_against_a_bundle(reason: str, counted: tuple[int, int]):
    """A failure caused by the caller does not count as a call or failure of the bundle."""
    tally = BundleStats()
    tally.record_end(FailureReport(job_id="1", reason=reason, message=""), 0.01)
    assert counted == (tally.calls, tally.failures)
    assert (0, 0.0) == (tally.timed, tally.median_ms)


def test_median_latency_is_per_token_over_recent_inputs():
    """The median covers the latest inputs: a generation of 10 tokens in 0.2 s counts as 20 ms, and a timeout counts
    with its duration."""
    tally = BundleStats()
    tally.record_end(JobResult(job_id="1", output_tokens=10), 0.2)
    assert (1, 20.0) == (tally.calls, tally.median_ms)
    tally.record_timeout(1.0)
    assert (2, 510.0) == (tally.calls, tally.median_ms)
    for _ in range(LATENCIES_MAX):
        tally.record_end(JobResult(job_id="1"), 0.005)
    assert (LATENCIES_MAX + 2, LATENCIES_MAX, 5.0) == (tally.calls, tally.timed, tally.median_ms)


def count_answers(tally: BundleStats) -> None:
    """Record a hundred answers."""
    done = JobResult(job_id="1")
    for _ in range(100):
        tally.record_end(done, 0.001)


def test_recording_an_answer_has_constant_cost():
    """Recording an answer takes a few function calls, and no more after thousands of answers."""
    tally = BundleStats()
    first = calls_of(lambda: count_answers(tally))
    for _ in range(100 * LATENCIES_MAX):
        tally.record_end(JobResult(job_id="1"), 0.001)
    assert first == calls_of(lambda: count_answers(tally))
    assert first <= CALLS_MAX * 100
