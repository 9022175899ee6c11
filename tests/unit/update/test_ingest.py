"""How a signed bundle is admitted to the store, and which files the mirror is asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge_agent.errors import (
    BundleTooLarge,
    DiskFull,
    MediaFailed,
    RequirementUnmet,
    UpdateIncomplete,
    UpdateUntrusted,
)
from edge_agent.formats.repository_metadata import DownloadRequest, DownloadRequests
from edge_agent.store.bundle_archive import StoreLimits
from edge_agent.update.blocked_update_messages import CopyProgress, SignedBundle, VerifiedRepository
from edge_agent.update.ingest import MissingFiles
from edge_agent.update.metadata_chain import RepositoryFolder
from tests.support.fleet_cases import CentralTeam
from tests.support.rights import without_root
from tests.support.store_cases import blob_names, bundle, sha256_of
from tests.support.trust_cases import TrustingSite, damage, digest

BASE, FIRST, SECOND = b"base" * 5000, b"first" * 3, b"second" * 3


@pytest.fixture
def central(tmp_path: Path) -> CentralTeam:
    """Return a central team that has signed two versions over one base."""
    made = CentralTeam(tmp_path / "central")
    made.publish(bundle(tmp_path / "1", "1.0.0", weights=BASE, adapter=FIRST))
    made.publish(bundle(tmp_path / "2", "2.0.0", weights=BASE, adapter=SECOND))
    return made


@pytest.fixture
def site(central: CentralTeam, tmp_path: Path) -> TrustingSite:
    """Return a site whose mirror has downloaded all of it."""
    made = TrustingSite(tmp_path / "site", central.root_bytes)
    made.bring(central.folder)
    return made


@pytest.fixture
def first(tmp_path: Path, central: CentralTeam) -> str:
    return digest(tmp_path / "1")


@pytest.fixture
def second(tmp_path: Path, central: CentralTeam) -> str:
    return digest(tmp_path / "2")


def blob(site: TrustingSite, content: bytes) -> Path:
    return site.incoming / "blobs" / sha256_of(content)


def names(wanted: object) -> list[str]:
    assert isinstance(wanted, tuple)
    return [want.sha256 for want in wanted]


def test_signed_bundle_is_admitted_to_the_store(site, first):
    """A complete signed bundle is stored, is marked as signed and does not answer yet, also where unsigned bundles are
    refused."""
    installed = site.admit(first)
    assert (first, True, {}) == (installed.digest, installed.signed, site.store.active())
    assert BASE == site.store.paths(installed)["weights"].read_bytes()
    assert installed == site.again().store.bundles()[0]
    assert installed == site.admit(first)


def test_an_update_of_the_adapter_needs_only_the_adapter(site, first, second):
    """If the store has the base model, only the adapter is requested and read from incoming/."""
    site.admit(first)
    blob(site, BASE).unlink()
    blob(site, SECOND).unlink()
    assert [sha256_of(SECOND)] == names(site.ingest.missing_files(site.incoming, site.believe(), second))
    site.ingest.request_downloads(site.believe(), [second], None)
    assert [second, sha256_of(SECOND)] == names(site.wants.blobs)
    blob(site, SECOND).write_bytes(SECOND)
    assert site.admit(second).signed
    site.ingest.request_downloads(site.believe(), [], None)
    assert () == site.wants.blobs


def test_manifest_is_requested_before_the_files_that_it_names(site, first):
    """Only the manifest is requested first, then the files that it names; each stays requested until it is in the
    store."""
    whole = {path: path.read_bytes() for path in (site.incoming / "blobs").iterdir()}
    manifest = site.incoming / "blobs" / first
    manifest.unlink()
    assert [first] == names(site.ingest.missing_files(site.incoming, site.believe(), first))
    site.ingest.request_downloads(site.believe(), [first], 5000)
    assert ((DownloadRequest(sha256=first, size_bytes=len(whole[manifest])),), 5000) == (
        site.wants.blobs,
        site.wants.bytes_per_second_max,
    )
    manifest.write_bytes(whole[manifest])
    assert () == site.ingest.missing_files(site.incoming, site.believe(), first)
    site.ingest.request_downloads(site.believe(), [first], None)
    assert [first, sha256_of(BASE), sha256_of(FIRST)] == names(site.wants.blobs)
    assert 1 == site.wants.root_version


def test_download_requests_are_written_only_when_they_change(site, first):
    """wants.json is rewritten only if the requests differ or the file was damaged, also after a restart, and not while
    nothing is verified."""
    site.ingest.request_downloads(site.believe(), [first], None)
    written = site.config.wants.stat().st_ino
    site.ingest.request_downloads(site.believe(), [first], None)
    site.again().believe()
    site.ingest.request_downloads(site.believe(), [first], None)
    assert written == site.config.wants.stat().st_ino
    before = site.wants.blobs
    site.ingest.request_downloads(None, [], None)  # nothing is believed: what is half here is not thrown away
    assert before == site.wants.blobs
    damage(site.config.wants, "truncated")
    site.again().believe()
    site.ingest.request_downloads(site.believe(), [first], None)
    assert isinstance(site.wants, DownloadRequests)
    assert 0o640 == site.config.wants.stat().st_mode & 0o777


@pytest.mark.parametrize("how", ["zeroed", "truncated", "flipped", "longer", "gone"])
@pytest.mark.parametrize("which", ["manifest", "weights"])
def test_damaged_file_counts_as_missing(how, which, site, first):
    """A damaged file of a bundle counts as missing, and the store keeps nothing of the bundle; a file of the right size
    is detected when it is admitted."""
    path = site.incoming / "blobs" / first if which == "manifest" else blob(site, BASE)
    whole = path.read_bytes()
    damage(path, how)
    site.believe()
    if site.ingest.missing_files(site.incoming, site.believe(), first) == ():
        with pytest.raises(UpdateIncomplete, match="damaged"):
            site.ingest.admit(site.incoming, first)
    assert [path.name] == names(site.ingest.missing_files(site.incoming, site.believe(), first))
    with pytest.raises(UpdateIncomplete):
        site.ingest.admit(site.incoming, first)
    assert (set(), []) == (blob_names(site.config.state_dir), site.store.bundles())
    path.unlink(missing_ok=True)
    assert [path.name] == names(site.ingest.missing_files(site.incoming, site.believe(), first))
    path.write_bytes(whole)
    assert site.admit(first).signed


def test_mirror_fetches_a_damaged_file_again(site, first):
    """A damaged file is not requested until the mirror, which deletes files that are not requested, has removed it;
    then it is requested again."""
    damage(blob(site, BASE), "flipped")
    site.ingest.missing_files(site.incoming, site.believe(), first)
    with pytest.raises(UpdateIncomplete, match="damaged"):
        site.ingest.admit(site.incoming, first)
    site.ingest.request_downloads(site.believe(), [first], None)
    assert [first, sha256_of(FIRST)] == names(site.wants.blobs)
    blob(site, BASE).unlink()
    site.ingest.request_downloads(site.believe(), [first], None)
    assert [first, sha256_of(BASE), sha256_of(FIRST)] == names(site.wants.blobs)


@pytest.mark.parametrize("put", ["link", "pipe", "folder"])
def test_link_pipe_or_folder_in_place_of_a_file_is_not_read(put, site, first):
    """A link out of incoming/, a pipe or a folder in place of a file counts as missing and is not read."""
    path = blob(site, BASE)
    path.unlink()
    outside = site.incoming.parent / "outside"
    outside.write_bytes(BASE)
    {"link": lambda: path.symlink_to(outside), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[put]()
    assert [path.name] == names(site.ingest.missing_files(site.incoming, site.believe(), first))
    with pytest.raises(UpdateIncomplete):
        site.ingest.admit(site.incoming, first)


def test_damaged_file_in_the_store_is_replaced(site, first, second):
    """A file in the store that has the right size but wrong bytes is detected when it is needed, requested again and
    replaced."""
    stored = site.store.paths(site.admit(first))["weights"]
    stored.write_bytes(b"x" * len(BASE))
    blob(site, BASE).unlink()
    assert () == site.ingest.missing_files(site.incoming, site.believe(), second)
    with pytest.raises(UpdateIncomplete, match=sha256_of(BASE)):
        site.ingest.admit(site.incoming, second)
    assert [sha256_of(BASE)] == names(site.ingest.missing_files(site.incoming, site.believe(), second))
    blob(site, BASE).write_bytes(BASE)
    assert site.admit(second).signed
    assert BASE == stored.read_bytes()


def test_drive_is_never_written(central, site, first, tmp_path):
    """Importing from a damaged drive leaves every file of the drive unchanged."""
    drive = Path(shutil.copytree(central.folder, tmp_path / "drive"))
    damage(drive / "blobs" / sha256_of(BASE), "flipped")
    site.believe(drive)
    assert () == site.ingest.missing_files(drive, site.believe(drive), first)
    before = sorted((path, path.stat().st_mtime_ns) for path in drive.rglob("*"))
    with pytest.raises(UpdateIncomplete, match="drive"):
        site.ingest.admit(drive, first)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in drive.rglob("*"))


@pytest.mark.parametrize(
    ("how", "fault"),
    [("gone", "is not there"), ("truncated", "is cut short, to 10.0 kB of 20.0 kB"), ("longer", "is damaged")],
)
def test_fault_of_a_file_on_a_drive_is_described(central, site, first, tmp_path, how, fault):
    """The message tells a file that is absent from one that is cut short or damaged."""
    drive = Path(shutil.copytree(central.folder, tmp_path / "drive"))
    damage(drive / "blobs" / sha256_of(BASE), how)
    found = site.ingest.describe_missing(drive, site.believe(drive), first)
    expected = f"blobs/{sha256_of(BASE)[:12]}… {fault}"
    assert ("1 file (20.0 kB)", expected) == (found.amount, found.fault)
    assert None is site.ingest.describe_missing(site.incoming, site.believe(), first)


@pytest.mark.parametrize(("count", "said"), [(1, ""), (2, ", like 1 other file"), (3, ", like 2 other files")])
def test_other_files_with_a_fault_are_counted(count, said):
    """The message describes the first faulty file and counts the others."""
    assert f"blobs/ab… is damaged{said}" == MissingFiles(count, 20_000, "blobs/ab… is damaged").faults


def test_unplugged_drive_is_not_reported_as_a_missing_file():
    """An I/O error on removable media is reported as a failing or unplugged drive; on the machine's own disk the file
    counts as unreadable."""
    task = f"task/{os.getpid()}"  # the kernel refuses to read the memory at address 0 with EIO
    with pytest.raises(MediaFailed, match=r"pulled out or is failing: cannot read task/\d+/mem: Input/output error"):
        RepositoryFolder(Path("/proc/self"), is_media=True).read(task, "mem", 100)
    assert None is RepositoryFolder(Path("/proc/self")).read(task, "mem", 100)
    assert None is RepositoryFolder(Path("/proc/self"), is_media=True).read(task, "nothing", 100)


def test_drive_without_permission_is_not_reported_as_a_missing_file(tmp_path):
    """If the daemon may not read a drive, as when a desktop mounts it for one user, the error says so and how to mount
    it; a mirror's file counts as missing."""
    hidden = tmp_path / "drive"
    hidden.mkdir(mode=0)
    with without_root(), pytest.raises(MediaFailed, match=r"user may not read metadata/timestamp\.json on") as failed:
        RepositoryFolder(hidden, is_media=True).read("metadata", "timestamp.json", 100)
    assert "sudo mount" in failed.value.remedy
    with without_root():
        assert None is RepositoryFolder(hidden).read("metadata", "timestamp.json", 100)


def test_unsigned_bundle_becomes_signed_when_it_is_admitted(site, first, tmp_path):
    """A bundle that was installed unsigned counts as signed once the same bytes are admitted with a signature."""
    before, _ = site.store.install(tmp_path / "1", allow_unsigned=True)
    assert not before.signed
    assert site.admit(first).signed
    again, new = site.store.install(tmp_path / "1", allow_unsigned=True)
    assert (True, False) == (again.signed, new)


def test_revoked_bundle_is_not_admitted(central, site, first, second):
    """A revoked bundle is not admitted again; a site that has it keeps it."""
    site.admit(first)
    central.revoke(first)
    central.revoke(second)
    site.bring(central.folder)
    assert () == site.ingest.missing_files(site.incoming, site.believe(), second)
    for each in (first, second):
        with pytest.raises(UpdateUntrusted, match="not signed"):
            site.ingest.admit(site.incoming, each)
    assert [first] == [bundle.digest for bundle in site.store.bundles()]


def test_a_manifest_for_another_task_is_refused(site, first):
    """A bundle whose manifest names another task than the signed target is refused."""
    verified = site.believe()
    claimed = {first: SignedBundle("other", "1.0.0", verified.bundles[first].size_bytes)}
    assert () == site.ingest.missing_files(site.incoming, VerifiedRepository(verified.plan, claimed), first)
    with pytest.raises(UpdateUntrusted, match="made for pos"):
        site.ingest.admit(site.incoming, first)


def test_bundle_for_a_newer_agent_is_refused_when_it_is_admitted(central, site, tmp_path):
    """A bundle that requires a newer agent is fetched as far as this agent can read it, and refused when it is
    admitted."""
    path = bundle(tmp_path / "3", "3.0.0", more={"requires": {"agent": "99.0.0"}}, weights=BASE)
    newest = central.publish(path)
    site.bring(central.folder)
    assert () == site.ingest.missing_files(site.incoming, site.believe(), newest)
    with pytest.raises(RequirementUnmet):
        site.ingest.admit(site.incoming, newest)


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (StoreLimits(disk_reserve_bytes=2**62), DiskFull),
        (StoreLimits(bundle_bytes_max=100, disk_reserve_bytes=0), BundleTooLarge),
    ],
)
def test_bundle_beyond_a_limit_leaves_nothing_in_the_store(limits, error, site, first):
    """A bundle that exceeds the free disk space or the size limit is refused and leaves no file."""
    site.again(limits)
    site.ingest.missing_files(site.incoming, site.believe(), first)
    with pytest.raises(error):
        site.ingest.admit(site.incoming, first)
    assert set() == blob_names(site.config.state_dir)


def test_copy_reports_its_progress(site, first, second):
    """Progress counts only the bytes that have to be copied."""
    seen: list[CopyProgress] = []
    site.ingest.on_progress = seen.append
    site.admit(first)
    site.admit(second)
    assert CopyProgress("pos 1.0.0", len(BASE + FIRST), len(BASE + FIRST)) in seen
    assert CopyProgress("pos 2.0.0", len(SECOND), len(SECOND)) in seen
    assert CopyProgress() == seen[-1] == site.ingest.copied
