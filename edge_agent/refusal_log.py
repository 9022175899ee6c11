"""The log of refusals: calls that the daemon or the gateway refuses, and TLS handshakes that fail.

Each refusal is counted. One line per caller and reason is logged at once; those of the next minute are counted, and a
summary says how many there were. So a technician finds the cause in the journal, and a flood does not fill it. A line
has who, which call and the reason: never a message, which may quote what a caller sent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from edge_agent.errors import BY_REASON, ModelError, RequestCancelled
from edge_agent.log_deduplication import WINDOW_SECONDS, LogDeduplicator

log = structlog.get_logger("edge_agent.refusals")

CLIENT_CHARS_MAX = 100
REASONS_MAX = 256
"""Reasons that are counted one by one; the code has fewer."""
HANDSHAKE = "handshake"
OTHER_REASONS = "OTHER"
NOT_REFUSALS = frozenset(cls.reason for cls in BY_REASON.values() if issubclass(cls, (ModelError, RequestCancelled)))
"""Failures of a model, which the engine logs, and what the caller decided itself."""

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
    """Who, as limits and the audit log name it; empty = not known."""
    reason: str
    """The reason of an error, or the cause of a failed handshake."""


OTHER_REFUSALS = Refusal("others", "various")


class RefusalLog:
    """The refusals of one process. Any thread may record; one event loop runs `run` and calls `close`."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin with none."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._repeats = LogDeduplicator(OTHER_REFUSALS)
        self._counts: Counter[tuple[str, str]] = Counter()

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """Refusals since the start, by what refused (such as `grpc`, `handshake`) and reason."""
        with self._lock:
            return dict(self._counts)

    def record(self, surface: str, client: str, reason: str, **facts: str) -> None:
        """Count a refusal, and log it unless one of this client with this reason was logged a minute ago or less.

        `facts` are words of our own code, such as the name of the call.
        """
        if reason in NOT_REFUSALS:
            return
        refusal, now = Refusal(client[:CLIENT_CHARS_MAX], reason), self._monotonic()
        with self._lock:
            known = (surface, reason) in self._counts or len(self._counts) < REASONS_MAX
            self._counts[surface, reason if known else OTHER_REASONS] += 1
            repeated = self._repeats.due(now)
            first = self._repeats.first(refusal, now)
        _log_repeated(repeated)
        if first:
            event = "handshake_failed" if surface == HANDSHAKE else "call_refused"
            log.warning(event, surface=surface, client=refusal.client, reason=reason, **facts, **_explained(reason))

    async def run(self) -> None:
        """Log the summaries of ended minutes until cancelled."""
        while True:
            await asyncio.sleep(WINDOW_SECONDS)
            self._summarize(self._monotonic())

    def close(self) -> None:
        """Log the summaries of the minutes that have not ended."""
        self._summarize(float("inf"))

    def _summarize(self, now: float) -> None:
        with self._lock:
            repeated = self._repeats.due(now)
        _log_repeated(repeated)


def handshake_cause(error: bytes) -> str:
    """Return the cause in the text of a TLS library's error, one of a fixed set. Pure."""
    flat = error.replace(b" ", b"_").upper()
    return next((cause for found, cause in CAUSES if found.replace(b" ", b"_").upper() in flat), OTHER_CAUSE)


def _log_repeated(repeated: list[tuple[Refusal, int]]) -> None:
    for refusal, count in repeated:
        log.warning(
            "refusals_repeated",
            client=refusal.client,
            reason=refusal.reason,
            times_more=count,
            within_seconds=WINDOW_SECONDS,
        )


def _explained(reason: str) -> dict[str, str]:
    """Return the cause of a reason in the catalogue, and the command that explains it."""
    error = BY_REASON.get(reason)
    return {"cause": " ".join((error.__doc__ or "").split())} if error else {}
