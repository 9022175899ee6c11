"""Rows of the certificates of the TCP listener."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_agent import certificate_authority
from edge_agent.certificate_authority import CertificateKeyPair
from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import FaultySite
from tests.support.tls_site import DAY, TlsSite

LOADING = ("daemon-warnings",)
"""The daemon warns of files that it cannot load, or that soon let nobody in."""
SITES: dict[Path, TlsSite] = {}
"""The certificates of each site, by its folder."""


def with_certificates(folder: Path) -> Mapping[str, Any]:
    """Give the daemon a TCP listener with certificates that are valid for a year."""
    tls = SITES[folder] = TlsSite(folder / "tls")
    _write(tls, tls.server(days=365))
    return tls.settings()


def _write(tls: TlsSite, made_pair: CertificateKeyPair) -> None:
    certificate_authority.write_pair(made_pair, tls.certificate, tls.key, replace=True)


def _issued(pair: Callable[[TlsSite], CertificateKeyPair]) -> Callable[[FaultySite], None]:
    return lambda site: _write(SITES[site.folder], pair(SITES[site.folder]))


def _put_right(site: FaultySite) -> None:
    """Replace the file with the right one, as the sentence says."""
    _write(SITES[site.folder], SITES[site.folder].server(days=365))


@made("certificate/fault/does-not-exist", settings=with_certificates, words={"NAME": "localhost"}, with_it=LOADING)
def certificate_away(site: FaultySite) -> None:
    """Somebody removed the server's certificate."""
    SITES[site.folder].certificate.unlink()


@made("certificate/fault/is-every-user-may-read-this-key", settings=with_certificates)
def key_that_every_user_reads(site: FaultySite) -> None:
    """Somebody copied the key with every right."""
    SITES[site.folder].key.chmod(0o644)


@made("certificate/fault/", settings=with_certificates, with_it=LOADING, by_hand=_put_right)
def foreign_key(site: FaultySite) -> None:
    """The key is that of another certificate."""
    tls = SITES[site.folder]
    tls.client("other", "infer")
    tls.key.write_bytes((tls.folder / "other.key").read_bytes())


made(
    "certificate/fault/becomes-valid-in-is-the-clock-right",
    settings=with_certificates,
    by_hand=_put_right,
)(_issued(lambda tls: tls.server(at=time.time() + 9 * DAY)))
made("certificate/fault/expired-ago-no-client-can-connect-by-tcp", settings=with_certificates, with_it=LOADING)(
    _issued(lambda tls: tls.server(at=time.time() - 60 * DAY))
)
made("certificate/warning/expires-in", settings=with_certificates, with_it=LOADING)(
    _issued(lambda tls: tls.server(days=9))
)
