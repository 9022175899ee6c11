"""The page for people: whether who may see it can, and nobody else. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.doctor.certificates import WARNED_SECONDS
from edge_agent.doctor.files import File
from edge_agent.doctor.findings import Case, Check, Finding, first, lasting, otherwise
from edge_agent.doctor.units import UnitFacts

CONSOLE = Check("console", "console")
UNIT = "edge-agent-web.service"


@dataclass(frozen=True)
class ConsoleFacts:
    """What was seen of it."""

    address: str
    listening: bool
    token: File
    missing: tuple[str, ...] = ()
    """Packages that it needs and that are not installed."""
    certificate: str = ""
    """Path of its certificate; empty = it has none."""
    problem: str = ""
    """Why a file of its TLS cannot be used; empty = all can, or there is none."""
    expires_in: float = 0.0
    """Seconds until its certificate ends."""
    unit: UnitFacts | None = None
    """None = systemd does not run this machine."""

    @property
    def wanted(self) -> bool:
        """Somebody has it started with the machine, or started it."""
        return self.unit is not None and (self.unit.starts or self.unit.active or self.unit.failed)

    @property
    def failed(self) -> bool:
        """Its unit has."""
        return self.unit is not None and self.unit.failed

    @property
    def left(self) -> str:
        """How long its certificate is good, or since when not, for people."""
        return lasting(abs(self.expires_in))


_LOG = f"sudo journalctl -u {UNIT} -b | tail -30"
_RENEW = f"sudo edge-agent certs server --renew; edge-agent certs show {{f.certificate}}; systemctl status {UNIT}"
_CONSOLE: tuple[Case[ConsoleFacts], ...] = (
    Case(
        "fault",
        lambda f: f.token.kind and f.token.mode & 0o077,
        "{f.token.path} is {f.token.shown}: others may read the token, and look and judge with it",
        "Have a new one made. Browsers are let in anew by 'edge-agent serve web --link'.",
        f"sudo rm {{f.token.path}}; sudo systemctl try-restart {UNIT}",
    ),
    Case(
        "ok", lambda f: not f.wanted and not f.listening, "not started; 'edge-agent serve web' serves a page for people"
    ),
    Case(
        "fault",
        lambda f: f.missing,
        "the console needs {f.missing[0]}, which is not installed",
        "Run the installer again, which brings it; in a clone: pip install '.[web]'.",
        "sudo sh edge-agent-*-linux-x86_64.run",
    ),
    Case("fault", lambda f: f.problem, "{f.problem}", "Put the right files there; it is then started again.", _RENEW),
    Case(
        "fault",
        lambda f: f.certificate and f.expires_in < 0,
        "{f.certificate} ended {f.left} ago: no browser takes it",
        "Renew it; the console takes it up without a restart.",
        _RENEW,
    ),
    Case(
        "fault",
        lambda f: f.failed,
        f"{UNIT} failed: {{f.unit.why}}",
        "The last line of its log says what is in the way and what to do.",
        f"{_LOG}; sudo systemctl restart {UNIT}",
    ),
    Case(
        "fault",
        lambda f: not f.listening,
        "nobody listens on {f.address}",
        "Look in its log, and start it.",
        f"{_LOG}; sudo systemctl restart {UNIT}",
    ),
    Case(
        "warning",
        lambda f: f.certificate and f.expires_in < WARNED_SECONDS,
        "{f.certificate} ends in {f.left}",
        "Renew it; the console takes it up without a restart.",
        _RENEW,
    ),
    Case("ok", otherwise, "{f.address} is open"),
)


def console(facts: ConsoleFacts) -> Iterator[Finding]:
    """Judge it."""
    yield from first(CONSOLE, _CONSOLE, facts)
