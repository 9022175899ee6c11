"""One channel to one daemon: open, call with a deadline and retries, close; and checks of callers' arguments.

Each call is written once, as a coroutine that awaits `unary`. An asyncio program awaits it. The sync clients run the
same coroutine with `blocking`: their `unary` blocks instead of suspending, so one `send` runs the whole call.

A call is tried again if the daemon says so (RetryInfo, whose delay is observed) or if no daemon answered, until the
call's timeout. Two rules limit the load from retries:

- Pauses grow to PAUSE_SECONDS_MAX, so a daemon that restarts or loads its model gets no more than one try per pause
  from each waiting call. Such tries are refused before they cost anything, and need no budget.
- A try against a busy daemon (RESOURCE_EXHAUSTED) takes one from the client's budget, which answered calls refill
  slowly. So retries add at most a tenth to a lasting overload; further calls fail at once.
"""

from __future__ import annotations

import asyncio
import functools
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

import grpc
import grpc.aio

from edge_agent.backoff import backoff_seconds
from edge_agent.client.call_failed import (
    DEADLINE_EXPIRED,
    TLS_FAILED,
    UNREACHABLE,
    CallFailed,
    Tls,
    call_failed,
    is_local,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")
PAGE_SIZE = 1000
TIMEOUT_SECONDS_MAX = 365 * 86_400.0
"""Longest deadline: one that is centuries away overflows in gRPC and counts as passed."""
_COUNT_MAX = 2**32 - 1
CONNECT_MS_MAX = 5000
"""Longest attempt to connect, TLS handshake included, in milliseconds."""
# The first reconnect comes after 100 ms instead of gRPC's default of 1 s, for a local daemon that has just started.
# gRPC also limits each attempt to the minimal backoff, which must allow for a distant or a busy daemon. The proxy for
# the Internet is not used, since daemons are on the local network.
_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", CONNECT_MS_MAX),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 2**20),
)
# If the daemon's machine loses power or a firewall drops the connection, then without pings each call would wait for
# its deadline for a quarter of an hour. gRPC sends at most two pings without data, since a daemon of version 0.1
# disconnects clients that send more within five minutes.
_NETWORK_OPTIONS = (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 20_000))
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:")
PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 0.1, 2.0
"""Pause between tries, doubled each time, unless the daemon asks for a longer one."""
JITTER = 0.2
"""Largest random extension of a pause, as a share of it: clients that failed together do not return together."""
_BUSY = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Retry:
    """How a client tries again: `Client(target, retry=Retry())`. Calls then carry a request_id."""

    tries_max: int = 0
    """Most tries of one call, including the first; 0 = as many as its timeout allows."""
    budget_max: float = 100.0
    """Size of the budget, in tries against a busy daemon; a client starts with a full one."""
    earned: float = 0.1
    """Tries that each answered call adds to the budget."""
    from_the_start: bool = True
    """Also retry before the daemon has answered this client once; False = a wrong address is an error at once."""


class RetryBudget:
    """A client's budget for retries against a busy daemon, in tries.

    Its threads share it without a lock: an update lost in a race does no harm.
    """

    def __init__(self, retry: Retry) -> None:
        """Start with a full budget."""
        self._retry = retry
        self.left = retry.budget_max

    def earn(self) -> None:
        """Add the share of one answered call."""
        self.left = min(self._retry.budget_max, self.left + self._retry.earned)

    def spend(self) -> bool:
        """Take one try from the budget; tell whether there was one."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class CallAttempts:
    """The tries of one call, which began at `now` in monotonic seconds."""

    def __init__(self, retry: Retry | None, budget: RetryBudget, timeout_seconds: float, now: float) -> None:
        """Begin with the first try; without `retry` it is the only one."""
        self._retry = retry
        self._budget = budget
        self._started_at, self._timeout_seconds = now, timeout_seconds
        self._previous: CallFailed | None = None
        self.tries = 1

    def seconds_left(self, now: float) -> float:
        """Return the rest of the caller's timeout, at least 1 ms because gRPC takes no negative one."""
        return max(0.001, self._time_left(now))

    def pause(self, failed: CallFailed, now: float, chance: float) -> float | None:
        """Count a failed try; return the pause before the next in seconds, or None to give up.

        `chance` is random, from 0 to 1. `failed` gets the tries so far and, on giving up, the cause.
        """
        failed.tries, failed.seconds = self.tries, now - self._started_at
        if self._retry is None:
            return None
        delay_min = _delay_min(failed, self._retry.from_the_start)
        if delay_min is None:
            # If this try ran into the caller's deadline, the previous one shows more.
            if self._previous is not None and failed.reason == DEADLINE_EXPIRED:
                failed.give_up(f"the previous try failed with {self._previous.reason}, {self._previous.message}")
            return None
        seconds_left = self._time_left(now)
        backoff = backoff_seconds(self.tries, PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX)
        # At most half of the rest, so that a daemon that returns shortly before the deadline is still reached.
        seconds = max(delay_min, min(max(delay_min, backoff) * (1 + JITTER * chance), seconds_left / 2))
        if why := self._reason_to_give_up(failed, seconds, seconds_left):
            failed.give_up(why)
            return None
        self.tries += 1
        self._previous = failed
        return seconds

    def _time_left(self, now: float) -> float:
        return self._started_at + self._timeout_seconds - now

    def _reason_to_give_up(self, failed: CallFailed, seconds: float, seconds_left: float) -> str:
        """Return why the call is not made again after `seconds`; empty = it is. Spends the budget."""
        assert self._retry is not None
        if self.tries == self._retry.tries_max:
            return f"'tries_max' is {self.tries}"
        if seconds >= seconds_left:
            delay = failed.retry_after_seconds
            prefix = f"the daemon asks for {delay:g} s, and " if delay else ""
            return f"{prefix}{max(0.0, seconds_left):.1f} s of the call's {self._timeout_seconds:g} s are left"
        if failed.code == _BUSY and not self._budget.spend():
            return f"the client's budget of {self._retry.budget_max:g} tries against a busy daemon is spent"
        return ""


def _delay_min(failed: CallFailed, from_the_start: bool) -> float | None:
    """Return the least pause in seconds before the call is made again; None = it is not made again."""
    if failed.retry_after_seconds is not None:
        return failed.retry_after_seconds
    # A server that stops looks like one that refuses the client's certificate, unless it has accepted it before.
    is_lost = failed.reason in (UNREACHABLE, TLS_FAILED) and failed.answered_before
    return PAUSE_SECONDS_FIRST if is_lost or (failed.reason == UNREACHABLE and from_the_start) else None


class DaemonConnection:
    """The address, retry budget and state of a connection; a subclass opens the channel and sends on it."""

    channel: Any

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/inference.sock", or "host:port" with the files of TLS.

        With `retry` a call is made again until its timeout, where that is safe; None = each call is made once.

        Raises:
            ValueError: `target` is not an address.
            OSError: a file of TLS cannot be read.
        """
        self.target = require_address(target)
        self.tls = tls
        self.retry = retry
        self.budget = RetryBudget(retry or Retry())
        self._closed = False
        self._has_answered = False
        network = () if is_local(self.target) else _NETWORK_OPTIONS
        self._options = [*_CHANNEL_OPTIONS, *network, *(tls.options() if tls else ())]
        self._credentials = tls.channel_credentials() if tls else None

    async def _send(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        raise NotImplementedError

    async def _sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def require_open(self) -> None:
        """Raise ValueError when the client is closed."""
        if self._closed:
            raise ValueError("this client is closed: make a new one")

    def start(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        """Start a call. Raises ValueError when the client is closed or there is no time."""
        self.require_open()
        return method(request, timeout=require_timeout(timeout_seconds))

    async def unary(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        """Make a unary call, again where that is safe. Raises CallFailed; ValueError like `start`."""
        attempts = self.attempts(timeout_seconds)
        while True:
            try:
                answer = await self._send(method, request, attempts.seconds_left(time.monotonic()))
            except grpc.RpcError as error:
                await self.wait_for_next(attempts, self.failed(error, timeout_seconds, request), error)
            else:
                self.note_answer()
                return answer

    def attempts(self, timeout_seconds: float) -> CallAttempts:
        """Begin the attempts of one call. Raises ValueError when there is no time."""
        return CallAttempts(self.retry, self.budget, require_timeout(timeout_seconds), time.monotonic())

    async def wait_for_next(self, attempts: CallAttempts, failed: CallFailed, error: grpc.RpcError) -> None:
        """Wait until the call can be made again. Raises `failed` when it cannot."""
        pause = attempts.pause(failed, time.monotonic(), random.random())  # noqa: S311 no secret
        if pause is None:
            raise failed from error
        await self._sleep(pause)

    def request_id(self, request_id: str) -> str:
        """Return the id of a request: the caller's, or a new one where the request can be sent again."""
        return request_id or (str(uuid.uuid4()) if self.retry else "")

    def note_answer(self) -> None:
        """Record an answered call, which shows that the daemon accepts this client, and add to the retry budget."""
        self._has_answered = True
        self.budget.earn()

    def failed(self, error: grpc.RpcError, timeout_seconds: float, request: Any = None) -> CallFailed:
        """Translate a failed call of this connection."""
        failed = call_failed(error, self.target, timeout_seconds, self.tls, reached=self._has_answered)
        failed.answered_before = self._has_answered
        self._has_answered = self._has_answered or failed.is_answer
        failed.request_id = getattr(request, "request_id", "")
        return failed

    async def check_health(self, service: str = "", *, timeout_seconds: float = 5) -> bool:
        """Tell whether the daemon's health status, of itself or of one service, is SERVING.

        Raises:
            CallFailed: no daemon answers, or it has no such service.
        """
        from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

        self.require_open()
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self.unary(health_pb2_grpc.HealthStub(self.channel).Check, request, timeout_seconds)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class AsyncConnection(DaemonConnection):
    """A context manager around one channel, which belongs to the event loop of the first call."""

    serving = DaemonConnection.check_health
    _loop: asyncio.AbstractEventLoop | None = None

    @functools.cached_property
    def channel(self) -> grpc.aio.Channel:
        """Opened by the first call: gRPC binds it to the event loop that runs then. Raises ValueError when closed."""
        self.require_open()
        self._loop = asyncio.get_running_loop()
        if self._credentials:
            return grpc.aio.secure_channel(self.target, self._credentials, options=self._options)
        return grpc.aio.insecure_channel(self.target, options=self._options)

    def start(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        """Start a call. Raises ValueError in another event loop than that of the first call, too."""
        if self._loop is not asyncio.get_running_loop():
            raise ValueError("this client made its first call in another event loop: make a client in each")
        return super().start(method, request, timeout_seconds)

    async def _send(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        try:
            return await self.start(method, request, timeout_seconds)
        except asyncio.CancelledError:
            self.raise_if_closed(request)
            raise

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def raise_if_closed(self, request: Any) -> None:
        """Raise CallFailed if `close`, not a cancelled task, has ended a call: gRPC raises CancelledError for both."""
        task = asyncio.current_task()
        if not self._closed or (task is not None and task.cancelling()):
            return
        message = "this client was closed before the call had ended"
        failed = CallFailed("CANCELLED", "CANCELLED", message, metadata={"target": self.target})
        failed.request_id = getattr(request, "request_id", "")
        raise failed from None

    async def __aenter__(self) -> Self:
        """Use as a block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """End the connection; calls in progress end with CallFailed."""
        self._closed = True
        if "channel" in vars(self):
            await self.channel.close(None)


def run_blocking(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(_T, stop.value)
    raise AssertionError("a call of a sync client does not suspend")


def blocking(method: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _T]]) -> Callable[Concatenate[Any, _P], _T]:
    """Return the sync form of a call."""

    @functools.wraps(method)
    def call(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return run_blocking(method(self, *args, **kwargs))

    return call


def blocking_iterator(
    method: Callable[Concatenate[Any, _P], AsyncIterator[_T]],
) -> Callable[Concatenate[Any, _P], Iterator[_T]]:
    """Return the sync form of a call that yields its results."""

    @functools.wraps(method)
    def iterate(self: Any, /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
        items: Any = method(self, *args, **kwargs)
        while True:
            try:
                yield run_blocking(anext(items))
            except StopAsyncIteration:
                return

    return iterate


class Connection(DaemonConnection):
    """A context manager around one channel. Nothing is sent until the first call."""

    call = blocking(DaemonConnection.unary)
    serving = blocking(DaemonConnection.check_health)

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon, as to DaemonConnection."""
        super().__init__(target, tls, retry=retry)
        if self._credentials:
            self.channel = grpc.secure_channel(self.target, self._credentials, options=self._options)
        else:
            self.channel = grpc.insecure_channel(self.target, options=self._options)

    async def _send(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        return self.start(method, request, timeout_seconds)

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 `blocking` runs it, without an event loop

    def __enter__(self) -> Self:
        """Use as a block."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Close, except after Ctrl-C: gRPC's close would wait for ever for a call whose start was interrupted."""
        if kind is not KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """End the connection; calls in progress end with CallFailed."""
        self._closed = True
        self.channel.close()


def require_address(address: str) -> str:
    """Return the address of a daemon. Raises ValueError when it is neither unix:/path nor host:port."""
    if address.startswith(_SCHEMES):
        return address
    if not address:
        raise ValueError("the address is empty: write unix:/path/to/inference.sock or host:port")
    if "://" in address:
        raise ValueError(f"{address} is a URL: write host:port, the port of the daemon and not of its console")
    if "/" in address or address.endswith(".sock"):
        raise ValueError(f"{address} is a path: write unix:{address}")
    if address.count(":") > 1 and not address.startswith("["):
        raise ValueError(f"{address} is ambiguous: write an IPv6 address in brackets, as in [::1]:PORT")
    if not re.search(r":\d+$", address):
        raise ValueError(f"{address} has no port: write {address}:PORT, or unix:/path/to/inference.sock")
    return address


def require_texts(texts: Iterable[str]) -> list[str]:
    """Return the texts of a batch. Raises TypeError, ValueError; both name the text."""
    return [require_text(each, f"texts[{index}]") for index, each in enumerate(require_several(texts))]


def require_several(texts: Iterable[_T]) -> Iterable[_T]:
    """Return several texts. Raises TypeError for one text, whose characters would count as texts."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of strings, not one {type(texts).__name__}: write [text]")
    return texts


def require_text(text: str, name: str = "text") -> str:
    """Return one text. Raises TypeError, and ValueError when it cannot be written as UTF-8."""
    if not isinstance(text, str):
        fault = f"{name} is a {type(text).__name__}"
        raise TypeError(f"texts must be a list of strings; {fault}" if name != "text" else f"{fault}, not a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        character = ascii(text[error.start])
        fault = f"{name} cannot be written as UTF-8: character {error.start} is {character}, half of a surrogate pair"
        raise ValueError(f"{fault}; decode the text again from its bytes") from None
    return text


def require_count(value: Any, name: str) -> Any:
    """Return a number for an unsigned 32-bit field of the API. Raises ValueError with the name of the field."""
    if isinstance(value, int) and not 0 <= value <= _COUNT_MAX:
        raise ValueError(f"{name} is {value}: it must be from 0 to {_COUNT_MAX}")
    return value


def require_timeout(seconds: float) -> float:
    """Return a call's timeout, at most a year. Raises ValueError if it is not above 0, TypeError if not a number."""
    if not seconds > 0:
        raise ValueError(f"timeout_seconds is {seconds}: it must be more than 0")
    return min(seconds, TIMEOUT_SECONDS_MAX)
