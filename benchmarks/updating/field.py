"""A site that runs version 1 under a plan, a centre that wants version 2, and what came of a fault in between."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent.client import Classification
from edge_agent.formats import golden
from edge_agent.formats.golden import Case
from edge_agent.formats.plan import Plan, Probation
from tests.bundles import echo_bundle
from tests.callers import Callers
from tests.fleet_cases import Centre
from tests.fleet_site import TASK, FleetSite, comes_true

OLD, NEW = "1.0.0", "2.0.0"
LABELS = ("refund", "price")
SETTLED_SECONDS_MAX = 30.0
WEIGHTS_BYTES = 300_000
TEXTS = tuple(f"I want my money back for {number} lamps" for number in range(12))
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


def bundle(folder: Path, version: str, **more: Any) -> Path:
    """Write a version of the task, with weights of its own; the answers are the same in all."""
    weights = (version.encode() * WEIGHTS_BYTES)[:WEIGHTS_BYTES]
    return echo_bundle(folder / version, TASK, labels=LABELS, version=version, **{"weights": weights, **more})


def wanted(centre: Centre, *digests: str, **more: Any) -> Plan:
    """Publish a plan that wants these, with a short probation; returns it."""
    return centre.plan(centre.offering(*digests, **{"probation": Probation(calls=1), **more}))


class Field:
    """Makes sites that are all alike."""

    def __init__(self, root: Path) -> None:
        """Let one site come to version 1, and keep a copy of it; then let the centre want version 2."""
        self.root, self._made = root, 0
        self.centre = Centre(root / "centre")
        self.old = self.centre.publish(bundle(root / "bundles", OLD))
        wanted(self.centre, self.old)
        with FleetSite(root / "ready", self.centre) as site:
            site.until(OLD)
            site.until_state("done")
            self.answers = _answers(site)
        self.before = self.centre.copy(root / "before")
        self.new = self.centre.publish(bundle(root / "bundles", NEW))
        wanted(self.centre, self.new)

    @contextmanager
    def site(self, **settings: Any) -> Iterator[FleetSite]:
        """Yield a fresh site that runs version 1 and has not heard of version 2; its uplink is not started."""
        self._made += 1
        folder = self.root / f"site-{self._made}"
        shutil.copytree(self.root / "ready" / "state", folder / "state")
        with FleetSite(folder, self.centre, uplinked=False, **settings) as site:
            site.until(OLD)
            yield site
        shutil.rmtree(folder)

    def suffer(self, what: str, fault: Fault, tally: Tally) -> None:
        """Let a fresh site suffer a fault while it is called; then let it come to version 2, and count."""
        with self.site() as site, Callers(site.daemon, TASK, 1) as callers:
            callers.wait_for_answers(1)
            fault(site)
            site.revive()
            converged = _settles(site)
            callers.wait_for_answers(1)
        versions = {version for each in callers.versions for version in each}
        tally.add(what, served=not callers.lost and versions <= {OLD, NEW}, converged=converged)


def _settles(site: FleetSite) -> bool:
    """Let an uplink do its work undisturbed, and restart the daemon once if that is what it takes."""
    for _ in range(2):
        site.restart_uplink()
        if comes_true(lambda: site.version() == NEW and site.state() == "done", SETTLED_SECONDS_MAX):
            return True
        site.restart()
    return False


def golden_file(answers: Mapping[str, str]) -> bytes:
    """Write golden answers of the task; the scores are left out."""
    return golden.encode(Case(input=text, answer=answer) for text, answer in answers.items())


def _answers(site: FleetSite) -> dict[str, str]:
    """Return what the task answers to some texts: the same in all versions."""
    with site.daemon.client() as client:
        given = client.classify(TASK, list(TEXTS))
    return {text: each.label for text, each in zip(TEXTS, given, strict=True) if isinstance(each, Classification)}
