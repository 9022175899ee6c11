"""The error for a refused bundle has a remedy for every fault."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from edge_agent.errors import BundleError, ManifestInvalid
from edge_agent.formats.manifest import parse
from edge_agent.store import bundle_archive
from edge_agent.store.bundle_archive import StoreLimits

GOOD = {
    "schema": "edge-agent/bundle/v1",
    "version": "1.0.0",
    "runtime": "echo",
    "task": {"name": "talk", "kind": "generate"},
}


def refused(path: Path, **limits: int) -> BundleError:
    with pytest.raises(BundleError) as caught, bundle_archive.open_bundle(path, StoreLimits(**limits)) as members:
        bundle_archive.manifest_bytes(members)
    return caught.value


def tar(path: Path, *names: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as made:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "target"
            made.addfile(entry, io.BytesIO())
    return path


def test_every_refusal_of_an_archive_has_a_remedy(tmp_path):
    """Unsafe paths, links, duplicates, wrong sizes and files that are not archives are refused with a remedy."""
    found = [
        refused(tar(tmp_path / "leaves.tar", "../x")),
        refused(tar(tmp_path / "link.tar", "x", kind=tarfile.SYMTYPE)),
        refused(tar(tmp_path / "twice.tar", "x", "x")),
        refused(tar(tmp_path / "many.tar", "x", "y"), files_max=1),
        refused(tar(tmp_path / "empty.tar", "x")),
        refused(tmp_path / "nowhere"),
    ]
    assert [] == [error.message for error in found if not error.remedy]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "1.0"}, 'version: "1.0" is not a semantic version such as 1.2.0'),
        ({"requires": {"agent": "new"}}, 'requires.agent: "new" is not a version such as 0.1.0'),
        ({"task": {"name": "Talk!", "kind": "generate"}}, 'task.name: "Talk!" is not a name of 1 to 63 lower-case'),
        ({"task": {"name": "talk", "kind": "generat"}}, "task.kind: Input should be"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
    ],
)
def test_broken_manifest_rule_is_described(change, said):
    """The message describes the rule without its pattern, and has a remedy."""
    with pytest.raises(ManifestInvalid) as caught:
        parse(json.dumps({**GOOD, **change}).encode())
    assert caught.value.message.startswith(f"manifest.json: {said}")
    assert (True, False) == (bool(caught.value.remedy), "pattern" in caught.value.message)


@pytest.mark.parametrize("stored", [b"{", b"[]", b" " * (4 * 2**20 + 1), b'{"schema": 1}'])
def test_invalid_manifest_has_a_remedy(stored):
    """Broken JSON, another type, too many bytes and another schema are refused with a remedy."""
    with pytest.raises(BundleError) as caught:
        parse(stored)
    assert caught.value.remedy
