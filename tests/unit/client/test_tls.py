"""What gRPC says of a failed handshake, in words that help. The texts are those of real servers."""

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
def test_a_client_with_a_certificate_is_told_what_is_wrong(details: str, said: str, remedy: str) -> None:
    """And what to do."""
    found = explain_handshake(details, with_tls=True)
    assert found is not None
    assert said in found[0]
    assert remedy in found[1]


def test_a_certificate_that_is_out_of_date_here_is_named_when_the_server_refuses_it() -> None:
    """The server does not give its reason, so what this machine knows against the certificate stands in the message."""
    found = explain_handshake(CLOSED, with_tls=True, doubt="expired on 2026-01-02 (here it is 2026-03-04)")
    assert found is not None
    assert found[0].endswith("this client's certificate, which expired on 2026-01-02 (here it is 2026-03-04)")
    assert "certs issue" in found[1]


def test_a_client_without_one_is_told_to_get_one() -> None:
    """A server that wants TLS hangs up on whoever speaks without."""
    found = explain_handshake(CLOSED, with_tls=False)
    assert found is not None
    assert "it requires a certificate" in found[0]
    assert "certs issue" in found[1]


@pytest.mark.parametrize("with_tls", [True, False])
def test_what_is_no_handshake_is_left_alone(with_tls: bool) -> None:
    """A port where nobody listens."""
    assert explain_handshake(REFUSED, with_tls=with_tls) is None


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    """Before anything is sent."""
    nowhere = tmp_path / "nowhere.crt"
    with pytest.raises(FileNotFoundError):
        Client("localhost:1", Tls(nowhere, nowhere, nowhere))
