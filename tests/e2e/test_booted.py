"""The appliance on a machine of its own, booted by systemd without a network: a visit from install to purge.

One machine for all tests, in this order. Each command and what it said is in .cache/booted/<release>.log;
docs/booted.log is a copy of one run's trixie.log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_agent import __version__
from tests.support.appliance import DEVICE, NEXT_VERSION, REVIEWER, STRANGER, TASKS, Appliance
from tests.support.booted import Machine, needs_machine, new_log, tree

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
    """A machine with three users and nothing installed."""
    folder = tmp_path_factory.mktemp("booted")
    tar, log = tree(request.param), new_log(request.param)
    with Machine(folder / "machine", tar, log) as machine:
        yield Appliance(machine, folder)


def test_the_machine_has_no_network(site: Appliance):
    """There is a loopback and nothing else."""
    assert ["lo"] == [line.split()[0] for line in site.machine.run("ip", "-br", "link").splitlines()]


def test_one_file_installs_it_and_it_runs(site: Appliance):
    """After the installer both users are there and serve runs, enabled, with its three sockets for three groups."""
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


def test_the_folders_are_closed_to_others(site: Appliance):
    """Only serve enters its state; the exchange is for the two daemons, each folder with one writer."""
    asked = "stat -c '%n %a %U:%G' /var/lib/edge-agent /var/lib/edge-uplink /var/lib/edge-exchange/*"
    assert [
        "/var/lib/edge-agent 700 edge-agent:edge-agent",
        "/var/lib/edge-exchange/incoming 2750 edge-uplink:edge-exchange",
        "/var/lib/edge-exchange/outbox 2750 edge-agent:edge-exchange",
        "/var/lib/edge-exchange/receipts 2750 edge-uplink:edge-exchange",
        "/var/lib/edge-exchange/wants 2750 edge-agent:edge-exchange",
        "/var/lib/edge-uplink 2750 edge-uplink:edge-exchange",
    ] == sorted(site.machine.run("sh", "-c", asked).split("\n")[:-1])


def test_memory_is_limited_by_the_configuration(site: Appliance):
    """systemd has the limit that `edge-agent limits` computes. Whether the kernel keeps it, no container here shows."""
    assert site.machine.property("edge-agent", "MemoryMax").isdecimal()
    assert "536870912" == site.machine.property("edge-uplink", "MemoryMax")


def test_nothing_gets_out_of_the_daemon_s_unit(site: Appliance):
    """Whatever runs in it, be it root, reaches loopback and no other address; outside of it that one answers."""
    site.machine.run("ip", "address", "add", f"{ELSEWHERE}/32", "dev", "lo")
    into = f"echo $$ > /sys/fs/cgroup{site.machine.property('edge-agent', 'ControlGroup')}/cgroup.procs"
    asked = f'exec python3 -c "{CONNECTING}"'
    assert "refused refused" == site.machine.run("sh", "-c", asked).strip()
    assert "refused timed out" == site.machine.run("sh", "-c", f"{into} && {asked}").strip()


def test_a_enrolment_makes_it_a_site(site: Appliance):
    """Enrolment writes the settings and an encrypted credential, and starts the uplink, which finds no network."""
    site.enrol()
    assert "active" == site.machine.run("systemctl", "is-active", "edge-uplink").strip()
    assert "LoadCredentialEncrypted=uplink:" in site.machine.run("systemctl", "cat", "edge-uplink")
    site.machine.until(lambda: site.status()["uplink"]["state"] in ("OFFLINE", "PROBING"))


def test_the_uplink_cannot_reach_what_is_not_its_own(site: Appliance):
    """Its unit sees neither models nor examples nor sockets, and even as that user alone the folder is closed."""
    into = ("nsenter", f"--target={site.main_pid('edge-uplink')}", "--mount", "--", "ls")
    assert (2, 2) == (
        site.machine.tell(*into, "/var/lib/edge-agent/blobs")[0],
        site.machine.tell(*into, "/run/edge-agent/")[0] or site.machine.tell(*into, "/run/edge-agent/admin.sock")[0],
    )
    assert 2 == site.machine.tell("ls", "/var/lib/edge-agent", user="edge-uplink")[0]


def test_a_drive_brings_signed_models(site: Appliance):
    """A USB drive that is mounted while serve runs brings one bundle for each runtime; each answers under the unit."""
    site.publish()
    site.bring()
    site.until_it_answers()
    engines = site.status()["engines"]
    assert ["echo", "llama", "onnx"] == sorted(each["runtime"] for each in engines)
    for each in engines:
        confined = [each["details"][measure] for measure in ("seccomp", "landlock", "memory")]
        assert ["on", "on", "on"] == confined, each
        assert each["resident_bytes"] > 2**20


def test_a_group_is_a_role(site: Appliance):
    """A member of edge-devices gets an answer; others, reviewers included, are refused by the file system."""
    assert 0 == site.classify(DEVICE)[0]
    assert (3, 3) == (site.classify(STRANGER)[0], site.classify(REVIEWER)[0])
    assert 3 == site.machine.tell("edge-agent", "status", user=DEVICE)[0]


@pytest.mark.parametrize("user", ["", OPERATOR, STRANGER], ids=["root", "operator", "ordinary"])
def test_doctor_finds_nothing_on_a_healthy_box(site: Appliance, user: str):
    """With the drive's models and without a network; a user with fewer rights sees which checks were skipped."""
    if user == OPERATOR:
        site.machine.run("useradd", "--groups", "edge-agent-operators", OPERATOR)
    assert [] == site.findings(user)


def _complaints(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return warnings and errors, but for calls that a restart refuses and that may be repeated."""
    refused = {("warning", "DRAINING"), ("warning", "ENGINE_NOT_READY")}
    loud = [line for line in said if line["level"] not in ("debug", "info")]
    return [line for line in loud if (line["level"], line.get("reason")) not in refused]


def test_an_idle_restart_logs_no_error(site: Appliance):
    """Nor a warning: nothing dies that was not told to."""
    site.logged()
    site.machine.run("systemctl", "restart", "edge-agent")
    site.until_it_answers()
    said = site.logged()
    assert {"stopping", "stopped", "serving"} <= {line["event"] for line in said}
    assert [] == _complaints(said)


@contextmanager
def no_call_is_cut(site: Appliance) -> Iterator[None]:
    """Streams that began end whole; other calls are answered or refused for now; callers that try again see nothing."""
    site.until_it_answers()
    with site.called() as calls:
        yield
        site.until_it_answers()
    assert [] == calls.lost()


def test_a_restart_under_load_cuts_no_call(site: Appliance):
    """Nor does an engine die, or start twice."""
    site.logged()
    with no_call_is_cut(site):
        site.machine.run("systemctl", "restart", "edge-agent")
    said = site.logged()
    assert [] == _complaints(said)
    assert len(site.status()["engines"]) == sum(line["event"] == "engine_ready" for line in said)


def test_a_killed_daemon_comes_back_by_itself(site: Appliance):
    """After SIGKILL its children are gone too; systemd starts it again, and all tasks answer."""
    site.hurry()
    site.until_it_answers()
    before, child = site.main_pid(), site.engine_of(TASKS[1])["pid"]
    site.signal("KILL", before)
    site.machine.until(lambda: site.main_pid() not in (0, before))
    site.until_it_answers()
    assert 0 != site.machine.tell("sh", "-c", f"kill -0 {child}")[0]


def test_a_hanging_daemon_is_ended_by_the_watchdog(site: Appliance):
    """After SIGSTOP the pings stop: systemd ends it, the log says where it was, and a new one answers."""
    before = site.main_pid()
    site.signal("STOP", before)
    site.machine.until(lambda: site.main_pid() not in (0, before), 120)
    site.until_it_answers()
    said = site.machine.run("journalctl", "--no-pager", "-u", "edge-agent", "-n", "200")
    assert ("Watchdog timeout" in said, "Fatal Python error: Aborted" in said) == (True, True)


@pytest.mark.parametrize("signal", ["STOP", "KILL"])
def test_a_child_is_replaced_and_the_daemon_stays(site: Appliance, signal: str):
    """A child that hangs or dies is its engine's to mend: another one answers, and nobody restarts the daemon."""
    daemon, child = site.main_pid(), site.engine_of(TASKS[1])["pid"]
    site.signal(signal, child)
    site.machine.until(lambda: site.engine_of(TASKS[1])["pid"] not in (0, child))
    site.until_it_answers()
    assert daemon == site.main_pid()


def test_a_killed_uplink_comes_back_and_nobody_notices(site: Appliance):
    """serve goes on with the same process while systemd starts the uplink again."""
    daemon, before = site.main_pid(), site.main_pid("edge-uplink")
    site.signal("KILL", before)
    assert 0 == site.classify(DEVICE)[0]
    site.machine.until(lambda: site.main_pid("edge-uplink") not in (0, before))
    assert daemon == site.main_pid()


@pytest.mark.parametrize("how", ["reboot", "cut_power"])
def test_after_a_reboot_all_is_as_before(site: Appliance, how: str):
    """Whether in order, which cuts no call, or by a power cut: daemons, bundles and the site's name come back."""
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


def test_an_upgrade_keeps_everything_and_goes_back(site: Appliance):
    """A second installer file replaces the program; rollback brings the first one back; neither cuts a call."""
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
    """Nothing runs any more; a new installation finds everything again."""
    site.machine.run("edge-agent-setup", "uninstall")
    assert "" == site.machine.run("sh", "-c", "grep -l edge-agent /proc/[0-9]*/comm", check=False)
    assert 0 == site.machine.tell("test", "-e", "/var/lib/edge-agent/state.db")[0]
    site.install()
    site.until_it_answers()


def test_purge_leaves_nothing(site: Appliance):
    """No file, user or group is left."""
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
