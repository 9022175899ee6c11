"""Opens a bundle directory to run it: its manifest and the paths of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.errors import BundleUnreadable, FileMissing, HashMismatch
from edge_agent.formats.calibration import UNCALIBRATED
from edge_agent.formats.manifest import MANIFEST_NAME, Manifest, digest_of, encode, parse


@dataclass(frozen=True)
class BundleFolder:
    """A bundle directory with its manifest and the paths of its files."""

    folder: Path
    manifest: Manifest
    manifest_bytes: bytes
    paths: Mapping[str, Path]

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest."""
        return digest_of(self.manifest_bytes)

    @property
    def name(self) -> str:
        """Task and version."""
        return f"{self.manifest.task.name} {self.manifest.version}"

    def at_temperature(self, temperature: float) -> BundleFolder:
        """Return the same files with another temperature in the manifest; both share an engine."""
        confidence = self.manifest.confidence.model_copy(update={"temperature": temperature})
        return self._with({"confidence": confidence})

    def at_temperatures(self, temperatures: Mapping[str, float]) -> BundleFolder:
        """Return the same files with a temperature for each question, by name; a classify task is one question."""
        task = self.manifest.task
        if task.kind != "decide":
            return self.at_temperature(temperatures[task.name])
        known = self.manifest.question_confidence
        confidence = {
            name: known.get(name, UNCALIBRATED).model_copy(update={"temperature": each})
            for name, each in temperatures.items()
        }
        return self._with({"question_confidence": {**known, **confidence}})

    def at_cutoff(self, cutoff: float) -> BundleFolder:
        """Return the same files with another cut-off of redaction, and without a bound."""
        section = self.manifest.redaction_rule.model_copy(update={"cutoff": cutoff, "bound": None})
        return self._with({"redaction": section})

    def _with(self, update: dict[str, Any]) -> BundleFolder:
        manifest = self.manifest.model_copy(update=update)
        return BundleFolder(self.folder, manifest, encode(manifest), self.paths)


def open_bundle(folder: Path) -> BundleFolder:
    """Open a directory.

    Raises:
        BundleUnreadable: no manifest.json there.
        FileMissing, HashMismatch: a file of the bundle is missing, or its size differs from the manifest.
        ManifestInvalid, SchemaUnknown: the manifest breaks a rule.
    """
    file = folder / MANIFEST_NAME
    if not file.is_file():
        said = f"{folder} is not a bundle directory: it has no {MANIFEST_NAME}"
        raise BundleUnreadable(
            said, remedy="Name a bundle directory made by 'edge-convert run' or 'assemble'; unpack a tar first."
        )
    manifest_bytes = file.read_bytes()
    manifest = parse(manifest_bytes)
    for artifact in manifest.artifacts:
        path = folder / artifact.path
        if not path.is_file():
            raise FileMissing(f"{path} does not exist, though the manifest names it", remedy="Copy the bundle again.")
        if path.stat().st_size != artifact.size_bytes:
            raise HashMismatch(f"{path} has {path.stat().st_size} bytes; the manifest has {artifact.size_bytes}")
    # Absolute, because the child processes have another working directory.
    paths: dict[str, Path] = {artifact.role: (folder / artifact.path).resolve() for artifact in manifest.artifacts}
    return BundleFolder(folder, manifest, manifest_bytes, paths)
