"""Why no daemon was reached, read from gRPC's words for a failed connection. Pure.

gRPC reports a failed connection as one sentence for developers. Its parts tell the cases apart that need different
people: a wrong name, no network, a machine that is off, a port where nobody listens, a firewall, a certificate.

gRPC tells a client that the server hung up ("Socket closed") and not why, whether its certificate was missing, foreign
or out of date. The remedy names what to look at.
"""

from __future__ import annotations

from dataclasses import dataclass

_SHOW = "'edge-agent certs show FILE' shows the contents of a certificate."
_NETWORK = "Is the cable in, or the wireless network joined? 'ip -brief address' shows this machine's addresses."
# Words of gRPC and BoringSSL, their meaning, and the remedy. The first match counts.
_HANDSHAKES = (
    (
        "certificate has expired",
        "the server's certificate has expired, or this machine's clock is wrong",
        "Compare 'date' here with the time. If it is right, run 'sudo edge-agent certs server --renew' over there.",
    ),
    (
        "certificate is not yet valid",
        "the server's certificate is not valid yet, so this machine's clock or the one that issued it is wrong",
        "Compare 'date' here and on the server's machine with the time, and set the clock that is wrong.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the server's certificate was not issued by the authority in the 'ca' file",
        "Take the ca.crt of the site that the server belongs to.",
    ),
    (
        "Hostname Verification",
        "the server's certificate is for other names than that of the address",
        "Use a name that is in it, or have it issued with this name ('sudo edge-agent certs server --name …').",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "something answers there, but without TLS",
        "Leave the certificate out if that daemon is meant to be open ('insecure: true'); otherwise check the address.",
    ),
    (
        "Invalid credentials",
        "the certificate, key or 'ca' file cannot be used: one is no PEM, or the key belongs to another certificate",
        f"Check the three files. {_SHOW}",
    ),
)
_REFUSED_CLIENT = (
    "the server ended the handshake: it does not accept this client's certificate",
    f"Is it issued by the server's client authority, in date, and for clients? Is the server's clock right? {_SHOW}",
)
_NO_TLS = (
    "something answers there and hangs up: it wants a certificate, or is no edge-agent",
    "Have a certificate issued for this client ('sudo edge-agent certs issue'), and name it with '--remote'.",
)


_NEW_ONE = f"Have a new one issued ('sudo edge-agent certs issue'). {_SHOW}"


@dataclass(frozen=True)
class ConnectionFault:
    """One way in which a connection over the network fails."""

    cause: str
    """Stable word for programs."""
    words: tuple[str, ...]
    """Any of them is in gRPC's sentence."""
    meaning: str
    """The end of "no daemon answers at HOST:PORT: "."""
    remedy: str


# The first match counts.
_FAULTS = (
    ConnectionFault(
        "name_unknown",
        ("Domain name not found", "Name or service not known", "ENOTFOUND", "NXDOMAIN"),
        "the name {host} does not exist",
        "Check the spelling of the address. Where no name server has this machine, use its IP address.",
    ),
    ConnectionFault(
        "name_server_silent",
        ("hostname lookup error", "errors resolving", "DNS resolution failed", "DNS query"),
        "the name {host} cannot be looked up, because no name server answers",
        f"{_NETWORK} On a network without a name server, use the IP address of the daemon's machine.",
    ),
    ConnectionFault(
        "no_network",
        ("Network is unreachable", "Network unreachable", "Network is down"),
        "this machine has no network that leads to {host}",
        _NETWORK,
    ),
    ConnectionFault(
        "no_route",
        ("No route to host", "Host is unreachable", "Host is down"),
        "no machine answers for {host} on the network",
        "Is that machine switched on and connected? Is the address right? 'ping {host}' asks from here.",
    ),
    ConnectionFault(
        "refused",
        ("Connection refused",),
        "that machine answers, but no program listens on port {port}",
        "Is edge-agent running there, and does its agent.yaml set service.tcp_address to this port? "
        "'edge-agent doctor' there checks both.",
    ),
    ConnectionFault(
        "other_program",
        ("Received http2 header with status", "http1.x server", "HTTP/1", "Failed parsing HTTP/2"),
        "another program answers there",
        "Check host and port of the address: {port} is not the port of an edge-agent.",
    ),
    ConnectionFault(
        "silent",
        ("before receiving SETTINGS",),
        "something accepted the connection and then said nothing",
        "Is {port} the port of an edge-agent? If it is, that daemon hangs: 'edge-agent doctor' there shows it.",
    ),
    ConnectionFault(
        "timed_out",
        ("timed out", "handshaker shutdown"),
        "it did not answer in time",
        "Is that machine switched on, and the address right ('ping {host}')? A firewall in between may drop the "
        "connection, and so may the unit on that machine: 'sudo edge-agent drop-ins' there lets its networks in.",
    ),
)
_OTHER = ConnectionFault(
    "other", (), "", "Is edge-agent running there, and does its agent.yaml set service.tcp_address?"
)


def explain_connection(details: str, target: str) -> ConnectionFault:
    """Return the fault of a connection to "host:port", its sentences filled in; `meaning` is empty if it is unknown."""
    host, _, port = target.rpartition(":")
    found = next((fault for fault in _FAULTS if any(words in details for words in fault.words)), _OTHER)
    host = host.removeprefix("dns:").lstrip("/").strip("[]")
    return ConnectionFault(
        found.cause,
        found.words,
        found.meaning.format(host=host, port=port),
        found.remedy.format(host=host, port=port),
    )


def explain_handshake(details: str, *, with_tls: bool, doubt: str = "") -> tuple[str, str] | None:
    """Return the meaning and the remedy of gRPC's words; None when they are not about TLS.

    `doubt` is what is known to be wrong with the client's own certificate.
    """
    closed = "Socket closed" in details or "Connection reset" in details
    if not with_tls:
        return _NO_TLS if closed else None
    for words, said, remedy in _HANDSHAKES:
        if words in details:
            return said, remedy
    if closed:
        said, remedy = _REFUSED_CLIENT
        return (f"{said}, which {doubt}", _NEW_ONE) if doubt else (said, remedy)
    return None
