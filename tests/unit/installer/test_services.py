"""installer/setup/services.py: the commands of setup for systemd and the system's tools, and their results.

Small scripts stand in for systemctl and the others: they write down how they were called.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.setup.errors import FAILED, SetupError
from installer.setup.install_paths import InstallPaths
from installer.setup.programs import InstalledProgram, InstalledPrograms
from installer.setup.services import Services, run_as_installed

SERVE = {"Id": "edge-agent.service", "ActiveState": "active", "NeedDaemonReload": "no", "MainPID": "7"}
UPLINK = {"Id": "edge-uplink.service", "ActiveState": "inactive", "NeedDaemonReload": "no", "MainPID": "0"}
PROGRAMS = {7: "abc", 8: "old"}


class WithSystemd(Services):
    """Services of a machine with systemd, whatever this one is."""

    running = True


class Commands:
    """Scripts on PATH, and nothing else there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._folder, self._log = folder, folder / "called"
        monkeypatch.setenv("PATH", str(folder))

    def add(self, name: str, body: str = "") -> None:
        """Add a command, in shell."""
        path = self._folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self._log}"\n{body}\n')
        path.chmod(0o755)

    def called(self, begin: str) -> list[str]:
        """Return the calls since the last time that begin so."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return [line for line in lines if line.startswith(begin)]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path / "commands", monkeypatch)


def made(places: InstallPaths, name: str) -> InstalledProgram:
    """Make a program that is a folder and nothing else."""
    folder = places.programs / name
    folder.mkdir(parents=True, exist_ok=True)
    return InstalledProgram(folder, name, "cpu", "abc", "3.11", "/usr/bin/python3", "now")


def test_serve_is_enabled_once(tmp_path: Path, commands: Commands):
    """The same installer again, or another one, leaves it disabled when somebody disabled it in between."""
    commands.add("systemctl", '[ "$1" != is-enabled ] || echo disabled')
    places = InstallPaths(tmp_path / "root")
    services, programs = WithSystemd(places, starts_units=True), InstalledPrograms(places)
    enabled = []
    for name in ("first", "first", "second"):
        programs.activate(made(places, name))
        services.start(["edge-agent.service"])
        enabled.append(bool(commands.called("systemctl enable edge-agent.service")))
    assert [True, False, False] == enabled


def test_serve_is_enabled_by_the_first_run_that_may(tmp_path: Path, commands: Commands):
    """After --no-start, or a stop in the middle, the next run enables it."""
    commands.add("systemctl")
    places = InstallPaths(tmp_path / "root")
    InstalledPrograms(places).activate(made(places, "first"))
    WithSystemd(places, starts_units=False).start(["edge-agent.service"])
    assert [] == commands.called("systemctl")
    WithSystemd(places, starts_units=True).start(["edge-agent.service"])
    assert ["systemctl enable edge-agent.service"] == commands.called("systemctl enable")


def test_each_unit_is_disabled_alone(commands: Commands):
    """systemctl disables none of several where one has no file."""
    commands.add("systemctl", '[ "$1" != is-active ] || echo inactive')
    WithSystemd(InstallPaths(), starts_units=True).stop()
    units = ("edge-agent.service", "edge-uplink.service", "edge-agent-web.service")
    assert [f"systemctl disable {unit}" for unit in units] == commands.called("systemctl disable")


def test_a_service_that_does_not_stop_is_named(commands: Commands):
    """Nothing of a program that runs is removed."""
    commands.add("systemctl", '[ "$*" != "is-active edge-uplink.service" ] || echo active')
    with pytest.raises(SetupError, match=r"edge-uplink\.service cannot be stopped; nothing was removed") as caught:
        WithSystemd(InstallPaths(), starts_units=True).stop()
    assert FAILED == caught.value.code


def test_a_user_that_stays_is_named(commands: Commands):
    """It is said why, its group is left to it, and accounts that do not exist are nothing to tell."""
    busy = "userdel: user edge-agent is currently used by process 7"
    commands.add("userdel", f'[ "$1" != edge-agent ] || {{ echo "{busy}" >&2; exit 8; }}; exit 6')
    commands.add("groupdel", 'case "$1" in edge-devices) exit 10;; edge-exchange) exit 0;; esac; exit 6')
    said = Services(InstallPaths(), starts_units=True).remove_users()
    assert [
        f"the user edge-agent stays: {busy}",
        "the group edge-devices stays: 'groupdel edge-devices' ended with 10",
    ] == said
    assert "groupdel edge-agent" not in commands.called("groupdel")


def test_a_machine_without_userdel_is_told_so(commands: Commands):
    """What nothing can remove is named, too."""
    commands.add("groupdel")
    staying = Services(InstallPaths(), starts_units=True).remove_users()
    assert "the user edge-web stays: there is no command 'userdel' here" == staying[2]


def shown(*units: dict[str, str]) -> str:
    """Write units as 'systemctl show' does."""
    return "\n\n".join("\n".join(f"{name}={value}" for name, value in unit.items()) for unit in units)


@pytest.mark.parametrize(
    ("units", "unchanged"),
    [
        ([SERVE, UPLINK], True),
        ([SERVE, {**UPLINK, "NeedDaemonReload": "yes"}], True),  # it does not run
        ([SERVE, {**UPLINK, "ActiveState": "active", "MainPID": "7"}], True),
        ([{**SERVE, "ActiveState": "inactive", "MainPID": "0"}, UPLINK], False),
        ([{**SERVE, "ActiveState": "activating"}, UPLINK], False),
        ([{**SERVE, "NeedDaemonReload": "yes"}, UPLINK], False),
        ([{**SERVE, "MainPID": "8"}, UPLINK], False),  # an interrupted upgrade: the old program still runs
        ([{**SERVE, "MainPID": "9"}, UPLINK], False),  # it ended meanwhile
        ([SERVE, {**UPLINK, "ActiveState": "failed"}], False),
        ([SERVE, {**UPLINK, "ActiveState": "active", "MainPID": "8"}], False),
    ],
)
def test_services_are_left_alone_where_a_restart_would_change_nothing(units: list[dict[str, str]], unchanged: bool):
    """Each that runs is of the installed program, under the unit on the disk, and serve runs."""
    assert unchanged == run_as_installed(shown(*units), lambda pid: PROGRAMS.get(pid, ""), "abc")


def test_without_an_answer_of_systemd_the_services_are_restarted():
    """Where 'systemctl show' says nothing, nothing is known of the services."""
    assert run_as_installed("unknown", lambda _: "abc", "abc") is False
