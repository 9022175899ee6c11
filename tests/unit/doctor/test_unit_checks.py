"""`doctor` about what the units must allow: a network for the listener, a folder for the uplink."""

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
def test_unit_that_denies_every_network_is_a_fault(verdict, denied, allowed):
    """A unit that allows only loopback is a fault for a listener; one that allows a network or denies nothing is ok."""
    facts = ListenerNetworkFacts("0.0.0.0:9443", denied, allowed)
    found = list(unit_checks.judge_listener_network(facts))
    assert (verdict, verdict != "ok") == told(found, "listener-network")


def test_unusable_store_folder_is_a_fault():
    """A store's folder that is missing or unusable is a fault with commands; a usable one is ok."""
    good = FolderFacts(Path("/mnt/fleet"), "folder", written=True, managed=True, usable=True)
    for verdict, facts in (("ok", good), ("fault", replace(good, kind="")), ("fault", replace(good, usable=False))):
        assert (verdict, verdict != "ok") == told(unit_checks.judge_folder_stores((facts,)), "folder-store")


def under_systemd(tmp_path: Path, shown: dict[str, str], **sections: object) -> Installation:
    """Return an installation whose systemctl prints these properties."""

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
    """A listener on all addresses needs an allowed network in the unit; a loopback listener and none do not."""
    shown = {"IPAddressDeny": " ".join(DENIED), "IPAddressAllow": " ".join(LOOPBACK)}
    where = under_systemd(tmp_path, shown, service={"tcp_address": address, "insecure": bool(address)})
    assert verdicts == [each.verdict for each in found(where, "listener-network")]


def test_store_folders_are_checked_for_the_uplinks_user(tmp_path):
    """A store's folder that the uplink's user may not enter and a missing one are faults."""
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


def test_bucket_and_machine_without_systemd_need_no_folder_or_network(tmp_path):
    """A bucket needs no folder check, and without systemd there is no unit whose network could be checked."""
    assert [] == found(place(tmp_path, uplink=UplinkConfig(url="s3://fleet/examples")), "folder-store")
    assert [] == found(place(tmp_path, service={"tcp_address": "0.0.0.0:9443", "insecure": True}), "listener-network")
