"""The web console: its unit, port, token file and certificate. The probe sends it no request."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path

from edge_agent.config import WebConfig, sections
from edge_agent.config.optional_sections import token_path
from edge_agent.doctor.certificate_checks import WARNED_SECONDS, CertificateFacts, has_own_authority, in_use
from edge_agent.doctor.findings import Check, Finding, FindingRule, first_match, otherwise
from edge_agent.doctor.installation import FileInfo, Installation, read_bytes, stat_file
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext, parse_phase, parse_properties, show_unit
from edge_agent.doctor.socket_checks import check_port
from edge_agent.doctor.unit_checks import PROPERTIES, UnitFacts
from edge_agent.errors import CertificateUnusable
from edge_agent.formats.certificates import check_key_matches, parse_certificates

CONSOLE = Check("console", "console")
UNIT = "edge-agent-web.service"


@dataclass(frozen=True)
class ConsoleFacts:
    """The console, as seen from outside."""

    address: str
    listening: bool
    token: FileInfo
    missing: tuple[str, ...] = ()
    """Required packages that are not installed."""
    certificate: str = ""
    """Path of the one that expires first, of its certificate and its clients' authorities; empty without TLS."""
    problem: str = ""
    """Why one of its TLS files cannot be used; empty when all can."""
    expires_in: float = 0.0
    """Seconds until `certificate` expires."""
    of_clients: bool = False
    """`certificate` is that of its clients' authorities."""
    has_authority: bool = True
    """The site's own authority is in the folder of its certificate."""
    unit: UnitFacts | None = None
    """None when systemd does not run this machine."""

    @property
    def in_use(self) -> bool:
        """It was started, or starts with the machine."""
        return self.unit is not None and (self.unit.starts_at_boot or self.unit.active or self.unit.failed)

    @property
    def starts(self) -> bool:
        """Its unit starts or stops at this moment."""
        return self.unit is not None and bool(self.unit.phase.name)

    @property
    def failed(self) -> bool:
        """Its unit has failed."""
        return self.unit is not None and self.unit.failed

    @property
    def consequence(self) -> str:
        """What an expired certificate leads to."""
        return "the console lets no browser in" if self.of_clients else "every browser refuses it"

    @property
    def certificate_facts(self) -> CertificateFacts:
        """`certificate`: when it expires, and who renews it."""
        role, file = "clients" if self.of_clients else "server", FileInfo(self.certificate, "file")
        return CertificateFacts(role, file, expires_in=self.expires_in, has_authority=self.has_authority)


_LOG = f"sudo journalctl -u {UNIT} -b | tail -30"
_RENEW = f"{{f.certificate_facts.renewal_command}}; systemctl status {UNIT}"
_CONSOLE: tuple[FindingRule[ConsoleFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.token.kind and f.token.mode & 0o077,
        "{f.token.path} is {f.token.owner_and_mode}: other users may read the token, and sign in with it",
        "Remove it; the console makes a new one. 'edge-agent serve web --link' then prints a new link for browsers.",
        f"sudo rm {{f.token.path}}; sudo systemctl try-restart {UNIT}",
    ),
    FindingRule("ok", lambda f: not f.in_use and not f.listening, "not started; 'edge-agent serve web' starts it"),
    FindingRule(
        "fault",
        lambda f: f.missing,
        "the console needs {f.missing[0]}, which is not installed",
        "Run the installer again, which installs it.",
        "sudo sh edge-agent-*-linux-x86_64.run",
    ),
    FindingRule(
        "fault",
        lambda f: f.problem,
        "{f.problem}",
        "Replace the file with the right one; systemd then starts the console again.",
        _RENEW,
    ),
    FindingRule(
        "fault",
        lambda f: f.certificate and f.expires_in < 0,
        "{f.certificate} expired {f.certificate_facts.expiry_text} ago: {f.consequence}",
        "{f.certificate_facts.renewal_advice} The console loads the new certificate without a restart.",
        _RENEW,
    ),
    FindingRule(
        "fault",
        lambda f: f.failed,
        f"{UNIT} failed: {{f.unit.why}}",
        "The last line of its log shows the reason and what to do.",
        f"{_LOG}; sudo systemctl restart {UNIT}",
    ),
    FindingRule("note", lambda f: not f.listening and f.starts, "{f.address}: the console is {f.unit.phase.summary}"),
    FindingRule(
        "fault",
        lambda f: not f.listening,
        "no process listens on {f.address}",
        "Read its log, then start it.",
        f"{_LOG}; sudo systemctl restart {UNIT}",
    ),
    FindingRule(
        "warning",
        lambda f: f.certificate and f.expires_in < WARNED_SECONDS,
        "{f.certificate} expires in {f.certificate_facts.expiry_text}",
        "{f.certificate_facts.renewal_advice} The console loads the new certificate without a restart.",
        _RENEW,
    ),
    FindingRule("ok", otherwise, "{f.address} is open"),
)


def judge_console(facts: ConsoleFacts) -> Iterator[Finding]:
    """Judge the console."""
    yield from first_match(CONSOLE, _CONSOLE, facts)


CONSOLE_PACKAGES = ("starlette", "uvicorn")


def probe_console(context: ProbeContext) -> ConsoleFacts:
    """Look at the console."""
    web = context.installation.config.web
    host, port = sections.split_host_port(web.address)
    problem, certificate, expires_in = _probe_tls(web) if web.has_tls else ("", "", 0.0)
    return ConsoleFacts(
        address=web.address,
        listening=check_port(host, port)[0],
        token=stat_file(token_path(web)),
        missing=tuple(filterfalse(_is_installed, CONSOLE_PACKAGES)),
        certificate=certificate,
        problem=problem,
        expires_in=expires_in,
        of_clients=bool(certificate) and certificate == web.client_ca_file,
        has_authority=has_own_authority(Path(certificate)),
        unit=_probe_unit(context.installation),
    )


def _is_installed(package: str) -> bool:
    """Return whether a package can be imported; a folder without files counts as a package without a file of its
    own."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _probe_tls(web: WebConfig) -> tuple[str, str, float]:
    """Return why a TLS file cannot be used, the one that expires first, and in how many seconds it does."""
    try:
        chain = read_bytes(Path(web.certificate_file))
        check_key_matches(chain, read_bytes(Path(web.key_file)), web.certificate_file)
        clients = parse_certificates(read_bytes(Path(web.client_ca_file)), web.client_ca_file)
        now = time.time()
        expiries = {
            web.certificate_file: parse_certificates(chain, web.certificate_file)[0].expires_at,
            web.client_ca_file: min(certificate.expires_at for certificate in in_use(clients, now)),
        }
        first = min(expiries, key=lambda path: expiries[path])
        return "", first, expiries[first] - now
    except CertificateUnusable as error:
        return error.message, web.certificate_file, 0.0
    except FileNotFoundError as error:
        return f"{error.filename} does not exist", web.certificate_file, 0.0


def _probe_unit(installation: Installation) -> UnitFacts | None:
    if not installation.has_systemd:
        return None
    text = show_unit(installation, UNIT, PROPERTIES) or ""
    return UnitFacts(UNIT, False, parse_properties(text), parse_phase(text))


GROUPS = (CheckGroup((CONSOLE,), probe_console, judge_console),)
