"""Installation: every file is verified, and a refused bundle leaves nothing behind."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import (
    BundleError,
    BundleTooLarge,
    BundleUnreadable,
    BundleUnsigned,
    DiskFull,
    FileMissing,
    HashMismatch,
    ManifestInvalid,
    RequirementUnmet,
    SchemaUnknown,
    StateDirInUse,
    StateDirUnwritable,
    StoreDamaged,
)
from edge_agent.formats import golden_cases
from edge_agent.store.bundle_store import Store
from tests.support.bundles import digest_of
from tests.support.store_cases import GOLDEN, LIMITS, blob_names, bundle, sha256_of, tar_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return an empty store in tmp_path/state, whose clock is fixed at 1000 s."""
    opened = Store.open(tmp_path / "state", LIMITS, now=lambda: 1000.0)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a bundle of two files."""
    return bundle(tmp_path / "b", weights=b"w" * 100, golden=GOLDEN)


def refusal(store: Store, path: Path, kind: type[BundleError]) -> BundleError:
    """Return the error with which a bundle is refused, and check that nothing remains."""
    with pytest.raises(kind) as caught:
        store.install(path, allow_unsigned=True)
    assert [] == store.bundles()
    assert 0 == store.usage()[0]
    return caught.value


def change_manifest(folder: Path, **more: Any) -> None:
    """Overwrite keys of manifest.json without any check."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.parametrize("as_tar", [False, True], ids=["directory", "tar"])
def test_installed_bundle_is_found_with_its_files(store: Store, folder: Path, tmp_path: Path, as_tar: bool) -> None:
    """An installed bundle is found with its bytes and time, is not signed, and is not active."""
    source = tar_of(folder, tmp_path / "b.tar") if as_tar else folder
    installed, new = store.install(source, allow_unsigned=True)
    assert (True, digest_of(folder)) == (new, installed.digest)
    assert (folder / "manifest.json").read_bytes() == installed.manifest_bytes
    assert (False, 1000.0) == (installed.signed, installed.installed_at)
    assert [installed] == store.bundles()
    assert {} == store.active()
    files = {role: path.read_bytes() for role, path in store.paths(installed).items()}
    assert {"weights": b"w" * 100, "golden": GOLDEN} == files
    assert 100 + len(GOLDEN) == store.usage()[0]


def test_installing_again_changes_nothing(store: Store, folder: Path, tmp_path: Path) -> None:
    """Installing the same digest again, as a directory or tar, changes nothing, including the time of installation."""
    first, _ = store.install(folder, allow_unsigned=True)
    assert (first, False) == store.install(folder, allow_unsigned=True)
    assert (first, False) == store.install(tar_of(folder, tmp_path / "b.tar"), allow_unsigned=True)
    assert [first] == store.bundles()


def test_bundle_without_files_is_installed(store: Store, tmp_path: Path) -> None:
    """A bundle of the echo runtime, which has no files, can be installed."""
    installed, _ = store.install(bundle(tmp_path / "b"), allow_unsigned=True)
    assert {} == store.paths(installed)


def test_unsigned_bundle_is_refused_by_default(store: Store, folder: Path, tmp_path: Path) -> None:
    """An unsigned bundle is refused before anything is copied, and the remedy names the setting."""
    with pytest.raises(BundleUnsigned, match=r"bundle pos 1\.0\.0 has no signature") as caught:
        store.install(folder, allow_unsigned=False)
    assert "allow_unsigned: true" in caught.value.remedy
    assert set() == blob_names(tmp_path / "state")


def test_a_wrong_hash_names_the_file_and_both_hashes(store: Store, folder: Path) -> None:
    """A file with a wrong hash is refused with its name and both hashes, also after other files were copied."""
    other = GOLDEN.replace(b"g", b"f")
    (folder / "golden.bin").write_bytes(other)
    error = refusal(store, folder, HashMismatch)
    assert f"golden.bin has sha256 {sha256_of(other)}; the manifest says {sha256_of(GOLDEN)}" == error.message


def test_a_wrong_size_names_the_file_and_both_sizes(store: Store, folder: Path) -> None:
    """A file of the wrong size is refused with both sizes before any byte is copied."""
    (folder / "weights.bin").write_bytes(b"w" * 99)
    assert "weights.bin has 99 bytes; the manifest says 100" == refusal(store, folder, HashMismatch).message


def test_a_missing_file_is_named(store: Store, folder: Path, tmp_path: Path) -> None:
    """A file that the manifest names but a directory or tar lacks is named."""
    (folder / "weights.bin").unlink()
    said = "the bundle has no weights.bin, which manifest.json names as weights"
    assert said == refusal(store, folder, FileMissing).message
    assert said == refusal(store, tar_of(folder, tmp_path / "b.tar"), FileMissing).message


def test_file_that_the_manifest_does_not_name_is_refused(store: Store, folder: Path, tmp_path: Path) -> None:
    """A file that the manifest does not name is refused, in a directory and in a tar."""
    (folder / "notes.txt").touch()
    said = "the bundle holds notes.txt, which manifest.json does not name"
    assert said == refusal(store, folder, ManifestInvalid).message
    assert said == refusal(store, tar_of(folder, tmp_path / "b.tar"), ManifestInvalid).message


def test_invalid_manifest_is_refused(store: Store, folder: Path) -> None:
    """Duplicate labels, a path out of the bundle, an unknown schema and a missing manifest are refused."""
    task = json.loads((folder / "manifest.json").read_text())["task"]
    change_manifest(folder, task={**task, "labels": ["yes", "yes"]})
    assert "duplicate labels: yes" in refusal(store, folder, ManifestInvalid).message
    change_manifest(folder, task=task, artifacts=[{"role": "weights", "path": "../x", "sha256": "0" * 64}])
    assert "'../x'" in refusal(store, folder, ManifestInvalid).message
    change_manifest(folder, schema="edge-agent/bundle/v9")
    assert "edge-agent/bundle/v9" in refusal(store, folder, SchemaUnknown).message
    (folder / "manifest.json").unlink()
    assert "manifest.json" in refusal(store, folder, FileMissing).message


def test_a_bundle_for_a_newer_agent_is_refused(store: Store, tmp_path: Path) -> None:
    """A bundle that requires a newer agent is refused; versions compare as numbers, so 0.10 is newer than 0.9."""
    folder = bundle(tmp_path / "b", more={"requires": {"agent": "0.10.0"}})
    assert "needs edge-agent 0.10.0 or newer" in refusal(store, folder, RequirementUnmet).message


@pytest.mark.parametrize("agent", ["9" * 5000 + ".0.0", "0.1." + "9" * 62, "\u0660.\u0661.\u0660", "0.1", " 0.1.0"])
def test_required_version_that_is_malformed_is_refused(store: Store, tmp_path: Path, agent: str) -> None:
    """Thousands of digits, digits of other scripts and incomplete versions are refused with a short message."""
    folder = bundle(tmp_path / "b")
    change_manifest(folder, requires={"agent": agent})
    said = refusal(store, folder, ManifestInvalid).message
    assert said.startswith("manifest.json: requires.agent: ")
    assert "is not a version such as 0.1.0" in said
    assert len(said) < 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (os.urandom(2000), "line 1: "),
        (b"", ""),
        (GOLDEN + b"\n[]\n", "line 2: the whole: [] is not an object"),
        (GOLDEN + b"\n\n", "line 2: Expecting value"),
        (b'{"input": "a", "scores": ["1"]}', 'line 1: scores.0: "1" is not a number'),
        (b'{"input": "a", "scores": [NaN]}', "line 1: NaN is not a number in JSON"),
        (b'{"input": "a", "input": "b"}', 'line 1: the key "input" occurs twice'),
        ((GOLDEN + b"\n") * (golden_cases.CASES_MAX + 1), "line 10001 is over that"),
        (b" " * (golden_cases.LINE_BYTES_MAX + 1), "line 1 is over that"),
    ],
    ids=["random", "empty", "list", "blank line", "text for a number", "NaN", "two keys", "lines", "long line"],
)
def test_invalid_golden_file_is_refused(store: Store, tmp_path: Path, content: bytes, said: str) -> None:
    """A golden file is validated at installation: an invalid one is refused with its line, and nothing remains."""
    folder = bundle(tmp_path / "b", weights=b"w", golden=content)
    if not said:
        store.install(folder, allow_unsigned=True)
        return
    assert said in refusal(store, folder, BundleUnreadable).message


def test_a_bundle_over_the_limit_is_refused(tmp_path: Path, folder: Path) -> None:
    """A bundle whose total size exceeds the limit is refused with both numbers."""
    store = Store.open(tmp_path / "state", replace(LIMITS, bundle_bytes_max=100))
    assert "the bundle has 114 bytes; the limit is 100" == refusal(store, folder, BundleTooLarge).message
    store.close()


def test_disk_reserve_is_kept(tmp_path: Path, folder: Path) -> None:
    """A bundle that would use the disk reserve is refused with the numbers before anything is copied; an empty one is
    installed."""
    store = Store.open(tmp_path / "state", replace(LIMITS, disk_reserve_bytes=2**60))
    with pytest.raises(DiskFull, match=r"needs 114 bytes; the disk has [\d,.]+ GB free, of which 1,152,921.5 TB"):
        store.install(folder, allow_unsigned=True)
    assert set() == blob_names(tmp_path / "state")
    store.install(bundle(tmp_path / "empty"), allow_unsigned=True)
    store.close()


def test_installing_again_repairs_a_damaged_store(store: Store, folder: Path) -> None:
    """A missing file or one of another size is detected by `paths`; installing the bundle again repairs it, also if
    only its bytes differ."""
    installed, _ = store.install(folder, allow_unsigned=True)
    weights = store.paths(installed)["weights"]
    weights.unlink()
    with pytest.raises(StoreDamaged, match=r"weights\.bin of bundle pos 1\.0\.0 is missing") as caught:
        store.paths(installed)
    assert "Install the bundle again" in caught.value.remedy
    weights.write_bytes(b"w")
    with pytest.raises(StoreDamaged, match="has 1 bytes instead of 100"):
        store.paths(installed)
    weights.write_bytes(b"x" * 100)
    assert not store.install(folder, allow_unsigned=True)[1]
    assert b"w" * 100 == store.paths(installed)["weights"].read_bytes()


def test_an_artifact_used_twice_is_stored_once(store: Store, tmp_path: Path) -> None:
    """Two artifacts with the same bytes are stored once."""
    installed, _ = store.install(bundle(tmp_path / "b", weights=b"same", adapter=b"same"), allow_unsigned=True)
    assert 1 == len(set(store.paths(installed).values()))
    assert 4 == store.usage()[0]


def test_paths_contain_only_engine_files(store: Store, tmp_path: Path) -> None:
    """`paths` returns the files for the engine; reports and licences are stored but not returned."""
    installed, _ = store.install(bundle(tmp_path / "b", weights=b"w", licence=b"l", report=b"r"), allow_unsigned=True)
    assert {"weights"} == store.paths(installed).keys()
    assert 3 == store.usage()[0]


def test_second_owner_of_a_state_directory_is_refused(store: Store, tmp_path: Path) -> None:
    """The error names the process that owns the state directory, which is free again after a close."""
    with pytest.raises(StateDirInUse, match=f"in use by process {os.getpid()}$"):
        Store.open(tmp_path / "state", LIMITS)
    store.close()
    store.close()
    Store.open(tmp_path / "state", LIMITS).close()


def test_state_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    """The error names the state directory if a file is in its place or the kernel allows no files there."""
    (tmp_path / "file").touch()
    with pytest.raises(StateDirUnwritable, match=f"{tmp_path}/file/state: Not a directory"):
        Store.open(tmp_path / "file" / "state", LIMITS)
    with pytest.raises(StateDirUnwritable, match="cannot write the state directory /proc/self"):
        Store.open(Path("/proc/self/state"), LIMITS)


def test_failed_open_releases_the_state_directory(tmp_path: Path) -> None:
    """After a failed open the same process can open the state directory once it is repaired."""
    Store.open(tmp_path / "state", LIMITS).close()
    (tmp_path / "state" / "state.db").write_bytes(b"nonsense" * 1000)
    for _ in range(2):
        with pytest.raises(StoreDamaged):
            Store.open(tmp_path / "state", LIMITS)
    (tmp_path / "state" / "state.db").unlink()
    Store.open(tmp_path / "state", LIMITS).close()


def test_blobs_survive_a_lost_database(store: Store, folder: Path, tmp_path: Path) -> None:
    """Blobs without a state.db count as damage instead of a new store, so they are not deleted; after the remedy an
    empty store opens."""
    store.install(folder, allow_unsigned=True)
    store.close()
    (tmp_path / "state" / "state.db").unlink()
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="blobs are stored next to it"):
            Store.open(tmp_path / "state", LIMITS)
    (tmp_path / "state" / "blobs").rename(tmp_path / "away")
    Store.open(tmp_path / "state", LIMITS).close()


def test_a_new_state_directory_is_private(store: Store, tmp_path: Path) -> None:
    """0700, with files of 0600."""
    store.usage()
    assert 0o700 == stat.S_IMODE((tmp_path / "state").stat().st_mode)
    files = [path for path in (tmp_path / "state").iterdir() if path.is_file()]
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in files}
