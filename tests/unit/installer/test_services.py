"""installer/setup/services.py: the commands that setup runs for systemd and user accounts, and their results.

Shell scripts replace systemctl and the other tools and record how they were called.
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
    """Services of a machine that counts as running systemd, regardless of this machine."""

    running = True


class Commands:
    """A folder of scripts that is the whole PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._folder, self._log = folder, folder / "called"
        monkeypatch.setenv("PATH", str(folder))

    def add(self, name: str, body: str = "") -> None:
        """Add a command with this shell body."""
        path = self._folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self._log}"\n{body}\n')
        path.chmod(0o755)

    def called(self, begin: str) -> list[str]:
        """Return the calls since the previous query that begin with `begin`."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return [line for line in lines if line.startswith(begin)]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path / "commands", monkeypatch)


def made(places: InstallPaths, name: str) -> InstalledProgram:
    """Make a program that consists only of its folder."""
    folder = places.programs / name
    folder.mkdir(parents=True, exist_ok=True)
    return InstalledProgram(folder, name, "cpu", "abc", "3.11", "/usr/bin/python3", "now")


def test_serve_is_enabled_once(tmp_path: Path, commands: Commands):
    """Only the first installation enables the daemon; a repeated or another installer leaves it disabled if a person
    disabled it."""
    commands.add("systemctl", '[ "$1" != is-enabled ] || echo disabled')
    places = InstallPaths(tmp_path / "root")
    services, programs = WithSystemd(places, starts_units=True), InstalledPrograms(places)
    enabled = []
    for name in ("first", "first", "second"):
        programs.activate(made(places, name))
        services.start(["edge-agent.service"])
        enabled.append(bool(commands.called("systemctl enable edge-agent.service")))
    assert [True, False, False] == enabled


def test_first_run_without_no_start_enables_the_daemon(tmp_path: Path, commands: Commands):
    """A run with --no-start calls no systemctl; the next run without it enables the daemon."""
    commands.add("systemctl")
    places = InstallPaths(tmp_path / "root")
    InstalledPrograms(places).activate(made(places, "first"))
    WithSystemd(places, starts_units=False).start(["edge-agent.service"])
    assert [] == commands.called("systemctl")
    WithSystemd(places, starts_units=True).start(["edge-agent.service"])
    assert ["systemctl enable edge-agent.service"] == commands.called("systemctl enable")


def test_each_unit_is_disabled_separately(commands: Commands):
    """Setup disables each unit by a call of its own, because systemctl disables none of several units if one has no
    file."""
    commands.add("systemctl", '[ "$1" != is-active ] || echo inactive')
    WithSystemd(InstallPaths(), starts_units=True).stop()
    units = ("edge-agent.service", "edge-uplink.service", "edge-agent-web.service")
    assert [f"systemctl disable {unit}" for unit in units] == commands.called("systemctl disable")


def test_service_that_does_not_stop_is_named(commands: Commands):
    """If a service cannot be stopped, setup names it and removes nothing."""
    commands.add("systemctl", '[ "$*" != "is-active edge-uplink.service" ] || echo active')
    with pytest.raises(SetupError, match=r"edge-uplink\.service cannot be stopped; nothing was removed") as caught:
        WithSystemd(InstallPaths(), starts_units=True).stop()
    assert FAILED == caught.value.code


def test_user_that_cannot_be_removed_is_reported(commands: Commands):
    """Setup reports each user or group that it cannot remove, with the reason, and keeps that user's group. It does not
    report accounts that do not exist."""
    busy = "userdel: user edge-agent is currently used by process 7"
    commands.add("userdel", f'[ "$1" != edge-agent ] || {{ echo "{busy}" >&2; exit 8; }}; exit 6')
    commands.add("groupdel", 'case "$1" in edge-devices) exit 10;; edge-exchange) exit 0;; esac; exit 6')
    said = Services(InstallPaths(), starts_units=True).remove_users()
    assert [
        f"the user edge-agent stays: {busy}",
        "the group edge-devices stays: 'groupdel edge-devices' ended with 10",
    ] == said
    assert "groupdel edge-agent" not in commands.called("groupdel")


def test_missing_userdel_is_reported(commands: Commands):
    """On a machine without `userdel`, setup reports that the user stays because the command does not exist."""
    commands.add("groupdel")
    staying = Services(InstallPaths(), starts_units=True).remove_users()
    assert "the user edge-web stays: there is no command 'userdel' here" == staying[2]


def shown(*units: dict[str, str]) -> str:
    """Return units in the format of 'systemctl show'."""
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
def test_services_are_restarted_only_if_that_changes_something(units: list[dict[str, str]], unchanged: bool):
    """Setup leaves the services running if the daemon is active and each active service runs the installed program
    under the unit file on disk."""
    assert unchanged == run_as_installed(shown(*units), lambda pid: PROGRAMS.get(pid, ""), "abc")


def test_unknown_service_state_causes_a_restart():
    """If 'systemctl show' returns no usable output, setup restarts the services."""
    assert run_as_installed("unknown", lambda _: "abc", "abc") is False
