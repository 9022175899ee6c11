"""The remedy sweep over doctor's findings: a row for each that a rule can return. benchmarks/remedies.py plays them.

A row makes its fault on a real daemon, sees that doctor reports exactly this finding, runs the printed remedy and sees
the finding gone; or systemd is its subject, and a test of a booted machine does the same; or it is excused, with its
reason; or nobody has made it yet, which is counted as such.
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
from tests.support.finding_cases.booted_rows import BOOTED
from tests.support.finding_cases.case import MADE, FindingCase
from tests.support.finding_cases.kinds import FindingKind, finding_kinds
from tests.support.finding_cases.site import FaultySite

PLAYED_BY_KINDS = dict.fromkeys(BOOTED, "tests/e2e/test_booted_doctor.py::test_printed_remedy_fixes_each_fault")
PLAYED_BY_CHECKS = {
    "listener-network": "tests/e2e/test_booted_access.py::test_network_device_with_certificate_can_call",
}
"""The tests that make a finding on a booted machine, see exactly it, and follow its remedy."""
HARDWARE = "hardware or the kernel of the machine is the subject: the remedy is another machine or another kernel"
EXCUSED_CHECKS = dict.fromkeys(("cpu", "kernel", "confinement", "huge-pages"), HARDWARE)
EXCUSED_KINDS = {
    "systemd/note/systemd-does-not-run-this-machine-nothing-restarts-the-daemon-when-it-ends": (
        "systemd is the subject; every row that is played here has it, and nothing has to be done"
    ),
    "unit/warning/has-been-for": "systemd is the subject: it needs a unit that starts for five minutes",
    "memory-limit/warning/": "systemd is the subject: it needs a memory controller, which no container here gets",
    "uplink/note/f-it-started-s-ago-and-has-not-reported-yet": (
        "systemd is the subject: it lasts less than a second, and nothing has to be done"
    ),
    "daemon/fault/pid-listens-at-and-does-not-answer": HARDWARE,
}
"""Single kinds: those that doctor reports only where systemd runs, and a process that waits for a disk."""
CASES = [
    FindingCase(
        kind,
        MADE.get(kind.name),
        excused=EXCUSED_CHECKS.get(kind.check, EXCUSED_KINDS.get(kind.name, "")),
        played_by=PLAYED_BY_CHECKS.get(kind.check, PLAYED_BY_KINDS.get(kind.name, "")),
    )
    for kind in finding_kinds()
]
"""The table: a row for each kind."""

__all__ = ["CASES", "MADE", "FaultySite", "FindingCase", "FindingKind", "finding_kinds"]
