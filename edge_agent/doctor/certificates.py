"""Certificates of TCP: whether they can be read, belong together, and how long they are good. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.doctor.files import File
from edge_agent.doctor.findings import Case, Check, Finding, first, lasting, otherwise

CERTIFICATE = Check("certificate", "sockets")

WARNED_SECONDS = 30 * 86_400.0
_RENEW = "sudo edge-agent certs server --renew --dir {f.folder}; edge-agent certs show {f.file.path}"


@dataclass(frozen=True)
class CertificateFacts:
    """One file with a certificate, or the key of one."""

    what: str
    """server, key or clients: as agent.yaml has them."""
    file: File
    problem: str = ""
    """Why it cannot be used; empty = it can."""
    starts_in: float = 0.0
    """Seconds until it is good; negative = it is."""
    expires_in: float = 0.0
    """Seconds until the first certificate in it ends; negative = it has."""
    barred: str = ""
    """The daemon's user, where it may not read it."""

    @property
    def folder(self) -> str:
        """Where it lies."""
        return self.file.path.rpartition("/")[0]

    @property
    def left(self) -> str:
        """How long it is good, or since when not, for people."""
        return lasting(abs(self.expires_in))

    @property
    def until(self) -> str:
        """How long until it is good, for people."""
        return lasting(self.starts_in)


_CERTIFICATE: tuple[Case[CertificateFacts], ...] = (
    Case(
        "fault",
        lambda f: not f.file.kind,
        "{f.file.path} is not there",
        "Have one issued, or make an authority here: docs/access.md.",
        "sudo edge-agent certs init --dir {f.folder} --name NAME",
    ),
    Case(
        "fault",
        lambda f: f.barred,
        "{f.barred} may not read {f.file.path} ({f.file.shown})",
        "Give it to the daemon's user.",
        "sudo chown {f.barred} {f.file.path}",
    ),
    Case(
        "fault",
        lambda f: f.what == "key" and f.file.mode & 0o007,
        "{f.file.path} is {f.file.shown}: everybody may read this key",
        "Close it, and have a new certificate issued.",
        "sudo chmod 600 {f.file.path}; " + _RENEW,
    ),
    Case(
        "fault",
        lambda f: f.problem,
        "{f.problem}",
        "The daemon goes on with what it has read before, until it is started again. Put the right files there.",
        "ls -l {f.folder}; edge-agent certs show {f.file.path}",
    ),
    Case("ok", lambda f: f.what == "key", "{f.file.path} belongs to the certificate"),
    Case(
        "fault",
        lambda f: f.starts_in > 0,
        "{f.file.path} is good from {f.until} on: is the clock right?",
        "Set the clock, or have one issued that is good now.",
        "date; edge-agent certs show {f.file.path}",
    ),
    Case(
        "fault",
        lambda f: f.expires_in < 0,
        "{f.file.path} ended {f.left} ago: nobody gets in by TCP",
        "Renew it; the daemon takes it up without a restart.",
        _RENEW,
    ),
    Case(
        "warning",
        lambda f: f.expires_in < WARNED_SECONDS,
        "{f.file.path} ends in {f.left}",
        "Renew it; the daemon takes it up without a restart.",
        _RENEW,
    ),
    Case("ok", otherwise, "{f.file.path} is good for {f.left}"),
)


def certificates(files: tuple[CertificateFacts, ...]) -> Iterator[Finding]:
    """Judge each of the three files."""
    for each in files:
        yield from first(CERTIFICATE, _CERTIFICATE, each, about=each.what)
