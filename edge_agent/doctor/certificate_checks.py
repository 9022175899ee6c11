"""Certificates of the TCP listener: whether they are readable, belong together, and how long they are valid."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.doctor.findings import Check, Finding, FindingRule, first_match, otherwise
from edge_agent.doctor.installation import (
    ENTER,
    READ,
    FileInfo,
    can_reach,
    has_access,
    read_bytes,
    stat_file,
    stat_parents,
)
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext
from edge_agent.errors import CertificateUnusable
from edge_agent.formats.certificates import Certificate, check_key_matches, parse_certificates
from edge_agent.formatting import format_duration

CERTIFICATE = Check("certificate", "sockets")

WARNED_SECONDS = 30 * 86_400.0
_CLOSED_ON_PURPOSE = ("/root", "/home", "/etc/ssl", "/etc/pki", "/etc/letsencrypt")
"""Folders that stay private to their users; the service has no access to home folders anyway."""
_SHOW = "sudo edge-agent certs show {f.file.path}"
_RENEW = "{f.renewal_command}"


_ISSUED_NAMES_ONLY = "'certs server' writes server.crt and server.key: name both in agent.yaml."


@dataclass(frozen=True)
class CertificateFacts:
    """One file with a certificate, or the key of one."""

    role: str
    """server, key or clients: which file of agent.yaml it is."""
    file: FileInfo
    problem: str = ""
    """Why it cannot be used; empty when it can."""
    starts_in: float = 0.0
    """Seconds until it becomes valid; negative when it is valid."""
    expires_in: float = 0.0
    """Seconds until the first certificate in it expires; negative when one has expired."""
    denied_user: str = ""
    """The daemon's user, if that user may not read the file."""

    has_authority: bool = True
    """The site's own authority is in the same folder."""
    closed_folder: FileInfo | None = None
    """The topmost folder above it that the daemon's user may not enter."""

    @property
    def is_issued_name(self) -> bool:
        """It has the name that 'certs server' gives it."""
        return Path(self.file.path).name in ("server.crt", "server.key")

    @property
    def renewal_advice(self) -> str:
        """Who renews it."""
        if self.role == "clients" and self.has_authority:
            return "Make a new authority, and issue the certificates of the server and of all clients again."
        if self.has_authority:
            return "Renew it." if self.is_issued_name else f"Issue another one. {_ISSUED_NAMES_ONLY}"
        return "Have its authority issue a new one; with an enrolment file, the central team."

    @property
    def renewal_command(self) -> str:
        """The commands that renew it, as far as this machine can."""
        if self.role == "clients" and self.has_authority:
            return "edge-agent help certificate"
        show = f"sudo edge-agent certs show {self.file.path}"
        names = "" if self.is_issued_name else " --name NAME"
        renew = f"sudo edge-agent certs server --renew --dir {self.folder}{names}"
        return f"{renew}; {show}" if self.has_authority else show

    @property
    def creation_advice(self) -> str:
        """Who makes a file that is missing."""
        if self.role == "clients":
            return "Copy the authority's certificate there again: each client has it as ca.crt. A site enrols again."
        if self.has_authority:
            message = "Issue it again from the authority of this site."
            return message if self.is_issued_name else f"{message} {_ISSUED_NAMES_ONLY}"
        return "Have a certificate issued, or make an authority on this machine."

    @property
    def creation_command(self) -> str:
        """The command that makes it."""
        if self.role == "clients":
            return f"sudo ls -lR {self.folder}"
        if self.has_authority:
            # Its names are in the certificate, unless that is what is missing.
            names = " --name NAME" if self.role == "server" or not self.is_issued_name else ""
            return f"sudo edge-agent certs server --renew --dir {self.folder}{names}"
        return f"sudo edge-agent certs init --dir {self.folder} --name NAME"

    @property
    def access_advice(self) -> str:
        """How to give the daemon access to a file in a folder that it may not enter."""
        if self.stays_closed:
            return "That folder stays closed: copy the file, name the copy in agent.yaml, and copy each renewed one."
        return "Let other users enter the folder; its keys stay closed by their own modes."

    @property
    def access_command(self) -> str:
        """The commands for that."""
        if self.stays_closed:
            # --backup: the site can have a file of that name there.
            options = f"-D --backup -o {self.denied_user} -m 600 -t /etc/edge-agent/tls"
            copying = f"sudo install {options} {shlex.quote(self.file.path)}"
            return f"{copying}; sudoedit /etc/edge-agent/agent.yaml"
        return f"sudo chmod a+x {self.closed_folder.path}" if self.closed_folder else ""

    @property
    def stays_closed(self) -> bool:
        """The closed folder is one that the system or its user keeps closed."""
        return self.closed_folder is not None and any(
            map(Path(self.closed_folder.path).is_relative_to, _CLOSED_ON_PURPOSE)
        )

    @property
    def folder(self) -> str:
        """The folder that holds it."""
        return self.file.path.rpartition("/")[0]

    @property
    def expiry_text(self) -> str:
        """Time until it expires or since it expired, as text."""
        return format_duration(abs(self.expires_in))

    @property
    def validity_text(self) -> str:
        """Time until it becomes valid, as text."""
        return format_duration(self.starts_in)


_CERTIFICATE: tuple[FindingRule[CertificateFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: not f.file.kind,
        "{f.file.path} does not exist",
        "{f.creation_advice}",
        "{f.creation_command}",
    ),
    FindingRule(
        "fault",
        lambda f: f.closed_folder,
        "{f.denied_user} may not enter {f.closed_folder.path} ({f.closed_folder.owner_and_mode}), which holds"
        " {f.file.path}",
        "{f.access_advice}",
        "{f.access_command}",
    ),
    FindingRule(
        "fault",
        lambda f: f.denied_user,
        "{f.denied_user} may not read {f.file.path} ({f.file.owner_and_mode})",
        "Make the daemon's user its owner.",
        "sudo chown {f.denied_user} {f.file.path}",
    ),
    FindingRule(
        "fault",
        lambda f: f.role == "key" and f.file.mode & 0o007,
        "{f.file.path} is {f.file.owner_and_mode}: every user may read this key",
        "Restrict its mode, and have a new certificate issued.",
        "sudo chmod 600 {f.file.path}; " + _RENEW,
    ),
    FindingRule(
        "fault",
        lambda f: f.problem,
        "{f.problem}",
        "The daemon uses the certificate that it read before, until it restarts. Replace the file with the right one.",
        "sudo ls -l {f.folder}; " + _SHOW,
    ),
    FindingRule("ok", lambda f: f.role == "key", "{f.file.path} belongs to the certificate"),
    FindingRule(
        "fault",
        lambda f: f.starts_in > 0,
        "{f.file.path} becomes valid in {f.validity_text}: is the clock right?",
        "Set the clock, or have a certificate issued that is valid now.",
        "date; " + _SHOW,
    ),
    FindingRule(
        "fault",
        lambda f: f.expires_in < 0,
        "{f.file.path} expired {f.expiry_text} ago: no client can connect by TCP",
        "{f.renewal_advice} The daemon loads the new certificate without a restart.",
        _RENEW,
    ),
    FindingRule(
        "warning",
        lambda f: f.expires_in < WARNED_SECONDS,
        "{f.file.path} expires in {f.expiry_text}",
        "{f.renewal_advice} The daemon loads the new certificate without a restart.",
        _RENEW,
    ),
    FindingRule("ok", otherwise, "{f.file.path} is valid for {f.expiry_text}"),
)


def judge_certificates(files: tuple[CertificateFacts, ...]) -> Iterator[Finding]:
    """Judge each of the three files."""
    for facts in files:
        yield from first_match(CERTIFICATE, _CERTIFICATE, facts, about=facts.role)


def probe_certificates(context: ProbeContext) -> tuple[CertificateFacts, ...]:
    """Look at each configured file; there are none when TCP has no certificates."""
    access = context.installation.config.access
    paths = {"server": access.certificate_file, "key": access.key_file, "clients": access.client_ca_file}
    return tuple(_probe_file(context, role, Path(path), Path(paths["server"])) for role, path in paths.items() if path)


def _probe_file(context: ProbeContext, role: str, path: Path, certificate: Path) -> CertificateFacts:
    file, user, parents = stat_file(path), context.daemon_user, stat_parents(path)
    facts = CertificateFacts(role, file, has_authority=has_own_authority(path))
    if not file.kind:
        return facts
    if user and not can_reach(user, parents, file, READ):
        closed_folder = next((folder for folder in reversed(parents) if not has_access(user, folder, ENTER)), None)
        facts = replace(facts, denied_user=user.name, closed_folder=closed_folder)
    try:
        if role == "key":
            if stat_file(certificate).kind:  # that it is missing is reported
                check_key_matches(read_bytes(certificate), read_bytes(path), str(certificate))
            return facts
        certificates = parse_certificates(read_bytes(path), str(path))
    except CertificateUnusable as error:
        return replace(facts, problem=error.message)
    now = time.time()
    certificates = in_use(certificates, now) if role == "clients" else certificates
    starts_at = max(each.starts_at for each in certificates)
    expires_at = min(each.expires_at for each in certificates)
    return replace(facts, starts_in=starts_at - now, expires_in=expires_at - now)


def has_own_authority(path: Path) -> bool:
    """Return whether the authority that `edge-agent certs` makes is in the folder of a certificate."""
    return stat_file(path.parent / "ca.crt").kind != ""


def in_use(authorities: list[Certificate], now: float) -> list[Certificate]:
    """Return those that are valid: after a change of the authority an old one may stay until it expires."""
    return [each for each in authorities if each.starts_at <= now < each.expires_at] or authorities


GROUPS = (CheckGroup((CERTIFICATE,), probe_certificates, judge_certificates),)
