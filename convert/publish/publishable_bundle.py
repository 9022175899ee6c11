"""Opens a finished bundle and checks it before it is signed; and the quality figures that are signed with it.

The figures are those of the evaluate stage (convert/evaluate/quality_metrics.py), with their intervals. They come from
the bundle, or from metadata of others, so only numbers are copied.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from convert.publish import layout
from convert.publish.repository_storage import RepositoryStorage, file_chunks
from edge_agent.durable.atomic_files import is_dir, is_file
from edge_agent.errors import BundleUnreadable, FileMissing, HashMismatch
from edge_agent.formats import manifest, strict_json
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX, MANIFEST_NAME, Artifact, Manifest
from edge_agent.formats.questions import QUESTIONS_MAX

_MAKE = "Make it with 'edge-convert run' or 'edge-convert assemble', and name its directory or tar."
_REPAIR = "'edge-convert verify-repo' lists what is damaged; publishing the bundle again brings it back."


@dataclass(frozen=True)
class PublishableBundle:
    """An opened bundle."""

    raw: bytes
    """manifest.json as stored."""
    manifest: Manifest
    _open: Callable[[str], IO[bytes]]

    @property
    def digest(self) -> str:
        """Its identity."""
        return manifest.digest_of(self.raw)

    @property
    def name(self) -> str:
        """Task and version, for people."""
        return f"{self.manifest.task.name} {self.manifest.version}"

    @contextmanager
    def open_artifact(self, artifact: Artifact) -> Iterator[IO[bytes]]:
        """Open a file of the bundle after checking its size and hash.

        Raises:
            FileMissing, HashMismatch: it is missing, or not the file in the manifest.
        """
        with self._open(artifact.path) as file:
            hasher = hashlib.sha256()
            for chunk in file_chunks(file):
                hasher.update(chunk)
            if hasher.hexdigest() != artifact.sha256:
                message = f"{artifact.path} of {self.name} is not the file that its manifest names"
                raise HashMismatch(message, remedy="Build the bundle again; nothing was published.")
            file.seek(0)
            yield file


@contextmanager
def open_bundle(path: Path) -> Iterator[PublishableBundle]:
    """Open a bundle and check its manifest.

    Raises:
        BundleUnreadable: neither a bundle directory nor a tar.
        FileMissing, ManifestInvalid, SchemaUnknown: a missing or invalid manifest.
    """
    if is_dir(path):
        if not is_file(path / MANIFEST_NAME):
            raise BundleUnreadable(f"{path} is not a bundle: it has no {MANIFEST_NAME}", remedy=_MAKE)
        yield _load(lambda name: _open_file(path / name))
        return
    try:
        with tarfile.open(path, "r:") as archive:
            yield _load(lambda name: _open_member(archive, name))
    except FileNotFoundError:
        raise BundleUnreadable(f"{path} does not exist", remedy=_MAKE) from None
    except tarfile.TarError as error:
        raise BundleUnreadable(f"{path} is neither a bundle directory nor a tar: {error}", remedy=_MAKE) from None


def fetch(storage: RepositoryStorage, digest: str, folder: Path) -> PublishableBundle:
    """Copy a bundle from a repository into an empty folder, checking every byte, and return it.

    Raises:
        FileMissing, HashMismatch: a file of it is missing or damaged.
        OSError, UpstreamFailed, UpstreamRefused: the repository cannot be read, or the folder not written.
    """
    raw = b"".join(_blob_chunks(storage, digest, MANIFEST_NAME))
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_bytes(raw)
    for artifact in manifest.parse(raw).artifacts:
        path = folder / artifact.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in _blob_chunks(storage, artifact.sha256, artifact.path):
                file.write(chunk)
    return _load(lambda name: _open_file(folder / name))


def _blob_chunks(storage: RepositoryStorage, sha256: str, name: str) -> Iterator[bytes]:
    path = layout.blob_path(sha256)
    if storage.size(path) is None:
        raise FileMissing(f"the repository lacks {path}, which is {name} of a signed bundle", remedy=_REPAIR)
    hasher = hashlib.sha256()
    for chunk in storage.chunks(path):
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != sha256:
        raise HashMismatch(f"{path}, which is {name} of a signed bundle, is damaged", remedy=_REPAIR)


def _load(open_file: Callable[[str], IO[bytes]]) -> PublishableBundle:
    with open_file(MANIFEST_NAME) as file:
        raw = file.read(MANIFEST_BYTES_MAX + 1)
    return PublishableBundle(raw, manifest.parse(raw), open_file)


def _open_file(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise FileMissing(f"the bundle has no {path.name}", remedy=_MAKE) from None


def _open_member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    for member in (name, f"./{name}"):
        try:
            if (file := archive.extractfile(member)) is not None:
                return file
        except KeyError:
            continue
    raise FileMissing(f"the bundle has no {name}", remedy=_MAKE)


KEY, GOLDEN_KEY = "quality", "golden_cases"
_REPORT_BYTES_MAX = 16 * 1024 * 1024
_DIGITS = 4
_QUESTION = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_SENTENCE_MAX = 400
_PROVENANCE_KEY = "golden cases"  # of convert/package/assemble_stage.py
_PARTS = {"sure": ("coverage", "wrong"), "calibration": ("calibration_error",)}
_INTERVAL = ("value", "low", "high", "level")


def quality_figures(bundle: PublishableBundle) -> dict[str, Any]:
    """Return the headline figures of a bundle's report; empty without a report.

    Raises:
        FileMissing, HashMismatch: the report is not the file in the manifest.
    """
    artifact = next((each for each in bundle.manifest.artifacts if each.role == "report"), None)
    if artifact is None or artifact.size_bytes > _REPORT_BYTES_MAX:
        return {}
    with bundle.open_artifact(artifact) as file:
        raw = file.read()
    try:
        plain = strict_json.decode(raw)
    except ValueError:
        return {}
    return headline_figures(plain.get("evaluate") if isinstance(plain, dict) else None)


def golden_origin_of(bundle: PublishableBundle) -> str:
    """Return the origin of the golden cases' texts by the bundle's provenance, or that the bundle does not tell it."""
    if not bundle.manifest.by_role("golden"):
        return "there are no golden cases"
    source = bundle.manifest.provenance.converter.get(_PROVENANCE_KEY, "")
    return printable(source) or "the bundle does not tell where their texts come from: read them before you sign"


def printable(text: object) -> str:
    """Return a sentence from a bundle, or from others' metadata, as one line of limited length."""
    return (
        "".join(char if char.isprintable() else " " for char in text)[:_SENTENCE_MAX] if isinstance(text, str) else ""
    )


def encode(figures: Mapping[str, Any]) -> str:
    """Write figures for signed metadata: as text, since canonical JSON has no fractions."""
    return json.dumps(figures, sort_keys=True, separators=(",", ":"))


def decode(text: object) -> dict[str, Any]:
    """Read the figures; invalid ones are left out."""
    try:
        return headline_figures(strict_json.decode(text.encode())) if isinstance(text, str) else {}
    except ValueError:
        return {}


def headline_figures(plain: object) -> dict[str, Any]:
    """Return only the headline figures of an evaluation's report, for a decide task by question; empty for another
    form."""
    questions = _mapping(_mapping(plain).get("questions"))
    if not questions:
        return _headline(plain)
    headlines = {name: _headline(questions[name]) for name in questions if _QUESTION.fullmatch(str(name))}
    by_question = dict([(name, figures) for name, figures in headlines.items() if figures][:QUESTIONS_MAX])
    return {"questions": by_question} if by_question else {}


def _headline(plain: object) -> dict[str, Any]:
    plain = _mapping(plain)
    accuracy = _interval(plain.get("accuracy"))
    if accuracy is None or not _is_count(plain.get("rows")):
        return {}
    figures: dict[str, Any] = {"rows": plain["rows"], "accuracy": accuracy}
    if _is_count(plain.get("families")):
        figures["families"] = plain["families"]
    for part, keys in _PARTS.items():
        intervals = {key: _interval(_mapping(plain.get(part)).get(key)) for key in keys}
        if None not in intervals.values():
            figures[part] = intervals
    copies = _mapping(plain.get("near_copies")).get("rows")
    if _is_count(copies):
        figures["near_copies"] = {"rows": copies}
        without = _headline(plain.get("without_near_copies"))
        figures |= {"without_near_copies": without} if without else {}
    return figures


def _mapping(plain: object) -> Mapping[str, Any]:
    return plain if isinstance(plain, Mapping) else {}


def _interval(plain: object) -> dict[str, float | None] | None:
    if not isinstance(plain, Mapping) or not all(_is_share(plain.get(key)) for key in _INTERVAL[1:]):
        return None
    if plain.get("value") is not None and not _is_share(plain["value"]):
        return None
    return {key: None if plain.get(key) is None else round(float(plain[key]), _DIGITS) for key in _INTERVAL}


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12
