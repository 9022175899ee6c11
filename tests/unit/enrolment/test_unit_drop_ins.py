"""The drop-ins that a configuration needs: networks and folders, and how they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.config import Config, ServiceConfig, UplinkConfig
from edge_agent.enrolment.unit_drop_ins import (
    allowed_networks,
    attached_networks,
    restart_services,
    unit_drop_ins,
    write_drop_ins,
)
from edge_agent.errors import ConfigInvalid
from edge_agent.formats import uplink_state

ROUTE = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010AA8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t000AA8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eth1\t0000140A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth1\t0000100A\t0100140A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0
eth2\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
"""
IF_INET6 = """fe8000000000000000fc00fffe000001 02 40 20 80     eth0
fd000000000000000000000000000002 02 40 00 82     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""
ATTACHED = ["192.168.10.0/24", "10.20.0.0/16", "fd00::/64"]


def listening(address: str) -> Config:
    return Config(service=ServiceConfig(tcp_address=address, insecure=True))


def test_attached_networks_are_those_of_the_interfaces():
    """Networks behind a router, loopback and link-local addresses are not included."""
    assert ATTACHED == attached_networks(ROUTE, IF_INET6)
    assert [] == attached_networks("", "")


@pytest.mark.parametrize(
    ("address", "given", "networks"),
    [
        ("0.0.0.0:9443", (), ["192.168.10.0/24", "10.20.0.0/16"]),
        ("[::]:9443", (), ATTACHED),
        ("10.20.1.5:9443", (), ["10.20.0.0/16"]),
        ("shop.example:9443", (), ATTACHED),
        ("127.0.0.1:9443", (), []),
        ("", (), []),
        ("0.0.0.0:9443", ("10.9.8.7/16", "10.9.8.7/16"), ["10.9.0.0/16"]),
    ],
)
def test_default_networks_depend_on_the_address(tmp_path: Path, address: str, given, networks):
    """Without a choice the networks follow from the listener's address; a local listener needs none."""
    assert networks == allowed_networks(listening(address), tmp_path, given, ATTACHED)


def test_invalid_network_is_refused(tmp_path: Path):
    """The error has an example of a valid network."""
    with pytest.raises(ConfigInvalid, match=r"'10\.0\.0' is not a network"):
        allowed_networks(listening("0.0.0.0:1"), tmp_path, ["10.0.0"], ())


def test_chosen_networks_are_kept(tmp_path: Path):
    """The networks of an existing drop-in are kept, whatever cable was plugged in since."""
    config = listening("0.0.0.0:9443")
    write_drop_ins(unit_drop_ins(config, tmp_path, ["10.9.0.0/16"]))
    assert ["10.9.0.0/16"] == allowed_networks(config, tmp_path, (), ATTACHED)


def test_networks_are_added_and_removed(tmp_path: Path):
    """An added network joins the existing ones; an unknown one, and the last one, cannot be removed."""
    config = listening("0.0.0.0:9443")
    write_drop_ins(unit_drop_ins(config, tmp_path, ["10.9.0.0/16"]))
    both = allowed_networks(config, tmp_path, ["192.168.10.0/24", "10.9.0.0/16"], ATTACHED)
    assert ["10.9.0.0/16", "192.168.10.0/24"] == both
    write_drop_ins(unit_drop_ins(config, tmp_path, both))
    assert ["192.168.10.0/24"] == allowed_networks(config, tmp_path, (), ATTACHED, ["10.9.1.0/16"])
    with pytest.raises(ConfigInvalid, match=r"10\.8\.0\.0/16 is not among the allowed networks"):
        allowed_networks(config, tmp_path, (), ATTACHED, ["10.8.0.0/16"])
    with pytest.raises(ConfigInvalid, match="no other machine could reach the TCP listener"):
        allowed_networks(config, tmp_path, (), ATTACHED, both)


def test_needed_drop_ins_are_written_and_others_removed(tmp_path: Path):
    """A second write changes nothing; without listener and folder both files are removed."""
    config = Config(
        service=ServiceConfig(tcp_address="0.0.0.0:9443", insecure=True),
        uplink=UplinkConfig(url="/mnt/50% fleet", updates_url="/mnt/updates"),
    )
    needed = unit_drop_ins(config, tmp_path, ATTACHED[:2])
    assert ["edge-agent.service", "edge-uplink.service"] == [each.unit for each in write_drop_ins(needed)]
    assert ["IPAddressAllow=192.168.10.0/24", "IPAddressAllow=10.20.0.0/16"] == needed[0].settings
    assert 'ReadWritePaths=-"/mnt/50%% fleet"' in (tmp_path / "edge-uplink.service.d/folders.conf").read_text()
    assert [] == write_drop_ins(needed)
    assert 2 == len(write_drop_ins(unit_drop_ins(Config(), tmp_path, [])))
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("folder", ["/mnt/a\nUser=root", '/mnt/"', "/mnt/a\\x20"])
def test_folder_with_special_characters_is_refused(tmp_path: Path, folder: str):
    """A line break or quotation mark in the folder's name, which would change the unit, is refused."""
    with pytest.raises(ConfigInvalid, match="characters that a systemd unit cannot name"):
        unit_drop_ins(Config(uplink=UplinkConfig(url=folder)), tmp_path, [])


def drop_ins(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command on a configuration with a listener and a folder; return exit status and output."""
    (folder / "agent.yaml").write_text(
        "service: {tcp_address: '0.0.0.0:9443', insecure: true}\nuplink: {url: /mnt/fleet}\n"
    )
    command = ["--config", str(folder / "agent.yaml"), "drop-ins", "--etc", str(folder), *arguments]
    done = CliRunner().invoke(app, command)
    return done.exit_code, done.output


def test_command_shows_confirms_and_writes(tmp_path: Path):
    """Without a terminal the command requires --yes; --check ends with 1 while something is missing."""
    network = ("--allow", "192.168.10.7/24")
    code, said = drop_ins(tmp_path, *network)
    assert (2, True, True) == (code, "IPAddressAllow=192.168.10.0/24" in said, "--yes" in said)
    assert 1 == drop_ins(tmp_path, *network, "--check")[0]
    assert ["agent.yaml"] == [path.name for path in tmp_path.rglob("*") if path.is_file()]
    code, said = drop_ins(tmp_path, *network, "--yes")
    assert (0, True) == (code, "Next: sudo systemctl restart edge-agent edge-uplink" in said)
    assert (0, True) == ((done := drop_ins(tmp_path, "--check"))[0], "In place: " in done[1])


def test_command_marks_added_and_removed_lines(tmp_path: Path):
    """A named network is added to the existing ones, and each changed line has a mark."""
    drop_ins(tmp_path, "--allow", "192.168.10.0/24", "--yes")
    said = drop_ins(tmp_path, "--allow", "10.20.0.0/16", "--check")[1]
    assert (True, True) == ("    IPAddressAllow=192.168.10.0/24" in said, "  + IPAddressAllow=10.20.0.0/16" in said)
    assert "  -" not in said
    said = drop_ins(tmp_path, "--allow", "10.20.0.0/16", "--remove", "192.168.10.0/24", "--yes")[1]
    assert (True, True) == ("  - IPAddressAllow=192.168.10.0/24" in said, "  + IPAddressAllow=10.20.0.0/16" in said)


def test_drop_ins_with_non_ascii_text_can_be_changed(tmp_path: Path):
    """Folders and comments with letters beyond ASCII are read as UTF-8."""
    before = Config(uplink=UplinkConfig(url="/mnt/Straße"))
    write_drop_ins(unit_drop_ins(before, tmp_path, []))
    (listener,) = [each for each in unit_drop_ins(listening("0.0.0.0:9443"), tmp_path, ATTACHED[:1]) if each.content]
    listener.path.parent.mkdir()
    listener.path.write_text(f"# f\u00fcr die Kasse\n{listener.content}")
    after = listening("0.0.0.0:9443").model_copy(update={"uplink": UplinkConfig(url="/mnt/usb")})
    assert ATTACHED[:1] == allowed_networks(after, tmp_path, (), ATTACHED)
    changes = [line for each in unit_drop_ins(after, tmp_path, ATTACHED[:1]) for line in each.changes]
    assert ["- ReadWritePaths=-/mnt/Stra\u00dfe", "+ ReadWritePaths=-/mnt/usb"] == changes[-2:]


@pytest.mark.parametrize(
    ("has_store", "asked"),
    [
        (True, ["enable edge-agent", "restart edge-agent", "enable edge-uplink", "restart edge-uplink"]),
        (False, ["disable --now edge-uplink", "enable edge-agent", "restart edge-agent"]),
    ],
)
def test_uplink_without_a_store_is_disabled(tmp_path: Path, monkeypatch, has_store: bool, asked):
    """An uplink without a store is stopped and disabled, because it would keep its credentials and fail at each
    start."""
    program, report = tmp_path / "systemctl", tmp_path / uplink_state.FILE_NAME
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    program.chmod(0o755)
    report.write_text("{}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    store = "s3://fleet/examples" if has_store else ""
    assert [] == restart_services(Config(uplink=UplinkConfig(url=store, notes_dir=str(tmp_path))))
    lines = (tmp_path / "asked").read_text().replace(".service", "").splitlines()
    assert asked == [line for line in lines if not line.startswith(("cat", "daemon-reload"))]
    assert has_store == report.exists()
