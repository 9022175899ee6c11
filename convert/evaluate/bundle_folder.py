"""A bundle directory, opened to be run: its manifest and where its files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import BundleUnreadable, FileMissing, HashMismatch
from edge_agent.formats.manifest import MANIFEST_NAME, Manifest, digest_of, encode, parse


@dataclass(frozen=True)
class BundleFolder:
    """See the module."""

    folder: Path
    manifest: Manifest
    manifest_bytes: bytes
    paths: Mapping[str, Path]

    @property
    def digest(self) -> str:
        """What it is known by."""
        return digest_of(self.manifest_bytes)

    @property
    def name(self) -> str:
        """Task and version."""
        return f"{self.manifest.task.name} {self.manifest.version}"

    def at_temperature(self, temperature: float) -> BundleFolder:
        """Return the same files under a manifest with another temperature; they share an engine."""
        confidence = self.manifest.confidence.model_copy(update={"temperature": temperature})
        manifest = self.manifest.model_copy(update={"confidence": confidence})
        return BundleFolder(self.folder, manifest, encode(manifest), self.paths)


def open_bundle(folder: Path) -> BundleFolder:
    """Open a directory.

    Raises:
        BundleUnreadable: no manifest.json there.
        FileMissing, HashMismatch: a file of the bundle is not there, or has another size than the manifest says.
        ManifestInvalid, SchemaUnknown: the manifest breaks a rule.
    """
    file = folder / MANIFEST_NAME
    if not file.is_file():
        said = f"{folder} is no bundle directory: it has no {MANIFEST_NAME}"
        raise BundleUnreadable(said, remedy="Name what 'edge-convert run' or 'assemble' made; unpack a tar first.")
    manifest_bytes = file.read_bytes()
    manifest = parse(manifest_bytes)
    for artifact in manifest.artifacts:
        path = folder / artifact.path
        if not path.is_file():
            raise FileMissing(f"{path} does not exist, though the manifest names it", remedy="Copy the bundle again.")
        if path.stat().st_size != artifact.size_bytes:
            raise HashMismatch(f"{path} has {path.stat().st_size} bytes; the manifest says {artifact.size_bytes}")
    # Absolute: the children that open them are told paths, not where we stand.
    paths: dict[str, Path] = {artifact.role: (folder / artifact.path).resolve() for artifact in manifest.artifacts}
    return BundleFolder(folder, manifest, manifest_bytes, paths)
