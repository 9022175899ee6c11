"""What an engine is doing, and how a caller is told so."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """What an engine is doing."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    FAILED = "failed"
    STOPPING = "stopping"


# What a caller is told of an engine that does not answer now.
BUSY = {
    State.STARTING: "loading",
    State.READY: "loading",
    State.BACKING_OFF: "being started again",
    State.STOPPING: "being stopped",
    State.FAILED: "not loaded",
}
