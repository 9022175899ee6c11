"""Which deaths of a child an input is to blame for, and the inputs that are refused because of one: pure.

Only an input that killed the child while it ran alone is refused, for a while and by its fingerprint: nothing of the
text is kept. A child that was killed from outside (the kernel short of memory, an operator) or that ran out of memory
says nothing of the input. Time is an argument.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections import OrderedDict
from dataclasses import dataclass, field

from edge_agent.config import EngineConfig
from edge_agent.engine.memory_cap import MemoryCap
from edge_agent.engine.protocol import EXIT_DEVICE_LOST, EXIT_OUT_OF_MEMORY, JobRequest
from edge_agent.errors import InputQuarantined, ModelLoadFailed

ENTRIES_MAX = 1024

ALARM_SECONDS = 5.0
"""Beyond its limit: a child that cannot end itself by its alarm is ended then."""
_LAST_WORDS = {EXIT_OUT_OF_MEMORY: "it ran out of memory", EXIT_DEVICE_LOST: "it lost its device"}
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGALRM})


def is_to_blame(exit_code: int, *, wedged: bool) -> bool:
    """Tell whether the work in flight caused this death; `wedged` = we killed it ourselves for its silence."""
    return wedged or (exit_code not in _FROM_OUTSIDE and exit_code != EXIT_OUT_OF_MEMORY)


def describe_exit(exit_code: int) -> str:
    """Return how a child ended, in words."""
    by_signal = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return _LAST_WORDS.get(exit_code, by_signal)


def time_limit_seconds(config: EngineConfig, what: str) -> float:
    """Return the time that a "load" or an "attach" may take."""
    return config.load_seconds_max if what == "load" else config.attach_seconds_max


def load_exit_error(what: str, ended: asyncio.Future[int], config: EngineConfig, cap: MemoryCap) -> ModelLoadFailed:
    """Return what a load or an attach is told whose child has ended, with its limits, or did not end in time."""
    if not ended.done() or ended.result() == -signal.SIGALRM:
        limit = time_limit_seconds(config, what)
        return ModelLoadFailed(f"{what} took longer than {limit:g} s", limit_seconds=limit)
    said = f"the model's process died during {what}: {describe_exit(ended.result())}{cap.summary}"
    return ModelLoadFailed(said, **cap.metadata)


def fingerprint(run: JobRequest) -> str:
    """Return what makes two inputs the same for the model; the seed and the id of the call do not."""
    identity = [run.digest, run.text, run.output_tokens_max, run.temperature, run.stops]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


@dataclass
class Quarantine:
    """The inputs that are refused, oldest first."""

    seconds: float
    _until: OrderedDict[str, float] = field(default_factory=OrderedDict)

    def add(self, run: JobRequest, now: float) -> None:
        """Refuse an input from now on."""
        self._until[fingerprint(run)] = now + self.seconds
        while len(self._until) > ENTRIES_MAX:
            self._until.popitem(last=False)

    def check(self, run: JobRequest, now: float) -> None:
        """Raise InputQuarantined for an input that is refused."""
        if not self._until:  # hashing every input for nothing would be the dearest step of a call
            return
        until = self._until.get(fingerprint(run), now)
        if until > now:
            raise InputQuarantined(
                f"this input killed the model's process before; it is refused for another {until - now:.0f} s",
                seconds=round(until - now),
            )
