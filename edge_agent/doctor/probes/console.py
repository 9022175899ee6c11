"""Looks at the page for people: its unit, its port, the token's file and its certificate. Asks nothing of it."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

from edge_agent.config import WebConfig, addresses
from edge_agent.config.web_section import token_path
from edge_agent.doctor.console import UNIT, ConsoleFacts
from edge_agent.doctor.probes.place import Place, content, look
from edge_agent.doctor.probes.serving import Case
from edge_agent.doctor.probes.sockets import taken
from edge_agent.doctor.units import PROPERTIES, UnitFacts, properties
from edge_agent.errors import CertificateUnusable
from edge_agent.formats.certificate_files import certificates, check_pair

PACKAGES = ("starlette", "uvicorn")


def console(case: Case) -> ConsoleFacts:
    """Look at it."""
    web = case.place.config.web
    host, port = addresses.split(web.address)
    problem, expires_in = _tls(web) if web.has_tls else ("", 0.0)
    return ConsoleFacts(
        address=web.address,
        listening=taken(host, port)[0],
        token=look(token_path(web)),
        missing=tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None),
        certificate=web.certificate_file,
        problem=problem,
        expires_in=expires_in,
        unit=_unit(case.place),
    )


def _tls(web: WebConfig) -> tuple[str, float]:
    """Return why its files cannot be used, and in how many seconds the certificate ends."""
    try:
        chain = content(Path(web.certificate_file))
        check_pair(chain, content(Path(web.key_file)), web.certificate_file)
        certificates(content(Path(web.client_ca_file)), web.client_ca_file)
        return "", certificates(chain, web.certificate_file)[0].expires_at - time.time()
    except CertificateUnusable as error:
        return error.message, 0.0
    except FileNotFoundError as error:
        return f"{error.filename} is not there", 0.0


def _unit(place: Place) -> UnitFacts | None:
    if not place.at("run/systemd/system").is_dir():
        return None
    said = place.run(("systemctl", "show", UNIT, f"--property={PROPERTIES}", "--no-pager"))
    return UnitFacts(UNIT, False, properties(said or ""))
