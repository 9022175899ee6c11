"""Looks at the certificates that agent.yaml names; of a key only whether it belongs to one."""

from __future__ import annotations

import time
from pathlib import Path

from edge_agent.doctor.certificates import CertificateFacts
from edge_agent.doctor.files import READ, may_reach
from edge_agent.doctor.probes.place import above, content, look
from edge_agent.doctor.probes.serving import Case
from edge_agent.errors import CertificateUnusable
from edge_agent.formats.certificate_files import certificates, check_pair


def tls(case: Case) -> tuple[CertificateFacts, ...]:
    """Look at each file that is named; none where TCP has no certificates."""
    access = case.place.config.access
    named = {"server": access.certificate_file, "key": access.key_file, "clients": access.client_ca_file}
    return tuple(_looked(case, what, Path(path), Path(named["server"])) for what, path in named.items() if path)


def _looked(case: Case, what: str, path: Path, certificate: Path) -> CertificateFacts:
    file, person = look(path), case.person
    if not file.kind:
        return CertificateFacts(what, file)
    barred = person.name if person and not may_reach(person, above(path), file, READ) else ""
    try:
        if what == "key":
            check_pair(content(certificate), content(path), str(certificate))
            return CertificateFacts(what, file, barred=barred)
        found = certificates(content(path), str(path))
    except CertificateUnusable as error:
        return CertificateFacts(what, file, error.message, barred=barred)
    now = time.time()
    starts, ends = max(each.starts_at for each in found) - now, min(each.expires_at for each in found) - now
    return CertificateFacts(what, file, "", starts, ends, barred)
