"""TLS: the server's certificate files, reloaded without a restart, and the callers that certificates identify.

gRPC asks for new files at every handshake, so the check costs three `stat`. Files that are half written, do not belong
together or have expired are not used: the old ones stay in use, and status and the log show why. Open connections keep
theirs until `access.connection_seconds_max` ends them. Only a daemon with certificates loads this module.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from edge_agent.config import AccessConfig, Role
from edge_agent.errors import CertificateExpired, CertificateUnusable
from edge_agent.formats.certificates import check_key_matches, parse_certificates
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.server.roles import Caller, certificate_roles, current_caller

log = structlog.get_logger("edge_agent.server")

FILE_BYTES_MAX = 1024 * 1024
SOON_SECONDS = 14 * 86_400
"""How long before a certificate ends status warns."""


@dataclass(frozen=True)
class TlsMaterial:
    """The content of the files, which belongs together."""

    chain: bytes
    key: bytes
    authorities: bytes
    expires_at: float
    """When the server's certificate ends, in seconds since 1970."""
    authorities_expire_at: float
    """When the first of the client authorities ends."""

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return the configuration for gRPC."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.authorities)


class TlsFiles:
    """The three files of one listener. Any thread may call its methods."""

    def __init__(self, access: AccessConfig, now: Callable[[], float] = time.time) -> None:
        """Read them.

        Raises:
            CertificateUnusable: a file cannot be read, has another content, or does not belong to the others.
        """
        self._paths = tuple(Path(path) for path in (access.certificate_file, access.key_file, access.client_ca_file))
        self._now = now
        self._lock = threading.Lock()
        self._last_signature = self._signature()
        self._material = self._read()  # even if it has expired: the sockets serve, and the clock may be wrong
        self._grpc_material = self._material
        self.problem = ""
        """Why changed files are not used; empty otherwise."""

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a listener, which require a certificate of the client authorities."""
        return grpc.dynamic_ssl_server_credentials(
            self._grpc_material.configuration(),
            self._new_configuration,  # type: ignore[arg-type]  # None = nothing new, which the stubs do not know
            require_client_authentication=True,
        )

    def warnings(self) -> list[str]:
        """Return what an operator should know about the files, a sentence each."""
        self._reload()
        material, now = self._material, self._now()
        expiries = (
            (
                "The server's certificate",
                material.expires_at,
                "'sudo edge-agent certs server --renew' makes a new one.",
            ),
            (
                "An authority for clients",
                material.authorities_expire_at,
                "Make a new one, and issue all certificates again: 'edge-agent help certificate'.",
            ),
        )
        warnings = [
            f"{what} {'ended' if at <= now else 'ends'} at {format_timestamp(at)}: {remedy}"
            for what, at, remedy in expiries
            if at - now < SOON_SECONDS
        ]
        if self.problem:
            warnings.insert(0, f"New TLS files are not used: {self.problem}. The old ones stay in use.")
        return warnings

    def _new_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the newest files if gRPC does not have them yet; its threads call this at every handshake."""
        self._reload()
        with self._lock:
            if self._grpc_material is self._material:
                return None
            self._grpc_material = self._material
            return self._grpc_material.configuration()

    def _reload(self) -> None:
        """Reload the files if one has changed since the last attempt."""
        with self._lock:
            signature = self._signature()
            if signature == self._last_signature:
                return
            self._last_signature = signature
            try:
                material = self._read()
                if material.expires_at <= self._now():
                    raise CertificateUnusable(f"{self._paths[0]} ended at {format_timestamp(material.expires_at)}")
                self._material, self.problem = material, ""
                log.info("tls_files_changed", expires_at=format_timestamp(self._material.expires_at))
            except CertificateUnusable as error:
                self.problem = error.message
                log.warning("tls_files_not_used", problem=error.message)

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._paths))

    def _read(self) -> TlsMaterial:
        chain, key, authorities = map(_read_file, self._paths)
        certificate, _, authority = self._paths
        check_key_matches(chain, key, str(certificate))
        server_certificate = parse_certificates(chain, str(certificate))[0]
        authorities_expire_at = min(each.expires_at for each in parse_certificates(authorities, str(authority)))
        return TlsMaterial(chain, key, authorities, server_certificate.expires_at, authorities_expire_at)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CertificateUnusable(f"cannot read {path}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise CertificateUnusable(f"{path} has more than {FILE_BYTES_MAX} bytes: it is not a certificate")
    return content


CALLERS_MAX = 1024
"""Cached certificates, so that a call does not parse its own again."""


class CertificateIdentifier:
    """Identifies the callers of a TLS listener by their certificates, which gRPC verified in the handshake."""

    def __init__(self, configured: Mapping[str, tuple[Role, ...]], now: Callable[[], float] = time.time) -> None:
        """Add the `configured` roles to those in the certificates."""
        self._configured, self._now = configured, now
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()

    def __call__(self, context: Any) -> Caller:
        """Return the caller. Raises CertificateExpired: a connection can outlast its certificate."""
        [pem] = context.auth_context()["x509_pem_cert"]
        caller = self._callers.get(pem) or self._read(pem)
        if caller.expires_at <= self._now():
            end_time = format_timestamp(caller.expires_at)
            current_caller.set(caller)
            raise CertificateExpired(f"the certificate of {caller.name} ended at {end_time}", client=caller.name)
        return caller

    def _read(self, pem: bytes) -> Caller:
        certificate = parse_certificates(pem, "the client's certificate")[0]
        name = certificate.name or certificate.fingerprint[:16]
        roles = certificate_roles(certificate, self._configured)
        caller = Caller(f"tls {name}", roles, certificate.fingerprint, certificate.expires_at)
        if len(self._callers) >= CALLERS_MAX:
            self._callers.popitem(last=False)
        self._callers[pem] = caller
        return caller
