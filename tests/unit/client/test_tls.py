"""Failed TLS handshakes: the messages of gRPC, recorded from real servers, and their explanations."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.client import Client, Tls
from edge_agent.client.call_failed import explain_handshake

HEAD = "failed to connect to all addresses; last error: "
CLOSED = f"{HEAD}UNAVAILABLE: ipv4:127.0.0.1:9443: Socket closed"
VERIFY = (
    f"{HEAD}UNKNOWN: ipv4:127.0.0.1:9443: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:"
    "SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK"
)
EXPIRED, EARLY = (
    VERIFY.replace("unable to get local issuer certificate", f"certificate {found}")
    for found in ("has expired", "is not yet valid")
)
NAME = (
    f"{HEAD}UNKNOWN: ipv4:127.0.0.1:9443: Custom verification check failed with error: UNAUTHENTICATED: "
    "Hostname Verification Check failed."
)
PLAIN = (
    f"{HEAD}UNKNOWN: ipv4:127.0.0.1:9443: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:100000f7:"
    "SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: Invalid certificate verification context: OK"
)
REFUSED = f"{HEAD}UNKNOWN: ipv4:127.0.0.1:9443: Failed to connect to remote host: Connection refused"


@pytest.mark.parametrize(
    ("details", "said", "remedy"),
    [
        (CLOSED, "does not accept this client's certificate", "certs show"),
        (f"{HEAD}UNAVAILABLE: recvmsg:Connection reset by peer", "does not accept this client's certificate", "clock"),
        (VERIFY, "not issued by the authority in the 'ca' file", "ca.crt of the site"),
        (EXPIRED, "has expired, or this machine's clock is wrong", "certs server --renew"),
        (EARLY, "is not valid yet", "set the clock that is wrong"),
        (NAME, "for other names than that of the address", "certs server --name"),
        (PLAIN, "without TLS", "'insecure: true'"),
    ],
)
def test_failed_handshake_with_a_certificate_is_explained(details: str, said: str, remedy: str) -> None:
    """If the handshake of a client with a certificate fails, the error explains the cause and the remedy."""
    found = explain_handshake(details, with_tls=True)
    assert found is not None
    assert said in found[0]
    assert remedy in found[1]


def test_refused_certificate_that_has_expired_is_explained() -> None:
    """If the server refuses the client's certificate without a reason, the error adds that the certificate has expired
    by this machine's clock."""
    found = explain_handshake(CLOSED, with_tls=True, doubt="expired on 2026-01-02 (here it is 2026-03-04)")
    assert found is not None
    assert found[0].endswith("this client's certificate, which expired on 2026-01-02 (here it is 2026-03-04)")
    assert "certs issue" in found[1]


def test_client_without_certificate_is_advised_to_get_one() -> None:
    """A server with TLS closes the connection of a client without TLS; the error says that it requires a certificate
    and how to issue one."""
    found = explain_handshake(CLOSED, with_tls=False)
    assert found is not None
    assert "it requires a certificate" in found[0]
    assert "certs issue" in found[1]


@pytest.mark.parametrize("with_tls", [True, False])
def test_error_without_a_handshake_is_not_explained(with_tls: bool) -> None:
    """A refused connection is not explained as a failed handshake."""
    assert explain_handshake(REFUSED, with_tls=with_tls) is None


def test_missing_tls_file_raises_file_not_found(tmp_path: Path) -> None:
    """A client with a missing certificate file raises FileNotFoundError before it connects."""
    nowhere = tmp_path / "nowhere.crt"
    with pytest.raises(FileNotFoundError):
        Client("localhost:1", Tls(nowhere, nowhere, nowhere))
