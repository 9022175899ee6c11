"""A repository behind an HTTP server that answers badly: one site, a new version each time, badly and then well."""

from __future__ import annotations

from pathlib import Path

from benchmarks.updating.tally import Tally
from tests.support.answering_server import DOWNLOAD_WAYS, WAYS, AnsweringServer
from tests.support.callers import Callers
from tests.support.fleet_site import TASK, FleetSite, comes_true
from tests.support.update_field import Field, bundle, wanted

PREFIX = "/fleet/"
BAD_WAYS = sorted({*DOWNLOAD_WAYS, *WAYS} - {"truncated"})  # that one spoils what is uploaded
ASKED = 2
IMPATIENT = {"request_seconds_max": 1.0, "bytes_per_second_min": 10**6, "updates_options": {"allow_http": "true"}}


def measure(field: Field, tally: Tally) -> None:
    """Let one site fetch blobs, and then metadata, in every bad way."""
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


def _fetch(field: Field, site: FleetSite, server: AnsweringServer, what: tuple[str, str], tally: Tally) -> None:
    """Answer badly until the uplink has asked a few times, first for metadata, then for blobs."""
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
