"""Answers remembered by request_id."""

import asyncio
import gc

import pytest
import structlog
from google.protobuf.wrappers_pb2 import BytesValue, Int64Value
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import DeadlineExpired, InvalidRequest, QueueFull
from edge_agent.server.request_deduplication import (
    ENTRY_BYTES,
    REQUEST_ID_CHARS_MAX,
    DeduplicationLimits,
    RequestDeduplicator,
)
from edge_agent.v1.inference_pb2 import ClassifyResponse
from tests.support.eventually import given_up, turns

ERROR = {"reason": "DEADLINE_EXPIRED"}


class Work:
    """Counts its runs; each waits until it may go on, and then fails if it was told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None

    async def __call__(self) -> Int64Value:
        self.runs += 1
        run = self.runs
        self.started.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return Int64Value(value=run)


@pytest.fixture
async def work() -> Work:
    """Return work that ends at once."""
    return Work()


class Window:
    """A window of one caller, asked for numbers."""

    def __init__(self, limits: DeduplicationLimits) -> None:
        self.inner = RequestDeduplicator(limits)

    async def run(self, request_id: str, content: bytes, work: Work, caller: str = "till-3") -> int:
        return (await self.inner.run((caller, "classify", request_id), content, work)).value


def window(entries_max: int = 4, seconds_max: float = 1000.0, bytes_max: int = 2**20) -> Window:
    """Return an empty window."""
    return Window(DeduplicationLimits(entries_max, seconds_max, bytes_max))


async def test_a_repeated_request_runs_once(work):
    """The same id with the same content gets the first answer."""
    remembered = window()
    assert [1, 1, 1] == [await remembered.run("id", b"content", work) for _ in range(3)]


async def test_another_id_runs_again(work):
    """Another id is another request, whatever its content."""
    remembered = window()
    assert [1, 2] == [await remembered.run(request_id, b"content", work) for request_id in ("a", "b")]


async def test_calls_at_the_same_time_share_one_run(work):
    """A retry that comes while the first call runs waits for its answer."""
    remembered = window()
    work.may_end.clear()
    calls = [asyncio.create_task(remembered.run("id", b"content", work)) for _ in range(3)]
    await work.started.wait()
    work.may_end.set()
    assert [1, 1, 1] == await asyncio.gather(*calls)


@pytest.mark.parametrize("ended", [True, False])
async def test_an_id_belongs_to_one_content(work, ended):
    """The id of another request is refused, whether that one runs or has its answer; the answer stays."""
    remembered = window()
    work.may_end.clear()
    first = asyncio.create_task(remembered.run("id", b"content", work))
    await work.started.wait()
    if ended:
        work.may_end.set()
        await first
    with pytest.raises(InvalidRequest, match="used for another request") as caught:
        await remembered.run("id", b"other", work)
    assert "UUID4" in caught.value.remedy
    work.may_end.set()
    assert (1, 1) == (await first, await remembered.run("id", b"content", work))


async def test_a_failure_is_not_remembered(work):
    """The retry of a failed call is a new try."""
    remembered = window()
    work.error = QueueFull("full")
    with pytest.raises(QueueFull):
        await remembered.run("id", b"content", work)
    work.error = None
    assert 2 == await remembered.run("id", b"content", work)


@pytest.mark.parametrize(
    ("reason", "runs"),
    [
        *[("INPUT_EMPTY", 1), ("INPUT_TOO_LONG", 1), ("DEADLINE_EXPIRED", 2), ("DEADLINE_UNATTAINABLE", 2)],
        *[("ENGINE_NOT_READY", 2), ("MODEL_FAILED", 2), ("INPUT_QUARANTINED", 1)],
    ],
)
async def test_a_response_is_remembered_unless_another_try_could_change_it(reason: str, runs: int) -> None:
    """An input that failed for its text fails again; one that failed for want of time or of a model is tried again."""
    remembered, responses = window(), [ClassifyResponse(results=[{"classification": {"label": "refund"}}])]
    responses.append(ClassifyResponse(results=[{"classification": {"label": "refund"}}, {"error": {"reason": reason}}]))

    async def compute() -> ClassifyResponse:
        return responses.pop()

    key = ("till-3", "classify", "id")
    answered = [await remembered.inner.run(key, b"content", compute) for _ in range(2)]
    assert runs == 2 - len(responses)
    assert reason == answered[0].results[1].error.reason
    assert (answered[0] == answered[1]) == (runs == 1)


async def test_a_call_that_waits_gets_the_answer_that_it_has_waited_for() -> None:
    """Also where an input has failed in it: the same call many times at once is one run."""
    remembered, may_end, runs = window(), asyncio.Event(), []

    async def compute() -> ClassifyResponse:
        runs.append(len(runs))
        await may_end.wait()
        return ClassifyResponse(results=[{"error": {"reason": "MODEL_FAILED"}}])

    calls = [asyncio.create_task(remembered.inner.run(("till-3", "classify", "id"), b"x", compute)) for _ in range(5)]
    await turns(3)
    may_end.set()
    assert ["MODEL_FAILED"] * 5 == [each.results[0].error.reason for each in await asyncio.gather(*calls)]
    assert [0] == runs


@pytest.mark.parametrize("expired", [DeadlineExpired("late"), ClassifyResponse(results=[{"error": ERROR}])])
async def test_a_retry_does_not_end_with_the_deadline_of_the_call_that_it_waited_for(expired) -> None:
    """It runs again, with its own: not only where the call failed, also where its inputs did."""
    remembered, may_end, runs = window(), asyncio.Event(), []

    async def compute() -> ClassifyResponse:
        runs.append(len(runs))
        if len(runs) > 1:
            return ClassifyResponse(results=[{"classification": {"label": "refund"}}])
        await may_end.wait()
        if isinstance(expired, DeadlineExpired):
            raise expired
        return expired

    key = ("till-3", "classify", "id")
    first, *retries = [asyncio.create_task(remembered.inner.run(key, b"content", compute)) for _ in range(3)]
    await turns(3)
    may_end.set()
    got = await asyncio.gather(*retries)
    assert ["refund", "refund"] == [response.results[0].classification.label for response in got]
    assert 2 == len(runs)
    assert expired == (first.exception() or first.result())


async def test_all_that_share_a_failure_see_it(work):
    """Every call that waited for the run that failed gets its error, and the next is a new try."""
    remembered = window()
    work.may_end.clear()
    work.error = QueueFull("full")
    calls = [asyncio.create_task(remembered.run("id", b"content", work)) for _ in range(2)]
    await work.started.wait()
    work.may_end.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [QueueFull, QueueFull] == [type(result) for result in results]
    work.error = None
    assert [2, 2] == [await remembered.run("id", b"content", work) for _ in range(2)]


async def test_the_caller_who_goes_away_leaves_the_run(work):
    """A cancelled call does not end the run; the retry gets its answer."""
    remembered = window()
    work.may_end.clear()
    first = asyncio.create_task(remembered.run("id", b"content", work))
    await work.started.wait()
    await given_up(first)
    retry = asyncio.create_task(remembered.run("id", b"content", work))
    work.may_end.set()
    assert (1, 1) == (await retry, work.runs)


@pytest.mark.parametrize(
    ("error", "event"), [(QueueFull("full"), "unattended_call_failed"), (KeyError("bug"), "unattended_call_broke")]
)
async def test_a_failure_that_nobody_saw_is_told_and_not_remembered(work, error, event):
    """A run that fails after its last caller went away has a line in the log, and does not fail the retry."""
    remembered = window()
    work.may_end.clear()
    work.error = error
    first = asyncio.create_task(remembered.run("id", b"content", work))
    await work.started.wait()
    (run,) = asyncio.all_tasks() - {asyncio.current_task(), first}
    await given_up(first)
    with structlog.testing.capture_logs() as logged:
        work.may_end.set()
        await asyncio.wait([run])
    assert [event] == [line["event"] for line in logged]
    work.error = None
    assert 2 == await remembered.run("id", b"content", work)


async def test_a_failure_that_a_caller_saw_is_the_callers(work):
    """It is raised there and told nowhere else, also where another caller has left."""
    remembered = window()
    work.may_end.clear()
    work.error = KeyError("bug")
    calls = [asyncio.create_task(remembered.run("id", b"content", work)) for _ in range(2)]
    await work.started.wait()
    await given_up(calls[0])
    with structlog.testing.capture_logs() as logged:
        work.may_end.set()
        with pytest.raises(KeyError):
            await calls[1]
    assert [] == logged


async def test_who_leaves_in_the_moment_of_the_failure_hides_nothing(work):
    """The run has failed, its only caller is cancelled before it could look: the failure is in the log, once."""
    unhandled: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    remembered = window()
    work.may_end.clear()
    work.error = KeyError("bug")
    call = asyncio.create_task(remembered.run("id", b"content", work))
    await work.started.wait()
    (run,) = asyncio.all_tasks() - {asyncio.current_task(), call}
    run.add_done_callback(lambda _, leaving=call: leaving.cancel())
    with structlog.testing.capture_logs() as logged:
        work.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert ["unattended_call_broke"] == [line["event"] for line in logged]
    run = call = None
    gc.collect()
    assert [] == unhandled


async def test_a_run_is_not_pushed_out(work):
    """While a call runs its retry waits for it, however many answers come meanwhile."""
    remembered, other = window(entries_max=1), Work()
    work.may_end.clear()
    first = asyncio.create_task(remembered.run("id", b"content", work))
    await work.started.wait()
    assert [1, 2] == [await remembered.run(request_id, b"content", other) for request_id in ("a", "b")]
    retry = asyncio.create_task(remembered.run("id", b"content", work))
    work.may_end.set()
    assert (1, 1, 1) == (await first, await retry, work.runs)
    assert ENTRY_BYTES < remembered.inner.used_bytes < 2 * ENTRY_BYTES


async def test_the_end_of_the_daemon_ends_the_runs(work):
    """Those that nobody waits for any more, too: when `stop` returns none is left."""
    remembered = window()
    work.may_end.clear()
    left, waiting = (asyncio.create_task(remembered.run(name, b"content", work)) for name in ("a", "b"))
    await work.started.wait()
    await given_up(left)
    await remembered.inner.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert {asyncio.current_task()} == asyncio.all_tasks()
    assert 0 == remembered.inner.used_bytes


async def test_an_id_belongs_to_one_caller(work):
    """The same id of another client, or of another call of the same client, is another request."""
    remembered = window()
    runs = [await remembered.run("id", b"content", work, caller) for caller in ("till-3", "till-4", "till-3")]
    assert [1, 2, 1] == runs


async def answered(remembered: Window, request_id: str, size: int) -> bool:
    """Ask for an answer of that many bytes; return whether it was computed."""
    ran = []

    async def compute() -> BytesValue:
        ran.append(request_id)
        return BytesValue(value=bytes(size))

    answer = await remembered.inner.run(("till-3", "embed", request_id), b"content", compute)
    assert bytes(size) == answer.value
    return bool(ran)


async def test_the_window_is_bounded_in_bytes():
    """Four megabytes, a thousand entries and answers of a megabyte: three are remembered, the oldest are not."""
    remembered = window(entries_max=1000, bytes_max=4 * 2**20)
    for number in range(40):
        assert await answered(remembered, str(number), 2**20)
        assert remembered.inner.used_bytes <= 4 * 2**20
    again = {number: await answered(remembered, str(number), 2**20) for number in (39, 38, 37)}
    assert {39: False, 38: False, 37: False} == again
    assert await answered(remembered, "36", 2**20)


async def test_what_is_larger_than_the_window_pushes_nothing_out():
    """Such an answer is given and not remembered: its retry runs again, and the others are still there."""
    remembered = window(bytes_max=10_000)
    assert [True, True] == [await answered(remembered, name, 100) for name in ("a", "b")]
    assert [True, True] == [await answered(remembered, "large", 10_000) for _ in range(2)]
    assert [False, False] == [await answered(remembered, name, 100) for name in ("a", "b")]


@given(sizes=st.lists(st.integers(0, 6000), max_size=30), entries_max=st.integers(1, 5))
async def test_whatever_comes_the_window_keeps_its_limits(sizes: list[int], entries_max: int) -> None:
    """The newest answers that fit are there, and no more than fit."""
    remembered, kept = window(entries_max, bytes_max=16_384), []
    for number, size in enumerate(sizes):
        await answered(remembered, str(number), size)
        kept.append((str(number), ENTRY_BYTES + len(BytesValue(value=bytes(size)).SerializeToString())))
        while len(kept) > entries_max or sum(each for _, each in kept) > 16_384:
            kept.pop(0)
        assert sum(each for _, each in kept) == remembered.inner.used_bytes
    for name, _ in kept:
        assert not await answered(remembered, name, sizes[int(name)])


@pytest.mark.parametrize("entries_max", [1, 3])
async def test_the_oldest_answers_make_room(work, entries_max):
    """The window holds just that many answers: a new one pushes out the oldest, asking again pushes out none."""
    remembered = window(entries_max)
    ids = [f"id-{i}" for i in range(entries_max + 1)]
    for request_id in ids:
        await remembered.run(request_id, b"content", work)
    for request_id in ids[1:]:
        await remembered.run(request_id, b"content", work)
    assert len(ids) == work.runs
    await remembered.run(ids[0], b"content", work)
    assert len(ids) + 1 == work.runs


async def test_old_answers_are_forgotten(work):
    """An answer older than the window is computed anew."""
    remembered = window(seconds_max=0)
    assert [1, 2] == [await remembered.run("id", b"content", work) for _ in range(2)]
    assert 3 == await remembered.run("id", b"other", work)


@pytest.mark.parametrize(("entries_max", "request_id"), [(0, "id"), (4, "")])
async def test_without_a_window_or_an_id_every_call_runs(work, entries_max, request_id):
    """A window of no entries remembers nothing, and a request without an id is never a retry."""
    remembered = window(entries_max)
    assert [1, 2] == [await remembered.run(request_id, b"content", work) for _ in range(2)]


async def test_an_id_has_a_length(work):
    """An id over the limit is refused with both numbers, before anything runs."""
    remembered = window()
    assert 1 == await remembered.run("x" * REQUEST_ID_CHARS_MAX, b"content", work)
    with pytest.raises(InvalidRequest, match="request_id has 65 characters; the limit is 64"):
        await remembered.run("x" * (REQUEST_ID_CHARS_MAX + 1), b"content", work)
    assert 1 == work.runs
