"""How a child ended: in words, as the error of a load or attach, and whether its work is to blame.

A child that was killed from outside (by the kernel short of memory, or by an operator), or that ran out of memory, is
no evidence against its input.
"""

from __future__ import annotations

import asyncio
import signal

from edge_agent.config import EngineConfig
from edge_agent.engine.memory_cap import MemoryCap
from edge_agent.engine.protocol import EXIT_DEVICE_LOST, EXIT_OUT_OF_MEMORY
from edge_agent.errors import ModelLoadFailed

ALARM_SECONDS = 5.0
"""How long after its time limit a child is killed that could not end itself by its alarm."""
_LAST_WORDS = {EXIT_OUT_OF_MEMORY: "it ran out of memory", EXIT_DEVICE_LOST: "it lost its device"}
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGALRM})


def is_to_blame(exit_code: int, *, wedged: bool) -> bool:
    """Tell whether the work in flight caused this death; `wedged` = the daemon killed it for its silence."""
    return wedged or (exit_code not in _FROM_OUTSIDE and exit_code != EXIT_OUT_OF_MEMORY)


def describe_exit(exit_code: int) -> str:
    """Return how a child ended, in words."""
    by_signal = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return _LAST_WORDS.get(exit_code, by_signal)


def time_limit_seconds(config: EngineConfig, what: str) -> float:
    """Return how long a "load" or an "attach" may take."""
    return config.load_seconds_max if what == "load" else config.attach_seconds_max


def load_exit_error(what: str, ended: asyncio.Future[int], config: EngineConfig, cap: MemoryCap) -> ModelLoadFailed:
    """Return the error of a load or an attach whose child has ended, or did not finish in time."""
    if not ended.done() or ended.result() == -signal.SIGALRM:
        limit = time_limit_seconds(config, what)
        return ModelLoadFailed(f"{what} took longer than {limit:g} s", limit_seconds=limit)
    message = f"the model's process died during {what}: {describe_exit(ended.result())}{cap.summary}"
    return ModelLoadFailed(message, **cap.metadata)
