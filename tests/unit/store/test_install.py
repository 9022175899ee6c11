"""Installing: everything is verified, and what is refused leaves nothing behind."""

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
    """Return an empty store in tmp_path/state, whose clock stands at 1000 s."""
    opened = Store.open(tmp_path / "state", LIMITS, now=lambda: 1000.0)
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a bundle of two files."""
    return bundle(tmp_path / "b", weights=b"w" * 100, golden=GOLDEN)


def refusal(store: Store, path: Path, kind: type[BundleError]) -> BundleError:
    """Return the error with which a bundle is refused, and see that nothing is left behind."""
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
def test_a_bundle_is_installed(store: Store, folder: Path, tmp_path: Path, as_tar: bool) -> None:
    """It is found again with its bytes, unsigned, at the time of the clock; it does not answer yet."""
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
    """Directory or tar, the digest is what counts; the first time of installation stays."""
    first, _ = store.install(folder, allow_unsigned=True)
    assert (first, False) == store.install(folder, allow_unsigned=True)
    assert (first, False) == store.install(tar_of(folder, tmp_path / "b.tar"), allow_unsigned=True)
    assert [first] == store.bundles()


def test_a_bundle_without_files_is_a_bundle(store: Store, tmp_path: Path) -> None:
    """The echo runtime needs none."""
    installed, _ = store.install(bundle(tmp_path / "b"), allow_unsigned=True)
    assert {} == store.paths(installed)


def test_an_unsigned_bundle_needs_consent(store: Store, folder: Path, tmp_path: Path) -> None:
    """Nothing is copied before; the remedy names the setting."""
    with pytest.raises(BundleUnsigned, match=r"bundle pos 1\.0\.0 has no signature") as caught:
        store.install(folder, allow_unsigned=False)
    assert "allow_unsigned: true" in caught.value.remedy
    assert set() == blob_names(tmp_path / "state")


def test_a_wrong_hash_names_the_file_and_both_hashes(store: Store, folder: Path) -> None:
    """One flipped bit is enough, also when files before it were fine."""
    other = GOLDEN.replace(b"g", b"f")
    (folder / "golden.bin").write_bytes(other)
    error = refusal(store, folder, HashMismatch)
    assert f"golden.bin has sha256 {sha256_of(other)}; the manifest says {sha256_of(GOLDEN)}" == error.message


def test_a_wrong_size_names_the_file_and_both_sizes(store: Store, folder: Path) -> None:
    """No byte is copied for that."""
    (folder / "weights.bin").write_bytes(b"w" * 99)
    assert "weights.bin has 99 bytes; the manifest says 100" == refusal(store, folder, HashMismatch).message


def test_a_missing_file_is_named(store: Store, folder: Path, tmp_path: Path) -> None:
    """In a directory and in a tar."""
    (folder / "weights.bin").unlink()
    said = "the bundle has no weights.bin, which manifest.json names as weights"
    assert said == refusal(store, folder, FileMissing).message
    assert said == refusal(store, tar_of(folder, tmp_path / "b.tar"), FileMissing).message


def test_a_file_too_many_is_named(store: Store, folder: Path, tmp_path: Path) -> None:
    """What nobody signed for is not carried along, in a directory or in a tar."""
    (folder / "notes.txt").touch()
    said = "the bundle holds notes.txt, which manifest.json does not name"
    assert said == refusal(store, folder, ManifestInvalid).message
    assert said == refusal(store, tar_of(folder, tmp_path / "b.tar"), ManifestInvalid).message


def test_the_manifest_s_own_rules_hold(store: Store, folder: Path) -> None:
    """Unknown schema, duplicate labels, a path that leaves the bundle, no manifest at all."""
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
    """Versions compare as numbers: 0.10 is newer than 0.9."""
    folder = bundle(tmp_path / "b", more={"requires": {"agent": "0.10.0"}})
    assert "needs edge-agent 0.10.0 or newer" in refusal(store, folder, RequirementUnmet).message


@pytest.mark.parametrize("agent", ["9" * 5000 + ".0.0", "0.1." + "9" * 62, "\u0660.\u0661.\u0660", "0.1", " 0.1.0"])
def test_a_requirement_that_is_no_version_is_refused(store: Store, tmp_path: Path, agent: str) -> None:
    """Thousands of digits, and digits of other scripts, which Python reads as numbers."""
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
def test_a_golden_file_is_read_before_it_is_installed(store: Store, tmp_path: Path, content: bytes, said: str) -> None:
    """Whoever installs it: what is none is refused with its line, and nothing is left behind."""
    folder = bundle(tmp_path / "b", weights=b"w", golden=content)
    if not said:
        store.install(folder, allow_unsigned=True)
        return
    assert said in refusal(store, folder, BundleUnreadable).message


def test_a_bundle_over_the_limit_is_refused(tmp_path: Path, folder: Path) -> None:
    """The sum counts, with both numbers in the message."""
    store = Store.open(tmp_path / "state", replace(LIMITS, bundle_bytes_max=100))
    assert "the bundle has 114 bytes; the limit is 100" == refusal(store, folder, BundleTooLarge).message
    store.close()


def test_the_reserve_of_the_disk_is_kept(tmp_path: Path, folder: Path) -> None:
    """The message has all three numbers; nothing is copied. What is installed already needs no room."""
    store = Store.open(tmp_path / "state", replace(LIMITS, disk_reserve_bytes=2**60))
    with pytest.raises(DiskFull, match=r"needs 114 bytes; the disk has [\d,.]+ GB free, of which 1,152,921.5 TB"):
        store.install(folder, allow_unsigned=True)
    assert set() == blob_names(tmp_path / "state")
    store.install(bundle(tmp_path / "empty"), allow_unsigned=True)
    store.close()


def test_a_damaged_store_is_mended_by_installing_again(store: Store, folder: Path) -> None:
    """`paths` notices a file that is gone or has another size; the remedy works, for other bytes too."""
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
    """Content is what counts, not the role."""
    installed, _ = store.install(bundle(tmp_path / "b", weights=b"same", adapter=b"same"), allow_unsigned=True)
    assert 1 == len(set(store.paths(installed).values()))
    assert 4 == store.usage()[0]


def test_only_engine_files_are_handed_out(store: Store, tmp_path: Path) -> None:
    """Reports and licences are kept, and may be several."""
    installed, _ = store.install(bundle(tmp_path / "b", weights=b"w", licence=b"l", report=b"r"), allow_unsigned=True)
    assert {"weights"} == store.paths(installed).keys()
    assert 3 == store.usage()[0]


def test_a_second_owner_is_refused(store: Store, tmp_path: Path) -> None:
    """The message has the process that owns it; after a close the directory is free."""
    with pytest.raises(StateDirInUse, match=f"in use by process {os.getpid()}$"):
        Store.open(tmp_path / "state", LIMITS)
    store.close()
    store.close()
    Store.open(tmp_path / "state", LIMITS).close()


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file stands in the way, or the kernel allows no files there (both hold for root too)."""
    (tmp_path / "file").touch()
    with pytest.raises(StateDirUnwritable, match=f"{tmp_path}/file/state: Not a directory"):
        Store.open(tmp_path / "file" / "state", LIMITS)
    with pytest.raises(StateDirUnwritable, match="cannot write the state directory /proc/self"):
        Store.open(Path("/proc/self/state"), LIMITS)


def test_a_failed_open_gives_the_directory_up(tmp_path: Path) -> None:
    """After the damage is mended the same process can open it."""
    Store.open(tmp_path / "state", LIMITS).close()
    (tmp_path / "state" / "state.db").write_bytes(b"nonsense" * 1000)
    for _ in range(2):
        with pytest.raises(StoreDamaged):
            Store.open(tmp_path / "state", LIMITS)
    (tmp_path / "state" / "state.db").unlink()
    Store.open(tmp_path / "state", LIMITS).close()


def test_blobs_are_not_deleted_for_a_lost_database(store: Store, folder: Path, tmp_path: Path) -> None:
    """An empty state.db beside blobs is damage, not a new start; following the remedy gives one."""
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
