"""Signed bundles that a site must not keep: they answer wrongly, crash, leak, are slow or hang, or fail later."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.updating.field import LABELS, NEW, OLD, Field, Tally, bundle, golden_file, wanted
from edge_agent.formats.plan import Probation
from tests.callers import Callers
from tests.fleet_site import TASK, FleetSite, comes_true

SELF_TEST_SECONDS_MAX = 5.0
SETTINGS = {
    "engine": {"restart_seconds_first": 0.05, "heartbeat_seconds_max": 2.0},
    "update": {"selftest_seconds_max": SELF_TEST_SECONDS_MAX},
}


@dataclass(frozen=True)
class Bad:
    """What is wrong with a bundle, and how it ends."""

    orders: str = ""
    """What the echo runtime is told to do with every text."""
    wrong: bool = False
    """Its golden answers are not what it answers."""
    end: str = "failed"

    def golden(self, right: Mapping[str, str]) -> bytes:
        """Return its golden file."""
        other = dict(zip(LABELS, reversed(LABELS), strict=True))
        return golden_file({text: other[label] if self.wrong else label for text, label in right.items()})


BAD = {
    "answers wrongly": Bad(wrong=True),
    "crashes": Bad("!crash"),
    "fails": Bad("!fail"),
    "leaks": Bad("!leak 4"),
    "is slow": Bad("!slow 60"),
    "hangs": Bad("!hang"),
    "fails once it serves": Bad("!fail after 60", end="rolled_back"),
}
WATCHED = Probation(calls=100_000)


def measure(field: Field, tally: Tally) -> None:
    """Let one site be offered all of them, one after the other, and a good one in the end."""
    with field.site(**SETTINGS) as site:
        site.start_uplink()
        for number, (what, bad) in enumerate(BAD.items()):
            digest = _offer(field, f"1.0.{number + 1}", bad)
            with Callers(site.daemon, TASK, 1) as callers:
                ended = comes_true(functools.partial(_ended, site, digest, bad.end))
                callers.wait_for_answers(1)
            stays = site.version() == OLD
            # What fails only once it serves has failed some calls by then: that is how it is found.
            tally.add(
                f"a bundle that {what}", served=stays and (bad.end != "failed" or not callers.lost), converged=ended
            )
        wanted(field.centre, field.new)
        site.until(NEW)


def _ended(site: FleetSite, digest: str, state: str) -> bool:
    update = site.update()
    return (
        update is not None
        and update.candidate is not None
        and (update.candidate.digest, site.state()) == (digest, state)
    )


def _offer(field: Field, version: str, bad: Bad) -> str:
    template = {"prompt": {"template": f"{bad.orders} {{input}}"}} if bad.orders else {}
    folder = bundle(field.root / "bundles", version, golden=bad.golden(field.answers), task=template)
    digest = field.centre.publish(folder)
    wanted(field.centre, digest, probation=WATCHED)
    return digest
