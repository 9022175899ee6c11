"""Asks systemd about the units."""

from __future__ import annotations

from edge_agent.doctor.findings import Unseen
from edge_agent.doctor.probes.serving import Case
from edge_agent.doctor.units import PROPERTIES, SERVE, UPLINK, UnitFacts, properties


def units(case: Case) -> tuple[UnitFacts, ...] | Unseen | None:
    """Show both units; None = systemd does not run this machine."""
    place = case.place
    if not place.at("run/systemd/system").is_dir():
        return None
    uplink, large = place.config.uplink, place.config.escalation
    found = []
    for name, wanted in ((SERVE, True), (UPLINK, bool(uplink.url or uplink.updates_url or large.url))):
        said = place.run(("systemctl", "show", name, f"--property={PROPERTIES}", "--no-pager"))
        if said is None:
            return Unseen("systemctl does not answer")
        found.append(UnitFacts(name, wanted, properties(said)))
    return tuple(found)
