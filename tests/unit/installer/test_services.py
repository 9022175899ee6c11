"""installer/setup/services.py: when a run of setup leaves the services alone."""

from __future__ import annotations

import pytest

from installer.setup.services import run_as_installed

SERVE = {"Id": "edge-agent.service", "ActiveState": "active", "NeedDaemonReload": "no", "MainPID": "7"}
UPLINK = {"Id": "edge-uplink.service", "ActiveState": "inactive", "NeedDaemonReload": "no", "MainPID": "0"}
PROGRAMS = {7: "abc", 8: "old"}


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
