"""Offers that a site must not take: by a hostile uplink, in signed but bad bundles, by a server that answers badly.

The site goes on, and takes the honest copy afterwards. The attacks are those of tests/support/repository_attacks.py.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.updating.tally import Tally
from tests.support.answering_server import DOWNLOAD_WAYS, WAYS, AnsweringServer
from tests.support.bad_bundles import BAD, SETTINGS, offered
from tests.support.callers import Callers
from tests.support.fleet_site import TASK, FleetSite, comes_true
from tests.support.hostile_incoming import attacked, lay
from tests.support.repository_attacks import ATTACKS
from tests.support.update_sites import NEW, UpdateSites, bundle, wanted


def measure_attacks(field: UpdateSites, tally: Tally) -> None:
    """Let a hostile uplink lay whatever it can into `incoming/` of one site."""
    with field.site() as site, Callers(site.daemon, TASK, 1) as callers:
        lay(site, field.central.copy(field.root / "honest"))
        site.until(NEW)
        for name in ATTACKS:
            refused, arrived = attacked(field, site, name)
            tally.add(f"attack: {name}", served=refused, converged=arrived)
            callers.wait_for_answers(1)
    if callers.lost:
        tally.troubles += callers.lost
        tally.served -= 1


def measure_bad_bundles(field: UpdateSites, tally: Tally) -> None:
    """Offer signed bundles that a site must not keep, one after the other to one site, and a good one in the end."""
    with field.site(**SETTINGS) as site:
        site.start_uplink()
        for number, (what, bad) in enumerate(BAD.items(), 1):
            ending = offered(field, site, number, bad)
            tally.add(f"a bundle that {what}", served=ending.served(bad), converged=ending.arrived)
        wanted(field.central, field.new)
        site.until(NEW)


PREFIX = "/fleet/"
BAD_WAYS = sorted({*DOWNLOAD_WAYS, *WAYS} - {"truncated"})  # that one spoils what is uploaded
ASKED = 2
IMPATIENT = {"request_seconds_max": 1.0, "bytes_per_second_min": 10**6, "updates_options": {"allow_http": "true"}}


def measure_downloads(field: UpdateSites, tally: Tally) -> None:
    """Let one site fetch blobs, and then metadata, from a server that answers in every bad way, and then well."""
    with AnsweringServer() as server:
        _serve(server, field.central.folder)
        uplink = {"updates_url": server.address + PREFIX.rstrip("/"), **IMPATIENT}
        with field.site(uplink=uplink) as site, Callers(site.daemon, TASK, 1) as callers:
            site.start_uplink()
            for number, way in enumerate(BAD_WAYS):
                _fetch(field, site, server, (f"3.0.{number}", way), tally)
            callers.wait_for_answers(1)
    if callers.lost:
        tally.troubles += callers.lost
        tally.served -= 1
    wanted(field.central, field.new)


def _fetch(field: UpdateSites, site: FleetSite, server: AnsweringServer, what: tuple[str, str], tally: Tally) -> None:
    """Give bad answers to the uplink's first requests, for metadata and then for blobs."""
    version, way = what
    before = site.version()
    wanted(field.central, field.central.publish(bundle(field.root / "bundles", version)))
    server.answer(way, only=lambda _, path: "metadata" in path)
    _serve(server, field.central.folder)
    served = _asked(server) and site.version() == before
    server.answer(way, only=lambda _, path: "blobs" in path)
    served = _asked(server) and site.version() == before and served
    server.answer("well")
    tally.add(f"download: {way}", served=served, converged=comes_true(lambda: site.version() == version))


def _asked(server: AnsweringServer) -> bool:
    return comes_true(lambda: len([path for _, path in server.requests if server.only("GET", path)]) >= ASKED)


def _serve(server: AnsweringServer, folder: Path) -> None:
    files = (path for path in folder.rglob("*") if path.is_file())
    server.objects.update({PREFIX + path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
