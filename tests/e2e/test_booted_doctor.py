"""doctor's findings about systemd on a booted machine: each test makes a fault and follows the printed remedy.

One machine for all tests. Each command and its output is in .cache/booted/doctor.log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.appliance import SITE, STRANGER, Appliance
from tests.support.booted_machine import Machine, needs_machine, new_log, tree
from tests.support.eventually import eventually_sync
from tests.support.finding_cases import finding_kinds
from tests.support.finding_cases.booted_rows import BOOTED, LONG_PAUSE, SHORT_PAUSE
from tests.support.finding_cases.case import key_of
from tests.support.remedy_commands import command_lines, commands_in

pytestmark = [pytest.mark.release, needs_machine]
OPERATOR = "kim"
PHASE_SECONDS_MAX = 120.0
KINDS = {kind.name: kind for kind in finding_kinds()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """An enrolled machine with models and an operator, whose store cannot be reached."""
    folder = tmp_path_factory.mktemp("booted")
    log = new_log("doctor")
    with Machine(folder / "machine", tree("trixie"), log) as machine:
        site = Appliance(machine, folder)
        site.install()
        machine.run("useradd", "--groups", "edge-agent-operators", OPERATOR)
        machine.run("usermod", "-aG", "edge-devices", "till")
        site.enrol()
        site.publish()
        site.bring()
        site.until_it_answers()
        yield site


def reported(site: Appliance, user: str = "") -> list[dict[str, str]]:
    """Return doctor's findings for a user, notes included, without those of the uplink, which keeps retrying."""
    return [each for each in site.doctor(user) if each["verdict"] not in ("ok", "unseen") and each["area"] != "uplink"]


def follow(site: Appliance, finding: dict[str, str]) -> None:
    """Run the commands of a finding as root, in the folder of the installer file, without sudo."""
    for command in command_lines(finding["command"]):
        text = command.filled(FILE=f"/srv/{SITE}.kit").text.replace("sudo ", "")
        site.machine.tell("sh", "-c", f"cd /srv && {text}".replace("--kit", "--yes --kit"))


@pytest.mark.parametrize("name", BOOTED)
def test_printed_remedy_fixes_each_fault(site: Appliance, name: str):
    """Each fault is reported by its own check and its known side effects only, and the printed remedy removes every
    finding."""
    fault = BOOTED[name]
    site.until_it_answers()
    before = set(map(key_of, reported(site)))
    site.machine.run("sh", "-c", fault.make)
    if fault.answers:
        site.until_it_answers()
    found = [each for each in reported(site) if key_of(each) not in before]
    own = [each for each in found if KINDS[name].matches(each)]
    assert (sorted({KINDS[name].check, *fault.with_it}), 1) == (sorted({each["check"] for each in found}), len(own))
    if fault.by_hand:
        site.machine.run("sh", "-c", fault.by_hand)
    if not fault.waits:
        follow(site, own[0])

    def left() -> set[tuple[str, str, str]]:
        return set(map(key_of, reported(site))) - before

    eventually_sync(lambda: not left(), PHASE_SECONDS_MAX)
    site.until_it_answers()


def test_unit_that_fails_at_each_start_is_always_a_fault(site: Appliance):
    """doctor reports a fault for a unit that fails at each start, both in the restart pause and during a start; after
    the fix and the printed restart no finding is left."""
    site.until_it_answers()
    before = set(map(key_of, reported(site)))
    fault = BOOTED["unit/fault/failed"]
    site.machine.run("sh", "-c", fault.make.replace(LONG_PAUSE, SHORT_PAUSE))
    deadline = time.monotonic() + PHASE_SECONDS_MAX
    said: set[str] = set()
    while not {"in the pause", "at a start"} <= said:
        found = {each["check"]: each for each in reported(site) if key_of(each) not in before}
        assert ["fault", "fault"] == [found[check]["verdict"] for check in ("unit", "daemon")], found
        said.add("at a start" if "after a failure" in found["unit"]["seen"] else "in the pause")
        last = found["unit"]
        assert time.monotonic() < deadline, said
    site.machine.run("sh", "-c", fault.by_hand)
    follow(site, last)
    site.until_it_answers()
    assert set() == set(map(key_of, reported(site))) - before


def test_call_to_stopped_daemon_names_start_command(site: Appliance):
    """A call to a stopped daemon fails and prints `sudo systemctl start edge-agent`, which starts the unit. A daemon
    started by hand would run as root without the unit's limits."""
    site.machine.run("systemctl", "stop", "edge-agent")
    code, said = site.machine.tell("edge-agent", "status")
    commands = [each.text for each in commands_in(" ".join(said.split())) if "systemctl" in each.text]
    assert (3, ["sudo systemctl start edge-agent"]) == (code, commands)
    site.machine.run(*commands[0].split()[1:])
    site.until_it_answers()


@pytest.mark.parametrize("user", ["", OPERATOR, STRANGER], ids=["root", "operator", "ordinary"])
def test_doctor_finds_nothing_during_restart(site: Appliance, user: str):
    """Repeated runs of doctor have no findings from the start of a restart until all tasks answer again."""
    site.until_it_answers()
    assert [] == site.findings(user)
    site.machine.run("systemctl", "restart", "--no-block", "edge-agent")
    deadline = time.monotonic() + PHASE_SECONDS_MAX
    looks, found = 0, []
    while looks < 3 or not site.answers():
        found += site.findings(user)
        looks += 1
        assert time.monotonic() < deadline
    assert [] == found


@pytest.mark.parametrize("user", ["", OPERATOR, STRANGER], ids=["root", "operator", "ordinary"])
def test_doctor_finds_nothing_after_a_reboot(site: Appliance, user: str):
    """doctor has no findings after a reboot, from the moment when a command can run."""
    site.machine.reboot()
    assert [] == site.findings(user)
    site.until_it_answers()
    assert [] == site.findings(user)
