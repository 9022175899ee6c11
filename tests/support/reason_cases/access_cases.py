"""Rows of certificates: errors for a technician who connects a device over the network."""

from __future__ import annotations

import time
from pathlib import Path

from edge_agent.client import AdminClient, CallFailed, Client
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.reason_cases.case import CaseOutcome, case, failure
from tests.support.remedy_commands import commands_in
from tests.support.tls_site import DAY, TlsSite


@case("ROLE_MISSING", "operator")
def role_missing(folder: Path) -> CaseOutcome:
    """A till's certificate asks for status; one that is issued with the role that the remedy names is let in."""
    site = TlsSite(folder / "tls")
    with RunningDaemon(folder / "site", **site.settings()):
        with AdminClient(site.address, site.client("till-3", "infer")) as till:
            failed = failure(till.status)
        [command] = commands_in(failed.remedy)
        role = command.text.rpartition("--role ")[2]
        with AdminClient(site.address, site.client("boss", role)) as boss:
            return CaseOutcome((failed.reason,), bool(boss.status()))


LEFT_SECONDS = 4.0


@case("CERTIFICATE_EXPIRED", "device")
def certificate_expired(folder: Path) -> CaseOutcome:
    """A device's certificate ends while it is connected; with a new one it is answered."""
    site = TlsSite(folder / "tls")
    with RunningDaemon(folder / "site", **site.settings()):
        soon = time.time() - 30 * DAY + LEFT_SECONDS
        with Client(site.address, site.client("till-3", "infer", at=soon)) as till:
            till.tasks()
            eventually_sync(lambda: _is_refused(till))
            failed = failure(till.tasks)
        with Client(site.address, site.client("till-3", "infer")) as till:
            return CaseOutcome((failed.reason,), till.tasks() == [] and "certs issue" in failed.remedy)


def _is_refused(client: Client) -> bool:
    try:
        client.tasks()
    except CallFailed:
        return True
    return False


@case("TLS_FAILED", "device")
def tls_failed(folder: Path) -> CaseOutcome:
    """A device shows a certificate of another authority; with one of this site it is answered."""
    site = TlsSite(folder / "tls")
    with RunningDaemon(folder / "site", **site.settings()):
        with Client(site.address, site.client("till-3", "infer", issuer=site.foreign)) as till:
            failed = failure(till.tasks)
        with Client(site.address, site.client("till-3", "infer")) as till:
            return CaseOutcome((failed.reason,), till.tasks() == [])
