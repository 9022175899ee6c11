"""Retries: which failures, after which delay and how often; as a pure rule, and over real gRPC, sync and asyncio."""

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
from edge_agent.client.daemon_connection import (
    JITTER,
    PAUSE_SECONDS_FIRST,
    PAUSE_SECONDS_MAX,
    CallAttempts,
    RetryBudget,
)
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
    """Return the delay before each retry of a call that always fails."""
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
def test_retried_failures_and_their_delays(failure, expected):
    """A retry waits at least RetryInfo's delay, and delays grow; only overload and lost connections are retried."""
    assert expected == pauses(failure)


class Outage:
    """Calls of one client to a daemon that is away, loads its model and answers again; the clock is simulated."""

    def __init__(self, retry: Retry, back_at: float, loaded_at: float) -> None:
        self.budget = RetryBudget(retry)
        self._retry, self._back_at, self._loaded_at = retry, back_at, loaded_at
        self.asked_while_away = 0

    def call(self, began: float, seconds: float = 60.0) -> CallFailed | None:
        """Make a call at this time and return its failure, or None if it was answered."""
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
def test_daemon_restart_fails_no_call(loaded_at):
    """No call fails during a restart of 10 or 30 s, also not of a client without earlier answers, and no budget is
    spent."""
    outage = Outage(Retry(), back_at=3.0, loaded_at=loaded_at)
    assert [None] * 124 == [outage.call(began=0.01 * number) for number in range(124)]
    assert Retry().budget_max == outage.budget.left


def test_retries_continue_until_the_deadline():
    """A call succeeds if the daemon is back shortly before the deadline, and fails at the deadline otherwise."""
    assert Outage(Retry(), back_at=9.8, loaded_at=9.8).call(began=0, seconds=10) is None
    failure = Outage(Retry(), back_at=11, loaded_at=11).call(began=0, seconds=10)
    assert 9.8 < failure.seconds <= 10


def test_call_retries_a_missing_daemon_about_every_two_seconds():
    """The delays limit how often a call retries an unreachable daemon, so these retries cost no budget."""
    outage = Outage(Retry(), back_at=1000, loaded_at=1000)
    outage.call(began=0, seconds=600)
    growing = 600 / (PAUSE_SECONDS_MAX * (1 + JITTER / 2))
    assert growing < outage.asked_while_away < growing + 15


def test_retry_delays_grow_to_a_limit_with_jitter():
    """Delays grow to a limit and have jitter, so clients that failed together do not return together."""
    assert PAUSE_SECONDS_MAX == max(pauses(failed(UNREACHABLE), retry=Retry()))
    assert pytest.approx(PAUSE_SECONDS_FIRST * (1 + JITTER)) == pauses(failed(UNREACHABLE), chance=1)[0]


def test_no_retry_begins_after_the_timeout():
    """The timeout covers all attempts: a retry whose delay would exceed it is not made."""
    assert [] == pauses(failed("QUEUE_FULL", 1.5), seconds=1.5)
    assert [1.5, 1.5] == pauses(failed("QUEUE_FULL", 1.5), seconds=4)


def test_call_without_retry_is_made_once():
    """Without a Retry, a call is made once and raises the daemon's error unchanged."""
    failure = failed("QUEUE_FULL", 0.1)
    assert CallAttempts(None, RetryBudget(RETRY), 60, 0.0).pause(failure, 0.0, 0.0) is None
    assert (1, "because of QUEUE_FULL") == (failure.tries, failure.message)


def give_up(failure: CallFailed, retry: Retry, seconds: float = 60, budget: RetryBudget | None = None) -> str:
    """Return the message of a call that always fails."""
    tries, now = CallAttempts(retry, budget or RetryBudget(retry), seconds, 0.0), 0.0
    while (pause := tries.pause(failure, now, 0.0)) is not None:
        now += pause
    return failure.message


def test_error_reports_why_retries_ended():
    """The error reports the number of attempts, their time, why there is no further one, and the daemon's last
    answer."""
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


def test_error_of_a_late_last_attempt_names_the_previous_failure():
    """If the last attempt meets the deadline, the error also has the previous failure, such as UNREACHABLE."""
    tries = CallAttempts(RETRY, RetryBudget(RETRY), 1.0, 0.0)
    assert tries.pause(failed(UNREACHABLE), 0.5, 0.0) is not None
    last = failed(DEADLINE_EXPIRED)
    assert tries.pause(last, 1.0, 0.0) is None
    assert (
        "because of DEADLINE_EXPIRED; given up after 2 tries in 1.0 s: the previous try failed with UNREACHABLE,"
        " because of UNREACHABLE"
    ) == last.message
    assert (2, 1.0) == (last.tries, last.seconds)


def test_budget_limits_retries_against_a_busy_daemon():
    """Each retry spends one unit of the budget, and each answer earns a share of one, up to the initial amount."""
    budget = RetryBudget(Retry(budget_max=2, earned=0.5))
    assert [True, True, False] == [budget.spend() for _ in range(3)]
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()
    for _ in range(9):
        budget.earn()
    assert 2 == budget.left


def test_lasting_overload_grows_by_no_more_than_the_budget():
    """A thousand calls to a daemon that refuses all of them make 1010 attempts with a budget of 10."""
    retry = Retry(budget_max=10)
    budget, made = RetryBudget(retry), 0
    for _ in range(1000):
        tries, now = CallAttempts(retry, budget, 60, 0.0), 0.0
        made += 1
        while (pause := tries.pause(failed(*BUSY), now, 0.0)) is not None:
            now += pause
            made += 1
    assert 1010 == made


def test_retried_call_keeps_its_request_id(daemon):
    """All attempts of a call have the same request id, and the caller gets one answer."""
    daemon.inference.refusals = 2
    with Client(daemon.targets[0], retry=RETRY) as client:
        assert "refund" == client.classify("pos-intent", ["x"])[0].label
    ids = {request.request_id for request in daemon.inference.requests}
    assert (3, 1, 36) == (len(daemon.inference.requests), len(ids), len(*ids))


def test_error_has_the_callers_request_id_and_tries(daemon):
    """The error of a call has the caller's request id and the number of attempts."""
    daemon.inference.refusals = 99
    with Client(daemon.targets[0], retry=Retry(tries_max=2)) as client, pytest.raises(CallFailed) as caught:
        client.embed("product-search", ["x"], request_id="r-7")
    assert ("r-7", 2, "QUEUE_FULL") == (caught.value.request_id, caught.value.tries, caught.value.reason)


async def test_async_client_retries_calls_and_streams(daemon):
    """The asyncio client retries refused calls and streams."""
    daemon.inference.refusals = 2
    async with AsyncClient(daemon.targets[0], retry=RETRY) as client:
        assert "refund" == (await client.classify("pos-intent", ["x"]))[0].label
        daemon.inference.refusals = 1
        async with client.generate("assistant", "hi") as stream:
            assert ["Hello", " there"] == [piece async for piece in stream]
    assert 5 == len(daemon.inference.requests)


def test_stream_is_retried_only_before_its_first_piece(daemon):
    """A refused stream is retried; one that broke after its first piece is not and raises CallFailed."""
    daemon.inference.refusals = 2
    with Client(daemon.targets[0], retry=RETRY) as client:
        with client.generate("assistant", "hi") as stream:
            assert ["Hello", " there"] == list(stream)
        pieces: list[str] = []
        with pytest.raises(CallFailed) as caught:
            pieces.extend(client.generate("breaks", "hi"))
    assert ("STREAM_BROKEN", 1, 4) == (caught.value.reason, caught.value.tries, len(daemon.inference.requests))


async def test_call_waits_for_a_daemon_that_starts_later(tmp_path):
    """A call of a device that is switched on before the daemon is answered once the daemon runs."""
    address = f"unix:{tmp_path}/i.sock"
    with Client(address, retry=Retry()) as client:
        asking = asyncio.create_task(asyncio.to_thread(client.tasks, timeout_seconds=WAIT_SECONDS_MAX))
        await asyncio.to_thread(_refused, address)
        with FakeDaemon(address):
            assert 3 == len(await asking)


def _refused(address: str) -> None:
    """Return after the address has refused a call."""
    with Client(address) as client, pytest.raises(CallFailed, match="no daemon answers"):
        client.tasks()


def test_missing_daemon_is_given_up_after_tries_max():
    """Each call to a missing daemon fails after `tries_max` attempts and reports their number."""
    with Client(NOBODY, retry=Retry(tries_max=3)) as client:
        for _ in range(2):
            with pytest.raises(CallFailed, match=r"no daemon answers at .*; given up after 3 tries in ") as caught:
                client.tasks()
            assert (UNREACHABLE, 3) == (caught.value.reason, caught.value.tries)


def test_refusal_counts_as_an_earlier_answer(daemon):
    """After a refusal, a call without an answer in time is reported as slow and not as a wrong address."""
    daemon.inference.refusals = 1
    with Client(daemon.targets[0]) as client:
        with pytest.raises(CallFailed, match="64 inputs wait"):
            client.classify("stuck", ["x"])
        with pytest.raises(CallFailed) as caught:
            client.classify("stuck", ["x"], timeout_seconds=0.2)
    assert (DEADLINE_EXPIRED, True) == (caught.value.reason, caught.value.answered_before)
    assert "none before" not in caught.value.message


async def test_cancelled_call_sends_no_further_retry(daemon):
    """A call that is cancelled before its next retry sends nothing more, and the client stays usable."""
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
    """gRPC's error for a call whose stream the server reset without a status."""

    def __init__(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[()]:
        return ()


def test_call_reset_by_a_stopping_server_is_retried():
    """A call that a stopping server resets is UNREACHABLE and retried; a cancel by the caller is not."""
    for said in ("", "CANCELLED"):
        reset = call_failed(Reset(said), NOBODY, 10)
        assert ("UNAVAILABLE", UNREACHABLE, [0.1, 0.2, 0.4]) == (reset.code, reset.reason, pauses(reset))
    cancelled = call_failed(Reset("Locally cancelled by application!"), NOBODY, 10)
    assert ("CANCELLED", []) == (cancelled.reason, pauses(cancelled))


# --- many inputs ------------------------------------------------------------------------------------------------------

TEXTS = ["one", "bad", "three", "four", "five"]


def test_in_batches_splits_texts_by_the_tasks_limit(daemon):
    """`in_batches` sends at most the task's number of texts per request and yields each text with its result, in
    order."""
    with Client(daemon.targets[0]) as client:
        call = functools.partial(client.classify, top_k=1)
        found = list(client.in_batches(call, "pos-intent", iter(TEXTS)))
    assert TEXTS == [text for text, _ in found]
    assert ["bad"] == [text for text, result in found if isinstance(result, Failure)]
    sent = [list(request.texts) for request in daemon.inference.requests if hasattr(request, "texts")]
    assert [["one", "bad"], ["three", "four"], ["five"]] == sent


def test_in_batches_reads_only_the_texts_of_one_request(daemon):
    """`in_batches` reads only the texts of the next request, so a caller can stop in an endless input."""
    read: list[str] = []

    def endless() -> Iterator[str]:
        while True:
            read.append(f"text {len(read)}")
            yield read[-1]

    with Client(daemon.targets[0]) as client:
        assert ("text 0", "text 1") == (next(client.in_batches(client.embed, "p", endless()))[0], read[-1])


def test_in_batches_returns_a_failure_for_a_single_text(daemon):
    """`in_batches` returns a Failure if the daemon fails a request of one text; other errors are raised."""
    with Client(daemon.targets[0]) as client:
        [(_, result)] = client.in_batches(client.classify, "lone", ["bad"])
        assert ("INPUT_TOO_LONG", "the remedy for INPUT_TOO_LONG") == (result.reason, result.remedy)
        with pytest.raises(CallFailed, match="no task 'unknown'"):
            list(client.in_batches(client.classify, "unknown", ["x"]))


async def test_async_batches_yield_results_in_order(daemon):
    """Asyncio batches with up to `calls_max` parallel requests yield the results in the order of the texts."""
    async with AsyncClient(daemon.targets[0]) as client:
        found = [each async for each in client.in_batches(client.classify, "pos-intent", TEXTS, calls_max=3)]
        assert TEXTS == [text for text, _ in found]
        [(_, result)] = [each async for each in client.in_batches(client.classify, "lone", ["bad"])]
    assert "INPUT_TOO_LONG" == result.reason


async def test_closing_async_batches_cancels_running_requests(daemon):
    """Closing the iterator of asyncio batches cancels the running requests at the daemon."""
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
async def test_call_of_a_client_closed_meanwhile_raises_call_failed(daemon, call):
    """A running call of an asyncio client that is closed raises CallFailed, not CancelledError."""
    client = AsyncClient(daemon.targets[0])
    task = asyncio.ensure_future(call(client))
    await eventually(lambda: bool(daemon.inference.requests))
    await client.close()
    with pytest.raises(CallFailed, match="this client was closed before the call had ended") as caught:
        await task
    assert ("CANCELLED", daemon.inference.requests[-1].request_id) == (caught.value.reason, caught.value.request_id)


@pytest.mark.parametrize("call", [lambda client: client.classify("stuck", ["x"]), read_all])
async def test_cancelled_task_of_a_closed_client_raises_cancelled_error(daemon, call):
    """A cancelled task raises CancelledError, also if its client is closed before it ends."""
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
async def test_async_stream_is_cancelled_however_it_is_left(daemon, leave):
    """An asyncio stream that is left by break, return, exception or without a block is cancelled at the daemon."""
    async with AsyncClient(daemon.targets[0]) as client:
        await leave(client)
        ended = await asyncio.to_thread(daemon.inference.stream_ended.wait, WAIT_SECONDS_MAX)
    assert ended


async def test_stream_that_is_never_read_is_not_started(daemon):
    """A stream starts with its block or loop, so a stream that is dropped before sends no request."""
    async with AsyncClient(daemon.targets[0]) as client:
        client.generate("endless", "hi")
        assert "pos-intent" == (await client.task("pos-intent")).name
    assert ["GetTaskRequest"] == [type(request).__name__ for request in daemon.inference.requests]


def test_stream_can_be_cancelled_from_another_thread(daemon):
    """A stream cancelled from another thread ends its loop without an error."""
    with Client(daemon.targets[0]) as client, client.generate("endless", "hi") as stream:
        for _ in stream:
            threading.Thread(target=stream.cancel).start()
    assert stream.finish is None


def test_stream_cancelled_before_a_retry_is_not_started_again(daemon):
    """A stream that is cancelled during the delay before a retry yields nothing and raises no error."""
    daemon.inference.refusals = 1
    with Client(daemon.targets[0], retry=RETRY) as client, client.generate("assistant", "hi") as stream:

        async def cancelled_meanwhile(_: float) -> None:
            stream.cancel()

        client._sleep = cancelled_meanwhile
        assert [] == list(stream)
    assert stream.finish is None


def test_decision_0031_states_the_current_budget() -> None:
    """Decision 0031 states the current budget and what an answer earns."""
    (page,) = (Path(__file__).parents[3] / "docs/decisions").glob("0031-*.md")
    note = " ".join(page.read_text().partition("**Replaced in part**")[2].replace(">", "").split())
    assert f"the budget, which is {Retry().budget_max:g} tries" in note
    assert (0.1, "an answer still earns a tenth of one" in note) == (Retry().earned, True)
