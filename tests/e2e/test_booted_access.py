"""Access to an installed agent: operators without root, client devices on a network, and a folder as object store.

One machine for all tests, in this order. Each command and its output is in .cache/booted/access.log.
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.formats import enrolment_file
from edge_agent.formats.signed_document import format_timestamp
from tests.support.appliance import DAY, DEVICE, SITE, STRANGER, TASKS, Appliance
from tests.support.booted_machine import Machine, needs_machine, new_log, tree
from tests.support.bundles import echo_bundle
from tests.support.enrolment_files import a_enrolment

pytestmark = [pytest.mark.release, needs_machine]
OPERATOR = "kim"
GROUP = "edge-agent-operators"
HOST, TILL = "10.77.0.1", "10.77.0.2"
SHOP_TASK = "shop"
FLEET = "/mnt/fleet"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """A machine with the program, an operator, and a network with one client device."""
    folder = tmp_path_factory.mktemp("booted")
    log = new_log("access")
    with Machine(folder / "machine", tree("trixie"), log) as machine:
        site = Appliance(machine, folder)
        machine.run("useradd", "--create-home", OPERATOR)
        site.install()
        machine.run("usermod", "-aG", GROUP, OPERATOR)
        machine.run("usermod", "-aG", "edge-devices", DEVICE)
        lay_network(machine)
        yield site


def lay_network(machine: Machine) -> None:
    """Connect the machine to a network namespace that represents a till."""
    for words in (
        "ip netns add till",
        "ip link add shop0 type veth peer name till0 netns till",
        f"ip address add {HOST}/24 dev shop0",
        "ip link set shop0 up",
        f"ip netns exec till ip address add {TILL}/24 dev till0",
        "ip netns exec till ip link set till0 up",
    ):
        machine.run(*words.split())


def run_printed(machine: Machine, command: str) -> str:
    """Run a printed command without its sudo: the machine has no sudo, and the commands run as root."""
    return machine.run("sh", "-c", command.replace("sudo ", ""))


def findings(site: Appliance, check: str, user: str = "") -> list[dict[str, str]]:
    """Return the findings of one doctor check, without ok verdicts."""
    return [each for each in site.doctor(user) if each["check"] == check and each["verdict"] != "ok"]


def configure(site: Appliance, text: str) -> None:
    """Write agent.yaml and restart the daemon."""
    site.machine.write("/etc/edge-agent/agent.yaml", text)
    site.machine.run("systemctl", "restart", "edge-agent")


def test_operators_group_owns_admin_socket(site: Appliance):
    """admin.sock has mode 660 and the operators' group; the refusal for a user outside it names the command that adds
    them."""
    shown = site.machine.run("stat", "-c", "%a %U:%G", "/run/edge-agent/admin.sock")
    assert f"660 edge-agent:{GROUP}" == shown.strip()
    code, said = site.machine.tell("edge-agent", "status", user=STRANGER)
    assert (3, True) == (code, f"sudo usermod -aG {GROUP} {STRANGER}" in " ".join(said.split()))


def test_operator_without_root_can_do_daily_work(site: Appliance):
    """An operator without root can view status, install, change, roll back and remove bundles, and doctor finds no
    permission problem."""
    configure(site, "store: {allow_unsigned: true}\n")
    for version in ("1.0.0", "2.0.0"):
        bundle = echo_bundle(site.folder / f"shop-{version}", SHOP_TASK, version=version)
        site.machine.put(bundle, f"/srv/shop-{version}")
        site.machine.run("edge-agent", "install", f"/srv/shop-{version}", user=OPERATOR)
    site.machine.until(lambda: site.answers(SHOP_TASK))
    for words in (
        "status",
        "status --json",
        "bundles list",
        f"bundles show {SHOP_TASK} 2.0.0",
        f"rollback {SHOP_TASK}",
        f"activate {SHOP_TASK} 2.0.0",
        f"mode {SHOP_TASK}",
        "report",
        "limits",
        "version",
    ):
        site.machine.run("edge-agent", *words.split(), user=OPERATOR)
    assert [] == findings(site, "socket", OPERATOR) + findings(site, "daemon", OPERATOR)


def test_operator_without_root_imports_update_from_drive(site: Appliance):
    """An operator without root installs an update from a USB drive with `edge-agent media import`; the daemon reads the
    drive."""
    site.enrol()
    published = site.central.publish(echo_bundle(site.folder / "echo", TASKS[0]))
    site.central.plan(site.central.offering(published))
    site.bring(OPERATOR)
    site.machine.until(lambda: site.answers(TASKS[0]))


def test_removed_task_is_installed_again_from_its_drive(site: Appliance):
    """An operator can install a removed task again from the same drive, at once or after status shows REMOVED."""
    for waits in (False, True):
        site.machine.run("edge-agent", "remove", TASKS[0], "--yes", user=OPERATOR)
        assert not site.answers(TASKS[0])
        if waits:
            site.machine.until(lambda: "REMOVED" == site.update_of(TASKS[0])["reason"])
        assert "taken" in site.bring_again(OPERATOR)
        site.machine.until(lambda: site.answers(TASKS[0]))


def test_upgrade_creates_missing_operators_group(site: Appliance):
    """An upgrade of an installation without the operators' group, as version 0.1 left it, creates the group and keeps
    agent.yaml."""
    before = site.machine.run("cat", "/etc/edge-agent/agent.yaml")
    for path in ("/etc/edge-agent/appliance.yaml", "/etc/sysusers.d/edge-agent.conf"):
        site.machine.run("sed", "-i", "/operators\\|admin_group/d", path)
    site.machine.run("groupdel", GROUP)
    site.machine.run("systemctl", "restart", "edge-agent")
    assert 0 != site.machine.tell("edge-agent", "status", user=OPERATOR)[0]
    site.install()
    assert before == site.machine.run("cat", "/etc/edge-agent/agent.yaml")
    site.machine.run("usermod", "-aG", GROUP, OPERATOR)
    site.machine.run("edge-agent", "status", user=OPERATOR)


def ask_from_the_till(site: Appliance) -> tuple[int, str]:
    """Call the daemon with the till's certificate from the till's network."""
    remote = ("--remote", "/srv/till-3/remote.yaml", "classify", SHOP_TASK, "refund")
    return site.machine.tell("ip", "netns", "exec", "till", "timeout", "15", "edge-agent", *remote)


def test_network_device_with_certificate_can_call(site: Appliance):
    """Without the systemd drop-in a till on the network cannot connect, and doctor reports a fault. After its printed
    commands the till can call, also with renewed certificates."""
    said = site.machine.run("sh", "-c", f"umask 027; edge-agent certs init --name {HOST}")  # as on hardened machines
    assert "'sudo edge-agent drop-ins' writes it" in said
    lines = re.search(r"^service:\n(?:(?:  |access:).*\n)+", said, re.MULTILINE)
    assert lines is not None
    configure(site, f"store: {{allow_unsigned: true}}\n{textwrap.dedent(lines[0])}")
    site.machine.run("edge-agent", "certs", "issue", "till-3", "--role", "infer")
    site.machine.run("cp", "-r", "/etc/edge-agent/tls/clients/till-3", "/srv/till-3")
    site.machine.until(lambda: site.answers(SHOP_TASK))
    assert 0 != ask_from_the_till(site)[0]
    (found,) = findings(site, "listener-network")
    assert ("fault", "0.0.0.0:9443" in found["seen"]) == (found["verdict"], True)
    for command in found["command"].split("; "):
        run_printed(site.machine, command)
    site.machine.until(lambda: site.answers(SHOP_TASK))
    assert 0 == ask_from_the_till(site)[0]
    assert [] == findings(site, "listener-network") + findings(site, "certificate")
    site.machine.run("edge-agent", "certs", "server", "--renew")
    site.machine.run("edge-agent", "certs", "issue", "till-3", "--role", "infer", "--renew")
    assert 0 == ask_from_the_till(site)[0]
    assert 3 == site.machine.tell("edge-agent", "certs", "init", "--name", HOST)[0]


def enrol_with_stores(site: Appliance, **stores: dict[str, str]) -> str:
    """Enrol with a newly created enrolment file."""
    now = time.time()
    dates = {"issued_at": format_timestamp(now), "expires_at": format_timestamp(now + DAY)}
    made = a_enrolment(site=SITE, root=site.central.root_bytes.decode(), **dates, **stores)
    path = site.folder / "stores.kit"
    path.write_bytes(enrolment_file.encode(made))
    site.machine.put(path, "/srv/stores.kit")
    return site.machine.run("edge-agent", "enrol", "--yes", "/srv/stores.kit")


def test_folder_store_works_after_printed_remedies(site: Appliance):
    """enrol and doctor report a missing store folder, then its wrong owner, then a missing drop-in; after the printed
    commands status.json is written there."""
    said = enrol_with_stores(site, examples={"url": FLEET}, updates={"url": FLEET})
    assert f"the folder {FLEET} does not exist" in " ".join(said.split())
    site.machine.until(lambda: "does not exist" in json.dumps(site.status()["uplink"]["problems"]))
    assert "ONLINE" not in (site.status()["uplink"]["state"], site.status()["uplink"]["downloads"]["state"])
    assert "does not exist" in findings(site, "folder-store")[0]["seen"]
    site.machine.run("mkdir", FLEET)
    site.machine.run("systemctl", "restart", "edge-uplink")
    (owner,) = {each["command"] for each in findings(site, "folder-store")}
    assert "sudo chown edge-uplink:edge-exchange /mnt/fleet" == owner
    run_printed(site.machine, owner)
    site.machine.run("systemctl", "restart", "edge-uplink")
    site.machine.until(lambda: Path(site.machine.root, f"mnt/fleet/site={SITE}/status.json").exists())
    assert [] == findings(site, "folder-store")
    site.machine.run("rm", "/etc/systemd/system/edge-uplink.service.d/folders.conf")
    site.machine.run("systemctl", "daemon-reload")
    (found,) = findings(site, "folder-store")
    for command in found["command"].split("; "):
        run_printed(site.machine, command)
    assert [] == findings(site, "folder-store")


def test_uplink_without_stores_stays_stopped(site: Appliance):
    """An enrolment file without stores stops the uplink, also after a reboot; one with a store starts it again."""
    enrol_with_stores(site, examples={}, updates={})
    for reboots in (False, True):
        if reboots:
            site.machine.reboot()
            lay_network(site.machine)
        assert "inactive" == site.machine.property("edge-uplink", "ActiveState")
        assert [] == findings(site, "unit")
        assert None is site.status()["uplink"]
    enrol_with_stores(site, examples={"url": FLEET}, updates={})
    assert "active" == site.machine.property("edge-uplink", "ActiveState")


def test_purge_removes_group_drop_ins_and_authority(site: Appliance):
    """Purge removes the operators' group, the systemd drop-ins, and /etc/edge-agent with the certificate authority."""
    site.machine.run("edge-agent-setup", "purge", "--yes")
    assert "" == site.machine.run("getent", "group", GROUP, check=False)
    listed = "ls -d /etc/edge-agent /etc/systemd/system/edge-* 2>/dev/null"
    assert "" == site.machine.run("sh", "-c", listed, check=False)
