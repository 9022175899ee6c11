"""Collecting from folders: each sealed segment is taken once and joined; the report names errors, and they stop nothing
else."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convert.collect import derived_examples
from convert.collect.collection import CollectReport
from convert.collect.sources import FolderSource, SourceFailed
from convert.fleet.site_registry import SiteRegistry
from edge_agent.errors import InvalidRequest
from edge_agent.formats.segment import name_of
from edge_agent.formats.signed_document import public_key_hex
from tests.support.examples import EPOCH, SITE_KEY, feedback, prediction
from tests.support.segments import KEYS, CentralTeam, SealingSite, stranger

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
OTHER_EPOCH = "fedcba9876543210"
EVERYONE = "SELECT site, prediction_id FROM examples ORDER BY ALL"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return an empty folder for the sites' objects."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def sealed(store: Path, count: int, **changes: object) -> tuple[SealingSite, list[str]]:
    """Return a site and the names of its segments; segment n contains prediction n."""
    site = SealingSite(store, **changes)
    return site, [site.seal([prediction(number)]) for number in range(1, count + 1)]


def refused(report: CollectReport) -> list[str]:
    return [each.name for each in report.refused]


def missing(report: CollectReport) -> list[tuple[int, int, str]]:
    return [(gap.first, gap.last, gap.why) for gap in report.gaps]


def test_correction_is_joined_with_its_prediction(tmp_path: Path, store: Path):
    """A prediction and its correction from a later segment are one row, with the corrected label."""
    site = SealingSite(store)
    site.seal([prediction(1), prediction(2)])
    site.seal([feedback(1)])
    central = CentralTeam(tmp_path)
    report = central.collect(store)
    assert (2, 3, True, []) == (report.segments_taken, report.records_taken, report.clean, report.gaps)
    rows = central.query(
        "SELECT task, site, prediction_id, output, verdict, truth FROM examples ORDER BY prediction_id"
    )
    assert [
        ("pos-intent", "site-1", "p-1", "refund", "corrected", "price"),
        ("pos-intent", "site-1", "p-2", "refund", None, None),
    ] == rows
    assert [(1, 2)] == site.received()


def test_second_run_changes_no_file(tmp_path: Path, store: Path):
    """Collecting the same segments again takes none of them and writes the same bytes, except report.json."""
    site = SealingSite(store)
    for number in range(1, 6):
        site.seal([prediction(number), feedback(number)])
    site.say()
    central = CentralTeam(tmp_path)
    central.collect(store)
    before = {name: content for name, content in central.files().items() if name != "report.json"}
    again = central.collect(store, now=lambda: 0.0)
    assert (0, 5) == (again.segments_taken, again.segments_held)
    assert before == {name: content for name, content in central.files().items() if name != "report.json"}


@pytest.mark.slow
def test_one_run_and_three_write_the_same_examples(tmp_path: Path, store: Path):
    """Segments collected in one run or in three give examples with the same bytes."""
    site = SealingSite(store)
    (tmp_path / "many").mkdir()
    many, once = CentralTeam(tmp_path / "many"), CentralTeam(tmp_path)
    for number in (1, 2, 3):
        site.seal([prediction(number), feedback(number)])
        many.collect(store)
    once.collect(store)
    examples = [name for name in once.files() if name.startswith("examples/")]
    assert 1 == len(examples)
    assert [once.files()[name] for name in examples] == [many.files()[name] for name in examples]


# --- what is missing --------------------------------------------------------------------------------------------------


def test_gaps_are_named_with_their_reason(tmp_path: Path, store: Path):
    """Segments lost in transit or on the site, and segments without manifest or sealed file, are each named by
    number."""
    site, names = sealed(store, 9)
    for lost in (1, 2, 8):
        site.remove(names[lost])
    site.manifest(names[4]).unlink()
    site.sealed(names[6]).unlink()
    site.say(highest={EPOCH: 12}, missing={EPOCH: [11]})
    report = CentralTeam(tmp_path).collect(store)
    assert [
        (2, 3, "has not arrived"),
        (5, 5, "its manifest has not arrived"),
        (7, 7, "its sealed file has not arrived"),
        (9, 10, "has not arrived"),
        (11, 11, "the site lost it"),
        (12, 12, "has not arrived"),
    ] == missing(report)
    assert [(1, 1), (4, 4), (6, 6), (8, 8)] == site.received()
    assert report.clean


def test_replayed_or_missing_status_hides_no_gap(tmp_path: Path, store: Path):
    """An older status object, or a deleted one, does not lower the highest number that the central team has
    recorded."""
    site, names = sealed(store, 3)
    site.say(at=100.0, highest={EPOCH: 1})
    old = (site.folder / "status.json").read_bytes()
    site.say(at=200.0)
    site.remove(names[2])
    central = CentralTeam(tmp_path)
    assert [(3, 3, "has not arrived")] == missing(central.collect(store))
    (site.folder / "status.json").write_bytes(old)
    assert [(3, 3, "has not arrived")] == missing(central.collect(store))
    (site.folder / "status.json").unlink()
    assert [(3, 3, "has not arrived")] == missing(central.collect(store))


def test_late_segment_closes_its_gap(tmp_path: Path, store: Path):
    """A segment that arrives late, here on a USB drive, closes its gap and joins the ranges of the receipts."""
    site, names = sealed(store, 3)
    drive = SealingSite(tmp_path / "drive")
    for path in (site.sealed(names[1]), site.manifest(names[1])):
        path.rename(drive.folder / "segments" / path.name)
    central = CentralTeam(tmp_path)
    assert [(2, 2, "has not arrived")] == missing(central.collect(store))
    assert [(1, 1), (3, 3)] == site.received()
    assert [] == missing(central.collect(tmp_path / "drive", store))
    assert [(1, 3)] == site.received() == drive.received()


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "other"])
def test_damaged_segment_is_refused_by_name(tmp_path: Path, store: Path, spoil: str):
    """A segment that is changed, cut, empty or swapped is named in the report and in the receipts, and the others are
    taken."""
    site, names = sealed(store, 3)
    content = bytearray(site.sealed(names[1]).read_bytes())
    content[len(content) // 2] ^= 1
    spoilt = {"flip": content, "cut": content[:-1], "empty": b"", "other": site.sealed(names[0]).read_bytes()}
    site.sealed(names[1]).write_bytes(spoilt[spoil])
    central = CentralTeam(tmp_path)
    report = central.collect(store)
    assert ([names[1]], [(2, 2, "was refused")]) == (refused(report), missing(report))
    assert [("site-1", "p-1"), ("site-1", "p-3")] == central.query(EVERYONE)
    assert [2] == [told.sequence for told in site.receipts().epochs[0].refused]
    assert [(1, 1), (3, 3)] == site.received()


def test_resealed_records_close_the_gap(tmp_path: Path, store: Path):
    """After the site sealed the records of a damaged segment again, no segment is missing and no record exists
    twice."""
    site, names = sealed(store, 2)
    site.sealed(names[0]).write_bytes(b"")
    central = CentralTeam(tmp_path)
    assert [names[0]] == refused(central.collect(store))
    site.seal([prediction(1), prediction(2)], reseals=[1])
    report = central.collect(store)
    assert ([], [names[0]], []) == (refused(report), [each.name for each in report.replaced], missing(report))
    assert [("site-1", "p-1"), ("site-1", "p-2")] == central.query(EVERYONE)


def test_changed_manifest_is_refused(tmp_path: Path, store: Path):
    """A segment is refused if a bit of its manifest changed; the receipts do not list it, because the site did not
    cause it."""
    site, names = sealed(store, 2)
    content = site.manifest(names[0]).read_bytes()
    central = CentralTeam(tmp_path)
    for place in range(0, len(content), 41):
        site.manifest(names[0]).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert [names[0]] == refused(central.collect(store)), place
    assert [(2, 2)] == site.received()
    assert () == site.receipts().epochs[0].refused


def test_segment_under_another_number_or_site_is_refused(tmp_path: Path, store: Path):
    """A valid segment is refused if it is renamed to another number or placed in the folder of another site."""
    site, names = sealed(store, 1)
    forged = name_of(EPOCH, 7)
    site.sealed(forged).write_bytes(site.sealed(names[0]).read_bytes())
    site.manifest(forged).write_bytes(site.manifest(names[0]).read_bytes())
    other = SealingSite(store, "site-2", key=OTHER_KEY)
    other.sealed(names[0]).write_bytes(site.sealed(names[0]).read_bytes())
    other.manifest(names[0]).write_bytes(site.manifest(names[0]).read_bytes())
    report = CentralTeam(tmp_path).collect(store)
    assert {("site-1", forged), ("site-2", names[0])} == {(each.site, each.name) for each in report.refused}
    assert (1, False) == (report.segments_taken, report.clean)


@pytest.mark.parametrize(
    ("lines", "changes", "said"),
    [
        (b"no JSON\n", {"records": 1}, "line 1"),
        (b"", {"records": 1}, "0 records"),
        (b'{"schema":"edge-agent/example/v9"}\n', {"records": 1}, "newer"),
    ],
)
def test_undamaged_but_unreadable_records_are_not_requested_again(
    tmp_path: Path, store: Path, lines: bytes, changes: dict, said: str
):
    """Undamaged records that this version cannot parse are refused but not listed as refused in the receipts."""
    site, _ = sealed(store, 1)
    name = site.seal_lines(lines, **changes)
    report = CentralTeam(tmp_path).collect(store)
    assert ([name], True) == (refused(report), said in report.refused[0].why)
    assert ([(1, 1)], ()) == (site.received(), site.receipts().epochs[0].refused)


def test_record_of_another_site_is_refused(tmp_path: Path, store: Path):
    """A site cannot send feedback or tombstones for another site's predictions."""
    sealed(store, 1)
    name = SealingSite(store, "site-2", key=OTHER_KEY).seal_lines(
        site_lines := feedback(1).model_dump_json(by_alias=True).encode() + b"\n", records=site_lines.count(b"\n")
    )
    report = CentralTeam(tmp_path).collect(store)
    assert ([name], "line 1 is of site site-1") == (refused(report), report.refused[0].why)


def test_segment_sealed_to_another_key_is_not_reported_as_damaged(tmp_path: Path, store: Path):
    """A segment that the central team's keys cannot open is refused, but the receipts do not report it as damaged."""
    site, _ = sealed(store, 1)
    name = site.seal([prediction(2)], recipients=(str(stranger().to_public()),))
    report = CentralTeam(tmp_path).collect(store)
    assert ([name], True) == (refused(report), "sealed to other keys" in report.refused[0].why)
    assert () == site.receipts().epochs[0].refused


# --- who speaks for a site --------------------------------------------------------------------------------------------


def test_first_key_of_a_site_is_pinned(tmp_path: Path, store: Path):
    """The first key of a site is recorded; segments under another key are refused until that key is accepted."""
    sealed(store, 1)
    central = CentralTeam(tmp_path)
    assert {"site-1": public_key_hex(SITE_KEY)} == central.collect(store).pinned
    # Installed anew with the same id: another epoch, another key.
    anew, names = sealed(store, 2, epoch=OTHER_EPOCH, key=OTHER_KEY)
    anew.say()
    report = central.collect(store)
    assert ["status.json", *names] == refused(report)
    assert f"sites accept site-1 {public_key_hex(OTHER_KEY)}" in report.refused[0].why
    assert [EPOCH] == [epoch.epoch for epoch in anew.receipts().epochs]
    SiteRegistry(central.out / "sites.json").accept("site-1", public_key_hex(OTHER_KEY))
    report = central.collect(store)
    assert (2, True, {}) == (report.segments_taken, report.clean, report.pinned)
    assert [(EPOCH, 1), (OTHER_EPOCH, 1), (OTHER_EPOCH, 2)] == central.query(
        "SELECT epoch, sequence FROM records ORDER BY ALL"
    )


def test_registered_only_refuses_unknown_sites(tmp_path: Path, store: Path):
    """With registered_only, an unknown site is refused and its key is not recorded."""
    _, names = sealed(store, 1)
    central = CentralTeam(tmp_path, registered_only=True)
    report = central.collect(store)
    assert (names, {}, False) == (refused(report), report.pinned, (central.out / "sites.json").exists())


def test_copied_disk_is_reported_as_a_fork(tmp_path: Path, store: Path):
    """If two machines continue from one copied state and seal the same numbers, both segments are taken and the fork is
    reported."""
    site, _ = sealed(store, 2)
    copy = SealingSite(tmp_path / "copy")
    copy.sequence, copy.previous = site.sequence, site.previous
    site.seal([prediction(3)])
    copy.seal([prediction(4, input="a longer text from the other machine")])
    copy.seal([prediction(5)])
    central = CentralTeam(tmp_path)
    report = central.collect(store, tmp_path / "copy")
    assert [(3, "arrived 2 times with different content")] == [(each.sequence, each.why) for each in report.breaks]
    assert [("site-1", f"p-{number}") for number in range(1, 6)] == central.query(EVERYONE)
    assert [(1, 3), (1, 4)] == site.received()


def test_copied_disk_with_segments_of_equal_size_is_reported(tmp_path: Path, store: Path):
    """Segments of equal size count as one until the next segment continues the one that was not read."""
    site, _ = sealed(store, 2)
    copy, before = SealingSite(tmp_path / "copy"), (site.sequence, site.previous)
    size = site.sealed(mine := site.seal([prediction(3)])).stat().st_size
    while not copy.sealed(mine).exists() or copy.sealed(mine).stat().st_size != size:  # age adds a random length
        copy.sequence, copy.previous = before
        copy.seal([prediction(4)])
    central = CentralTeam(tmp_path)
    assert [] == central.collect(store, tmp_path / "copy").breaks
    copy.seal([prediction(5)])
    report = central.collect(store, tmp_path / "copy")
    assert [(3, "arrived 2 times with different content")] == [(each.sequence, each.why) for each in report.breaks]
    assert [("site-1", f"p-{number}") for number in range(1, 6)] == central.query(EVERYONE)
    assert [(1, 3), (1, 4)] == site.received()
    assert 0 == central.collect(store, tmp_path / "copy").segments_taken


def test_segment_with_another_predecessor_is_reported(tmp_path: Path, store: Path):
    """A segment whose manifest names another predecessor than the one that arrived breaks the chain."""
    site, _ = sealed(store, 1)
    site.previous = "00" * 32
    site.seal([prediction(2)])
    report = CentralTeam(tmp_path).collect(store)
    assert [(2, "does not continue the segment before it")] == [(each.sequence, each.why) for each in report.breaks]
    assert [(1, 1), (2, 2)] == site.received()


# --- trouble ----------------------------------------------------------------------------------------------------------


class UnreliableSource:
    """A source that fails at the operations that the test names, and otherwise forwards to the inner source."""

    def __init__(self, inside, fails: set[str]) -> None:
        self.inside, self.fails, self.name = inside, fails, "unreliable"

    def _may(self, what: str) -> None:
        if what in self.fails:
            raise SourceFailed(f"unreliable: cannot {what}")

    def objects(self):
        self._may("list")
        return self.inside.objects()

    def read(self, path: str, bytes_max: int) -> bytes:
        self._may(f"read {path.rpartition('/')[2]}")
        self._may("read")
        return self.inside.read(path, bytes_max)

    def write(self, path: str, content: bytes) -> None:
        self._may("write")
        self.inside.write(path, content)


def test_failing_source_does_not_stop_the_next_one(tmp_path: Path, store: Path):
    """A source that cannot be listed is named, and the next source is collected."""
    sealed(store, 1)
    report = CentralTeam(tmp_path).collect(UnreliableSource(FolderSource(store), {"list"}), store)
    assert (["unreliable: cannot list"], 1, False) == (report.troubles, report.segments_taken, report.clean)


def test_source_is_skipped_after_five_failures_in_a_row(tmp_path: Path, store: Path):
    """A source is skipped after five failures; no segment is refused, and no receipts are written."""
    site, _ = sealed(store, 50)
    report = CentralTeam(tmp_path).collect(UnreliableSource(FolderSource(store), {"read"}))
    assert (6, "unreliable: skipped after 5 failures") == (len(report.troubles), report.troubles[-1])
    assert ([], False) == (report.refused, (site.folder / "receipts.json").exists())


def test_unreadable_object_is_taken_by_the_next_run(tmp_path: Path, store: Path):
    """A read error does not refuse a segment: the next run takes it."""
    _, names = sealed(store, 3)
    central = CentralTeam(tmp_path)
    assert 2 == central.collect(UnreliableSource(FolderSource(store), {f"read {names[1]}.age"})).segments_taken
    assert (1, []) == ((report := central.collect(store)).segments_taken, report.gaps)


def test_receipts_are_written_by_the_next_run_after_a_failure(tmp_path: Path, store: Path):
    """A store that cannot be written is named, and the next run writes the receipts although no segment is new."""
    site, _ = sealed(store, 1)
    central = CentralTeam(tmp_path)
    assert ["unreliable: cannot write"] == central.collect(UnreliableSource(FolderSource(store), {"write"})).troubles
    assert (0, [(1, 1)]) == (central.collect(store).segments_taken, site.received())


def test_forged_receipts_in_the_store_are_replaced(tmp_path: Path, store: Path):
    """A run replaces any other content of receipts.json in the store by the central team's receipts."""
    site, _ = sealed(store, 1)
    central = CentralTeam(tmp_path)
    central.collect(store)
    (site.folder / "receipts.json").write_bytes(b"forged")
    assert [(1, 1)] == (central.collect(store) and site.received())


def test_links_on_a_drive_are_not_followed(tmp_path: Path, store: Path):
    """A segment on a USB drive that is a symbolic link is not read."""
    site, names = sealed(store, 2)
    target = site.sealed(names[1]).rename(tmp_path / "elsewhere.age")
    site.sealed(names[1]).symlink_to(target)
    report = CentralTeam(tmp_path).collect(store)
    assert (1, [(2, 2, "its sealed file has not arrived")]) == (report.segments_taken, missing(report))


def test_concurrent_run_into_the_same_folder_is_refused(tmp_path: Path, store: Path):
    """While one run is at work, another run into the same folder is refused."""
    sealed(store, 1)
    central = CentralTeam(tmp_path)

    def during(what: str, done: int, size: int) -> None:
        with pytest.raises(InvalidRequest, match="another run"):
            central.collect(store)

    assert 1 == central.collect(store, progress=during).segments_taken


def test_insufficient_memory_for_the_records_is_reported(tmp_path: Path, store: Path):
    """If the memory does not suffice for the records, the error names --memory-mib, and a run with more memory
    succeeds."""
    SealingSite(store).seal([prediction(number) for number in range(300)])
    central = CentralTeam(tmp_path)
    central.collect(store)
    (central.out / "done.json").unlink()
    with pytest.raises(InvalidRequest, match="1 MiB of memory are not enough") as caught:
        derived_examples.derive(central.out, 1024**2, lambda _: None)
    assert "--memory-mib" in caught.value.remedy
    assert 1 == len(derived_examples.derive(central.out, derived_examples.MEMORY_BYTES_MIN, lambda _: None).tasks)


def test_memory_below_the_minimum_is_refused(tmp_path: Path, store: Path):
    """A run with less than the minimum of 256 MiB does not start."""
    with pytest.raises(InvalidRequest, match="256 MiB"):
        CentralTeam(tmp_path, memory_bytes=1024, keys=KEYS).collect(store)
