"""What stands against the bundles that answer: their promise, drift, and what an alarm has done. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edge_agent.client import FieldAlarm
from edge_agent.doctor.findings import Check, Finding

PROMISE = Check("field-promise", "daemon")
DRIFT = Check("field-drift", "daemon")
DEMOTED = Check("field-demoted", "daemon")
_OF_PROMISE = ("errors", "opinions")


def alarms(standing: Iterable[FieldAlarm]) -> Iterator[Finding]:
    """Judge what the daemon says of the field; nothing stands = nothing to say."""
    for alarm in standing:
        yield _alarm(alarm)
        if alarm.demoted:
            said = f"in shadow because of the alarm '{alarm.alarm}', as the plan allows"
            remedy = "The large model answers meanwhile. Take it back when the alarm is understood."
            yield DEMOTED.warning(said, remedy, f"edge-agent mode {alarm.task} planned", about=alarm.task)


def _alarm(alarm: FieldAlarm) -> Finding:
    if alarm.alarm in _OF_PROMISE:
        return PROMISE.fault(alarm.message, alarm.remedy, f"edge-agent mode {alarm.task} shadow", about=alarm.task)
    return DRIFT.warning(f"{alarm.alarm}: {alarm.message}", alarm.remedy, "edge-agent review", about=alarm.task)
