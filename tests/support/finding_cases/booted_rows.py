"""Findings about systemd: tests/e2e/test_booted_doctor.py makes their faults on a booted machine."""

from __future__ import annotations

from dataclasses import dataclass

SERVE = "/etc/systemd/system/edge-agent.service"
DROP_IN = "/etc/systemd/system/{unit}.service.d/90-test.conf"
NEXT = "\\n"
LONG_PAUSE = f"RestartSec=60{NEXT}RestartSteps=0"
"""After some failures systemd waits so long before it tries again, and doctor looks in the pause."""
SHORT_PAUSE = f"RestartSec=1{NEXT}RestartSteps=0"
SLOW_START = 'ExecStartPre=sh -c "test ! -e /srv/slow || sleep 20"'
SILENT = ("daemon", "socket")
"""Checks that necessarily report a daemon that does not run."""


@dataclass(frozen=True)
class BootedFault:
    """How a fault is made on a machine that systemd runs: shell commands of root."""

    make: str
    with_it: tuple[str, ...] = ()
    """Checks that necessarily report the same fault."""
    by_hand: str = ""
    """What the remedy's sentence tells a person to do beside its commands."""
    waits: bool = False
    """It ends by itself, as its remedy says."""
    answers: bool = False
    """All tasks answer before doctor looks."""


def _drop_in(unit: str, text: str) -> str:
    path = DROP_IN.format(unit=unit)
    return f"mkdir -p {path.rpartition('/')[0]}; printf '[Service]{NEXT}{text}{NEXT}' > {path}; systemctl daemon-reload"


def _without_drop_in(unit: str) -> str:
    return f"rm {DROP_IN.format(unit=unit)}; systemctl daemon-reload"


BOOTED: dict[str, BootedFault] = {
    "unit/fault/is-masked-it-cannot-start": BootedFault(
        f"systemctl stop edge-agent; ln -sf /dev/null {SERVE}; systemctl daemon-reload", SILENT
    ),
    "unit/fault/systemd-cannot-read": BootedFault(
        f"sed -i /^ExecStart=/d {SERVE}; systemctl daemon-reload; systemctl stop edge-agent", SILENT
    ),
    "unit/note/is-not-installed": BootedFault(
        f"systemctl stop edge-agent; rm {SERVE}; systemctl daemon-reload", SILENT
    ),
    "unit/fault/failed": BootedFault(
        f"{_drop_in('edge-agent', LONG_PAUSE)}; cp -p /etc/edge-agent/agent.yaml /srv/agent.yaml;"
        "echo 'stor: {}' >> /etc/edge-agent/agent.yaml; systemctl restart edge-agent || true",
        (*SILENT, "config"),
        by_hand=f"cp -p /srv/agent.yaml /etc/edge-agent/agent.yaml; {_without_drop_in('edge-agent')}",
    ),
    "unit/note/is": BootedFault(
        f"{_drop_in('edge-agent', SLOW_START)}; touch /srv/slow; systemctl restart --no-block edge-agent; sleep 6;"
        "rm /srv/slow",
        ("daemon",),
        waits=True,
    ),
    "unit/fault/is-stopped": BootedFault("systemctl stop edge-agent", SILENT),
    "start-at-boot/warning/is-it-will-not-run-after-a-reboot": BootedFault("systemctl disable edge-agent"),
    "unit-files/warning/was-changed-on-disk-after-systemd-read-it": BootedFault(f"echo '# changed' >> {SERVE}"),
    "unit-restarts/warning/systemd-restarted": BootedFault(
        "systemctl kill --kill-whom=main --signal=KILL edge-agent; sleep 4", answers=True
    ),
    "watchdog/warning/has-none-nothing-ends-a-daemon-that-hangs": BootedFault(
        f"{_drop_in('edge-agent', 'WatchdogSec=0')}; systemctl restart edge-agent",
        answers=True,
        by_hand=_without_drop_in("edge-agent"),
    ),
    "memory-limit/note/has-none-a-daemon-that-uses-too-much-memory-stops-the-whole-machine": BootedFault(
        "systemctl set-property --runtime edge-agent.service MemoryMax=infinity"
    ),
    "console/fault/f-failed": BootedFault(
        f"{_drop_in('edge-agent-web', 'ExecStartPre=false' + NEXT + LONG_PAUSE)};"
        "systemctl enable --now edge-agent-web; true",
        by_hand=_without_drop_in("edge-agent-web"),
    ),
    "console/fault/no-process-listens-on": BootedFault("systemctl stop edge-agent-web"),
    "console/note/the-console-is": BootedFault(
        f"{_drop_in('edge-agent-web', SLOW_START)}; touch /srv/slow; systemctl restart --no-block edge-agent-web;"
        "sleep 6; rm /srv/slow",
        waits=True,
    ),
    "credentials/note/exists-but-is-not-encrypted": BootedFault(
        "mv /usr/bin/systemd-creds /srv/systemd-creds;"
        "rm /etc/edge-agent/enrolment.json /etc/credstore.encrypted/edge-*;"
        "edge-agent enrol --yes /srv/shop-12.kit; mv /srv/systemd-creds /usr/bin/systemd-creds",
        answers=True,
    ),
}
"""The rows, by the name of their kind; of those that the same machine plays in this order."""
