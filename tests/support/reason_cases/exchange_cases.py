"""Rows of the exchange with the central team: drives with updates and receipts, segments, enrolment files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convert.publish.central_keys import CentralKeys
from edge_agent.errors import EdgeAgentError, RecordInvalid
from edge_agent.formats import enrolment_file, example_records, segment
from edge_agent.formats.signed_document import format_timestamp, public_key_hex, sign
from tests.support.daemon import RunningDaemon
from tests.support.enrolled_machine import CentralFolder, EnrolledMachine
from tests.support.examples import CENTRAL_KEY, IDENTITY, NOW, RECIPIENT, prediction, records_of
from tests.support.fleet_cases import CentralTeam
from tests.support.reason_cases.bundle_cases import CENTRAL, person_of
from tests.support.reason_cases.call_cases import TASK
from tests.support.reason_cases.case import CaseOutcome, CommandEnd, case, edge_agent, run
from tests.support.repository_attacks import AttackedRepository, expired
from tests.support.segments import CentralTeam as Collecting
from tests.support.segments import SealingSite, stranger
from tests.support.store_cases import bundle

SITE = "site-1"
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


class DriveSite:
    """A fleet's central team, and a site that only drives reach."""

    def __init__(self, folder: Path) -> None:
        """Make both."""
        self.folder = folder
        self.central = CentralTeam(folder / "central")
        (folder / "root.json").write_bytes(self.central.root_bytes)
        self.daemon = RunningDaemon(
            folder / "site",
            update={"root_file": str(folder / "root.json"), "check_seconds": 0.1},
            site={"id": SITE, "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]},
            examples={"collect": {TASK: "upstream"}, "disk_reserve_bytes": 0},
            store={"allow_unsigned": False},
        )

    def drive(self, version: str) -> Path:
        """Publish a version that the plan wants, and write a drive with it."""
        made = bundle(self.folder / version, version, weights=b"w" * 3_000, adapter=version.encode())
        self.central.plan(self.central.offering(self.central.publish(made)))
        return self.central.drive(self.folder / f"drive-{version}")

    def take(self, drive: Path) -> CommandEnd:
        """Import a drive."""
        return edge_agent(self.daemon, "media", "import", drive)

    def hostile(self, spoil: Callable[[AttackedRepository], None]) -> Path:
        """Return a damaged copy of the publications."""
        older = self.central.copy(self.folder / "older")
        made = AttackedRepository(self.central, self.central.copy(self.folder / "hostile"), older)
        spoil(made)
        return made.folder


@contextmanager
def drive_site(folder: Path) -> Iterator[DriveSite]:
    """Run the site."""
    folder.mkdir(parents=True, exist_ok=True)
    site = DriveSite(folder)
    with site.daemon:
        yield site


def replaced_drive(folder: Path, spoil: Callable[[AttackedRepository], None]) -> CaseOutcome:
    """Import a spoilt copy, and then a drive that the central team has written again, as the remedy says."""
    with drive_site(folder) as site:
        whole = site.drive("1.0.0")
        met = site.take(site.hostile(spoil))
        assert met.code == 5, met.text
        again = site.take(whole)
        assert not again.code, again.text
        return CaseOutcome(met.reasons, cured=True, person=person_of(met.remedy))


@case("UPDATE_EXPIRED", "technician")
def update_expired(folder: Path) -> CaseOutcome:
    """A drive whose metadata have expired."""
    return replaced_drive(folder, expired("timestamp"))


@case("UPDATE_INCOMPLETE", "technician")
def update_incomplete(folder: Path) -> CaseOutcome:
    """A drive that was pulled out before its end."""
    return replaced_drive(folder, lambda hostile: hostile.path("timestamp").unlink())


@case("UPDATE_UNTRUSTED", "technician")
def update_untrusted(folder: Path) -> CaseOutcome:
    """A drive of another fleet; the remedy names what the central team checks its repository with."""
    with drive_site(folder) as site:
        other = CentralTeam(folder / "other", whose="theirs")
        other.plan(other.offering(other.publish(bundle(folder / "theirs", weights=b"x"))))
        met = site.take(other.drive(folder / "foreign"))
        return CaseOutcome(met.reasons, not site.take(site.drive("1.0.0")).code, person_of(met.remedy))


@case("UPDATE_OUTDATED", "technician")
def update_outdated(folder: Path) -> CaseOutcome:
    """An older drive than the last one; a new one is taken."""
    with drive_site(folder) as site:
        first, second = site.drive("1.0.0"), site.drive("2.0.0")
        assert not site.take(second).code
        met = site.take(first)
        return CaseOutcome(met.reasons, not site.take(site.drive("3.0.0")).code)


@case("PLAN_INVALID", "technician")
def plan_invalid(folder: Path) -> CaseOutcome:
    """A signed plan that breaks a rule of its schema; the central team publishes another one."""
    with drive_site(folder) as site:
        site.drive("1.0.0")
        met = site.take(site.hostile(lambda hostile: hostile.plan(b"{}")))
        return CaseOutcome(met.reasons, not site.take(site.drive("2.0.0")).code, person_of(met.remedy))


@case("DOCUMENT_INVALID", "technician")
def document_invalid(folder: Path) -> CaseOutcome:
    """A drive with nothing for this site; the remedy names what the central team writes onto it."""
    with drive_site(folder) as site:
        empty = folder / "empty"
        empty.mkdir()
        met = site.take(empty)
        return CaseOutcome(met.reasons, not site.take(site.drive("1.0.0")).code, person_of(met.remedy))


@case("SIGNATURE_INVALID", "technician")
def signature_invalid(folder: Path) -> CaseOutcome:
    """Receipts that somebody else has signed; those of the central team are taken."""
    with drive_site(folder) as site:
        drive = folder / "drive"
        met = site.take(_with_receipts(drive, STRANGER))
        again = site.take(_with_receipts(drive, CENTRAL_KEY))
        assert not again.code, again.text
        return CaseOutcome(met.reasons, cured=True)


def _with_receipts(drive: Path, key: Ed25519PrivateKey) -> Path:
    path = drive / f"site={SITE}" / "receipts.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = segment.Receipts.model_validate({"site": SITE, "at": format_timestamp(NOW)})
    path.write_bytes(sign(body, key))
    return drive


@case("SEGMENT_DAMAGED", "central")
def segment_damaged(folder: Path) -> CaseOutcome:
    """Collect has another key than the one that a segment was sealed to; with that key it is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    other = stranger()
    site = SealingSite(folder / "store")
    name = site.seal_lines(
        example_records.encode(prediction(1).model_copy(update={"site": SITE})),
        records=1,
        recipients=[str(other.to_public())],
    )
    reason = _reason_of(site.sealed(name).read_bytes())
    first = Collecting(folder / "before").collect(folder / "store")
    assert [name] == [each.name for each in first.refused], first
    keys = CentralKeys((IDENTITY, other), CENTRAL_KEY)
    return CaseOutcome(reason, Collecting(folder / "after", keys=keys).collect(folder / "store").segments_taken == 1)


@case("RECORD_INVALID", "central")
def record_invalid(folder: Path) -> CaseOutcome:
    """A record of a later program: its segment is named and waits, the others are taken. Its writer is to be asked."""
    folder.mkdir(parents=True, exist_ok=True)
    site = SealingSite(folder / "store")
    name = site.seal_lines(b'{"kind": "of-a-later-program"}\n', records=1)
    site.seal([prediction(2)])
    reason = _reason_of(site.sealed(name).read_bytes())
    report = Collecting(folder).collect(folder / "store")
    assert ([name], 1) == ([each.name for each in report.refused], report.segments_taken), report
    return CaseOutcome(
        reason,
        cured=False,
        person="who wrote the program" if "program that wrote it" in RecordInvalid.remedy_default else "",
    )


def _reason_of(sealed: bytes) -> tuple[str, ...]:
    """Return the reason with which the code that collect uses refuses a segment: its report has the sentence alone."""
    try:
        records_of(segment.unseal(sealed, [IDENTITY]))
    except EdgeAgentError as error:
        return (error.reason,)
    return ()


@case("KIT_INVALID", "technician")
def enrolment_invalid(folder: Path) -> CaseOutcome:
    """An enrolment file that was cut off on its way; with one that the central team makes again the box enrols."""
    return _enrolled(folder, lambda raw: raw[: len(raw) // 2])


def _enrolled(folder: Path, spoil: Callable[[bytes], bytes]) -> CaseOutcome:
    (folder / "store").mkdir(parents=True)
    team = CentralFolder(folder, str(folder / "store"), {})
    box, path = EnrolledMachine(folder / "box"), team.enrolment()
    bad = folder / "copied.kit"
    bad.write_bytes(spoil(path.read_bytes()))
    met = run(*box.daemon.command(), "-v", "enrol", bad, "--code", "0000", "--etc", box.etc)
    box.enrol(path)
    return CaseOutcome(met.reasons, met.code == 5, person_of(met.remedy))


@case("KIT_REFUSED", "technician")
def enrolment_refused(folder: Path) -> CaseOutcome:
    """An enrolment file of another site; with this machine's own the box stays what it is."""
    (folder / "store").mkdir(parents=True)
    team = CentralFolder(folder, str(folder / "store"), {})
    box, own = EnrolledMachine(folder / "box"), folder / "own.kit"
    shutil.copy(team.enrolment(), own)
    box.enrol(own)
    said = _enrol_other(box, team.enrolment("shop-13"))
    box.enrol(team.enrolment())
    return CaseOutcome(said.reasons, said.code == 5, CENTRAL if "central" in said.remedy else "")


def _enrol_other(box: EnrolledMachine, path: Path) -> CommandEnd:
    code = enrolment_file.verification_code(enrolment_file.parse(path.read_bytes())[1])
    return run(*box.daemon.command(), "-v", "enrol", path, "--code", code, "--etc", box.etc)
