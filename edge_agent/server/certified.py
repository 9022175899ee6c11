"""Who calls over TLS: the holder of a certificate. Only a daemon that listens with one loads this."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from edge_agent.config import Role
from edge_agent.errors import CertificateExpired
from edge_agent.formats.certificate_files import certificates
from edge_agent.formats.signed_document import timestamp
from edge_agent.server.callers import Caller, current
from edge_agent.server.roles import roles_of

KNOWN_MAX = 1024
"""Certificates that are remembered, so that a call does not read its own anew."""


class Certified:
    """Tells the callers of a TLS listener apart by their certificates, which gRPC has verified in the handshake."""

    def __init__(self, configured: Mapping[str, tuple[Role, ...]], now: Callable[[], float] = time.time) -> None:
        """Take the roles that the configuration gives beside those in the certificates."""
        self._configured = configured
        self._now = now
        self._known: OrderedDict[bytes, Caller] = OrderedDict()

    def __call__(self, context: Any) -> Caller:
        """Return the caller. Raises CertificateExpired: a connection may be older than its certificate's end."""
        [pem] = context.auth_context()["x509_pem_cert"]
        caller = self._known.get(pem) or self._read(pem)
        if caller.expires_at <= self._now():
            ended = timestamp(caller.expires_at)
            current.set(caller)
            raise CertificateExpired(f"the certificate of {caller.name} ended at {ended}", client=caller.name)
        return caller

    def _read(self, pem: bytes) -> Caller:
        certificate = certificates(pem, "the client's certificate")[0]
        name = certificate.name or certificate.fingerprint[:16]
        roles = roles_of(certificate, self._configured)
        caller = Caller(f"tls {name}", roles, certificate.fingerprint, certificate.expires_at)
        if len(self._known) >= KNOWN_MAX:
            self._known.popitem(last=False)
        self._known[pem] = caller
        return caller
