"""On which device the next child of an engine computes, and when one that failed is tried again: pure.

A child has one device for its whole life: what confines it depends on that, and a driver that failed is gone with it.
A device that cannot be used (`DeviceUnusable`) is left at once; one under which children die or do not load is left
after `failures_max` of that within `retry_seconds`. Then the CPU computes, and everything says so. What may pass (no
memory, a lost device) is tried again after `retry_seconds`, then twice that, up to a day; what stays (another build, no
device, other answers) when the daemon starts the next time.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from edge_agent.backoff import backoff_seconds
from edge_agent.errors import DeviceUnusable, EdgeAgentError

CPU = "cpu"
DEVICE_FALLBACK, DEVICE_PARTIAL = "DEVICE_FALLBACK", "DEVICE_PARTIAL"  # what answers say of it
BEST_FIRST = ("cuda", "vulkan")
RETRY_SECONDS_MAX = 86_400.0


@dataclass(frozen=True)
class DeviceSupport:
    """What a runtime could compute on, beside the CPU."""

    known: Collection[str] = ()
    """Devices that the library can be built for."""
    built: Collection[str] = ()
    """Those that the installed one is built for."""
    present: Collection[str] = ()
    """Those that this machine has."""


def candidate_devices(setting: str, required: str, offered: DeviceSupport) -> tuple[str, ...]:
    """Return the devices to try, the best first; none = the CPU is what was asked for, or all that there is.

    Args:
        setting: `engine.device`: auto, cpu, cuda or vulkan. A device that the runtime cannot use at all is not wanted.
        required: `requires.device` of the first bundle: any, cuda or vulkan.
        offered: by the runtime and the machine.
    """
    asked = required if required != "any" and setting == "auto" else setting
    if asked == "auto":
        usable = set(offered.built).intersection(offered.present)
        return tuple(filter(usable.__contains__, BEST_FIRST))
    return (asked,) if asked in offered.known else ()


@dataclass
class _DeviceRecord:
    """What is known against a device."""

    why: str = ""
    until: float = 0.0
    """It is not used before."""
    failures: list[float] = field(default_factory=list)
    times: int = 0
    """How often it was left."""


class AcceleratorPolicy:
    """The devices of one engine."""

    def __init__(self, wanted: Collection[str] = (), failures_max: int = 2, retry_seconds: float = 3600.0) -> None:
        """Begin with the first of `wanted`; see the module."""
        self.device = CPU
        self._records = {device: _DeviceRecord() for device in wanted}
        self._failures_max, self._retry_seconds = failures_max, retry_seconds

    def rule_out(self, device: str, why: str) -> None:
        """Note that a device cannot be used while the daemon runs."""
        self._records[device] = _DeviceRecord(why, math.inf)

    def choose_device(self, now: float) -> str:
        """Choose the device of a child that starts now."""
        self.device = self._best(now)
        return self.device

    @property
    def fallback(self) -> str:
        """Why the child is not on the device that is wanted most; empty = it is."""
        before = list(self._records)
        before = before[: before.index(self.device)] if self.device in before else before
        return "; ".join(f"{device} is not used: {self._records[device].why}" for device in before)

    def record_failure(self, error: EdgeAgentError, now: float) -> None:
        """Note that the child's device could not be used, or that the child died on it."""
        record = self._records[self.device]
        if record.until > now:
            return  # its end was noted already, and the child's death followed from that
        record.why = error.message
        if isinstance(error, DeviceUnusable):
            self._leave(record, now, lasting=error.lasting)
            return
        record.failures = [each for each in record.failures if now - each < self._retry_seconds] + [now]
        if len(record.failures) >= self._failures_max:
            record.why = f"{len(record.failures)} failures, the last: {error.message}"
            self._leave(record, now, lasting=False)

    def has_better_device(self, now: float) -> bool:
        """Tell whether a better device than that of the child is to be tried again."""
        order = [*self._records, CPU]
        return order.index(self._best(now)) < order.index(self.device)

    def _best(self, now: float) -> str:
        return next((device for device, record in self._records.items() if record.until <= now), CPU)

    def _leave(self, record: _DeviceRecord, now: float, *, lasting: bool) -> None:
        if now - record.until > RETRY_SECONDS_MAX:  # it was well for a day
            record.times = 0
        pause = backoff_seconds(record.times + 1, self._retry_seconds, RETRY_SECONDS_MAX)
        record.until = math.inf if lasting else now + pause
        record.failures.clear()
        record.times += 1
