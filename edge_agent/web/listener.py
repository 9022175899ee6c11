"""How connections come in: a listening socket, TLS with certificates on both sides, and a bound on silence."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_agent.config import WebConfig, addresses
from edge_agent.errors import CertificateUnusable, SocketInUse
from edge_agent.formats.certificate_files import check_key_matches, parse_certificates

_BACKLOG = 128


def listen(address: str) -> socket.socket:
    """Listen on host:port. Raises SocketInUse."""
    host, port = addresses.split_host_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, so that asyncio sees that it is TCP and switches Nagle's delay off: it cost each answer 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        remedy = "Stop the program that listens there, or choose another 'address' under 'web' in agent.yaml."
        raise SocketInUse(f"cannot listen on {address}: {error.strerror}", remedy=remedy, address=address) from None
    listening.setblocking(False)
    return listening


class Renewed:
    """TLS that takes up certificates which have changed on the disk with the next connection."""

    def __init__(self, config: WebConfig) -> None:
        """Read the three files. Raises CertificateUnusable."""
        self._files = [Path(name) for name in (config.certificate_file, config.key_file, config.client_ca_file)]
        self._seen = self._times()
        self._latest = self._load()
        self.context = self._latest
        self.context.sni_callback = self._look

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the certificate."""
        return parse_certificates(self._files[0].read_bytes(), str(self._files[0]))[0].names

    def _look(self, connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        """Take up what has changed; what cannot be used is not taken, and the old goes on."""
        try:
            seen = self._times()
            if seen != self._seen:
                self._latest = self._load()
                self._seen = seen
        except (CertificateUnusable, OSError):
            pass
        connection.context = self._latest

    def _times(self) -> list[int]:
        return [path.stat().st_mtime_ns if path.exists() else 0 for path in self._files]

    def _load(self) -> ssl.SSLContext:
        certificate, key, ca = self._files
        try:
            check_key_matches(certificate.read_bytes(), key.read_bytes(), str(certificate))
            parse_certificates(ca.read_bytes(), str(ca))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(certificate, key)
            context.load_verify_locations(ca)
        except OSError as error:
            said = f"cannot use the console's certificate: {error.strerror or error}"
            raise CertificateUnusable(said, remedy=_CHECK) from None
        return context


_CHECK = "Check the three files under 'web' in agent.yaml; 'edge-agent certs show FILE' says what is in one."


class Watched(H11Protocol):
    """HTTP/1.1 that says who is at the other end, and gives up a connection on which no request comes to its end."""

    silent_seconds_max: float
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the parent
        """Read the visitor's certificate, and wait for the first request."""
        super().connection_made(transport)
        secured = transport.get_extra_info("ssl_object")
        der = secured.getpeercert(binary_form=True) if secured else None
        if der:
            pem = ssl.DER_cert_to_PEM_cert(der).encode()
            self.app_state = {**self.app_state, "certificate": parse_certificates(pem, "a visitor's certificate")[0]}
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Stop waiting when a request has come."""
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        self._stop()

    def _wait(self) -> None:
        """Begin to wait where no request is being answered; what is answered has bounds of its own."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.silent_seconds_max, self.transport.abort)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def protocol(seconds: float) -> type[Watched]:
    """Return how connections are read where none may be silent for longer."""
    return type("Watching", (Watched,), {"silent_seconds_max": seconds})


def shown(address: str, *, secure: bool) -> str:
    """Return the address for a browser; one that means every network is shown by this machine's name."""
    host, port = addresses.split_host_port(address)
    named = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared with
    return f"{'https' if secure else 'http'}://{f'[{named}]' if ':' in named else named}:{port}"
