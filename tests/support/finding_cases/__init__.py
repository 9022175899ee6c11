"""The remedy sweep over doctor's findings: a row for each that a rule can return. benchmarks/remedies.py plays them.

A row makes its fault on a real daemon, sees that doctor reports exactly this finding, runs the printed remedy and sees
the finding gone; or it is excused, with its reason; or nobody has made it yet, which is counted as such.
"""

from __future__ import annotations

from tests.support.finding_cases import (  # noqa: F401 - they fill the table
    alarm_rows,
    appliance_rows,
    certificate_rows,
    console_rows,
    daemon_rows,
    disk_rows,
    download_rows,
    engine_rows,
    enrolment_rows,
    example_rows,
    exchange_rows,
    large_model_rows,
    limit_rows,
    redaction_rows,
    settings_rows,
    socket_rows,
    state_rows,
    update_rows,
)
from tests.support.finding_cases.case import MADE, FindingCase
from tests.support.finding_cases.kinds import FindingKind, finding_kinds
from tests.support.finding_cases.site import FaultySite

SYSTEMD_NEEDED = "systemd is the subject: it needs a booted machine"
HARDWARE = "hardware or the kernel of the machine is the subject: the remedy is another machine or another kernel"
EXCUSED_CHECKS = {
    **dict.fromkeys(
        ("systemd", "unit", "start-at-boot", "unit-restarts", "watchdog", "memory-limit", "unit-files"), SYSTEMD_NEEDED
    ),
    "listener-network": SYSTEMD_NEEDED,
    **dict.fromkeys(("cpu", "kernel", "confinement", "huge-pages"), HARDWARE),
}
EXCUSED_KINDS = {
    **dict.fromkeys(
        (
            "console/fault/f-failed",
            "console/note/the-console-is",
            "console/fault/no-process-listens-on",
            "uplink/note/f-it-started-s-ago-and-has-not-reported-yet",
            "credentials/note/exists-but-is-not-encrypted",
        ),
        SYSTEMD_NEEDED,
    ),
    "daemon/fault/pid-listens-at-and-does-not-answer": HARDWARE,
}
"""Single kinds: those that doctor reports only where systemd runs, and a process that waits for a disk."""
CASES = [
    FindingCase(kind, MADE[kind.name])
    if kind.name in MADE
    else FindingCase(kind, excused=EXCUSED_CHECKS.get(kind.check, EXCUSED_KINDS.get(kind.name, "")))
    for kind in finding_kinds()
]
"""The table: a row for each kind."""

__all__ = ["CASES", "MADE", "FaultySite", "FindingCase", "FindingKind", "finding_kinds"]
