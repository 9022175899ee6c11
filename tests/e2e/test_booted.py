"""The appliance on a booted systemd machine without a network, from install to purge.

One machine for all tests, in this order. Each command and its output is in .cache/booted/<release>.log; docs/booted.log
is a copy of one run's trixie.log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_agent import __version__
from tests.support.appliance import DEVICE, NEXT_VERSION, REVIEWER, STRANGER, TASKS, Appliance
from tests.support.booted_machine import Machine, needs_machine, new_log, tree

pytestmark = [pytest.mark.release, needs_machine]
ELSEWHERE = "10.9.9.9"
OPERATOR = "kim"
CONNECTING = f"""
import socket
def said(address):
    try:
        socket.create_connection((address, 9), 2)
    except OSError as error:
        return str(error).rpartition(' Connection ')[2]
print(said('127.0.0.1'), said('{ELSEWHERE}'))
"""
LEFT_BEHIND = (
    "/etc/edge-agent /etc/systemd/system/edge-* /etc/sysusers.d/edge-* /etc/tmpfiles.d/edge-* /etc/credstore*/edge-* "
    "/opt/edge-agent /run/edge-agent /usr/local/bin/edge-* /usr/local/sbin/edge-* /var/lib/edge-*"
)


@pytest.fixture(scope="module", params=["trixie", "bookworm"])
def site(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """A machine with three users and without the program."""
    folder = tmp_path_factory.mktemp("booted")
    tar, log = tree(request.param), new_log(request.param)
    with Machine(folder / "machine", tar, log) as machine:
        yield Appliance(machine, folder)


def test_the_machine_has_no_network(site: Appliance):
    """The test machine has a loopback interface and no other."""
    assert ["lo"] == [line.split()[0] for line in site.machine.run("ip", "-br", "link").splitlines()]


def test_installer_file_installs_and_starts_the_daemon(site: Appliance):
    """The installer file creates both service users, enables and starts edge-agent, and gives three groups one socket
    each."""
    site.install()
    assert f"edge-agent {__version__}\n" == site.machine.run("edge-agent", "--version")
    assert "active" == site.machine.run("systemctl", "is-active", "edge-agent").strip()
    assert "enabled" == site.machine.run("systemctl", "is-enabled", "edge-agent").strip()
    for user, group in ((DEVICE, "edge-devices"), (REVIEWER, "edge-reviewers")):
        site.machine.run("usermod", "-aG", group, user)
    sockets = site.machine.run("sh", "-c", "cd /run/edge-agent && stat -c '%n %a %U:%G' *.sock").split("\n")
    assert [
        "admin.sock 660 edge-agent:edge-agent-operators",
        "inference.sock 660 edge-agent:edge-devices",
        "review.sock 660 edge-agent:edge-reviewers",
    ] == sorted(filter(None, sockets))


def test_state_folders_have_restricted_permissions(site: Appliance):
    """Only edge-agent can enter its state folder; each folder of the exchange has one of the two daemons as its only
    writer."""
    asked = "stat -c '%n %a %U:%G' /var/lib/edge-agent /var/lib/edge-uplink /var/lib/edge-exchange/*"
    assert [
        "/var/lib/edge-agent 700 edge-agent:edge-agent",
        "/var/lib/edge-exchange/incoming 2750 edge-uplink:edge-exchange",
        "/var/lib/edge-exchange/outbox 2750 edge-agent:edge-exchange",
        "/var/lib/edge-exchange/receipts 2750 edge-uplink:edge-exchange",
        "/var/lib/edge-exchange/wants 2750 edge-agent:edge-exchange",
        "/var/lib/edge-uplink 2750 edge-uplink:edge-exchange",
    ] == sorted(site.machine.run("sh", "-c", asked).split("\n")[:-1])


def test_units_have_memory_limits(site: Appliance):
    """systemd has a numeric MemoryMax for edge-agent and 512 MiB for edge-uplink. A container cannot show that the
    kernel enforces them."""
    assert site.machine.property("edge-agent", "MemoryMax").isdecimal()
    assert "536870912" == site.machine.property("edge-uplink", "MemoryMax")


def test_daemon_unit_reaches_only_loopback(site: Appliance):
    """A process in the daemon's unit, even as root, cannot connect to an address other than loopback, and a process
    outside the unit can."""
    site.machine.run("ip", "address", "add", f"{ELSEWHERE}/32", "dev", "lo")
    into = f"echo $$ > /sys/fs/cgroup{site.machine.property('edge-agent', 'ControlGroup')}/cgroup.procs"
    asked = f'exec python3 -c "{CONNECTING}"'
    assert "refused refused" == site.machine.run("sh", "-c", asked).strip()
    assert "refused timed out" == site.machine.run("sh", "-c", f"{into} && {asked}").strip()


def test_enrolment_writes_credential_and_starts_uplink(site: Appliance):
    """Enrolment writes an encrypted credential and starts the uplink, which reports OFFLINE or PROBING without a
    network."""
    site.enrol()
    assert "active" == site.machine.run("systemctl", "is-active", "edge-uplink").strip()
    assert "LoadCredentialEncrypted=uplink:" in site.machine.run("systemctl", "cat", "edge-uplink")
    site.machine.until(lambda: site.status()["uplink"]["state"] in ("OFFLINE", "PROBING"))


def test_uplink_cannot_read_daemon_state(site: Appliance):
    """The uplink's unit sees neither the daemon's models nor its sockets, and its user cannot list the daemon's state
    folder outside the unit either."""
    into = ("nsenter", f"--target={site.main_pid('edge-uplink')}", "--mount", "--", "ls")
    assert (2, 2) == (
        site.machine.tell(*into, "/var/lib/edge-agent/blobs")[0],
        site.machine.tell(*into, "/run/edge-agent/")[0] or site.machine.tell(*into, "/run/edge-agent/admin.sock")[0],
    )
    assert 2 == site.machine.tell("ls", "/var/lib/edge-agent", user="edge-uplink")[0]


def test_usb_drive_delivers_signed_bundles(site: Appliance):
    """A USB drive mounted while the daemon runs delivers one signed bundle for each runtime; each engine answers, fully
    confined."""
    site.publish()
    site.bring()
    site.until_it_answers()
    engines = site.status()["engines"]
    assert ["echo", "llama", "onnx"] == sorted(each["runtime"] for each in engines)
    for each in engines:
        confined = [each["details"][measure] for measure in ("seccomp", "landlock", "memory")]
        assert ["on", "on", "on"] == confined, each
        assert each["resident_bytes"] > 2**20


def test_group_membership_grants_role(site: Appliance):
    """A member of edge-devices can classify but not call status; the file system refuses other users, reviewers
    included."""
    assert 0 == site.classify(DEVICE)[0]
    assert (3, 3) == (site.classify(STRANGER)[0], site.classify(REVIEWER)[0])
    assert 3 == site.machine.tell("edge-agent", "status", user=DEVICE)[0]


@pytest.mark.parametrize("user", ["", OPERATOR, STRANGER], ids=["root", "operator", "ordinary"])
def test_doctor_finds_nothing_on_healthy_machine(site: Appliance, user: str):
    """`edge-agent doctor` has no findings on an offline machine with the drive's bundles, for each user."""
    if user == OPERATOR:
        site.machine.run("useradd", "--groups", "edge-agent-operators", OPERATOR)
    assert [] == site.findings(user)


def _complaints(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return warnings and errors, without refusals of retryable calls during a restart."""
    refused = {("warning", "DRAINING"), ("warning", "ENGINE_NOT_READY")}
    loud = [line for line in said if line["level"] not in ("debug", "info")]
    return [line for line in loud if (line["level"], line.get("reason")) not in refused]


def test_an_idle_restart_logs_no_error(site: Appliance):
    """A restart without load logs neither errors nor warnings."""
    site.logged()
    site.machine.run("systemctl", "restart", "edge-agent")
    site.until_it_answers()
    said = site.logged()
    assert {"stopping", "stopped", "serving"} <= {line["event"] for line in said}
    assert [] == _complaints(said)


@contextmanager
def no_call_is_cut(site: Appliance) -> Iterator[None]:
    """Check that no caller with retries fails in the block and that started streams complete."""
    site.until_it_answers()
    with site.called() as calls:
        yield
        site.until_it_answers()
    assert [] == calls.lost()


def test_restart_under_load_loses_no_call(site: Appliance):
    """A restart under load loses no call and logs no errors; each engine starts exactly once."""
    site.logged()
    with no_call_is_cut(site):
        site.machine.run("systemctl", "restart", "edge-agent")
    said = site.logged()
    assert [] == _complaints(said)
    assert len(site.status()["engines"]) == sum(line["event"] == "engine_ready" for line in said)


def test_killed_daemon_restarts_automatically(site: Appliance):
    """systemd restarts a daemon killed by SIGKILL; its old child processes are gone and all tasks answer."""
    site.hurry()
    site.until_it_answers()
    before, child = site.main_pid(), site.engine_of(TASKS[1])["pid"]
    site.signal("KILL", before)
    site.machine.until(lambda: site.main_pid() not in (0, before))
    site.until_it_answers()
    assert 0 != site.machine.tell("sh", "-c", f"kill -0 {child}")[0]


def test_watchdog_restarts_hanging_daemon(site: Appliance):
    """After SIGSTOP of the daemon, the watchdog of systemd ends it and a new one answers; the journal has the stack
    trace."""
    before = site.main_pid()
    site.signal("STOP", before)
    site.machine.until(lambda: site.main_pid() not in (0, before), 120)
    site.until_it_answers()
    said = site.machine.run("journalctl", "--no-pager", "-u", "edge-agent", "-n", "200")
    assert ("Watchdog timeout" in said, "Fatal Python error: Aborted" in said) == (True, True)


@pytest.mark.parametrize("signal", ["STOP", "KILL"])
def test_engine_child_is_replaced_without_daemon_restart(site: Appliance, signal: str):
    """An engine child that hangs or dies is replaced by one that answers, and the daemon keeps its process."""
    daemon, child = site.main_pid(), site.engine_of(TASKS[1])["pid"]
    site.signal(signal, child)
    site.machine.until(lambda: site.engine_of(TASKS[1])["pid"] not in (0, child))
    site.until_it_answers()
    assert daemon == site.main_pid()


def test_killed_uplink_restarts_and_daemon_keeps_serving(site: Appliance):
    """systemd restarts a killed uplink; meanwhile the daemon answers and keeps its process."""
    daemon, before = site.main_pid(), site.main_pid("edge-uplink")
    site.signal("KILL", before)
    assert 0 == site.classify(DEVICE)[0]
    site.machine.until(lambda: site.main_pid("edge-uplink") not in (0, before))
    assert daemon == site.main_pid()


@pytest.mark.parametrize("how", ["reboot", "cut_power"])
def test_reboot_and_power_cut_restore_everything(site: Appliance, how: str):
    """After a reboot, which loses no call, or a power cut, daemons and bundles are the same and doctor has no
    findings."""
    before = site.status()
    if how == "reboot":
        with no_call_is_cut(site):
            site.machine.reboot()
    else:
        site.machine.cut_power()
        site.machine.boot()
    site.until_it_answers()
    after = site.status()
    assert [each["bundle"] for each in before["tasks"]] == [each["bundle"] for each in after["tasks"]]
    site.machine.until(lambda: site.main_pid("edge-uplink") != 0)
    assert [] == site.findings() + site.findings(OPERATOR)


def test_upgrade_and_rollback_keep_configuration(site: Appliance):
    """A second installer file upgrades the program, and rollback restores the first version; both keep the
    configuration and lose no call."""
    configuration = site.machine.run("cat", "/etc/edge-agent/agent.yaml", "/etc/edge-agent/site.yaml")
    with no_call_is_cut(site):
        site.install(NEXT_VERSION)
    assert NEXT_VERSION == site.status()["agent_version"]
    with no_call_is_cut(site):
        site.machine.run("edge-agent-setup", "rollback")
    assert __version__ == site.status()["agent_version"]
    assert configuration == site.machine.run("cat", "/etc/edge-agent/agent.yaml", "/etc/edge-agent/site.yaml")
    site.machine.run("edge-agent-setup", "status")


def test_uninstall_keeps_the_state(site: Appliance):
    """Uninstall stops all processes and keeps the state; after a new installation the tasks answer again."""
    site.machine.run("edge-agent-setup", "uninstall")
    assert "" == site.machine.run("sh", "-c", "grep -l edge-agent /proc/[0-9]*/comm", check=False)
    assert 0 == site.machine.tell("test", "-e", "/var/lib/edge-agent/state.db")[0]
    site.install()
    site.until_it_answers()


def test_purge_leaves_nothing(site: Appliance):
    """Purge leaves no file, user or group of the program."""
    site.machine.run("edge-agent-setup", "purge", "--yes")
    assert "" == site.machine.run("sh", "-c", f"ls -d {LEFT_BEHIND} 2>/dev/null", check=False)
    for name in (
        "edge-agent",
        "edge-uplink",
        "edge-devices",
        "edge-reviewers",
        "edge-agent-operators",
        "edge-exchange",
    ):
        assert "" == site.machine.run("sh", "-c", f"getent passwd {name}; getent group {name}", check=False)
