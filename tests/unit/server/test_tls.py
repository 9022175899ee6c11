"""The server's TLS files: taken up when they change and are whole, kept when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from edge_agent import certificate_authority
from edge_agent.config import AccessConfig
from edge_agent.errors import CertificateUnusable
from edge_agent.server.tls import SOON_SECONDS, TlsFiles
from tests.support.tls_site import DAY, TlsSite


@pytest.fixture
def site(tmp_path: Path) -> TlsSite:
    return TlsSite(tmp_path)


def files(site: TlsSite, **clock: object) -> TlsFiles:
    return TlsFiles(AccessConfig.model_validate(site.settings()["access"]), **clock)


def warned(found: TlsFiles) -> str:
    """Return what status would say."""
    with structlog.testing.capture_logs():
        return " ".join(found.warnings())


def test_files_that_do_not_change_are_not_handed_over_again(site: TlsSite) -> None:
    """gRPC asks at each handshake, and mostly there is nothing new."""
    found = files(site)
    assert [None, None] == [found._new_configuration(), found._new_configuration()]
    assert [] == found.warnings()


def test_new_files_are_handed_over_once(site: TlsSite) -> None:
    """Whoever looked first: a status before the handshake does not swallow them."""
    found = files(site)
    certificate_authority.write_pair(site.server(), site.certificate, site.key, replace=True)
    assert "" == warned(found)
    assert [False, True] == [found._new_configuration() is None, found._new_configuration() is None]


def test_a_new_client_authority_is_taken_up(site: TlsSite) -> None:
    """Also beside the old one, for the time of the change."""
    found = files(site)
    site.ca.write_bytes(site.authority.certificate + site.foreign.certificate)
    assert found._new_configuration() is not None


@pytest.mark.parametrize("half", ["key", "certificate"])
def test_a_pair_that_does_not_match_keeps_the_old(site: TlsSite, half: str) -> None:
    """One file of the new pair is there, the other not yet: status says so; with the other all is well."""
    found, new = files(site), site.server()
    first, second = (site.key, site.certificate) if half == "key" else (site.certificate, site.key)
    first.write_bytes(new.key if half == "key" else new.certificate)
    with structlog.testing.capture_logs() as logged:
        assert [None, None] == [found._new_configuration(), found._new_configuration()]
    assert ["tls_files_not_used"] == [entry["event"] for entry in logged]
    assert "the key does not belong to" in warned(found)
    second.write_bytes(new.certificate if half == "key" else new.key)
    assert found._new_configuration() is not None
    assert "" == warned(found)


@pytest.mark.parametrize("spoil", ["cut", "empty", "gone", "huge"])
@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_what_cannot_be_used_keeps_the_old(site: TlsSite, name: str, spoil: str) -> None:
    """Half a file, none, or anything else: the old goes on, and status names the file."""
    path: Path = getattr(site, name)
    found, whole = files(site), path.read_bytes()
    if spoil == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "huge": whole * 10_000}[spoil])
    with structlog.testing.capture_logs():
        assert found._new_configuration() is None
    assert "New TLS files are not used" in warned(found)
    path.write_bytes(whole)
    assert found._new_configuration() is not None  # what was read again may be another
    assert "" == warned(found)


def test_what_has_expired_replaces_nothing(site: TlsSite) -> None:
    """A certificate of last year that somebody copied over the one of this year."""
    found = files(site)
    certificate_authority.write_pair(site.server(at=0), site.certificate, site.key, replace=True)
    with structlog.testing.capture_logs():
        assert found._new_configuration() is None
    assert "ended at 1970-01-31" in warned(found)


def test_a_daemon_starts_with_what_has_expired(site: TlsSite) -> None:
    """The sockets serve on, whatever the clock says; status says what is wrong."""
    certificate_authority.write_pair(site.server(at=0), site.certificate, site.key, replace=True)
    assert "The server's certificate ended at 1970-01-31" in warned(files(site))


def test_an_end_that_comes_near_is_said(site: TlsSite) -> None:
    """Two weeks before, with what to do."""
    end = files(site)._material.expires_at
    assert "" == warned(files(site, now=lambda: end - SOON_SECONDS - DAY))
    assert "'sudo edge-agent certs server --renew'" in warned(files(site, now=lambda: end - SOON_SECONDS + DAY))


def test_a_daemon_does_not_start_without_its_files(site: TlsSite) -> None:
    """A site that wants TLS is not served in the open instead."""
    site.key.unlink()
    with pytest.raises(CertificateUnusable) as caught:
        files(site)
    assert str(site.key) in caught.value.message
