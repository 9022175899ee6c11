"""What follows when a child fails: how its end is described, which input is to blame, when the next one starts.

The death of a child that was killed from outside (by the kernel's out-of-memory killer, or by an operator), or that ran
out of memory, is no evidence against its input. An input that killed the child while it ran alone is quarantined.

Pauses before a start double. After `load_failures_max` failed loads in a row the engine gives up. It does not give up
after failed starts, or after loads for which memory is too short: a machine without descriptors, processes or memory
is no evidence against the model. The time for which a child was ready shortens the pause after it, so a child that
lived longer than its pause is replaced at once, and only children that die soon after their start cause a wait.
"""

from __future__ import annotations

import hashlib
import signal
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from edge_agent.backoff import backoff_seconds
from edge_agent.config import EngineConfig
from edge_agent.engine.memory_need import MemoryCap
from edge_agent.engine.protocol import EXIT_DEVICE_LOST, EXIT_OUT_OF_MEMORY, JobRequest
from edge_agent.errors import EngineNotReady, InputQuarantined, ModelLoadFailed

ALARM_SECONDS = 5.0
"""How long after its time limit the daemon kills a child that its own alarm did not end."""
QUARANTINED_MAX = 1024
START_REMEDY = (
    "The daemon tries again, with growing pauses. If the problem persists: raise LimitNOFILE= or TasksMax= of the "
    "service, free some memory, or end programs that run many processes."
)
_EXIT_TEXTS = {EXIT_OUT_OF_MEMORY: "it ran out of memory", EXIT_DEVICE_LOST: "it lost its device"}
_KILLED_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGALRM})


def is_to_blame(exit_code: int, *, wedged: bool) -> bool:
    """Tell whether the work in flight caused this death; `wedged` = the daemon killed it for its silence."""
    return wedged or (exit_code not in _KILLED_FROM_OUTSIDE and exit_code != EXIT_OUT_OF_MEMORY)


def describe_exit(exit_code: int) -> str:
    """Return how a child ended, in words."""
    return _EXIT_TEXTS.get(exit_code) or (
        f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    )


def time_limit_seconds(config: EngineConfig, step: str) -> float:
    """Return how long a "load" or an "attach" may take."""
    return config.load_seconds_max if step == "load" else config.attach_seconds_max


def load_exit_error(step: str, exit_code: int | None, config: EngineConfig, cap: MemoryCap) -> ModelLoadFailed:
    """Return the error of a load or an attach whose child has ended; `exit_code` None = it did not finish in time."""
    if exit_code is None or exit_code == -signal.SIGALRM:
        limit = time_limit_seconds(config, step)
        return ModelLoadFailed(f"{step} took longer than {limit:g} s", limit_seconds=limit)
    message = f"the model's process died during {step}: {describe_exit(exit_code)}{cap.summary}"
    return ModelLoadFailed(message, **cap.metadata)


def start_error(reason: str, pause_seconds: float) -> EngineNotReady:
    """Return the error for callers that wait for an engine whose process cannot be started on this machine."""
    message = f"the model's process cannot be started: {reason}; the daemon tries again"
    return EngineNotReady(message, retry_seconds=max(pause_seconds, 1.0), remedy=START_REMEDY)


@dataclass
class RestartPolicy:
    """Counts failures of one engine. Pauses are in seconds."""

    config: EngineConfig
    start_failures: int = 0
    load_failures: int = 0
    crashes: int = 0

    def record_load(self) -> None:
        """Note that the child became ready."""
        self.start_failures = self.load_failures = 0

    def record_answer(self) -> None:
        """Note a good answer: the pause after the next crash is the shortest again."""
        self.crashes = 0

    def pause_after_crash(self, ready_seconds: float = 0.0) -> float:
        """Return the pause after the crash of a child that was ready for `ready_seconds`."""
        self.crashes += 1
        return max(0.0, self._pause(self.crashes) - ready_seconds)

    def pause_after_start_failure(self) -> float:
        """Return the pause after a child could not be started; there is always a next try, since a machine recovers."""
        self.start_failures += 1
        return self._pause(self.start_failures)

    def pause_after_load_failure(self, *, transient: bool = False) -> float | None:
        """Return the pause, or None to give up: after `load_failures_max` in a row, unless the cause `transient`."""
        self.load_failures += 1
        return None if self.is_exhausted and not transient else self._pause(self.load_failures)

    @property
    def is_exhausted(self) -> bool:
        """Whether `load_failures_max` loads in a row have failed."""
        return self.load_failures >= self.config.load_failures_max

    def _pause(self, failures: int) -> float:
        return backoff_seconds(failures, self.config.restart_seconds_first, self.config.restart_seconds_max)


@dataclass
class Quarantine:
    """Inputs that are refused for a while because they killed the child while they ran alone.

    Only a hash of each is stored, none of its text.
    """

    seconds: float
    refused_until: OrderedDict[str, float] = field(default_factory=OrderedDict)
    """By fingerprint, the time on the loop's clock until which it is refused, the earliest first. While it is empty,
    callers skip `check`: to hash every input would be the most expensive step of a call."""

    def add(self, request: JobRequest, now: float) -> None:
        """Refuse an input from now on."""
        key = fingerprint(request)
        self.refused_until[key] = now + self.seconds
        self.refused_until.move_to_end(key)
        while len(self.refused_until) > QUARANTINED_MAX:
            self.refused_until.popitem(last=False)

    def check(self, request: JobRequest, now: float) -> None:
        """Raise InputQuarantined for an input that is refused; forget those that no longer are."""
        while self.refused_until and next(iter(self.refused_until.values())) <= now:
            self.refused_until.popitem(last=False)
        until = self.refused_until.get(fingerprint(request), now)
        if until > now:
            raise InputQuarantined(
                f"this input killed the model's process before; it is refused for another {until - now:.0f} s",
                seconds=round(until - now),
            )


def fingerprint(request: JobRequest) -> str:
    """Return the identity of an input for the model, as a hash: without its seed and the id of the call."""
    sampling = request.output_tokens_max, request.temperature, request.stops
    identity = [request.digest, request.text, *sampling, request.questions]
    return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()
