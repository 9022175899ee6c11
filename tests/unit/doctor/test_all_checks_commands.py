"""The commands of findings, adapted to the machine on which they are printed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_agent.doctor.all_checks import LocalMachine, command_here
from edge_agent.errors.base import with_sudo, works_by_sudo

APPLIANCE = LocalMachine(
    managed=True,
    start="edge-agent serve",
    restart="sudo kill 12; tail --pid=12 -f /dev/null; edge-agent serve",
    stop="sudo kill 12; tail --pid=12 -f /dev/null",
    drive="/media/usb",
    by_sudo=False,
    has_program=lambda _: True,
)


@pytest.mark.parametrize(
    ("command", "here"),
    [
        ("sudo systemctl restart edge-agent", APPLIANCE.restart),
        ("sudo systemctl start edge-agent; sudo journalctl -u edge-agent -b | tail", "edge-agent serve"),
        ("sudo systemctl stop edge-agent; sudo rm /x", f"{APPLIANCE.stop}; sudo rm /x"),
        ("sudo mv /x /y && sudo systemctl restart edge-agent", f"sudo mv /x /y && {APPLIANCE.restart}"),
        ("sudo systemctl restart edge-uplink", "edge-agent serve uplink"),
        ("sudo systemctl restart edge-agent edge-uplink", f"{APPLIANCE.restart}; edge-agent serve uplink"),
        ("sudo rm /t; sudo systemctl try-restart edge-agent-web.service", "sudo rm /t; edge-agent serve web"),
        ("systemctl status edge-agent", ""),
        ("edge-agent status; df -h", "edge-agent status; df -h"),
    ],
)
def test_systemctl_is_replaced_without_systemd(command: str, here: str):
    """Without systemd, systemctl commands become kill and 'edge-agent serve'; on an appliance they are unchanged."""
    assert here == command_here(command, replace(APPLIANCE, managed=False))
    assert command == command_here(command, APPLIANCE)


@pytest.mark.parametrize(
    ("command", "here"),
    [
        ("ip -brief address; getent hosts x", ""),
        ("findmnt -T /x; ls -ld /x", "cat /proc/mounts; ls -ld /x"),
        ("timedatectl", "date"),
        (
            "sudo timedatectl set-ntp true || sudo timedatectl set-time 'YYYY-MM-DD HH:MM'",
            "sudo date --set 'YYYY-MM-DD HH:MM'",
        ),
        ("sudo dmesg | tail -50; df -h", "df -h"),
    ],
)
def test_command_of_a_missing_program_is_replaced_or_dropped(command: str, here: str):
    """A command whose program is not installed is replaced by an equivalent one, or dropped."""
    assert here == command_here(command, replace(APPLIANCE, has_program=lambda _: False))


def test_drive_folder_in_commands_is_the_mounted_one():
    """A command with the example folder /media/usb gets the folder of the mounted drive."""
    machine = replace(APPLIANCE, drive="/run/media/usb1")
    assert "sudo edge-agent media import /run/media/usb1" == command_here(
        "sudo edge-agent media import /media/usb", machine
    )


@pytest.mark.parametrize(
    ("command", "here"),
    [
        ("edge-agent status; edge-agent rollback TASK", "sudo edge-agent status; sudo edge-agent rollback TASK"),
        ("sudo edge-agent doctor", "sudo edge-agent doctor"),
        ("edge-agent serve", "edge-agent serve"),
        ("ls -l /opt/edge-agent", "ls -l /opt/edge-agent"),
    ],
)
def test_commands_get_sudo_for_a_user_of_sudo(command: str, here: str):
    """For a user who works through sudo, commands that need the admin socket begin with sudo; 'edge-agent serve' never
    does."""
    assert here == command_here(command, replace(APPLIANCE, by_sudo=True))


def test_quoted_commands_in_a_sentence_get_sudo():
    """`with_sudo` adds sudo to quoted commands that need the admin socket; paths, other programs and 'edge-agent help'
    are unchanged."""
    said = "See 'edge-agent status', 'edge-convert renew' and /etc/edge-agent; 'edge-agent help NAME' explains it."
    assert said.replace("'edge-agent status'", "'sudo edge-agent status'") == with_sudo(said)


@pytest.mark.parametrize(
    ("environment", "user_id", "by_sudo"),
    [
        ({"SUDO_UID": "1000"}, 0, True),
        ({}, 0, False),
        ({"SUDO_UID": "0"}, 0, False),
        ({"SUDO_UID": "1000"}, 1000, False),
    ],
)
def test_sudo_is_detected_by_its_environment(environment: dict[str, str], user_id: int, by_sudo: bool):
    """A root process with SUDO_UID of another user works through sudo; root from a login does not."""
    assert by_sudo == works_by_sudo(environment, user_id)
