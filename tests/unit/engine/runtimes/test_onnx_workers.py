"""edge_agent/engine/runtimes/onnx_workers.py: batches at the same time, and an owner that stays reachable."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from edge_agent.engine.runtimes.onnx_workers import BatchWorkers

SECONDS_MAX = 20.0


@contextmanager
def workers(count: int, **options: float) -> Iterator[BatchWorkers[str]]:
    """Hand out workers and end them."""
    subject: BatchWorkers[str] = BatchWorkers(count, **options)
    yield subject
    subject.close()


@contextmanager
def readable_mailbox() -> Iterator[int]:
    """Hand out a descriptor with something to read."""
    descriptor = os.eventfd(1)
    yield descriptor
    os.close(descriptor)


def after(event: threading.Event, outcome: str) -> Callable[[], str]:
    """Return work that ends when the event is set."""

    def work() -> str:
        assert event.wait(SECONDS_MAX)
        return outcome

    return work


def collected(subject: BatchWorkers[str], count: int) -> list[str]:
    """Wait for so many outcomes."""
    found: list[str] = []
    while len(found) < count:
        found += subject.wait()
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_outcome_comes_once(count):
    """As many works as there are workers begin; each outcome is returned once, and then they are idle."""
    with workers(count) as subject:
        for turn in range(5):
            names = [f"{turn}-{i}" for i in range(subject.idle)]
            for name in names:
                subject.start(lambda name=name: name)
            assert subject.busy
            assert names == sorted(collected(subject, count))
        assert (False, count) == (subject.busy, subject.idle)


def test_works_run_at_the_same_time():
    """Two works that wait for each other both end."""
    both = threading.Barrier(2, timeout=SECONDS_MAX)
    with workers(2) as subject:
        for _ in range(2):
            subject.start(lambda: str(both.wait() >= 0))
        assert 0 == subject.idle
        assert ["True", "True"] == collected(subject, 2)


def test_who_is_done_first_is_returned_first():
    """A long work does not hold up a short one that began after it."""
    go = threading.Event()
    with workers(2) as subject:
        subject.start(after(go, "long"))
        subject.start(lambda: "short")
        assert (["short"], 1) == (collected(subject, 1), subject.idle)
        go.set()
        assert ["long"] == collected(subject, 1)


def test_one_worker_is_the_caller():
    """With one worker the caller's own thread computes, and no other is started."""
    before = threading.active_count()
    with workers(1) as subject:
        subject.start(lambda: threading.current_thread().name)
        assert before == threading.active_count()
        assert [threading.current_thread().name] == subject.wait()


def test_lone_work_stays_with_the_caller():
    """Work that comes one by one is not handed over; after company it is, until a work was alone again."""
    here = threading.current_thread().name

    def who(subject: BatchWorkers[str]) -> str:
        subject.start(lambda: threading.current_thread().name, lone=True)
        return collected(subject, 1)[0]

    with workers(2) as subject, readable_mailbox() as mailbox:
        assert [here, here] == [who(subject), who(subject)]
        subject.start(lambda: "done", lone=True)
        assert ["done"] == subject.wait(mailbox)  # something came while it was done
        assert ["onnx", here] == [who(subject), who(subject)]
        subject.start(lambda: "one of two", lone=False)
        assert ["one of two"] == collected(subject, 1)
        assert ["onnx", here] == [who(subject), who(subject)]


def test_mail_ends_a_wait():
    """`wait` returns empty-handed when the mailbox is readable, and the work goes on."""
    go = threading.Event()
    with workers(2) as subject, readable_mailbox() as mailbox:
        subject.start(after(go, "done"))
        assert ([], True) == (subject.wait(mailbox), subject.busy)
        go.set()
        assert ["done"] == collected(subject, 1)


def test_an_overdue_work_keeps_its_owner():
    """While a work is overdue nothing begins and mail does not end a wait: a stuck worker is a stuck process."""
    go = threading.Event()
    with workers(2, overdue_seconds=0.0) as subject, readable_mailbox() as mailbox:
        subject.start(after(go, "late"))
        assert 0 == subject.idle
        threading.Timer(0.05, go.set).start()
        assert (["late"], 2) == (subject.wait(mailbox), subject.idle)


@pytest.mark.parametrize("count", [1, 2])
def test_out_of_memory_reaches_the_owner(count):
    """MemoryError in a work is raised where the outcome would have been returned; the worker is idle again."""

    def greedy() -> str:
        raise MemoryError

    with workers(count) as subject:
        subject.start(greedy)
        with pytest.raises(MemoryError):
            subject.wait()
        subject.start(lambda: "next")
        assert (["next"], count) == (collected(subject, 1), subject.idle)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_any_other_error_is_the_owners_end():
    """A work that raises what nobody expects makes `wait` raise, so that the process ends and is started again."""

    def broken() -> str:
        raise KeyError("a bug")

    with workers(2) as subject:
        subject.start(broken)
        with pytest.raises(RuntimeError, match="a worker died"):
            subject.wait()


def test_close_waits_for_what_is_running():
    """After `close` what was running has ended, and no worker is left."""
    go, ended = threading.Event(), threading.Event()

    def work() -> str:
        assert go.wait(SECONDS_MAX)
        ended.set()
        return ""

    with workers(2) as subject:
        subject.start(work)
        threading.Timer(0.05, go.set).start()
    assert ended.is_set()
    assert "onnx" not in {thread.name for thread in threading.enumerate()}
