"""Rows of the console's certificates."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_agent import certificate_authority
from tests.support.eventually import eventually_sync
from tests.support.finding_cases.appliance_rows import run_installer
from tests.support.finding_cases.case import made
from tests.support.finding_cases.certificate_rows import SITES
from tests.support.finding_cases.site import FaultySite
from tests.support.tls_site import DAY, TlsSite


def with_console(folder: Path) -> Mapping[str, Any]:
    """Give the console certificates that are valid for a year."""
    tls = SITES[folder] = TlsSite(folder / "tls")
    certificate_authority.write_pair(tls.server(days=365), tls.certificate, tls.key, replace=True)
    files = {"certificate_file": str(tls.certificate), "key_file": str(tls.key), "client_ca_file": str(tls.ca)}
    return {"web": {"address": tls.address, "token_file": str(folder / "token"), **files}}


def _serve(site: FaultySite) -> None:
    site.serve("web", "console")
    eventually_sync(lambda: _is_open(SITES[site.folder].address))


def _is_open(address: str) -> bool:
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _with(days: float, at: float) -> Callable[[FaultySite], None]:
    def make(site: FaultySite) -> None:
        tls = SITES[site.folder]
        pair = tls.server(at=time.time() + at * DAY, days=int(days))
        certificate_authority.write_pair(pair, tls.certificate, tls.key, replace=True)

    return make


made("console/fault/expired-ago", settings=with_console, prepare=_serve)(_with(30, -60))
made("console/warning/expires-in", settings=with_console, prepare=_serve)(_with(9, 0))


@made("console/fault/", settings=with_console, prepare=_serve, by_hand=_with(365, 0))
def foreign_key(site: FaultySite) -> None:
    """The key is that of another certificate."""
    tls = SITES[site.folder]
    tls.client("other", "infer")
    tls.key.write_bytes((tls.folder / "other.key").read_bytes())


def _package() -> Path:
    found = importlib.util.find_spec("starlette")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _bring_package(site: FaultySite) -> None:
    subprocess.run([*site.daemon.inside, "umount", str(_package())], check=True)


@made(
    "console/fault/the-console-needs-which-is-not-installed",
    settings=with_console,
    is_appliance=True,
    prepare=lambda site: _install_and_serve(site),
    by_hand=_bring_package,
)
def package_lost(site: FaultySite) -> None:
    """The disk lost the files of a package; the installer that brings them stands for the umount."""
    subprocess.run([*site.daemon.inside, "mount", "-t", "tmpfs", "none", str(_package())], check=True)


def _install_and_serve(site: FaultySite) -> None:
    run_installer(site, "1.0")
    _serve(site)
