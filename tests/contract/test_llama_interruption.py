"""Steps that end early because somebody in them is not wanted any more, on a real model."""

from __future__ import annotations

import itertools
import random
import socket
import threading
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from edge_agent.engine.protocol import FailureReport, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.llama_context import StepInterruption, is_long
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.step_costs import TRUSTED_STEPS, StepWork
from tests.contract.test_llama_runtime import CHAT, CONTEXT_TOKENS, LONG, SHORT, WEIGHTS, make
from tests.support.eventually import eventually_sync
from tests.support.llama_turmoil import finish


class Talker:
    """The caller's end of a mailbox: what is said stays to be read, so that it is heard until it is taken back."""

    def __init__(self) -> None:
        self._near, self.far = socket.socketpair()
        self.dice: random.Random | None = None
        self.ends_left = 12
        self.wanted: set[str] = set()
        """Jobs that are not cancelled."""
        self.heard: list[Collection[str]] = []

    def say(self) -> None:
        self._near.send(b"x")

    def take_back(self) -> None:
        self.far.recv(1)

    def poll_cancellations(self, jobs: Collection[str]) -> bool:
        self.heard.append(set(jobs))
        if self.wanted.issuperset(jobs):
            return False
        ends = self.dice is None or (self.ends_left > 0 and self.dice.random() < 0.001)
        self.ends_left -= ends
        return ends

    def close(self) -> None:
        self._near.close()
        self.far.close()


@pytest.fixture
def talker() -> Iterator[Talker]:
    talker = Talker()
    yield talker
    talker.close()


@pytest.fixture
def runtime(talker: Talker) -> Iterator[LlamaRuntime]:
    runtime = LlamaRuntime()
    runtime.mailbox, runtime.poll_cancellations = talker.far.fileno(), talker.poll_cancellations
    runtime.load(LoadRequest(runtime="llama", weights=str(WEIGHTS), context_tokens=CONTEXT_TOKENS, sequences_max=4))
    runtime.attach("c", make(), {})
    runtime.attach("g", CHAT, {})
    yield runtime
    runtime.close()


def test_a_step_ends_when_a_job_in_it_is_cancelled(runtime: LlamaRuntime, talker: Talker) -> None:
    """Nothing comes of it and nothing is lost: the other job gives the answer that it gives alone."""
    for job_id in ("kept", "gone"):
        runtime.submit(JobRequest(job_id=job_id, digest="c", text=LONG))
    talker.say()
    snapshots = []
    for _ in range(3):
        assert [] == runtime.step()
        snapshots.append([job.computed for job in runtime._jobs.values()])
    assert {"kept", "gone"} >= {job_id for jobs in talker.heard for job_id in jobs} != set()
    assert any(one == other for one, other in pairwise(snapshots))  # a step of which nothing came
    talker.take_back()
    assert ["CANCELLED"] == [event.reason for event in runtime.cancel("gone") if isinstance(event, FailureReport)]
    (done,) = finish(runtime)
    runtime.submit(JobRequest(job_id="alone", digest="c", text=LONG))
    (alone,) = finish(runtime)
    assert isinstance(alone, JobResult)
    assert isinstance(done, JobResult)
    assert (alone.scores, alone.label_mass) == (done.scores, done.label_mass)


def test_callers_that_cancel_all_the_time_do_not_stop_others(runtime: LlamaRuntime, talker: Talker) -> None:
    """A job gets its answer though somebody beside it is cancelled in every step that it is in.

    Where a step takes long, smaller jobs go first for so many seconds, whoever cancels them.
    """
    talker.wanted = {"kept"}
    runtime.submit(JobRequest(job_id="kept", digest="c", text=LONG))
    numbers = itertools.count()

    def is_done_beside_another() -> bool:
        number = next(numbers)
        runtime.submit(JobRequest(job_id=f"gone {number}", digest="c", text=f"{number} {SHORT}"))
        talker.say()
        ended = [event.job_id for event in runtime.step() if isinstance(event, JobResult)]
        talker.take_back()
        runtime.cancel(f"gone {number}")
        runtime.tidy()
        return "kept" in ended

    eventually_sync(is_done_beside_another)
    assert talker.heard


@pytest.mark.slow
def test_scores_survive_any_interruption(runtime: LlamaRuntime, talker: Talker) -> None:
    """Steps of prompts, of labels' branches and of streams, ended at random points, are done again to the same bit."""
    texts = [SHORT, LONG, "Hi", LONG[:230]]
    talker.dice = random.Random(3)
    talker.say()
    for i, text in enumerate(texts * 2):
        runtime.submit(JobRequest(job_id=str(i), digest="c", text=text))
    runtime.submit(JobRequest(job_id="g", digest="g", text=LONG, output_tokens_max=5))
    done = {event.job_id: event for event in finish(runtime) if isinstance(event, JobResult)}
    assert talker.ends_left < 12
    talker.ends_left = 0
    for i, text in enumerate(texts * 2):
        runtime.submit(JobRequest(job_id="alone", digest="c", text=text))
        (alone,) = finish(runtime)
        assert isinstance(alone, JobResult)
        assert alone.scores == done[str(i)].scores


def test_short_steps_are_not_listened_to(runtime: LlamaRuntime, talker: Talker) -> None:
    """A step of few rows is over before anything could be heard, as far as the engine knows."""
    for _ in range(2 * TRUSTED_STEPS):  # then a slow step or two change little
        runtime._scheduler.costs.learn(StepWork(4, 400.0), 1e-6)
    talker.say()
    runtime.submit(JobRequest(job_id="c", digest="c", text="Hi"))
    assert ["c"] == [event.job_id for event in finish(runtime) if isinstance(event, JobResult)]
    assert [] == talker.heard


@pytest.mark.parametrize(
    ("rows", "seconds", "listened"), [(16, 0.02, False), (17, 0.02, True), (16, 0.3, True), (1, 0.3, True)]
)
def test_a_step_of_many_rows_or_of_much_time_is_listened_to(rows: int, seconds: float, listened: bool) -> None:
    """A machine whose steps read a few rows in a third of a second ends them for a cancelled job as well."""
    assert listened == is_long(rows, seconds)


def test_a_listener_closes_while_it_waits(talker: Talker) -> None:
    """Closing ends the thread, whether somebody spoke or not; nothing is ended that no block is around."""
    ended: list[str] = []
    listener = StepInterruption(talker.far.fileno(), talker.poll_cancellations, lambda: ended.append("step"))
    with listener.during({"a"}):
        pass
    talker.say()
    listener.close()
    assert [] == ended


def test_a_listener_sleeps_while_nobody_speaks(talker: Talker) -> None:
    """A step wakes it neither when it begins nor when it ends: who computes would wait for that."""
    steps = 100
    listener = StepInterruption(talker.far.fileno(), talker.poll_cancellations, lambda: None)
    (thread,) = (each for each in threading.enumerate() if each.name == "interruption")
    assert thread.native_id is not None
    for _ in range(steps):
        with listener.during({"a"}):
            pass
    woken = _switches(thread.native_id)
    listener.close()
    assert [] == talker.heard
    assert woken < steps / 10


def _switches(thread: int) -> int:
    """Return how often a thread has gone to sleep (proc_pid_status(5))."""
    status = Path(f"/proc/self/task/{thread}/status").read_text(encoding="ascii")
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])
