"""Answers remembered by request_id."""

import asyncio

import pytest

from edge_agent.errors import InvalidRequest, QueueFull
from edge_agent.service.dedupe import REQUEST_ID_CHARS_MAX, Deduplicator


class Work:
    """Counts its runs; each waits until it may go on, and then fails if it was told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.runs += 1
        self.started.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return self.runs


@pytest.fixture
async def work() -> Work:
    """Return work that ends at once."""
    return Work()


def window(entries_max: int = 4, seconds_max: float = 1000.0) -> Deduplicator[int]:
    """Return an empty window."""
    return Deduplicator(entries_max, seconds_max)


async def given_up(call: asyncio.Task[int]) -> None:
    """Cancel a call and wait until it is gone."""
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


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


async def test_a_failure_that_nobody_saw_is_not_remembered(work):
    """A run that fails after its last caller went away does not fail the retry."""
    remembered = window()
    work.may_end.clear()
    work.error = QueueFull("full")
    first = asyncio.create_task(remembered.run("id", b"content", work))
    await work.started.wait()
    (run,) = asyncio.all_tasks() - {asyncio.current_task(), first}
    await given_up(first)
    work.may_end.set()
    await asyncio.wait([run])
    work.error = None
    assert 2 == await remembered.run("id", b"content", work)


async def test_a_late_failure_spares_the_next_try(work):
    """When a run fails whose id was pushed out and used again, the later run is still remembered."""
    remembered, other = window(entries_max=1), Work()
    work.may_end.clear()
    work.error = QueueFull("full")
    first = asyncio.create_task(remembered.run("id", b"content", work))
    await work.started.wait()
    await remembered.run("another", b"content", other)
    assert 2 == await remembered.run("id", b"content", other)
    work.may_end.set()
    with pytest.raises(QueueFull):
        await first
    assert 2 == await remembered.run("id", b"content", other)


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
