"""A site with certificates: its authority, the server's files, clients of any role, and clients to be refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edge_agent import certificate_authority
from edge_agent.client import Tls
from tests.support.free_ports import free_port

DAY = 86_400.0


class TlsSite:
    """The files of one authority in a folder, and those of an untrusted one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = certificate_authority.make_authority("site", time.time())
        self.foreign = certificate_authority.make_authority("elsewhere", time.time())
        self.ca, self.certificate, self.key = folder / "ca.crt", folder / "server.crt", folder / "server.key"
        certificate_authority.write_pair(self.authority, self.ca, folder / "ca.key")
        certificate_authority.write_pair(self.server(), self.certificate, self.key)
        self.address = f"localhost:{free_port()}"

    def server(
        self, issuer: certificate_authority.CertificateKeyPair | None = None, at: float | None = None, days: int = 30
    ) -> certificate_authority.CertificateKeyPair:
        """Make a certificate for this machine."""
        at = time.time() if at is None else at
        return certificate_authority.issue_server_certificate(
            issuer or self.authority, ["localhost", "127.0.0.1"], at, days
        )

    def client(
        self,
        name: str,
        *roles: str,
        issuer: certificate_authority.CertificateKeyPair | None = None,
        at: float | None = None,
    ) -> Tls:
        """Issue a certificate to a client; return what it connects with."""
        made = certificate_authority.issue_client_certificate(
            issuer or self.authority, name, roles, time.time() if at is None else at, 30
        )
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate_authority.write_pair(made, certificate, key, replace=True)
        return Tls(self.ca, certificate, key)

    def settings(self, **access: Any) -> dict[str, Any]:
        """Return the sections of agent.yaml for a daemon with these files."""
        files = {"certificate_file": self.certificate, "key_file": self.key, "client_ca_file": self.ca}
        plain = {key: str(path) for key, path in files.items()}
        return {"service": {"tcp_address": self.address}, "access": {**plain, **access}}
