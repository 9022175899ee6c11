"""Responses that are stored by request_id, so that a retry is not computed again."""

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
    """Work that counts its runs, waits until it may end, and then raises `error` if set."""

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
    """A window of one caller."""

    def __init__(self, limits: DeduplicationLimits) -> None:
        self.inner = RequestDeduplicator(limits)

    async def run(self, request_id: str, content: bytes, work: Work, caller: str = "till-3") -> int:
        return (await self.inner.run((caller, "classify", request_id), content, work)).value


def window(entries_max: int = 4, seconds_max: float = 1000.0, bytes_max: int = 2**20) -> Window:
    """Return an empty window."""
    return Window(DeduplicationLimits(entries_max, seconds_max, bytes_max))


async def test_a_repeated_request_runs_once(work):
    """The same id with the same content gets the first response."""
    remembered = window()
    assert [1, 1, 1] == [await remembered.run("id", b"content", work) for _ in range(3)]


async def test_another_id_runs_again(work):
    """Another id is another request, even with the same content."""
    remembered = window()
    assert [1, 2] == [await remembered.run(request_id, b"content", work) for request_id in ("a", "b")]


async def test_calls_at_the_same_time_share_one_run(work):
    """A retry that arrives while the first call runs waits for its response."""
    remembered = window()
    work.may_end.clear()
    calls = [asyncio.create_task(remembered.run("id", b"content", work)) for _ in range(3)]
    await work.started.wait()
    work.may_end.set()
    assert [1, 1, 1] == await asyncio.gather(*calls)


@pytest.mark.parametrize("ended", [True, False])
async def test_id_of_another_request_is_refused(work, ended):
    """An id that another content used is refused, whether that call runs or has ended; the stored response stays."""
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


async def test_failed_call_is_not_stored(work):
    """The retry of a failed call runs again."""
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
async def test_response_is_stored_unless_a_retry_could_succeed(reason: str, runs: int) -> None:
    """A response is stored if its failed inputs would fail again; one with an input that lacked time or a model is
    computed again."""
    remembered, responses = window(), [ClassifyResponse(results=[{"classification": {"label": "refund"}}])]
    responses.append(ClassifyResponse(results=[{"classification": {"label": "refund"}}, {"error": {"reason": reason}}]))

    async def compute() -> ClassifyResponse:
        return responses.pop()

    key = ("till-3", "classify", "id")
    answered = [await remembered.inner.run(key, b"content", compute) for _ in range(2)]
    assert runs == 2 - len(responses)
    assert reason == answered[0].results[1].error.reason
    assert (answered[0] == answered[1]) == (runs == 1)


async def test_waiting_calls_share_a_response_with_failed_inputs() -> None:
    """Identical calls at the same time share one run, also if its response has a failed input."""
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
async def test_retry_runs_again_after_the_first_call_exceeded_its_deadline(expired) -> None:
    """If the first call or its inputs exceeded their deadline, a waiting retry runs again with its own deadline."""
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


async def test_waiting_calls_share_a_failure(work):
    """Every call that waited for a failed run gets its error, and the next call runs again."""
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


async def test_run_continues_without_its_caller(work):
    """A cancelled call does not cancel the run; the retry gets its response."""
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
async def test_failure_without_a_caller_is_logged_and_not_stored(work, error, event):
    """A run that fails after its last caller left is logged, and the retry runs again."""
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


async def test_failure_with_a_caller_is_not_logged(work):
    """A failure that is raised to one caller is not logged, although another caller left."""
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


async def test_failure_is_logged_if_the_caller_is_cancelled_at_that_moment(work):
    """If the only caller is cancelled just as the run fails, the failure is logged once."""
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


async def test_running_call_is_not_evicted(work):
    """While a call runs its retry waits for it, however many responses are stored meanwhile."""
    remembered, other = window(entries_max=1), Work()
    work.may_end.clear()
    first = asyncio.create_task(remembered.run("id", b"content", work))
    await work.started.wait()
    assert [1, 2] == [await remembered.run(request_id, b"content", other) for request_id in ("a", "b")]
    retry = asyncio.create_task(remembered.run("id", b"content", work))
    work.may_end.set()
    assert (1, 1, 1) == (await first, await retry, work.runs)
    assert ENTRY_BYTES < remembered.inner.used_bytes < 2 * ENTRY_BYTES


async def test_stop_cancels_all_runs(work):
    """`stop` cancels every run, also one without a caller, before it returns."""
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


async def test_ids_of_different_callers_are_separate(work):
    """The same id of another client or another call is another request."""
    remembered = window()
    runs = [await remembered.run("id", b"content", work, caller) for caller in ("till-3", "till-4", "till-3")]
    assert [1, 2, 1] == runs


async def answered(remembered: Window, request_id: str, size: int) -> bool:
    """Request a response of `size` bytes; return whether it was computed."""
    ran = []

    async def compute() -> BytesValue:
        ran.append(request_id)
        return BytesValue(value=bytes(size))

    answer = await remembered.inner.run(("till-3", "embed", request_id), b"content", compute)
    assert bytes(size) == answer.value
    return bool(ran)


async def test_the_window_is_bounded_in_bytes():
    """With 4 MiB and responses of 1 MiB, the newest three are stored and older ones are not."""
    remembered = window(entries_max=1000, bytes_max=4 * 2**20)
    for number in range(40):
        assert await answered(remembered, str(number), 2**20)
        assert remembered.inner.used_bytes <= 4 * 2**20
    again = {number: await answered(remembered, str(number), 2**20) for number in (39, 38, 37)}
    assert {39: False, 38: False, 37: False} == again
    assert await answered(remembered, "36", 2**20)


async def test_response_larger_than_the_window_evicts_nothing():
    """A response larger than the window is returned and not stored, and the others stay."""
    remembered = window(bytes_max=10_000)
    assert [True, True] == [await answered(remembered, name, 100) for name in ("a", "b")]
    assert [True, True] == [await answered(remembered, "large", 10_000) for _ in range(2)]
    assert [False, False] == [await answered(remembered, name, 100) for name in ("a", "b")]


@given(sizes=st.lists(st.integers(0, 6000), max_size=30), entries_max=st.integers(1, 5))
async def test_window_keeps_its_limits_for_any_sizes(sizes: list[int], entries_max: int) -> None:
    """The newest responses within the limits are stored, and no more."""
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
async def test_oldest_responses_are_evicted(work, entries_max):
    """A new response evicts the oldest; requesting a stored one evicts none."""
    remembered = window(entries_max)
    ids = [f"id-{i}" for i in range(entries_max + 1)]
    for request_id in ids:
        await remembered.run(request_id, b"content", work)
    for request_id in ids[1:]:
        await remembered.run(request_id, b"content", work)
    assert len(ids) == work.runs
    await remembered.run(ids[0], b"content", work)
    assert len(ids) + 1 == work.runs


async def test_expired_response_is_computed_again(work):
    """A response older than the window is computed again."""
    remembered = window(seconds_max=0)
    assert [1, 2] == [await remembered.run("id", b"content", work) for _ in range(2)]
    assert 3 == await remembered.run("id", b"other", work)


@pytest.mark.parametrize(("entries_max", "request_id"), [(0, "id"), (4, "")])
async def test_without_a_window_or_an_id_every_call_runs(work, entries_max, request_id):
    """A window of no entries stores nothing, and a request without an id is never a retry."""
    remembered = window(entries_max)
    assert [1, 2] == [await remembered.run(request_id, b"content", work) for _ in range(2)]


async def test_request_id_over_the_limit_is_refused(work):
    """A request_id over 64 characters is refused before anything runs."""
    remembered = window()
    assert 1 == await remembered.run("x" * REQUEST_ID_CHARS_MAX, b"content", work)
    with pytest.raises(InvalidRequest, match="request_id has 65 characters; the limit is 64"):
        await remembered.run("x" * (REQUEST_ID_CHARS_MAX + 1), b"content", work)
    assert 1 == work.runs
