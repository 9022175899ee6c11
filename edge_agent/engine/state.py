"""What an engine is doing, and how a caller is told so."""

from __future__ import annotations

import enum


class EngineState(enum.Enum):
    """What an engine is doing."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    FAILED = "failed"
    STOPPING = "stopping"


# What a caller is told of an engine that does not answer now.
STATE_WORDS = {
    EngineState.STARTING: "loading",
    EngineState.READY: "loading",
    EngineState.BACKING_OFF: "being started again",
    EngineState.STOPPING: "being stopped",
    EngineState.FAILED: "not loaded",
}
