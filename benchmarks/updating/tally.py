"""What came of faults: of each, whether a site went on answering, and whether it arrived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.callers import Callers
from tests.support.fleet_site import TASK, FleetSite, comes_true
from tests.support.update_sites import NEW, OLD, UpdateSites

SETTLED_SECONDS_MAX = 30.0
Fault = Callable[[FleetSite], None]
"""Does its harm to a site that is up and has not heard of the new version; the daemon may be dead afterwards."""


@dataclass
class Tally:
    """What came of the faults so far."""

    injected: int = 0
    served: int = 0
    """Sites that answered every call by the old or the new version."""
    converged: int = 0
    """Sites that came to the new version, or stayed with the old one where the new one is bad."""
    troubles: list[str] = field(default_factory=list)

    def add(self, what: str, *, served: bool, converged: bool) -> None:
        """Count one fault."""
        self.injected += 1
        self.served += served
        self.converged += converged
        if not (served and converged):
            self.troubles.append(f"{what}: served {served}, converged {converged}")


def suffer(among: UpdateSites, what: str, fault: Fault, tally: Tally) -> None:
    """Let a fresh site suffer a fault while it is called; then let it come to version 2, and count."""
    with among.site() as site, Callers(site.daemon, TASK, 1) as callers:
        callers.wait_for_answers(1)
        fault(site)
        site.revive()
        converged = _settles(site)
        callers.wait_for_answers(1)
    versions = {version for each in callers.versions for version in each}
    tally.add(what, served=not callers.lost and versions <= {OLD, NEW}, converged=converged)


def _settles(site: FleetSite) -> bool:
    """Let an uplink work undisturbed, and restart the daemon once if necessary."""
    for _ in range(2):
        site.restart_uplink()
        if comes_true(lambda: site.version() == NEW and site.state() == "done", SETTLED_SECONDS_MAX):
            return True
        site.restart()
    return False
