"""The writer's thread: groups, limits, jobs that wait for the disk, and failing disks."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from concurrent.futures import Future

import pytest

from edge_agent.capture.capture_values import ReviewCursor, ReviewFilter, SpoolWorkerDependencies
from edge_agent.capture.example_capture import STALLED_SECONDS_MAX, ExampleCapture
from edge_agent.capture.person_erasure import AnswerErasure
from edge_agent.capture.spool_worker import SpoolWorker
from edge_agent.capture.spool_writer import JOBS_MAX, CaptureLimits, SpoolWriter
from edge_agent.config import UpdateConfig
from edge_agent.errors import DiskFull, PredictionUnknown, SpoolStalled, StoreDamaged
from tests.support.eventually import eventually, eventually_sync
from tests.support.site_cases import answered, config_of, judgement, manifest, opener

WAIT_SECONDS = 60.0
LIMITS = CaptureLimits(examples_max=1000, bytes_max=10**6, group_max=256, group_seconds=0.02, characters_max=1000)


class FailingSpoolWorker(SpoolWorker):
    """A worker whose disk fails when a test says so."""

    error: Exception | None = None
    times = 0
    commits = 0
    mistaken = False

    def do_housekeeping(self) -> None:
        if type(self).mistaken:
            raise KeyError("a mistake of ours")
        super().do_housekeeping()

    def store_predictions(self, kept) -> None:
        type(self).commits += 1
        if type(self).times > 0:
            type(self).times -= 1
            raise type(self).error
        super().store_predictions(kept)


def failing_worker_class() -> type[FailingSpoolWorker]:
    """Return a class for each test, since the class holds what fails."""
    return type("SpoolWorker", (FailingSpoolWorker,), {})


def blocking_class() -> type[SpoolWorker]:
    """Return a worker whose disk accepts no answer until `works` is set."""

    class BlockingWorker(SpoolWorker):
        entered, works, closed = threading.Event(), threading.Event(), threading.Event()

        def store_predictions(self, kept) -> None:
            if kept:
                self.entered.set()
                assert self.works.wait(60.0)
            super().store_predictions(kept)

        def close(self) -> None:
            super().close()
            self.closed.set()

    return BlockingWorker


@pytest.fixture
def writer(tmp_path):
    running = SpoolWriter(opener(tmp_path), LIMITS)
    running.start()
    yield running
    running.stop()


def count(worker: SpoolWorker) -> int:
    return worker.spool.counters["captured"]


def result(future: Future):
    return future.result(WAIT_SECONDS)


def test_job_sees_every_earlier_answer(writer):
    """The queue is in order: a job finds an answer that was queued before it."""
    for number in range(50):
        writer.queue_answer(answered(number))
        assert (
            result(writer.submit(lambda worker, n=number: worker.spool.find_prediction(f"p-{n}"))).task == "pos-intent"
        )


def test_answers_are_committed_in_groups(tmp_path):
    """Waiting answers are committed together, whatever their number."""
    cls = failing_worker_class()
    running = SpoolWriter(opener(tmp_path, cls), CaptureLimits(1000, 10**6, 1000, 0.2, 1000))
    running.start()
    for number in range(500):
        running.queue_answer(answered(number))
    eventually_sync(lambda: running.queued_answers == 0, WAIT_SECONDS)
    running.stop()
    assert cls.commits <= 3


def test_stop_writes_all_queued_answers(tmp_path):
    """Stopping loses nothing of the queue."""
    running = SpoolWriter(opener(tmp_path), CaptureLimits(1000, 10**6, 64, 60.0, 1000))
    running.start()
    for number in range(300):
        running.queue_answer(answered(number))
    running.stop()
    database = sqlite3.connect(tmp_path / "spool.db")
    assert (300,) == database.execute("SELECT count(*) FROM predictions").fetchone()
    database.close()


def test_the_queue_is_bounded_in_number_and_bytes(tmp_path):
    """Answers beyond the limits of number or bytes are dropped and counted without waiting."""
    for limits, kept in ((CaptureLimits(10, 10**6, 64, 60.0, 1000), 10), (CaptureLimits(1000, 500, 64, 60.0, 1000), 5)):
        running = SpoolWriter(opener(tmp_path / str(kept)), limits)
        (tmp_path / str(kept)).mkdir()
        for number in range(20):
            running.queue_answer(answered(number, text="x" * 50, local_answer="x" * 50))
        assert kept == running.queued_answers
        running.start()
        dropped = result(running.submit(lambda worker: dict(worker.spool.counters)))
        assert 20 - kept == dropped["dropped_queue_full"]
        running.stop()


def test_audit_answers_have_twice_the_queue(tmp_path):
    """Answers that were drawn for the audit have twice the space, which is limited too."""
    tmp_path.joinpath("site").mkdir()
    running = SpoolWriter(opener(tmp_path / "site"), CaptureLimits(10, 10**6, 64, 60.0, 1000))
    for number in range(20):
        running.queue_answer(answered(number))
    for number in range(20, 40):
        running.queue_answer(answered(number, later="audit"))
    assert 20 == running.queued_answers
    running.start()
    counters = result(running.submit(lambda worker: dict(worker.spool.counters)))
    assert (10, 20) == (counters["questions_audit"], counters["dropped_queue_full"])
    running.stop()


def test_answer_over_the_length_limit_is_dropped(writer):
    """It is counted as dropped_too_long."""
    writer.queue_answer(answered(1, text="x" * 1001))
    writer.queue_answer(answered(2, text="x" * 1000))
    counters = result(writer.submit(lambda worker: dict(worker.spool.counters)))
    eventually_sync(lambda: result(writer.submit(count)) == 1, WAIT_SECONDS)
    assert 1 == counters["dropped_too_long"]


def test_unwritable_answer_stops_no_other(writer):
    """An extraction whose output is not JSON is dropped and counted, and other answers are stored."""
    writer.queue_answer(answered(1, manifest=manifest("visit"), local_answer="{broken", scores=()))
    writer.queue_answer(answered(2))
    assert result(writer.submit(lambda worker: worker.spool.find_prediction("p-2"))).task == "pos-intent"
    assert 1 == result(writer.submit(lambda worker: worker.spool.counters["dropped_failed"]))


def test_error_of_one_job_fails_only_its_caller(writer):
    """A job that raises fails only its caller; the others of its group are done."""
    writer.queue_answer(answered(1))
    futures = [writer.submit(lambda worker, n=n: worker.spool.find_prediction(f"p-{n}")) for n in (9, 1)]
    with pytest.raises(PredictionUnknown):
        result(futures[0])
    assert result(futures[1]).task == "pos-intent"


def judged(worker: SpoolWorker, number: int) -> None:
    known = json.loads(worker.spool.find_prediction(f"p-{number}").record)
    worker.spool.add_feedback(worker.recorder.build_feedback(judgement(number), known, manifest(), 0.0))


def test_full_disk_drops_answers_before_feedback(tmp_path):
    """On a full disk the group is retried without its answers, so the correction is stored and acknowledged."""
    cls = failing_worker_class()
    running = SpoolWriter(opener(tmp_path, cls), LIMITS)
    running.start()
    running.queue_answer(answered(1))
    result(running.submit(lambda worker: worker.spool.find_prediction("p-1")))
    cls.error, cls.times = DiskFull("full"), 1
    running.queue_answer(answered(2))
    result(running.submit(lambda worker: judged(worker, 1)))
    counters = result(running.submit(lambda worker: dict(worker.spool.counters)))
    running.stop()
    assert (1, 1, 1) == (counters["feedback"], counters["dropped_disk"], counters["captured"])
    assert (tmp_path / "spool.ballast").stat().st_size > 0


@pytest.mark.parametrize("error", [DiskFull("full"), StoreDamaged("input/output error")])
def test_feedback_that_is_not_on_the_disk_is_not_acknowledged(tmp_path, error):
    """The reviewer gets the disk's error and can submit again once the disk works."""
    cls = failing_worker_class()
    running = SpoolWriter(opener(tmp_path, cls), LIMITS)
    running.start()
    for number in range(20):
        running.queue_answer(answered(number))
    result(running.submit(lambda worker: worker.spool.find_prediction("p-19")))
    cls.error, cls.times = error, 2
    with pytest.raises(type(error)):
        result(running.submit(lambda worker: judged(worker, 19)))
    result(running.submit(lambda worker: judged(worker, 19)))
    assert 1 == len(result(running.submit(lambda worker: worker.spool.find_prediction("p-19"))).feedback)
    running.stop()


def test_cancelled_waiting_job_is_dropped_alone(tmp_path):
    """A job that is cancelled before it starts is dropped; the others are done and answers stored."""
    cls, done = blocking_class(), []
    running = SpoolWriter(opener(tmp_path, cls), LIMITS)
    running.start()
    running.queue_answer(answered(1))
    eventually_sync(cls.entered.is_set, WAIT_SECONDS)
    jobs = [running.submit(lambda _, n=number: done.append(n)) for number in range(5)]
    assert [True, False, True] == [jobs[1].cancel(), jobs[2].cancelled(), jobs[3].cancel()]
    cls.works.set()
    assert [None] * 3 == [result(jobs[number]) for number in (0, 2, 4)]
    assert ([0, 2, 4], 1) == (done, result(running.submit(count)))
    assert running.stop()


def test_job_cancelled_at_any_moment_is_done_whole_or_not_at_all(writer):
    """Jobs that are cancelled while they wait, run or end are done completely or not at all, and the next one is
    done."""
    done: list[int] = []
    for number in range(300):
        jobs = [writer.submit(lambda _, n=number: done.append(n), alone=bool(k % 2)) for k in range(3)]
        jobs[1].cancel()
        result(jobs[2])
    assert 300 == len(set(done))


def broken_job(worker: SpoolWorker) -> None:
    raise KeyError("a mistake of ours")


@pytest.mark.parametrize("alone", [False, True])
def test_unexpected_error_in_a_job_fails_only_its_caller(writer, alone):
    """An unexpected exception ends that job, its writes are rolled back, and all others are done."""
    writer.queue_answer(answered(1))
    futures = [writer.submit(count), writer.submit(broken_job, alone=alone), writer.submit(count)]
    with pytest.raises(KeyError):
        result(futures[1])
    assert 1 == result(writer.submit(count)) == result(futures[2])
    writer.queue_answer(answered(2))
    assert result(writer.submit(lambda worker: worker.spool.find_prediction("p-2"))).task == "pos-intent"


def test_answer_with_an_invalid_confidence_is_dropped_alone(tmp_path):
    """A confidence that is not a probability, as a compromised child could return, drops only that answer; the others
    of its group are stored."""
    running = SpoolWriter(opener(tmp_path), CaptureLimits(1000, 10**6, 64, 60.0, 1000))
    running.start()
    strange = {5: float("nan"), 17: 1e308, 18: float("nan")}
    for number in range(30):
        running.queue_answer(answered(number, **({"confidence": strange[number]} if number in strange else {})))
    result(running.submit(count))
    counters = result(running.submit(lambda worker: dict(worker.spool.counters)))
    running.stop()
    assert (27, 3) == (counters["captured"], counters["dropped_failed"])
    database = sqlite3.connect(tmp_path / "spool.db")
    assert (27,) == database.execute("SELECT count(*) FROM predictions").fetchone()
    database.close()


def test_unexpected_error_drops_only_its_answer(tmp_path):
    """The answer is counted as dropped, jobs beside it are done, and the next group is stored."""
    cls = failing_worker_class()
    running = SpoolWriter(opener(tmp_path, cls), LIMITS)
    running.start()
    result(running.submit(count))
    cls.error, cls.times = KeyError("a mistake of ours"), 2
    running.queue_answer(answered(1))
    assert 0 == result(running.submit(count))
    running.queue_answer(answered(2))
    counters = result(running.submit(lambda worker: dict(worker.spool.counters)))
    assert (1, 1) == (counters["captured"], counters["dropped_failed"])
    running.stop()


def test_stalled_disk_is_reported_and_limits_the_queue(tmp_path):
    """The stall is reported with its seconds, jobs beyond a limit are refused, the stop does not wait, and queued
    answers are written later."""
    cls = blocking_class()
    running = SpoolWriter(opener(tmp_path, cls), LIMITS)
    running.start()
    running.queue_answer(answered(1))
    eventually_sync(cls.entered.is_set, WAIT_SECONDS)
    eventually_sync(lambda: running.stalled_seconds > 0.05, WAIT_SECONDS)
    jobs = [running.submit(count) for _ in range(JOBS_MAX)]
    with pytest.raises(SpoolStalled, match="1000 calls wait"):
        running.submit(count)
    for job in jobs[1:]:
        job.cancel()
    assert running.stalled_seconds > 0.05
    assert not running.stop(0.01)
    cls.works.set()
    assert 1 == result(jobs[0])
    eventually_sync(cls.closed.is_set, WAIT_SECONDS)


def test_collecting_a_group_is_not_a_stall(tmp_path):
    """An idle writer, and one that waits for more answers, report no stall."""
    running = SpoolWriter(opener(tmp_path), CaptureLimits(1000, 10**6, 64, 60.0, 1000))
    running.start()
    result(running.submit(count))
    running.queue_answer(answered(1))
    eventually_sync(lambda: running.stalled_seconds == 0.0, WAIT_SECONDS)
    assert 1 == running.queued_answers
    assert running.stop()


def test_spool_that_does_not_open_is_tried_again(tmp_path):
    """While the spool does not open, answers are counted as dropped, jobs get the reason, and opening is repeated."""
    tries = threading.Semaphore(0)
    works = threading.Event()
    real = opener(tmp_path)

    def open_later() -> SpoolWorker:
        tries.release()
        if not works.is_set():
            raise StoreDamaged("spool.db is damaged", remedy="Move it away.")
        return real()

    running = SpoolWriter(open_later, LIMITS)
    running.start()
    running.queue_answer(answered(1))
    with pytest.raises(StoreDamaged, match="is damaged"):
        result(running.submit(count))
    assert running.problem is not None
    works.set()
    running.queue_answer(answered(2))
    assert 1 == result(running.submit(lambda worker: worker.spool.counters["dropped_disk"]))
    assert running.problem is None
    running.stop()


async def test_site_that_collects_nothing_creates_no_files(tmp_path):
    """Without consent there is no thread and no database, and feedback is refused with a remedy."""
    collection = ExampleCapture(config_of(tmp_path, collect={}), SpoolWorkerDependencies(lambda: (), "0.1.0"))
    collection.start()
    assert ("off", None) == (collection.consent("pos-intent"), await collection.status())
    with pytest.raises(PredictionUnknown, match="keeps no answers"):
        await collection.find_prediction("p-1")
    collection.stop()
    assert [] == list(tmp_path.iterdir())


async def test_updated_site_writes_its_status_without_collecting(tmp_path):
    """A site with a root of trust writes the status object although it collects nothing."""
    config = config_of(tmp_path, collect={}).model_copy(update={"update": UpdateConfig(root_file="/etc/root.json")})
    collection = ExampleCapture(config, SpoolWorkerDependencies(lambda: (), "0.1.0"))
    collection.start()
    await collection.status()
    collection.stop()
    assert (config.outbox / "status.json").exists()


async def test_feedback_is_accepted_after_collecting_was_disabled(tmp_path):
    """Feedback on a stored answer is accepted after the consent was withdrawn."""
    first = ExampleCapture(config_of(tmp_path), SpoolWorkerDependencies(lambda: (), "0.1.0"))
    first.start()
    first.queue_answer(answered(1))
    await first.find_prediction("p-1")
    first.stop()
    second = ExampleCapture(config_of(tmp_path, collect={}), SpoolWorkerDependencies(lambda: (), "0.1.0"))
    second.start()
    found = await second.find_prediction("p-1")
    await second.store_feedback(judgement(1), found.record, manifest())
    assert [True] == [
        each.reviewed for each in await second.review_page(ReviewFilter(include_reviewed=True), ReviewCursor(), 5)
    ]
    assert AnswerErasure(was_kept=True, tombstoned=False) == await second.erasure.erase_answer("p-1")
    status = await second.status()
    assert (1, 1) == (status.counters["captured"], status.counters["erased"])
    second.stop()


async def test_a_broken_spool_is_in_the_status(tmp_path):
    """Status says why nothing is captured and what to do."""
    tmp_path.joinpath("spool.db").write_bytes(b"garbage" * 1000)
    collection = ExampleCapture(config_of(tmp_path), SpoolWorkerDependencies(lambda: (), "0.1.0"))
    collection.start()
    status = await collection.status()
    collection.stop()
    assert "No examples are kept" in status.problems[0]
    assert "Stop the daemon, move" in status.problems[0]


async def test_no_call_waits_for_a_stalled_disk(tmp_path):
    """While the disk is stalled, status says so without figures and feedback is refused with a delay; afterwards both
    work."""
    cls, clock = blocking_class(), [0.0]
    collection = ExampleCapture(
        config_of(tmp_path), SpoolWorkerDependencies(lambda: (), "0.1.0"), worker=cls, monotonic=lambda: clock[0]
    )
    collection.start()
    collection.queue_answer(answered(1))
    await eventually(cls.entered.is_set)
    clock[0] = STALLED_SECONDS_MAX
    status = await collection.status()
    assert (STALLED_SECONDS_MAX, True) == (status.stalled_seconds, collection.calls.is_stalled)
    said = status.problems[0]
    assert "has worked on one write for 10 s. Waiting in memory: 1 answer; lost because the queue was full: 0." in said
    with pytest.raises(SpoolStalled, match="for 10 s") as caught:
        await collection.find_prediction("p-1")
    assert caught.value.retry_seconds > 0
    cls.works.set()
    await eventually(lambda: not collection.calls.is_stalled)
    assert "p-1" == (await collection.find_prediction("p-1")).record["prediction_id"]
    assert 0.0 == (await collection.status()).stalled_seconds
    assert collection.stop()


async def test_housekeeping_can_be_restarted_after_an_error(tmp_path):
    """`run` ends with an unexpected exception for its owner; started again, it keeps its worker."""
    cls, turns = failing_worker_class(), asyncio.Semaphore(0)
    cls.mistaken = True
    collection = ExampleCapture(config_of(tmp_path), SpoolWorkerDependencies(lambda: (), "0.1.0"), worker=cls)
    collection.start()

    async def turn(_: float) -> None:
        turns.release()
        await asyncio.Event().wait()

    with pytest.raises(KeyError):
        await collection.run(turn)
    cls.mistaken = False
    running = asyncio.create_task(collection.run(turn))
    await turns.acquire()
    running.cancel()
    assert collection.stop()
