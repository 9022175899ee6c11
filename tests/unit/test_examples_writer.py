"""The writer's thread: groups, bounds, jobs that wait for the disk, and disks that fail."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import Future

import pytest

from edge_agent.config import UpdateConfig
from edge_agent.errors import DiskFull, EdgeAgentError, PredictionUnknown, StoreDamaged
from edge_agent.examples.collection import Collection
from edge_agent.examples.house import House, Surroundings
from edge_agent.examples.spool import ReviewFilter
from edge_agent.examples.writer import Limits, Writer
from tests.eventually import eventually_sync
from tests.site_cases import answered, config_of, judgement, manifest, opener

WAIT_SECONDS = 10.0
LIMITS = Limits(examples_max=1000, bytes_max=10**6, group_max=256, group_seconds=0.02, characters_max=1000)


class Broken(House):
    """A house whose disk fails when it is told to."""

    error: EdgeAgentError | None = None
    times = 0
    commits = 0

    def add(self, kept) -> None:
        type(self).commits += 1
        if type(self).times > 0:
            type(self).times -= 1
            raise type(self).error
        super().add(kept)


def house_class() -> type[Broken]:
    """Return a class of its own for each test, since it holds what fails."""
    return type("House", (Broken,), {})


@pytest.fixture
def writer(tmp_path):
    running = Writer(opener(tmp_path), LIMITS)
    running.start()
    yield running
    running.stop()


def count(house: House) -> int:
    return house.spool.counters["captured"]


def result(future: Future):
    return future.result(WAIT_SECONDS)


def test_a_job_sees_every_answer_that_came_before_it(writer):
    """The queue is in order: an answer is found by the call right behind it."""
    for number in range(50):
        writer.keep(answered(number))
        assert result(writer.submit(lambda house, n=number: house.spool.find(f"p-{n}"))).task == "pos-intent"


def test_answers_gather_into_one_commit(tmp_path):
    """A group is committed once, whatever its size; never an answer alone while others wait."""
    cls = house_class()
    running = Writer(opener(tmp_path, cls), Limits(1000, 10**6, 1000, 0.2, 1000))
    running.start()
    for number in range(500):
        running.keep(answered(number))
    eventually_sync(lambda: running.waiting == 0, WAIT_SECONDS)
    running.stop()
    assert cls.commits <= 3


def test_what_waits_is_written_at_the_end(tmp_path):
    """Stopping loses nothing of the queue."""
    running = Writer(opener(tmp_path), Limits(1000, 10**6, 64, 60.0, 1000))
    running.start()
    for number in range(300):
        running.keep(answered(number))
    running.stop()
    database = sqlite3.connect(tmp_path / "spool.db")
    assert (300,) == database.execute("SELECT count(*) FROM predictions").fetchone()
    database.close()


def test_the_queue_is_bounded_in_number_and_bytes(tmp_path):
    """What does not fit is dropped and counted; nobody waits."""
    for limits, kept in ((Limits(10, 10**6, 64, 60.0, 1000), 10), (Limits(1000, 500, 64, 60.0, 1000), 5)):
        running = Writer(opener(tmp_path / str(kept)), limits)
        (tmp_path / str(kept)).mkdir()
        for number in range(20):
            running.keep(answered(number, text="x" * 100))
        assert kept == running.waiting
        running.start()
        dropped = result(running.submit(lambda house: dict(house.spool.counters)))
        assert 20 - kept == dropped["dropped_queue_full"]
        running.stop()


def test_a_flood_does_not_thin_out_a_random_sample(tmp_path):
    """Answers that were drawn to be checked have twice the room; that is bounded, too."""
    tmp_path.joinpath("site").mkdir()
    running = Writer(opener(tmp_path / "site"), Limits(10, 10**6, 64, 60.0, 1000))
    for number in range(20):
        running.keep(answered(number))
    for number in range(20, 40):
        running.keep(answered(number, later="audit"))
    assert 20 == running.waiting
    running.start()
    counters = result(running.submit(lambda house: dict(house.spool.counters)))
    assert (10, 20) == (counters["questions_audit"], counters["dropped_queue_full"])
    running.stop()


def test_an_answer_that_is_too_long_is_not_kept(writer):
    """Counted under its own name."""
    writer.keep(answered(1, text="x" * 1001))
    writer.keep(answered(2, text="x" * 1000))
    counters = result(writer.submit(lambda house: dict(house.spool.counters)))
    eventually_sync(lambda: result(writer.submit(count)) == 1, WAIT_SECONDS)
    assert 1 == counters["dropped_too_long"]


def test_one_answer_that_cannot_be_written_stops_no_other(writer):
    """An extraction whose output is no JSON, as a faulty runtime might give it."""
    writer.keep(answered(1, manifest=manifest("visit"), output="{broken", scores=()))
    writer.keep(answered(2))
    assert result(writer.submit(lambda house: house.spool.find("p-2"))).task == "pos-intent"
    assert 1 == result(writer.submit(lambda house: house.spool.counters["dropped_failed"]))


def test_what_a_job_refuses_is_its_own(writer):
    """A mistake of one caller fails that caller, and the others of the group go through."""
    writer.keep(answered(1))
    futures = [writer.submit(lambda house, n=n: house.spool.find(f"p-{n}")) for n in (9, 1)]
    with pytest.raises(PredictionUnknown):
        result(futures[0])
    assert result(futures[1]).task == "pos-intent"


def judged(house: House, number: int) -> None:
    known = json.loads(house.spool.find(f"p-{number}").record)
    house.spool.judge(house.recorder.feedback(judgement(number), known, manifest(), 0.0))


def test_on_a_full_disk_answers_are_given_up_before_feedback(tmp_path):
    """The group is tried again without its answers; the correction is acknowledged, and on the disk."""
    cls = house_class()
    running = Writer(opener(tmp_path, cls), LIMITS)
    running.start()
    running.keep(answered(1))
    result(running.submit(lambda house: house.spool.find("p-1")))
    cls.error, cls.times = DiskFull("full"), 1
    running.keep(answered(2))
    result(running.submit(lambda house: judged(house, 1)))
    counters = result(running.submit(lambda house: dict(house.spool.counters)))
    running.stop()
    assert (1, 1, 1) == (counters["feedback"], counters["dropped_disk"], counters["captured"])
    assert (tmp_path / "spool.ballast").stat().st_size > 0


@pytest.mark.parametrize("error", [DiskFull("full"), StoreDamaged("input/output error")])
def test_feedback_that_is_not_on_the_disk_is_not_acknowledged(tmp_path, error):
    """The reviewer gets the disk's error, and may try again once the disk works."""
    cls = house_class()
    running = Writer(opener(tmp_path, cls), LIMITS)
    running.start()
    for number in range(20):
        running.keep(answered(number))
    result(running.submit(lambda house: house.spool.find("p-19")))
    cls.error, cls.times = error, 2
    with pytest.raises(type(error)):
        result(running.submit(lambda house: judged(house, 19)))
    result(running.submit(lambda house: judged(house, 19)))
    assert 1 == len(result(running.submit(lambda house: house.spool.find("p-19"))).feedback)
    running.stop()


def test_a_spool_that_does_not_open_drops_and_says_why(tmp_path):
    """Answers are counted, jobs get the reason, and it is tried again."""
    tries = threading.Semaphore(0)
    works = threading.Event()
    real = opener(tmp_path)

    def open_later() -> House:
        tries.release()
        if not works.is_set():
            raise StoreDamaged("spool.db is damaged", remedy="Move it away.")
        return real()

    running = Writer(open_later, LIMITS)
    running.start()
    running.keep(answered(1))
    with pytest.raises(StoreDamaged, match="is damaged"):
        result(running.submit(count))
    assert running.problem is not None
    works.set()
    running.keep(answered(2))
    assert 1 == result(running.submit(lambda house: house.spool.counters["dropped_disk"]))
    assert running.problem is None
    running.stop()


async def test_a_site_that_collects_nothing_makes_no_files(tmp_path):
    """No thread, no database; every question is answered with what to do."""
    collection = Collection(config_of(tmp_path, collect={}), Surroundings(lambda: (), "0.1.0"))
    collection.start()
    assert ("off", None) == (collection.consent("pos-intent"), await collection.status())
    with pytest.raises(PredictionUnknown, match="keeps no answers"):
        await collection.find("p-1")
    collection.stop()
    assert [] == list(tmp_path.iterdir())


async def test_a_site_that_is_updated_says_how_it_went(tmp_path):
    """It has a root of trust and a centre: the status object is written although nothing is collected."""
    config = config_of(tmp_path, collect={}).model_copy(update={"update": UpdateConfig(root_file="/etc/root.json")})
    collection = Collection(config, Surroundings(lambda: (), "0.1.0"))
    collection.start()
    await collection.status()
    collection.stop()
    assert (config.outbox / "status.json").exists()


async def test_a_site_that_stopped_collecting_still_serves_what_it_has(tmp_path):
    """Late feedback finds its input also after consent was taken back."""
    first = Collection(config_of(tmp_path), Surroundings(lambda: (), "0.1.0"))
    first.start()
    first.keep(answered(1))
    await first.find("p-1")
    first.stop()
    second = Collection(config_of(tmp_path, collect={}), Surroundings(lambda: (), "0.1.0"))
    second.start()
    found = await second.find("p-1")
    await second.judge(judgement(1), found.record, manifest())
    assert [True] == [each.reviewed for each in await second.review(ReviewFilter(include_reviewed=True), (-1.0, 0), 5)]
    assert (True, False) == await second.erase("p-1")
    status = await second.status()
    assert (1, 1) == (status.counters["captured"], status.counters["erased"])
    second.stop()


async def test_a_broken_spool_is_in_the_status(tmp_path):
    """An operator reads why nothing is kept, and what to do."""
    tmp_path.joinpath("spool.db").write_bytes(b"garbage" * 1000)
    collection = Collection(config_of(tmp_path), Surroundings(lambda: (), "0.1.0"))
    collection.start()
    status = await collection.status()
    collection.stop()
    assert "No examples are kept" in status.problems[0]
    assert "Stop the daemon, move" in status.problems[0]
