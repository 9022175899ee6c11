"""Signed bundles that a site must reject: they answer wrongly, crash, leak, are slow, hang or fail later.

with field.site(**SETTINGS) as site:
    site.start_uplink()
    offered(field, site, 1, BAD["leaks"])
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.formats import golden_cases
from edge_agent.formats.golden_cases import GoldenCase
from edge_agent.formats.plan import ProbationRules
from tests.support.callers import Callers
from tests.support.fleet_site import TASK, FleetSite, comes_true
from tests.support.update_sites import LABELS, UpdateSites, bundle, wanted

SETTINGS = {
    "engine": {"restart_seconds_first": 0.05, "heartbeat_seconds_max": 60.0},
    "update": {"selftest_seconds_max": 15.0},
}
WATCHED = ProbationRules(calls=100_000)


@dataclass(frozen=True)
class BadBundle:
    """The defect of a bundle and its expected end."""

    reason: str
    """What the site says of it."""
    orders: str = ""
    """What the echo runtime is told to do with every text."""
    wrong: bool = False
    """Its golden answers are not what it answers."""
    ends: tuple[str, ...] = ("failed",)
    """States in which its update may end."""
    before: str = ""
    """What the bundle that answers then is told; empty = nothing, and it is the one that is there."""

    def golden(self, right: Sequence[GoldenCase]) -> bytes:
        """Return its golden file."""
        other = dict(zip(LABELS, reversed(LABELS), strict=True))
        wrong = [case.model_copy(update={"answer": other[case.answer or ""]}) for case in right]
        return golden_cases.encode(wrong if self.wrong else right)


EITHER = ("failed", "rolled_back")
BAD = {
    "answers wrongly": BadBundle("GOLDEN_DIFFERS", wrong=True),
    "crashes": BadBundle("ENGINE_CRASHED", "!crash"),
    "fails": BadBundle("MODEL_FAILED", "!fail"),
    "leaks": BadBundle("MEMORY_GROWS", "!leak 4"),
    "hangs": BadBundle("SELF_TEST_TOO_LONG", "!hang"),
    # The self-test takes 120 jobs at most.
    "fails once it serves": BadBundle("ERRORS", "!fail after 150", ends=("rolled_back",)),
    # In the self-test, or in its probation: while it is called without a pause, the one before is not fast either.
    "is 3 times slower": BadBundle("SLOWER", "!slow 60", before="!slow 20", ends=EITHER),
}


@dataclass(frozen=True)
class BadBundleOutcome:
    """The outcome of a bad bundle."""

    arrived: bool
    """Its update ended as it should, for the reason that is its own."""
    stays: bool
    """The bundle before answers."""
    lost: Sequence[str]
    """Calls meanwhile that failed or were answered otherwise."""

    def served(self, bad: BadBundle) -> bool:
        """Return whether the bundle stayed and no call failed; a bundle that fails only in use may fail calls."""
        return self.stays and (bad.reason == "ERRORS" or not self.lost)


def offered(field: UpdateSites, site: FleetSite, number: int, bad: BadBundle) -> BadBundleOutcome:
    """Offer a site with its uplink the bad bundle `number` while callers use the site."""
    if bad.before:
        wanted(field.central, _published(field, f"1.{number}.0", BadBundle("", bad.before)))
        site.until(f"1.{number}.0")
        site.until_state("done")
    before = site.version()
    digest = _published(field, f"1.{number}.1", bad)
    wanted(field.central, digest, probation=WATCHED)
    with Callers(site.daemon, TASK, 1) as callers:
        arrived = comes_true(functools.partial(_ended, site, digest, bad))
        callers.wait_for_answers(1)
    return BadBundleOutcome(arrived, site.version() == before, callers.lost)


def _ended(site: FleetSite, digest: str, bad: BadBundle) -> bool:
    update = site.update()
    return (
        update is not None
        and update.candidate is not None
        and update.candidate.digest == digest
        and update.state.lower() in bad.ends
        and update.reason == bad.reason
    )


def _published(field: UpdateSites, version: str, bad: BadBundle) -> str:
    template = {"prompt": {"template": f"{bad.orders} {{input}}"}} if bad.orders else {}
    return field.central.publish(
        bundle(field.root / "bundles", version, golden=bad.golden(field.answers), task=template)
    )
