"""What the tests of the store share: small bundles with chosen files, tars of them, and a look at the disk.

folder = bundle(tmp_path / "b", version="1.1.0", weights=b"w", golden=GOLDEN)
tar = tar_of(folder, tmp_path / "b.tar")
"""

from __future__ import annotations

import hashlib
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

from edge_agent.store.bundle_store import Store, StoreLimits
from tests.support.bundles import echo_bundle

LIMITS = StoreLimits(disk_reserve_bytes=0)
GOLDEN = b'{"input": "g"}'
"""The smallest golden file with a case."""


def bundle(directory: Path, version: str = "1.0.0", task: str = "pos", more: Any = None, **files: bytes) -> Path:
    """Write an echo bundle with one file for each role."""
    directory.mkdir(parents=True, exist_ok=True)
    for role, content in files.items():
        (directory / f"{role}.bin").write_bytes(content)
    artifacts = [_artifact(role, content) for role, content in files.items()]
    return echo_bundle(directory, task, labels=("no", "yes"), version=version, artifacts=artifacts, **(more or {}))


def _artifact(role: str, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"role": role, "path": f"{role}.bin", "sha256": sha256, "size_bytes": len(content)}


def tar_of(directory: Path, path: Path, prefix: str = "") -> Path:
    """Write a directory's files as a tar."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(directory.rglob("*")):
            tar.add(file, prefix + str(file.relative_to(directory)), recursive=False)
    return path


def blob_names(state_dir: Path) -> set[str]:
    """Return the names of all blobs, and of whatever lies in staging."""
    return {path.name for path in (state_dir / "blobs").rglob("*") if path.is_file()}


def require_whole(store: Store, state_dir: Path) -> None:
    """Hold an open store to its promises: every bundle has its files, byte for byte, and there are no others."""
    assert [] == list((state_dir / "blobs" / "staging").iterdir())
    for each in store.bundles():
        expected = {artifact.role: artifact.sha256 for artifact in each.manifest.artifacts}
        assert expected == {role: sha256_of(path.read_bytes()) for role, path in store.paths(each).items()}
    assert {artifact.sha256 for each in store.bundles() for artifact in each.manifest.artifacts} == blob_names(
        state_dir
    )


def sha256_of(content: bytes) -> str:
    """Return the name that a blob of these bytes has."""
    return hashlib.sha256(content).hexdigest()


def as_of_another_agent(state_dir: Path, version: str) -> str:
    """Rewrite the stored manifest of that version as an agent with a newer format would have stored it.

    Of a closed store; returns the digest that the bundle has now.
    """
    with sqlite3.connect(state_dir / "state.db") as db:
        db.create_function("digest", 1, lambda manifest: hashlib.sha256(manifest).hexdigest())
        db.execute("PRAGMA defer_foreign_keys = ON")
        db.execute(
            "UPDATE bundles SET manifest = CAST(replace(manifest, 'bundle/v1', 'bundle/v9') AS BLOB) WHERE version = ?",
            (version,),
        )
        moved = db.execute("SELECT digest, digest(manifest) FROM bundles WHERE version = ?", (version,)).fetchall()
        for old, new in moved:
            db.execute("UPDATE bundles SET digest = ? WHERE digest = ?", (new, old))
            db.execute("UPDATE pointers SET active = ? WHERE active = ?", (new, old))
            db.execute("UPDATE pointers SET previous = ? WHERE previous = ?", (new, old))
    db.close()
    return str(moved[0][1])
