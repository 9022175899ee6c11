"""The exact texts of `doctor`; every rule of its tables is reachable, and its command can be pasted."""

import shlex
import subprocess

import pytest

from edge_agent.client import BundleRef, TaskUpdate, UplinkProblem
from edge_agent.doctor import (
    all_checks,
    capture_checks,
    configuration_checks,
    daemon_checks,
    enrolment_checks,
    machine_checks,
    program_checks,
    socket_checks,
    state_checks,
    unit_checks,
    update_checks,
    uplink_checks,
)
from edge_agent.doctor.all_checks import CHECK_GROUPS, CHECKS
from edge_agent.doctor.capture_checks import CaptureFacts
from edge_agent.doctor.configuration_checks import ConfigurationFacts
from edge_agent.doctor.enrolment_checks import EnrolmentFacts, RootFacts, SiteKeyFacts
from edge_agent.doctor.findings import Check, Finding, FindingRule, first_match, otherwise
from edge_agent.doctor.installation import ENTER, READ, WRITE
from edge_agent.doctor.machine_checks import ClockFacts, KernelFacts, MemoryFacts, Volume
from edge_agent.doctor.probe_context import DaemonFacts
from edge_agent.doctor.program_checks import ProgramFacts, ProgramLink
from edge_agent.doctor.socket_checks import ListeningSocket, PortFacts, SocketFacts, TcpPort
from edge_agent.doctor.state_checks import DatabaseFacts, ExchangeFolder, StateFacts
from edge_agent.doctor.unit_checks import UnitFacts
from edge_agent.doctor.update_checks import MetadataFacts, UpdatesFacts
from edge_agent.doctor.uplink_checks import UplinkFacts
from tests.support.doctor_cases import DAEMON, DAY, UPLINK, file

MODULES = [module for name, module in vars(all_checks).items() if name.endswith("_checks")]
NOW = 1_790_000_000.0
VAR = file("/var/lib", 0o755, "folder", uid=0, gid=0)
STATE = "/var/lib/edge-agent"


def tables() -> list[tuple[FindingRule, ...]]:
    """Return every table of rules."""
    values = [value for module in MODULES for value in vars(module).values()]
    return [value for value in values if isinstance(value, tuple) and value and isinstance(value[0], FindingRule)]


def commands() -> set[str]:
    """Return every command of a table, with placeholders in braces."""
    return {part for table in tables() for case in table for part in case.command.split("; ") if part}


def worst_of(found) -> Finding:
    """Return the first finding that is not ok."""
    return next(finding for finding in found if finding.verdict not in ("ok", "note") or finding.remedy)


SAID = [
    (
        machine_checks.judge_clock(ClockFacts(0.0, "1970-01-01 00:00 UTC", None, None, None)),
        "it shows 1970-01-01 00:00 UTC, which is before this program was made",
        "sudo timedatectl set-ntp true || sudo timedatectl set-time 'YYYY-MM-DD HH:MM'",
    ),
    (
        machine_checks.judge_clock(ClockFacts(NOW, "2026-09-21 13:33 UTC", None, -7200.0, True)),
        "it jumped 2 h back since the daemon started",
        "timedatectl",
    ),
    (
        machine_checks.judge_disks((Volume("/var", "bundles", 10**7, 10**11, 10**6, 10**6, False, 10**8),)),
        "/var (bundles): 10.0 MB of 100.0 GB free, below the reserve of 100.0 MB: the daemon stores nothing new",
        "edge-agent bundles list; edge-agent remove TASK VERSION; sudo journalctl --vacuum-size=100M",
    ),
    (
        machine_checks.judge_disks((Volume("/var", "bundles", 10**11, 10**11, 3, 10**6, False, 0),)),
        "/var: 3 of 1000000 free: no file can be made soon",
        "sudo du --inodes -xd3 /var | sort -n | tail",
    ),
    (
        machine_checks.judge_memory(MemoryFacts(10**8, 4 * 10**9, 10**9)),
        "100.0 MB of 4.0 GB available, below the reserve of 1.0 GB",
        "ps aux --sort=-rss | head",
    ),
    (
        machine_checks.judge_kernel(KernelFacts("5.10", False, False, "madvise")),
        "Linux 5.10 has no Landlock and no seccomp: engines are less confined",
        "cat /sys/kernel/security/lsm; uname -r",
    ),
    (
        program_checks.judge_program(
            ProgramFacts(
                "3.11", {"grpcio": ""}, "/opt", "/opt/edge-agent", True, ProgramLink(), ProgramLink(), ProgramLink()
            )
        ),
        "not installed: grpcio",
        "sudo sh edge-agent-*-linux-x86_64.run",
    ),
    (
        unit_checks.judge_units(
            (
                UnitFacts(
                    unit_checks.SERVE, True, {"LoadState": "loaded", "ActiveState": "failed", "Result": "oom-kill"}
                ),
            )
        ),
        "edge-agent.service failed: the kernel ended it because memory was exhausted",
        "sudo journalctl -k -b | grep -i oom; edge-agent bundles list",
    ),
    (
        configuration_checks.judge_configuration(
            ConfigurationFacts((file("/a.yaml"),), "/a.yaml: unknown key 'x'", "Known keys there: y.", None, (), False)
        ),
        "/a.yaml: unknown key 'x'",
        "sudoedit /a.yaml; edge-agent doctor",
    ),
    (
        configuration_checks.judge_configuration(
            ConfigurationFacts((file("/a.yaml", changed=NOW + 602),), "", "", NOW, (), False)
        ),
        "/a.yaml was changed 10 min after the daemon started: the old settings are in force",
        "sudo systemctl restart edge-agent edge-uplink",
    ),
    (
        enrolment_checks.judge_enrolment(EnrolmentFacts("", 0, 0, "s3://b", "", True)),
        "the enrolment is incomplete; missing: site.id, site.recipients, site.receipt_keys",
        "sudo edge-agent-setup --kit FILE",
    ),
    (
        enrolment_checks.judge_root(RootFacts("/etc/edge-agent/root.json", "s3://b", True, "it is not root metadata")),
        "/etc/edge-agent/root.json is not a root of trust: it is not root metadata",
        "sudo edge-agent-setup --kit FILE",
    ),
    (
        enrolment_checks.judge_site_key(SiteKeyFacts(file("/k", size=0), False, True)),
        "/k is not a key (0 bytes)",
        "sudo mv /k /k.damaged && sudo systemctl restart edge-agent",
    ),
    (
        state_checks.judge_state_dir(StateFacts(file(STATE, 0o700, "folder", uid=0, gid=0), (VAR,), DAEMON, ())),
        f"edge-agent may not write {STATE} (edge-agent:edge-exchange 0700)",
        f"sudo chown -R edge-agent: {STATE} && sudo chmod 700 {STATE}",
    ),
    (
        state_checks.judge_state_dir(StateFacts(file(STATE, kind=""), (VAR,), DAEMON, ())),
        f"{STATE} does not exist, and edge-agent may not create it",
        f"sudo install -d -m 700 -o edge-agent {STATE}",
    ),
    (
        state_checks.judge_databases((DatabaseFacts(file(f"{STATE}/spool.db"), -1, 1, ""),)),
        f"{STATE}/spool.db is damaged: it is not a database",
        "sudo systemctl stop edge-agent; sudo mkdir -p /var/lib/edge-agent.away; "
        f"sudo mv {STATE}/spool.db* /var/lib/edge-agent.away/; sudo systemctl start edge-agent",
    ),
    (
        state_checks.judge_databases((DatabaseFacts(file(f"{STATE}/state.db"), 9, 2, ""),)),
        f"{STATE}/state.db was written by a newer version (schema 9; this one knows 2)",
        "sudo sh edge-agent-*-linux-x86_64.run",
    ),
    (
        state_checks.judge_exchange_folders(
            (
                ExchangeFolder(
                    "incoming",
                    file("/x/incoming", 0o2750, "folder"),
                    (VAR,),
                    ((DAEMON, READ | ENTER), (UPLINK, READ | WRITE | ENTER)),
                    0o2750,
                    "edge-exchange",
                ),
            )
        ),
        "edge-uplink may not write /x/incoming (edge-agent:edge-exchange 2750)",
        "sudo chown edge-uplink:edge-exchange /x/incoming && sudo chmod 2750 /x/incoming",
    ),
    (
        socket_checks.judge_sockets(
            SocketFacts(
                (ListeningSocket("admin.sock", file("/r/admin.sock", kind="socket"), False, 0o600, "", True, ()),), True
            )
        ),
        "/r/admin.sock exists, but no process listens: the daemon was killed",
        "sudo systemctl start edge-agent",
    ),
    (
        socket_checks.judge_ports(
            PortFacts((TcpPort("service.tcp_address", "1.2.3.4:9443", True, "nginx, pid 7", False, True, True),), "")
        ),
        "1.2.3.4:9443 is in use by nginx, pid 7",
        "sudo ss -ltnp 'sport = :9443'",
    ),
    (
        daemon_checks.judge_daemon(DaemonFacts("/r/admin.sock", True, None, "DEADLINE_EXPIRED", "", 7, "T")),
        "pid 7 listens at /r/admin.sock and does not answer: its process is stopped",
        "sudo edge-agent support-bundle; sudo kill -KILL 7; sudo systemctl restart edge-agent",
    ),
    (
        daemon_checks.judge_daemon(DaemonFacts("/r/admin.sock", True, None, "DEADLINE_EXPIRED", "", 7, "D")),
        "pid 7 listens at /r/admin.sock and does not answer: it waits for the disk",
        "sudo edge-agent support-bundle; sudo dmesg | tail -50",
    ),
    (
        daemon_checks.judge_daemon(DaemonFacts("/r/admin.sock", False, None, "UNREACHABLE")),
        "no process answers at /r/admin.sock: the daemon does not run",
        "edge-agent serve",
    ),
    (
        update_checks.judge_metadata(MetadataFacts("/i/metadata", True, "", 7, -3 * DAY, True, True)),
        "version 7 expired 3 days ago: nothing new is installed",
        "date; sudo systemctl restart edge-uplink",
    ),
    (
        update_checks.judge_updates(
            UpdatesFacts(
                7,
                "stable",
                "",
                (TaskUpdate("t", None, None, BundleRef("t", "2.0.0", "ab"), "HELD", None, "BY_HAND", "", 0),),
                NOW,
                live=False,
            )
        ),
        "2.0.0 has been in state held for 0 s: BY_HAND",
        "sudo edge-agent bundles allow t",
    ),
    (
        capture_checks.judge_capture(CaptureFacts(95, 100, 0, 100, 0, None, {}, (), False)),
        "95 bytes of 100 bytes: nearly full",
        "sudo edge-agent media export /media/usb",
    ),
    (
        capture_checks.judge_capture(
            CaptureFacts(
                *(1, 100, 0, 100, 0, None, {"dropped_queue_full": 3, "captured": 9}, (), False),
                loss_seconds={"lost": 60.0},
            )
        ),
        "dropped queue full 3 in all, the last 60 s ago",
        "edge-agent status; df -h /var/lib/edge-agent",
    ),
    (
        capture_checks.judge_capture(CaptureFacts(1, 100, 5, 100, 2, 4 * DAY, {}, (), True)),
        "the oldest segment has waited 4 days for its receipt",
        "edge-agent status; sudo edge-agent media export /media/usb",
    ),
    (
        uplink_checks.judge_uplink(
            UplinkFacts("", "online", problems=(UplinkProblem("UPSTREAM_REFUSED", "403 from the store", "", ""),))
        ),
        "403 from the store",
        "date; sudo edge-agent-setup --kit FILE",
    ),
]


@pytest.mark.parametrize(("found", "seen", "command"), [(list(found), *rest) for found, *rest in SAID])
def test_fault_has_its_numbers_and_a_command(found, seen, command):
    """The text and the command of each fault are exactly those that a technician reads."""
    worst = worst_of(found)
    assert (seen, command) == (worst.seen, worst.command)


def test_every_command_can_be_pasted_into_a_shell():
    """Every command that `doctor` prints is valid shell syntax with its facts inserted."""
    pasted = [command.replace("{", "").replace("}", "") for command in sorted(commands())]
    pasted += [part for _, _, said in SAID for part in said.split("; ")]
    for command in pasted:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert (command, 0, "") == (command, checked.returncode, checked.stderr)
        assert shlex.split(command)


def test_every_warning_and_fault_has_a_remedy():
    """Every rule with the verdict warning, fault or unseen has a remedy and a command."""
    silent = [case.seen for table in tables() for case in table if case.verdict in ("warning", "fault", "unseen")
              and not (case.remedy and case.command)]  # fmt: skip
    assert (True, []) == (len(tables()) > 20, silent)


def test_first_matching_rule_of_a_table_applies():
    """The first matching rule gives the finding; if none matches, there is no finding."""
    table = (
        FindingRule("fault", lambda f: f > 2, "{f} is much", "Less.", "true"),
        FindingRule("ok", lambda f: f > 1, "{f} is well"),
    )
    check = Check("x", "y")
    assert ["3 is much", "2 is well"] == [next(first_match(check, table, f)).seen for f in (3, 2)]
    assert ([], True) == (list(first_match(check, table, 1)), otherwise(1))


def test_every_check_belongs_to_exactly_one_group():
    """Every check of the modules is in the list of checks and in exactly one group."""
    declared = [value for module in MODULES for value in vars(module).values() if isinstance(value, Check)]
    looked_for = [check for look in CHECK_GROUPS for check in look.checks]
    assert sorted(check.name for check in declared) == sorted(check.name for check in looked_for) == sorted(CHECKS)
