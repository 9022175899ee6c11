"""doctor's rules about what the units must allow: a network for the listener, a folder for the uplink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.config import UplinkConfig
from edge_agent.config.folder_access import FolderFacts
from edge_agent.doctor import unit_checks
from edge_agent.doctor.all_checks import run_checks
from edge_agent.doctor.findings import Finding
from edge_agent.doctor.installation import Installation
from edge_agent.doctor.unit_checks import ListenerNetworkFacts
from tests.support.doctor_cases import UPLINK, place, told

DENIED = ("0.0.0.0/0", "::/0")
LOOPBACK = ("127.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("verdict", "denied", "allowed"),
    [
        ("fault", DENIED, LOOPBACK),
        ("ok", DENIED, (*LOOPBACK, "192.168.10.0/24")),
        ("ok", (), ()),
    ],
)
def test_a_unit_that_lets_no_network_in_is_a_fault(verdict, denied, allowed):
    """Unless a drop-in names a network, or denies nothing."""
    facts = ListenerNetworkFacts("0.0.0.0:9443", denied, allowed)
    found = list(unit_checks.judge_listener_network(facts))
    assert (verdict, verdict != "ok") == told(found, "listener-network")


def test_a_folder_that_cannot_be_used_is_a_fault():
    """With the commands of its problem; a good one is well."""
    good = FolderFacts(Path("/mnt/fleet"), "folder", written=True, managed=True, usable=True)
    for verdict, facts in (("ok", good), ("fault", replace(good, kind="")), ("fault", replace(good, usable=False))):
        assert (verdict, verdict != "ok") == told(unit_checks.judge_folder_stores((facts,)), "folder-store")


def under_systemd(tmp_path: Path, shown: dict[str, str], **sections: object) -> Installation:
    """Return an installation whose systemd prints these properties."""

    def run(command: Sequence[str]) -> str | None:
        return "\n".join(f"{key}={value}" for key, value in shown.items()) if command[0] == "systemctl" else None

    where = place(tmp_path, **sections)
    for path in ("run/systemd/system", "etc/systemd/system/edge-agent.service"):
        where.at(path).mkdir(parents=True)
    return replace(where, run=run, find_user=lambda name: UPLINK if name == "edge-uplink" else None)


def found(where: Installation, check: str) -> list[Finding]:
    """Return the findings of one check."""
    return [each for each in run_checks(where) if each.check == check]


@pytest.mark.parametrize(("address", "verdicts"), [("0.0.0.0:9443", ["fault"]), ("127.0.0.1:9443", []), ("", [])])
def test_only_a_listener_for_other_machines_needs_a_network(tmp_path, address, verdicts):
    """By what systemd shows of the unit."""
    shown = {"IPAddressDeny": " ".join(DENIED), "IPAddressAllow": " ".join(LOOPBACK)}
    where = under_systemd(tmp_path, shown, service={"tcp_address": address, "insecure": bool(address)})
    assert verdicts == [each.verdict for each in found(where, "listener-network")]


def test_folders_are_looked_at_as_the_uplinks_user(tmp_path):
    """One that it may not enter, and one that is missing."""
    folder = tmp_path / "fleet"
    folder.mkdir(mode=0o700)
    where = under_systemd(
        tmp_path,
        {"ReadWritePaths": f"-{folder}"},
        uplink=UplinkConfig(url=str(folder), updates_url="/no-such-folder"),
    )
    examples, updates = found(where, "folder-store")
    # Below /tmp, as folders of tests are, the unit does not see it, whoever owns it.
    assert ("fault", True) == (examples.verdict, str(folder) in examples.seen)
    assert ("fault", "the folder /no-such-folder does not exist") == (updates.verdict, updates.seen)


def test_the_console_and_local_stores_need_nothing(tmp_path):
    """A bucket is no folder; without systemd there is no unit to open."""
    assert [] == found(place(tmp_path, uplink=UplinkConfig(url="s3://fleet/examples")), "folder-store")
    assert [] == found(place(tmp_path, service={"tcp_address": "0.0.0.0:9443", "insecure": True}), "listener-network")
