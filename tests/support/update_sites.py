"""Sites that run version 1 under a plan, each a daemon and an uplink, and a central team that publishes version 2.

field = UpdateSites(tmp_path)
with field.site() as site:
    site.start_uplink()
    site.until(NEW)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.client import Classification
from edge_agent.formats.golden_cases import GoldenCase
from edge_agent.formats.plan import ProbationRules, RolloutPlan
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam
from tests.support.fleet_site import TASK, FleetSite

OLD, NEW = "1.0.0", "2.0.0"
LABELS = ("refund", "price")
WEIGHTS_BYTES = 300_000
TEXTS = tuple(f"I want my money back for {number} lamps" for number in range(12))


def bundle(folder: Path, version: str, **more: Any) -> Path:
    """Write a version of the task, with weights of its own; the answers are the same in all."""
    weights = (version.encode() * WEIGHTS_BYTES)[:WEIGHTS_BYTES]
    return echo_bundle(folder / version, TASK, labels=LABELS, version=version, **{"weights": weights, **more})


def wanted(central: CentralTeam, *digests: str, **more: Any) -> RolloutPlan:
    """Publish a plan that wants these, with a short probation; returns it."""
    return central.plan(central.offering(*digests, **{"probation": ProbationRules(calls=1), **more}))


class UpdateSites:
    """Makes sites that are all alike."""

    def __init__(self, root: Path) -> None:
        """Let one site come to version 1, and keep a copy of it; then let the central team want version 2."""
        self.root, self._made = root, 0
        self.central = CentralTeam(root / "central")
        self.old = self.central.publish(bundle(root / "bundles", OLD))
        wanted(self.central, self.old)
        with FleetSite(root / "ready", self.central) as site:
            site.until(OLD)
            site.until_state("done")
            self.answers = _answers(site)
        self.before = self.central.copy(root / "before")
        self.new = self.central.publish(bundle(root / "bundles", NEW))
        wanted(self.central, self.new)

    @contextmanager
    def site(self, **settings: Any) -> Iterator[FleetSite]:
        """Yield a fresh site that runs version 1 and has not received version 2; its uplink is not started."""
        self._made += 1
        folder = self.root / f"site-{self._made}"
        shutil.copytree(self.root / "ready" / "state", folder / "state")
        with FleetSite(folder, self.central, uplinked=False, **settings) as site:
            site.until(OLD)
            yield site
        shutil.rmtree(folder)


def _answers(site: FleetSite) -> tuple[GoldenCase, ...]:
    """Return what the task answers to some texts: the same in all versions."""
    with site.daemon.client() as client:
        given = client.classify(TASK, list(TEXTS))
    return tuple(_case(text, each) for text, each in zip(TEXTS, given, strict=True))


def _case(text: str, given: object) -> GoldenCase:
    assert isinstance(given, Classification)
    scores = dict(given.scores)
    return GoldenCase(input=text, answer=given.label, scores=tuple(scores[label] for label in LABELS))
