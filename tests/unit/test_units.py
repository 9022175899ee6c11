"""The units of systemd/, held to what the daemons do."""

from __future__ import annotations

from configparser import RawConfigParser
from pathlib import Path

import pytest

from edge_agent.config import ServiceConfig
from edge_agent.daemon import STOP_SECONDS
from edge_agent.uplink import uplink_daemon as uplink
from edge_agent.web import console_server as web

SYSTEMD = Path(__file__).parents[2] / "systemd"


def service(name: str) -> dict[str, str]:
    """Return the section Service of a unit; of a key that is there twice the last value."""
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    parser.read(SYSTEMD / name)
    return dict(parser["Service"])


def test_only_the_daemon_itself_is_told_to_stop() -> None:
    """systemd's default sends SIGTERM to the engines as well, under the calls that the daemon lets end."""
    assert "mixed" == service("edge-agent.service")["KillMode"]


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("edge-agent.service", ServiceConfig().drain_seconds + STOP_SECONDS),
        ("edge-uplink.service", uplink.STOP_SECONDS),
        ("edge-agent-web.service", web.STOP_SECONDS_MAX),
    ],
)
def test_systemd_waits_longer_than_a_stop_takes(name: str, needed: float) -> None:
    """Calls that run, what waits to be written, and engines end before anything is killed."""
    assert needed < float(service(name)["TimeoutStopSec"])
