"""Contract of every kind of source that segments are collected from: a folder, S3, Google, Azure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from convert.collect.sources import (
    BucketSource,
    FolderSource,
    SegmentSource,
    SourceFailed,
    listings,
    open_source,
    path_of,
)
from edge_agent.errors import InvalidRequest
from tests.support.examples import feedback, prediction
from tests.support.object_stores import azurite, stored
from tests.support.segments import CentralTeam, SealingSite

PLACES = [
    "folder",
    "s3",
    "google",
    pytest.param("azure", marks=pytest.mark.skipif(not azurite(), reason="Azurite is not installed (npm)")),
]


@pytest.fixture(params=PLACES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SegmentSource]:
    """Return an empty source of each kind."""
    if request.param == "folder":
        (tmp_path / "place").mkdir()
        yield open_source(str(tmp_path / "place"), {})
    else:
        with stored(request.param, request) as served:
            yield open_source(served.url, served.options)


def upload(store: Path, source: SegmentSource) -> None:
    """Copy a folder's files to a source, as an uplink would."""
    for path in sorted(store.rglob("*")):
        if path.is_file():
            name = path.relative_to(store).as_posix()
            if isinstance(source, FolderSource):
                (Path(source.name) / name).parent.mkdir(parents=True, exist_ok=True)
            source.write(name, path.read_bytes())


def test_written_object_is_listed_and_read(source: SegmentSource):
    """An object is listed with its size and read back with its bytes, and writing it again replaces it."""
    if isinstance(source, FolderSource):
        Path(source.name, "site=shop-1").mkdir()
    for content in (b"one", b"another"):
        source.write("site=shop-1/status.json", content)
        assert [("site=shop-1/status.json", len(content))] == list(source.objects())
        assert content == source.read("site=shop-1/status.json", 100)


def test_missing_or_oversize_object_fails(source: SegmentSource):
    """The errors for a missing and for an oversize object name the object and have no internals."""
    if isinstance(source, FolderSource):
        Path(source.name, "site=shop-1").mkdir()
    source.write("site=shop-1/status.json", b"x" * 101)
    for path in ("site=shop-1/nothing.json", "site=shop-1/status.json"):
        with pytest.raises(SourceFailed, match=path) as failure:
            source.read(path, 100)
        assert "Debug" not in str(failure.value)


def test_fleet_is_collected_once(source: SegmentSource, tmp_path: Path):
    """Sealed segments of two sites become examples, receipts are written where each site's uplink looks for them, and a
    second collection takes nothing."""
    for number in (1, 2):
        site = SealingSite(tmp_path / "store", f"shop-{number}")
        site.seal([prediction(1), prediction(2)])
        site.seal([feedback(1)])
        site.say()
    upload(tmp_path / "store", source)
    central = CentralTeam(tmp_path)
    report = central.collect(source)
    assert (4, 6, [], True) == (report.segments_taken, report.records_taken, report.gaps, report.clean)
    assert 0 == central.collect(source).segments_taken
    assert [(4, 2)] == central.query("SELECT count(*), count(truth) FROM examples")
    for number in (1, 2):
        receipt = source.read(path_of(f"shop-{number}", "receipts.json"), 10_000)
        assert receipt == (central.out / "receipts" / f"site=shop-{number}" / "receipts.json").read_bytes()


def test_foreign_files_are_ignored(source: SegmentSource):
    """Other files, invalid names and a site without segments cause no error."""
    names = ["readme.txt", "site=shop-1/segments/notes.txt", "site=shop-1/segments/0123456789abcdef-0000000000.age"]
    for name in (*names, "site=shop-1/segments/deep/0123456789abcdef-0000000001.age"):
        if isinstance(source, FolderSource):
            Path(source.name, name).parent.mkdir(parents=True, exist_ok=True)
        source.write(name, b"")
    (listing,), trouble = listings(source)
    assert "" == trouble
    assert ("shop-1", {}, set(), False) == (listing.site, listing.sealed, listing.manifests, listing.status)


def test_unreachable_source_is_named():
    """The error for an endpoint that refuses connections names the store."""
    store = obstore.store.S3Store(
        "fleet",
        endpoint="http://127.0.0.1:9",
        region="us-east-1",
        access_key_id="a",
        secret_access_key="b",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    with pytest.raises(SourceFailed, match="s3://fleet"):
        list(BucketSource("s3://fleet", store).objects())


@pytest.mark.parametrize("written", ["/no/such/folder", "ftp://host/path", "s3://", "s3://b?x"])
def test_unsupported_source_is_refused(written: str):
    """An address that is not a supported source is refused with a remedy."""
    with pytest.raises(InvalidRequest) as caught:
        open_source(written, {"no_such_option": "1"})
    assert caught.value.remedy


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_unreadable_site_folder_is_reported(tmp_path: Path):
    """Site folders without read access, and files that can only be listed, are reported while the other sites are
    listed. A folder next to the sites is not read."""
    for name, mode in (("site=list", 0o744), ("site=open", 0o755), ("site=shut", 0o700), ("lost+found", 0o700)):
        (tmp_path / name).mkdir(mode=mode)
        (tmp_path / name / "status.json").write_bytes(b"{}")
    tmp_path.chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path; from convert.collect.sources import FolderSource, listings\n"
        "os.chdir(sys.argv[1]); os.setuid(54321); found, trouble = listings(FolderSource(Path()))\n"
        "print([each.site for each in found], trouble)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "['open'] site=list/status.json: Permission denied, and 1 more path\n" == done.stdout


def test_failed_write_to_a_folder_leaves_the_old_content(tmp_path: Path):
    """A write to a folder source that fails leaves the existing content and no other file."""
    folder = FolderSource(tmp_path)
    (tmp_path / "site=a").mkdir()
    folder.write("site=a/receipts.json", b"old")
    with pytest.raises(SourceFailed):
        folder.write("site=b/receipts.json", b"new")
    assert [("site=a/receipts.json", 3)] == list(folder.objects())
