"""The server's TLS files: loaded when they change and are valid, ignored otherwise."""

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
    """Return the warning that status would show."""
    with structlog.testing.capture_logs():
        return " ".join(found.warnings())


def test_unchanged_files_are_not_loaded_again(site: TlsSite) -> None:
    """gRPC asks at each handshake and gets nothing while the files are unchanged."""
    found = files(site)
    assert [None, None] == [found._new_configuration(), found._new_configuration()]
    assert [] == found.warnings()


def test_new_files_are_loaded_once(site: TlsSite) -> None:
    """New files reach the next handshake once, also if status read them first."""
    found = files(site)
    certificate_authority.write_pair(site.server(), site.certificate, site.key, replace=True)
    assert "" == warned(found)
    assert [False, True] == [found._new_configuration() is None, found._new_configuration() is None]


def test_new_client_authority_is_loaded(site: TlsSite) -> None:
    """A file with the old and a new client authority is loaded."""
    found = files(site)
    site.ca.write_bytes(site.authority.certificate + site.foreign.certificate)
    assert found._new_configuration() is not None


@pytest.mark.parametrize("half", ["key", "certificate"])
def test_mismatched_pair_keeps_the_old_one_in_use(site: TlsSite, half: str) -> None:
    """While only one file of a new pair has been written, the old pair stays in use and status reports it."""
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
def test_unusable_file_keeps_the_old_one_in_use(site: TlsSite, name: str, spoil: str) -> None:
    """If a file is truncated, empty, too large or missing, the old one stays in use and status names it."""
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


def test_expired_certificate_replaces_nothing(site: TlsSite) -> None:
    """An expired certificate that is copied over a valid one is not loaded."""
    found = files(site)
    certificate_authority.write_pair(site.server(at=0), site.certificate, site.key, replace=True)
    with structlog.testing.capture_logs():
        assert found._new_configuration() is None
    assert "ended at 1970-01-31" in warned(found)


def test_daemon_starts_with_an_expired_certificate(site: TlsSite) -> None:
    """With an expired certificate the daemon starts and status reports it, because the sockets still serve."""
    certificate_authority.write_pair(site.server(at=0), site.certificate, site.key, replace=True)
    assert "The server's certificate ended at 1970-01-31" in warned(files(site))


def test_certificate_close_to_its_expiry_is_reported(site: TlsSite) -> None:
    """Two weeks before the expiry status reports it with the command to renew."""
    end = files(site)._material.expires_at
    assert "" == warned(files(site, now=lambda: end - SOON_SECONDS - DAY))
    assert "'sudo edge-agent certs server --renew'" in warned(files(site, now=lambda: end - SOON_SECONDS + DAY))


def test_daemon_does_not_start_without_its_tls_files(site: TlsSite) -> None:
    """If a TLS file is missing, the daemon does not start instead of serving without TLS."""
    site.key.unlink()
    with pytest.raises(CertificateUnusable) as caught:
        files(site)
    assert str(site.key) in caught.value.message
