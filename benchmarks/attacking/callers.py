"""The callers of twenty minutes of mixed load. Each repeats one kind of call and checks its result.

A caller does what the errors say: where they name a time to come back, it comes back. What it notes is wrong in every
case: another answer than in quiet, a call that takes longer than anything may, an error that nobody asked for.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.client import CallFailed, Classification, Client, Embedding, Extraction, ReviewClient

RETRYABLE = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
PAUSE_SECONDS, CALL_SECONDS, STUCK_SECONDS = 0.05, 20.0, 30.0
GIVE_UP_SECONDS = 60.0
SHORT_SECONDS = 0.05
TEXTS = tuple(f"{wish} of {number} lamps, please" for number in range(12) for wish in ("a refund", "the price", "both"))
SLOW = "!slow 5 " + "word " * 200


@dataclass
class CallLog:
    """What all callers saw."""

    answers: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    wrong: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """The correction of a prediction, by its id."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, what: str) -> None:
        """Count an answer."""
        with self._lock:
            self.answers[what] += 1

    def retried(self) -> None:
        """Count a call that has to be made again."""
        with self._lock:
            self.retries += 1


Oracle = dict[str, object]
"""What was answered in quiet, by kind and text."""


def classified(client: Client, text: str) -> object:
    """Return the result of a classification."""
    [answer] = client.classify("classify", [text], timeout_seconds=CALL_SECONDS)
    return (answer.label, answer.scores) if isinstance(answer, Classification) else answer


def extracted(client: Client, text: str) -> object:
    """Return the result of an extraction."""
    [answer] = client.extract("extract", [text], timeout_seconds=CALL_SECONDS)
    return answer.json if isinstance(answer, Extraction) else answer


def generated(client: Client, text: str) -> object:
    """Return the result of a generation."""
    with client.generate("generate", text, timeout_seconds=CALL_SECONDS) as stream:
        return "".join(stream)


def embedded(client: Client, text: str) -> object:
    """Return the result of an embedding."""
    [answer] = client.embed("embed", [text], timeout_seconds=CALL_SECONDS)
    return answer.values if isinstance(answer, Embedding) else answer


KINDS: dict[str, Callable[[Client, str], object]] = {
    "classify": classified,
    "extract": extracted,
    "generate": generated,
    "embed": embedded,
}


def oracle(client: Client) -> Oracle:
    """Ask everything once, in quiet."""
    return {f"{kind} {text}": ask(client, text) for kind, ask in KINDS.items() for text in TEXTS}


def patient(noted: CallLog, what: str, call: Callable[[], object], again: tuple[str, ...] = ()) -> object | None:
    """Call until it is answered, again also after failures that read so; None = it was not, which is noted."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while True:
        started = time.monotonic()
        try:
            return call()
        except CallFailed as failed:
            said = f"{failed.code} {failed.reason}: {failed.message}"
            passes = failed.code in RETRYABLE or any(words in said for words in again)
            if not passes or time.monotonic() > give_up:
                noted.failed.append(f"{what}: {said}")
                return None
            noted.retried()
            threading.Event().wait(failed.retry_after_seconds or PAUSE_SECONDS)
        finally:
            took = time.monotonic() - started
            if took > STUCK_SECONDS:
                noted.stuck.append(f"{what}: {took:.0f} s")


@dataclass
class Callers:
    """What each kind of caller does once."""

    client: Client
    reviewer: ReviewClient
    oracle: Oracle
    noted: CallLog
    rng: random.Random

    def ask(self, kind: str) -> None:
        """Ask for something whose answer is known."""
        text = self.rng.choice(TEXTS)
        found = patient(self.noted, kind, lambda: KINDS[kind](self.client, text))
        if found is None:
            return
        self.noted.answered(kind)
        if found != self.oracle[f"{kind} {text}"]:
            self.noted.wrong.append(f"{kind} {text!r}: {found}")

    def correct(self) -> None:
        """Correct an answer, and remember it once that is acknowledged."""
        answer = patient(self.noted, "classify", lambda: self.client.classify("classify", [self.rng.choice(TEXTS)])[0])
        if not isinstance(answer, Classification):
            return
        said, identity = self.rng.choice(("refund", "price")), answer.prediction_id

        def correct() -> object:
            self.reviewer.correct(identity, said, reviewer="anna", request_id=identity)
            return True

        if patient(self.noted, "feedback", correct):
            self.noted.answered("feedback")
            self.noted.acknowledged[identity] = said

    def hurry(self) -> None:
        """Call with a deadline that is too short: the call must end, and soon."""
        started = time.monotonic()
        try:
            self.client.classify("slow", ["!slow 500 a refund"], timeout_seconds=SHORT_SECONDS)
            self.noted.wrong.append("a call was answered that takes longer than its deadline")
        except CallFailed as failed:
            if failed.code not in ("DEADLINE_EXCEEDED", *RETRYABLE):
                self.noted.failed.append(f"deadline: {failed.code} {failed.reason}: {failed.message}")
        if time.monotonic() - started > STUCK_SECONDS:
            self.noted.stuck.append(f"deadline: {time.monotonic() - started:.0f} s")
        self.noted.answered("deadline")

    def leave(self) -> None:
        """Cancel a stream, before or after its first piece."""
        stream = self.client.generate("generate", SLOW, timeout_seconds=CALL_SECONDS)
        try:
            if self.rng.random() < 0.5:
                next(iter(stream), None)
        except CallFailed as failed:
            if failed.code not in RETRYABLE:
                self.noted.failed.append(f"cancel: {failed.code} {failed.reason}: {failed.message}")
        stream.cancel()
        self.noted.answered("cancelled")
