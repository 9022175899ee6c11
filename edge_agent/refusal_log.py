"""The log of refusals: calls that the daemon or the gateway refuses, and TLS handshakes that fail.

Each refusal is counted. The first of a caller with a reason is logged at once; those of the next minute are counted,
and one summary gives their number. So a technician finds the cause in the journal, and a flood does not fill it. A line
has the caller, the call and the reason, but never a message, which may quote what a caller sent.

gRPC's C library rejects a client without a valid certificate before any code of ours runs, and offers no callback. At
the level INFO it writes one line with the cause, without the address of the client. So the daemon reads these lines: it
counts and logs failed handshakes by cause, and drops the library's other lines, which anyone on the network can cause.
Lines of other origin are passed on. The library writes into a pipe without blocking: lines are lost while it is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TextIO, TypeVar

import structlog

from edge_agent.errors import BY_REASON, ModelError, RequestCancelled

WINDOW_SECONDS = 60.0
KINDS_MAX = 256

Kind = TypeVar("Kind", bound=Hashable)


@dataclass
class _RepeatedEvent:
    ends_at: float
    count: int = 0


class LogDeduplicator(Generic[Kind]):
    """Decides that the first event of a kind is logged at once and the rest of its window is counted.

    Pure; `now` is in monotonic seconds. The table is bounded: beyond KINDS_MAX all further kinds count as one.
    """

    def __init__(self, others: Kind) -> None:
        """Count kinds beyond the bound as `others`."""
        self._others = others
        self._events: dict[Kind, _RepeatedEvent] = {}

    def record(self, kind: Kind, now: float) -> bool:
        """Record an event; tell whether to log it now. Otherwise `pop_due` will report it in its count."""
        if kind not in self._events and len(self._events) >= KINDS_MAX:
            kind = self._others
        event = self._events.get(kind)
        if event is None:
            self._events[kind] = _RepeatedEvent(now + WINDOW_SECONDS)
            return True
        event.count += 1
        return False

    def pop_due(self, now: float) -> list[tuple[Kind, int]]:
        """Remove the kinds whose window has ended; return those that were repeated in it, with the repetitions."""
        ended_kinds = [kind for kind, event in self._events.items() if event.ends_at <= now]
        counts = [(kind, self._events.pop(kind).count) for kind in ended_kinds]
        return [(kind, count) for kind, count in counts if count]


log = structlog.get_logger("edge_agent.refusals")

CLIENT_CHARS_MAX = 100
REASONS_MAX = 256
"""Most reasons with a count of their own; the catalogue has fewer."""
HANDSHAKE = "handshake"
OTHER_REASONS = "OTHER"
NOT_REFUSALS = frozenset(cls.reason for cls in BY_REASON.values() if issubclass(cls, (ModelError, RequestCancelled)))
"""Failures of a model, which the engine logs, and cancellations by the caller."""

CAUSES = (
    (b"PEER_DID_NOT_RETURN_A_CERTIFICATE", "no client certificate"),
    (b"certificate has expired", "expired client certificate"),
    (b"certificate is not yet valid", "client certificate is not valid yet"),
    (b"unable to get local issuer certificate", "client certificate of another authority"),
    (b"self signed certificate", "client certificate of another authority"),
    (b"self-signed certificate", "client certificate of another authority"),
    (b"certificate signature failure", "client certificate of another authority"),
    (b"unsuitable certificate purpose", "certificate is not for clients"),
    (b"unsupported certificate purpose", "certificate is not for clients"),
    (b"CERTIFICATE_VERIFY_FAILED", "client certificate is not accepted"),
    (b"WRONG_VERSION_NUMBER", "not TLS"),
    (b"HTTP_REQUEST", "not TLS"),
    (b"UNSUPPORTED_PROTOCOL", "TLS version is not supported"),
    (b"ALERT_UNKNOWN_CA", "client does not trust the server's certificate"),
    (b"ALERT_BAD_CERTIFICATE", "client does not trust the server's certificate"),
    (b"ALERT_CERTIFICATE_UNKNOWN", "client does not trust the server's certificate"),
    (b"ALERT_CERTIFICATE_EXPIRED", "client does not trust the server's certificate"),
)
OTHER_CAUSE = "other"


@dataclass(frozen=True)
class Refusal:
    """One kind of refusal."""

    client: str
    """The client's name, as in limits and the audit log; empty = not known."""
    reason: str
    """The reason of an error, or the cause of a failed handshake."""


OTHER_REFUSALS = Refusal("others", "various")


class RefusalLog:
    """The refusals of one process. Any thread may record; one event loop runs `run` and calls `close`."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start with no refusals."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._repeats = LogDeduplicator(OTHER_REFUSALS)
        self._counts: Counter[tuple[str, str]] = Counter()

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """Refusals since the start, by surface (such as `grpc`, `handshake`) and reason."""
        with self._lock:
            return dict(self._counts)

    def record(self, surface: str, client: str, reason: str, **facts: str) -> None:
        """Count a refusal, and log it unless this client's last one with this reason was logged within a minute.

        `facts` are never a caller's text, but words of our own code such as the name of the call.
        """
        if reason in NOT_REFUSALS:
            return
        refusal, now = Refusal(client[:CLIENT_CHARS_MAX], reason), self._monotonic()
        with self._lock:
            has_own_count = (surface, reason) in self._counts or len(self._counts) < REASONS_MAX
            self._counts[surface, reason if has_own_count else OTHER_REASONS] += 1
            repeats = self._repeats.pop_due(now)
            is_first = self._repeats.record(refusal, now)
        _log_repeated(repeats)
        if is_first:
            event = "handshake_failed" if surface == HANDSHAKE else "call_refused"
            error = BY_REASON.get(reason)
            cause = {"cause": " ".join((error.__doc__ or "").split())} if error else {}
            log.warning(event, surface=surface, client=refusal.client, reason=reason, **facts, **cause)

    async def run(self) -> None:
        """Log the summary of each minute that has ended, until cancelled."""
        while True:
            await asyncio.sleep(WINDOW_SECONDS)
            self._summarize(self._monotonic())

    def close(self) -> None:
        """Log the summaries of the minutes that have not ended."""
        self._summarize(float("inf"))

    def _summarize(self, now: float) -> None:
        with self._lock:
            repeats = self._repeats.pop_due(now)
        _log_repeated(repeats)


def handshake_cause(error: bytes) -> str:
    """Return the cause in the text of a TLS library's error, one of a fixed set. Pure."""
    normalized = error.replace(b" ", b"_").upper()
    return next((cause for words, cause in CAUSES if words.replace(b" ", b"_").upper() in normalized), OTHER_CAUSE)


def _log_repeated(repeats: list[tuple[Refusal, int]]) -> None:
    for refusal, count in repeats:
        log.warning(
            "refusals_repeated",
            client=refusal.client,
            reason=refusal.reason,
            times_more=count,
            within_seconds=WINDOW_SECONDS,
        )


LEVEL_VARIABLE = "GRPC_VERBOSITY"
SILENT, LEVEL = "NONE", "INFO"
"""What `edge_agent/__init__.py` sets, and the lowest level that reports handshakes."""
STANDARD_ERROR = 2
PIPE_BYTES = 1024 * 1024
"""Most bytes that wait for the event loop; the kernel may allow less."""
READ_BYTES = 64 * 1024
LINE_BYTES_MAX = 16 * 1024
"""A longer line is passed on in parts."""

_GRPC_LINE = re.compile(rb"[IWE]\d{4} \d\d:\d\d:\d\d")
_HANDSHAKE = re.compile(rb"Handshake failed with error \w+: (?P<why>.*)")


def report_handshakes() -> None:
    """Make gRPC report failed handshakes, unless the environment sets a level; call it before grpc is imported."""
    if os.environ.get(LEVEL_VARIABLE) == SILENT:
        os.environ[LEVEL_VARIABLE] = LEVEL


class CoreLog:
    """Standard error of this process, with gRPC's lines taken out. Make it before the logs are configured."""

    def __init__(self) -> None:
        """Replace standard error by a pipe for C code; Python keeps the real one."""
        self._real_stderr = os.dup(STANDARD_ERROR)
        self._read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # the user's pipes already have the most that the kernel allows
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.dup2(write_end, STANDARD_ERROR)
        os.close(write_end)
        self._python_stderr: TextIO = os.fdopen(os.dup(self._real_stderr), "w", buffering=1, errors="backslashreplace")
        sys.stderr = self._python_stderr
        self._partial_line = b""
        self.on_failed_handshake: Callable[[str], None] = lambda _: None
        """Called with the cause."""

    async def run(self) -> None:
        """Read until cancelled."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._read_end, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                self.read()
        finally:
            loop.remove_reader(self._read_end)

    def read(self) -> None:
        """Read what has been written so far."""
        try:
            while data := os.read(self._read_end, READ_BYTES):
                *lines, self._partial_line = (self._partial_line + data).split(b"\n")
                for line in lines:
                    self._handle_line(line + b"\n")
                if len(self._partial_line) > LINE_BYTES_MAX:
                    self._flush()
        except BlockingIOError:
            return

    def close(self) -> None:
        """Read the rest, and give standard error back to C code."""
        os.dup2(self._real_stderr, STANDARD_ERROR)
        self.read()
        self._flush()
        os.close(self._read_end)
        os.close(self._real_stderr)

    def _flush(self) -> None:
        rest, self._partial_line = self._partial_line, b""
        if rest:
            self._handle_line(rest)

    def _handle_line(self, line: bytes) -> None:
        match = _HANDSHAKE.search(line)
        if match:
            self.on_failed_handshake(handshake_cause(match["why"]))
        elif not _GRPC_LINE.match(line):
            os.write(self._real_stderr, line)
