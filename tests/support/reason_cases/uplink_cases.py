"""Rows of the uplink: errors for a technician if an object store does not answer correctly."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.formats.signed_document import public_key_hex
from tests.support.answering_server import AnsweringServer
from tests.support.daemon import RunningDaemon
from tests.support.examples import CENTRAL_KEY, RECIPIENT
from tests.support.free_ports import free_port
from tests.support.reason_cases.case import CaseOutcome, CommandEnd, case, edge_agent
from tests.support.uplink_cases import PATIENT, SITE, UplinkCase

IDENTITY = {"id": SITE, "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]}
HTTP = {"allow_http": "true"}


class SealedSite:
    """A site with sealed examples, whose uplink is run once by hand, as cron would."""

    def __init__(self, folder: Path, url: str, options: dict[str, str] | None = None, **uplink: Any) -> None:
        """Seal two segments that are to go to `url`."""
        uplink = {"url": url, "options": options or {}, **PATIENT, "disk_reserve_bytes": 0, **uplink}
        self.daemon = RunningDaemon(folder / "site", site=IDENTITY, uplink=uplink)
        self.daemon.state_dir.mkdir(parents=True, exist_ok=True)
        self.sealed = UplinkCase(self.daemon.state_dir, url)
        self.stems = self.sealed.seal(2)

    def once(self) -> CommandEnd:
        """Run the uplink."""
        return edge_agent(self.daemon, "serve", "uplink", "--once")


def of_server(folder: Path, way: str, named: str) -> CaseOutcome:
    """Meet a server that answers in a way; the remedy has these words, and once it answers well all is uploaded."""
    with AnsweringServer() as server:
        site = SealedSite(folder, f"{server.address}/fleet", HTTP)
        server.answer(way)
        met = site.once()
        assert named in met.remedy, met.text
        server.answer("well")
        return CaseOutcome(met.reasons, met.code != 0 and not site.once().code and bool(server.objects))


@case("UPSTREAM_UNREACHABLE", "technician")
def upstream_unreachable(folder: Path) -> CaseOutcome:
    """Nobody listens at the address under uplink, which has another port; with the right one all is uploaded."""
    with AnsweringServer() as server:
        met = SealedSite(folder / "wrong", f"http://127.0.0.1:{free_port()}/fleet", HTTP).once()
        assert "under 'uplink'" in met.remedy, met.text
        right = SealedSite(folder / "right", f"{server.address}/fleet", HTTP).once()
        return CaseOutcome(met.reasons, not right.code and bool(server.objects))


@case("UPSTREAM_BUSY", "technician")
def upstream_busy(folder: Path) -> CaseOutcome:
    """The store asks to slow down; later all is uploaded by itself."""
    return of_server(folder, "503", "retries automatically")


@case("UPSTREAM_FAILED", "technician")
def upstream_failed(folder: Path) -> CaseOutcome:
    """A login page answers in the store's place; with the store itself all is uploaded."""
    return of_server(folder, "html", "login page")


@case("UPSTREAM_REFUSED", "technician")
def upstream_refused(folder: Path) -> CaseOutcome:
    """The store does not accept the credential; once it has the rights all is uploaded."""
    return of_server(folder, "403", "credential")


@case("UPSTREAM_MISSING", "technician")
def upstream_missing(folder: Path) -> CaseOutcome:
    """The disk of the folder store is not mounted; once it is, as the remedy says, all is uploaded."""
    store = folder / "store"
    site = SealedSite(folder, str(store))
    met = site.once()
    assert "Mount its disk" in met.remedy, met.text
    with disk(store, "size=4m"):
        return CaseOutcome(met.reasons, not site.once().code and bool(list(store.rglob("*.age"))))


@case("UPLOAD_CONFLICT", "technician")
def upload_conflict(folder: Path) -> CaseOutcome:
    """Something else lies under a segment's name; once the central team has moved it, the segment is uploaded."""
    store = folder / "store"
    store.mkdir(parents=True)
    site = SealedSite(folder, str(store))
    path = store / f"site={SITE}" / "segments" / f"{site.stems[0]}.age"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 3000)
    met = site.once()
    path.unlink()
    person = "the central team" if "central team" in met.remedy else ""
    return CaseOutcome(met.reasons, not site.once().code and path.exists(), person)


@case("EXCHANGE_DIR_UNUSABLE", "technician")
def exchange_dir_unusable(folder: Path) -> CaseOutcome:
    """The uplink may not write its notes; with the rights it uploads."""
    store = folder / "store"
    store.mkdir(parents=True)
    site = SealedSite(folder, str(store))
    notes = site.daemon.state_dir / "uplink"
    notes.mkdir(exist_ok=True)
    with read_only(notes):
        met = site.once()
    return CaseOutcome(met.reasons, met.code == 3 and not site.once().code)


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a disk of its own."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "edge-agent-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the right to write away, from root too."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
