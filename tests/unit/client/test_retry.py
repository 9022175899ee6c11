"""Trying again: what, when, how often; by the pure rule, and over real gRPC, sync and aio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from edge_agent.client import AsyncClient, CallFailed, Client, Failure, Retry
from edge_agent.client.call_failed import DEADLINE_EXPIRED, TLS_FAILED, UNREACHABLE, call_failed
from edge_agent.client.retry import JITTER, PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX, CallAttempts, RetryBudget
from tests.support.eventually import eventually
from tests.support.fake_daemon import WAIT_SECONDS_MAX, FakeDaemon

RETRY = Retry(tries_max=4)
NOBODY = "unix:/nowhere/inference.sock"
NOT_READY = ("ENGINE_NOT_READY", 0.5)
BUSY = ("QUEUE_FULL", 1.0)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon("127.0.0.1:0") as running:
        yield running


def failed(reason: str, retry_after: float | None = None, *, answered: bool = False) -> CallFailed:
    code = "RESOURCE_EXHAUSTED" if reason == "QUEUE_FULL" else "UNAVAILABLE"
    made = CallFailed(code, reason, f"because of {reason}", metadata={})
    made.retry_after_seconds, made.answered_before = retry_after, answered
    return made


def pauses(failure: CallFailed, seconds: float = 60, chance: float = 0, retry: Retry = RETRY) -> list[float]:
    """Return how long is waited before each further try of a call that fails over and over."""
    tries, now, found = CallAttempts(retry, RetryBudget(retry), seconds, 0.0), 0.0, []
    while (pause := tries.pause(failure, now, chance)) is not None:
        now += pause
        found.append(round(pause, 3))
    return found


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (failed("QUEUE_FULL", 1.5), [1.5, 1.5, 1.5]),
        (failed("QUEUE_FULL", 0.05), [0.1, 0.2, 0.4]),
        (failed(UNREACHABLE), [0.1, 0.2, 0.4]),
        (failed(TLS_FAILED), []),
        (failed(TLS_FAILED, answered=True), [0.1, 0.2, 0.4]),
        (failed("TASK_UNKNOWN"), []),
        (failed("DEADLINE_EXPIRED"), []),
    ],
)
def test_what_is_tried_again_and_after_how_long(failure, expected):
    """RetryInfo is the least wait, and waits grow; what the daemon did not say and nobody lost is not tried again."""
    assert expected == pauses(failure)


class Outage:
    """Calls of one client to a daemon that is away, loads its model, and answers again; its clock is a number."""

    def __init__(self, retry: Retry, back_at: float, loaded_at: float) -> None:
        self.budget = RetryBudget(retry)
        self._retry, self._back_at, self._loaded_at = retry, back_at, loaded_at
        self.asked_while_away = 0

    def call(self, began: float, seconds: float = 60.0) -> CallFailed | None:
        """Make a call at that time; return why it got no answer, or None: it got one."""
        tries, now = CallAttempts(self._retry, self.budget, seconds, began), began
        while now < self._loaded_at:
            self.asked_while_away += 1
            failure = failed(*NOT_READY) if now >= self._back_at else failed(UNREACHABLE)
            pause = tries.pause(failure, now, 0.5)
            if pause is None:
                return failure
            now += pause
        self.budget.earn()
        return None


@pytest.mark.parametrize("loaded_at", [10.0, 30.0])
def test_an_ordinary_restart_fails_no_call(loaded_at):
    """Neither of many calls at a time, nor of those of a client that had no answer yet: no budget is spent on it."""
    outage = Outage(Retry(), back_at=3.0, loaded_at=loaded_at)
    assert [None] * 124 == [outage.call(began=0.01 * number) for number in range(124)]
    assert Retry().budget_max == outage.budget.left


def test_tries_last_until_the_deadline_and_no_longer():
    """A daemon that comes back shortly before the deadline is found, one that comes after it is not."""
    assert Outage(Retry(), back_at=9.8, loaded_at=9.8).call(began=0, seconds=10) is None
    failure = Outage(Retry(), back_at=11, loaded_at=11).call(began=0, seconds=10)
    assert 9.8 < failure.seconds <= 10


def test_a_daemon_that_is_away_is_asked_at_most_every_two_seconds_by_each_call():
    """The rate of a call's tries is bounded by its waits: that is why they cost no budget."""
    outage = Outage(Retry(), back_at=1000, loaded_at=1000)
    outage.call(began=0, seconds=600)
    growing = 600 / (PAUSE_SECONDS_MAX * (1 + JITTER / 2))
    assert growing < outage.asked_while_away < growing + 15


def test_waits_grow_to_a_limit_and_differ_by_chance():
    """Clients that failed together do not come back together."""
    assert PAUSE_SECONDS_MAX == max(pauses(failed(UNREACHABLE), retry=Retry()))
    assert pytest.approx(PAUSE_SECONDS_FIRST * (1 + JITTER)) == pauses(failed(UNREACHABLE), chance=1)[0]


def test_no_try_begins_after_the_callers_timeout():
    """It is for all tries together: a delay that would pass it is not waited for."""
    assert [] == pauses(failed("QUEUE_FULL", 1.5), seconds=1.5)
    assert [1.5, 1.5] == pauses(failed("QUEUE_FULL", 1.5), seconds=4)


def test_without_a_retry_a_call_is_made_once():
    """And says so; its error is that of the daemon."""
    failure = failed("QUEUE_FULL", 0.1)
    assert CallAttempts(None, RetryBudget(RETRY), 60, 0.0).pause(failure, 0.0, 0.0) is None
    assert (1, "because of QUEUE_FULL") == (failure.tries, failure.message)


def give_up(failure: CallFailed, retry: Retry, seconds: float = 60, budget: RetryBudget | None = None) -> str:
    """Return the message of a call that fails so over and over."""
    tries, now = CallAttempts(retry, budget or RetryBudget(retry), seconds, 0.0), 0.0
    while (pause := tries.pause(failure, now, 0.0)) is not None:
        now += pause
    return failure.message


def test_an_error_says_that_tries_ran_out():
    """How many there were, how long they took, why there is no further one, and what the daemon said last."""
    spent = RetryBudget(Retry(budget_max=0))
    assert [
        "because of UNREACHABLE; given up after 38 tries in 59.9 s: 0.1 s of the call's 60 s are left",
        "because of QUEUE_FULL; given up after 3 tries in 4.0 s: the daemon asks for 2 s, and 1.0 s of the call's 5 s"
        " are left",
        "because of UNREACHABLE; given up after 3 tries in 0.3 s: 'tries_max' is 3",
        "because of QUEUE_FULL; given up after 1 try in 0.0 s: the client's budget of 0 tries against a busy daemon is"
        " spent",
        "because of TASK_UNKNOWN",
    ] == [
        give_up(failed(UNREACHABLE), Retry()),
        give_up(failed("QUEUE_FULL", 2.0), Retry(), 5),
        give_up(failed(UNREACHABLE), Retry(tries_max=3)),
        give_up(failed(*BUSY), Retry(budget_max=0), budget=spent),
        give_up(failed("TASK_UNKNOWN"), Retry()),
    ]


def test_a_last_try_that_meets_the_deadline_says_what_the_others_met():
    """The deadline alone would hide that nobody was there."""
    tries = CallAttempts(RETRY, RetryBudget(RETRY), 1.0, 0.0)
    assert tries.pause(failed(UNREACHABLE), 0.5, 0.0) is not None
    last = failed(DEADLINE_EXPIRED)
    assert tries.pause(last, 1.0, 0.0) is None
    assert (
        "because of DEADLINE_EXPIRED; given up after 2 tries in 1.0 s: the previous try failed with UNREACHABLE,"
        " because of UNREACHABLE"
    ) == last.message
    assert (2, 1.0) == (last.tries, last.seconds)


def test_a_budget_bounds_the_tries_against_a_busy_daemon():
    """It is spent by tries and earned by answers, a tenth of one each, up to where it began."""
    budget = RetryBudget(Retry(budget_max=2, earned=0.5))
    assert [True, True, False] == [budget.spend() for _ in range(3)]
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()
    for _ in range(9):
        budget.earn()
    assert 2 == budget.left


def test_an_overload_that_lasts_grows_by_no_more_than_the_budget():
    """Of a thousand calls that are refused over and over, those after the budget are made once."""
    retry = Retry(budget_max=10)
    budget, made = RetryBudget(retry), 0
    for _ in range(1000):
        tries, now = CallAttempts(retry, budget, 60, 0.0), 0.0
        made += 1
        while (pause := tries.pause(failed(*BUSY), now, 0.0)) is not None:
            now += pause
            made += 1
    assert 1010 == made


def test_a_refused_call_is_made_again_with_its_request_id(daemon):
    """The caller sees one answer; the daemon saw one id."""
    daemon.inference.refusals = 2
    with Client(daemon.targets[0], retry=RETRY) as client:
        assert "refund" == client.classify("pos-intent", ["x"])[0].label
    ids = {request.request_id for request in daemon.inference.requests}
    assert (3, 1, 36) == (len(daemon.inference.requests), len(ids), len(*ids))


def test_a_callers_own_request_id_is_kept(daemon):
    """And an error names it, and how often the call was made."""
    daemon.inference.refusals = 99
    with Client(daemon.targets[0], retry=Retry(tries_max=2)) as client, pytest.raises(CallFailed) as caught:
        client.embed("product-search", ["x"], request_id="r-7")
    assert ("r-7", 2, "QUEUE_FULL") == (caught.value.request_id, caught.value.tries, caught.value.reason)


async def test_the_async_client_tries_again_too(daemon):
    """By the same rule."""
    daemon.inference.refusals = 2
    async with AsyncClient(daemon.targets[0], retry=RETRY) as client:
        assert "refund" == (await client.classify("pos-intent", ["x"]))[0].label
        daemon.inference.refusals = 1
        async with client.generate("assistant", "hi") as stream:
            assert ["Hello", " there"] == [piece async for piece in stream]
    assert 5 == len(daemon.inference.requests)


def test_a_stream_is_begun_again_until_something_has_come_of_it(daemon):
    """A refusal is tried again; a stream that broke after its first piece is the caller's to judge."""
    daemon.inference.refusals = 2
    with Client(daemon.targets[0], retry=RETRY) as client:
        with client.generate("assistant", "hi") as stream:
            assert ["Hello", " there"] == list(stream)
        pieces: list[str] = []
        with pytest.raises(CallFailed) as caught:
            pieces.extend(client.generate("breaks", "hi"))
    assert ("STREAM_BROKEN", 1, 4) == (caught.value.reason, caught.value.tries, len(daemon.inference.requests))


async def test_a_daemon_that_comes_late_is_found(tmp_path):
    """A device that is switched on first waits for it within its timeout, and no longer than it must."""
    address = f"unix:{tmp_path}/i.sock"
    with Client(address, retry=Retry()) as client:
        asking = asyncio.create_task(asyncio.to_thread(client.tasks, timeout_seconds=WAIT_SECONDS_MAX))
        await asyncio.to_thread(_refused, address)
        with FakeDaemon(address):
            assert 3 == len(await asking)


def _refused(address: str) -> None:
    """Return once the address has refused a call."""
    with Client(address) as client, pytest.raises(CallFailed, match="no daemon answers"):
        client.tasks()


def test_nobody_at_all_is_given_up():
    """After as many tries as were asked for, each time anew; and the error says so."""
    with Client(NOBODY, retry=Retry(tries_max=3)) as client:
        for _ in range(2):
            with pytest.raises(CallFailed, match=r"no daemon answers at .*; given up after 3 tries in ") as caught:
                client.tasks()
            assert (UNREACHABLE, 3) == (caught.value.reason, caught.value.tries)


def test_a_refusal_shows_that_there_is_a_daemon(daemon):
    """A call that then gets no answer in time is slow, and no sign of a wrong address."""
    daemon.inference.refusals = 1
    with Client(daemon.targets[0]) as client:
        with pytest.raises(CallFailed, match="64 inputs wait"):
            client.classify("stuck", ["x"])
        with pytest.raises(CallFailed) as caught:
            client.classify("stuck", ["x"], timeout_seconds=0.2)
    assert (DEADLINE_EXPIRED, True) == (caught.value.reason, caught.value.answered_before)
    assert "none before" not in caught.value.message


async def test_a_cancelled_call_that_waits_for_its_next_try_ends_at_once(daemon):
    """Nothing is sent any more, and the client can be used afterwards."""
    daemon.inference.refusals = 99
    async with AsyncClient(daemon.targets[0], retry=Retry()) as client:
        asking = asyncio.create_task(client.classify("pos-intent", ["x"], timeout_seconds=600))
        await eventually(lambda: len(daemon.inference.requests) == 4)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        daemon.inference.refusals = 0
        assert "refund" == (await client.classify("pos-intent", ["y"]))[0].label
    assert ["y"] == list(daemon.inference.requests[-1].texts)


class Reset(grpc.RpcError):
    """A call whose stream the server reset, as gRPC tells it where the server gave no status."""

    def __init__(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


def test_a_call_that_a_stopping_server_resets_is_made_again():
    """One that reached no handler ends without a word, or with its code; a cancel of one's own stays one."""
    for said in ("", "CANCELLED"):
        reset = call_failed(Reset(said), NOBODY, 10)
        assert ("UNAVAILABLE", UNREACHABLE, [0.1, 0.2, 0.4]) == (reset.code, reset.reason, pauses(reset))
    cancelled = call_failed(Reset("Locally cancelled by application!"), NOBODY, 10)
    assert ("CANCELLED", []) == (cancelled.reason, pauses(cancelled))


# --- many inputs ------------------------------------------------------------------------------------------------------

TEXTS = ["one", "bad", "three", "four", "five"]


def test_many_texts_go_in_requests_that_the_task_allows(daemon):
    """Each text comes back with its result, in order; the task of this daemon takes two at a time."""
    with Client(daemon.targets[0]) as client:
        call = functools.partial(client.classify, top_k=1)
        found = list(client.in_batches(call, "pos-intent", iter(TEXTS)))
    assert TEXTS == [text for text, _ in found]
    assert ["bad"] == [text for text, result in found if isinstance(result, Failure)]
    sent = [list(request.texts) for request in daemon.inference.requests if hasattr(request, "texts")]
    assert [["one", "bad"], ["three", "four"], ["five"]] == sent


def test_no_more_texts_are_read_than_asked_about(daemon):
    """What reads an endless input can stop at any result."""
    read: list[str] = []

    def endless() -> Iterator[str]:
        while True:
            read.append(f"text {len(read)}")
            yield read[-1]

    with Client(daemon.targets[0]) as client:
        assert ("text 0", "text 1") == (next(client.in_batches(client.embed, "p", endless()))[0], read[-1])


def test_a_lone_text_that_fails_is_a_failure_as_among_others(daemon):
    """The daemon fails a request of one input as a whole; here its place in the list says so."""
    with Client(daemon.targets[0]) as client:
        [(_, result)] = client.in_batches(client.classify, "lone", ["bad"])
        assert ("INPUT_TOO_LONG", "the remedy for INPUT_TOO_LONG") == (result.reason, result.remedy)
        with pytest.raises(CallFailed, match="no task 'unknown'"):
            list(client.in_batches(client.classify, "unknown", ["x"]))


async def test_async_batches_run_side_by_side_and_in_order(daemon):
    """Up to `calls_max` requests at a time, the results in the order of the texts."""
    async with AsyncClient(daemon.targets[0]) as client:
        found = [each async for each in client.in_batches(client.classify, "pos-intent", TEXTS, calls_max=3)]
        assert TEXTS == [text for text, _ in found]
        [(_, result)] = [each async for each in client.in_batches(client.classify, "lone", ["bad"])]
    assert "INPUT_TOO_LONG" == result.reason


async def test_leaving_async_batches_cancels_what_is_under_way(daemon):
    """The daemon sees the cancel."""
    async with AsyncClient(daemon.targets[0]) as client:
        found = client.in_batches(client.classify, "stuck-later", ["one", "two", "three", "four"], calls_max=2)
        async for text, _ in found:
            assert "one" == text
            break
        await found.aclose()
        assert await asyncio.to_thread(daemon.inference.stream_ended.wait, WAIT_SECONDS_MAX)


# --- a client that is closed meanwhile --------------------------------------------------------------------------------


async def read_all(client: AsyncClient) -> None:
    async for _ in client.generate("endless", "hi"):
        pass


@pytest.mark.parametrize("call", [lambda client: client.classify("stuck", ["x"], request_id="r-1"), read_all])
async def test_a_call_of_a_client_that_is_closed_meanwhile_has_failed(daemon, call):
    """It raises CallFailed, as it does without asyncio, and not the CancelledError of a task that nobody cancelled."""
    client = AsyncClient(daemon.targets[0])
    task = asyncio.ensure_future(call(client))
    await eventually(lambda: bool(daemon.inference.requests))
    await client.close()
    with pytest.raises(CallFailed, match="this client was closed before the call had ended") as caught:
        await task
    assert ("CANCELLED", daemon.inference.requests[-1].request_id) == (caught.value.reason, caught.value.request_id)


@pytest.mark.parametrize("call", [lambda client: client.classify("stuck", ["x"]), read_all])
async def test_a_task_that_is_cancelled_stays_cancelled_though_its_client_is_closed(daemon, call):
    """Whoever cancels it gets the CancelledError."""
    client = AsyncClient(daemon.targets[0])
    task = asyncio.ensure_future(call(client))
    await eventually(lambda: bool(daemon.inference.requests))
    task.cancel()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- streams that are left --------------------------------------------------------------------------------------------


async def leave_by_break(client: AsyncClient) -> None:
    async for _ in client.generate("endless", "hi"):
        break


async def leave_by_return(client: AsyncClient) -> str:
    async for piece in client.generate("endless", "hi"):
        return piece
    return ""


async def leave_by_exception(client: AsyncClient) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async for _ in client.generate("endless", "hi"):
            raise ZeroDivisionError


async def leave_a_block_by_exception(client: AsyncClient) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with client.generate("endless", "hi") as stream:
            async for _ in stream:
                raise ZeroDivisionError


async def leave_one_read(client: AsyncClient) -> None:
    pieces = aiter(client.generate("endless", "hi"))
    assert "Hello" == await anext(pieces)
    del pieces


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_return,
        leave_by_exception,
        leave_a_block_by_exception,
        leave_one_read,
    ],
    ids=lambda each: each.__name__,
)
async def test_a_stream_is_cancelled_however_it_is_left(daemon, leave):
    """Without a block, too: the model stops."""
    async with AsyncClient(daemon.targets[0]) as client:
        await leave(client)
        ended = await asyncio.to_thread(daemon.inference.stream_ended.wait, WAIT_SECONDS_MAX)
    assert ended


async def test_a_stream_that_nobody_reads_is_never_begun(daemon):
    """The call starts with the block or the loop, so one that is dropped leaves nothing running."""
    async with AsyncClient(daemon.targets[0]) as client:
        client.generate("endless", "hi")
        assert "pos-intent" == (await client.task("pos-intent")).name
    assert ["GetTaskRequest"] == [type(request).__name__ for request in daemon.inference.requests]


def test_a_stream_may_be_cancelled_from_another_thread(daemon):
    """The loop ends quietly."""
    with Client(daemon.targets[0]) as client, client.generate("endless", "hi") as stream:
        for _ in stream:
            threading.Thread(target=stream.cancel).start()
    assert stream.finish is None


def test_a_stream_that_is_cancelled_while_it_waits_for_its_next_try_is_not_begun_again(daemon):
    """Nothing is written any more, and the loop ends quietly."""
    daemon.inference.refusals = 1
    with Client(daemon.targets[0], retry=RETRY) as client, client.generate("assistant", "hi") as stream:

        async def cancelled_meanwhile(_: float) -> None:
            stream.cancel()

        client._sleep = cancelled_meanwhile
        assert [] == list(stream)
    assert stream.finish is None


def test_the_decision_says_what_has_replaced_its_budget() -> None:
    """With the numbers of today."""
    (page,) = (Path(__file__).parents[3] / "docs/decisions").glob("0031-*.md")
    note = " ".join(page.read_text().partition("**Replaced in part**")[2].replace(">", "").split())
    assert f"the budget, which is {Retry().budget_max:g} tries" in note
    assert (0.1, "an answer still earns a tenth of one" in note) == (Retry().earned, True)
