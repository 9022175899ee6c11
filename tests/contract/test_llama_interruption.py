"""Steps of a real model that end early because a job in them was cancelled."""

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
from tests.support.llama_mixed_jobs import finish


class Talker:
    """The caller's end of a mailbox: a message stays readable, and is polled, until it is taken back."""

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


def test_step_ends_when_a_job_in_it_is_cancelled(runtime: LlamaRuntime, talker: Talker) -> None:
    """A step with a cancelled job ends without a result, and the other job gets the answer that it gets alone."""
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


def test_constant_cancellations_do_not_block_other_jobs(runtime: LlamaRuntime, talker: Talker) -> None:
    """A job gets its answer although another job is cancelled in every step that it is in. Where a step takes long,
    smaller jobs go first for a limited time, whether they are cancelled or not."""
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
def test_interrupted_steps_are_repeated_with_the_same_scores(runtime: LlamaRuntime, talker: Talker) -> None:
    """Steps of prompts, label branches and streams that are ended at random points are repeated with the same scores to
    the last bit."""
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


def test_short_steps_do_not_poll_cancellations(runtime: LlamaRuntime, talker: Talker) -> None:
    """A step of few rows that the engine expects to be short does not poll for cancellations."""
    for _ in range(2 * TRUSTED_STEPS):  # then a slow step or two change little
        runtime._scheduler.costs.learn(StepWork(4, 400.0), 1e-6)
    talker.say()
    runtime.submit(JobRequest(job_id="c", digest="c", text="Hi"))
    assert ["c"] == [event.job_id for event in finish(runtime) if isinstance(event, JobResult)]
    assert [] == talker.heard


@pytest.mark.parametrize(
    ("rows", "seconds", "listened"), [(16, 0.02, False), (17, 0.02, True), (16, 0.3, True), (1, 0.3, True)]
)
def test_long_steps_poll_cancellations(rows: int, seconds: float, listened: bool) -> None:
    """A step polls for cancellations if it has many rows or takes long, as a few rows do on a slow machine."""
    assert listened == is_long(rows, seconds)


def test_listener_thread_ends_on_close(talker: Talker) -> None:
    """Closing ends the listener's thread, also with an unread message, and no step is ended outside a `during`
    block."""
    ended: list[str] = []
    listener = StepInterruption(talker.far.fileno(), talker.poll_cancellations, lambda: ended.append("step"))
    with listener.during({"a"}):
        pass
    talker.say()
    listener.close()
    assert [] == ended


def test_listener_sleeps_without_messages(talker: Talker) -> None:
    """Starting and ending a step does not wake the listener's thread, because the computing thread would have to wait
    for it."""
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
    """Return how often a thread went to sleep (proc_pid_status(5))."""
    status = Path(f"/proc/self/task/{thread}/status").read_text(encoding="ascii")
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])
