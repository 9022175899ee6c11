"""Opens a finished bundle, a directory or an uncompressed tar, and checks it before it is signed."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from convert.publish import layout
from convert.publish.repository_storage import RepositoryStorage, chunked
from edge_agent.errors import BundleUnreadable, FileMissing, HashMismatch
from edge_agent.formats import manifest
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX, MANIFEST_NAME, Artifact, Manifest

_MAKE = "Make it with 'edge-convert run' or 'edge-convert assemble', and name its directory or tar."
_REPAIR = "'edge-convert verify-repo' lists what is damaged; publishing the bundle again brings it back."


@dataclass(frozen=True)
class PublishableBundle:
    """A bundle that can be read."""

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
    def opened(self, artifact: Artifact) -> Iterator[IO[bytes]]:
        """Open a file of the bundle after checking its size and hash.

        Raises:
            FileMissing, HashMismatch: it is missing, or not the file in the manifest.
        """
        with self._open(artifact.path) as file:
            hashed = hashlib.sha256()
            for chunk in chunked(file):
                hashed.update(chunk)
            if hashed.hexdigest() != artifact.sha256:
                said = f"{artifact.path} of {self.name} is not the file that its manifest names"
                raise HashMismatch(said, remedy="Build the bundle again; nothing was published.")
            file.seek(0)
            yield file


@contextmanager
def opened(path: Path) -> Iterator[PublishableBundle]:
    """Open a bundle and check its manifest.

    Raises:
        BundleUnreadable: neither a bundle directory nor a tar.
        FileMissing, ManifestInvalid, SchemaUnknown: a missing or invalid manifest.
    """
    if path.is_dir():
        if not (path / MANIFEST_NAME).is_file():
            raise BundleUnreadable(f"{path} is not a bundle: it has no {MANIFEST_NAME}", remedy=_MAKE)
        yield _bundle(lambda name: _file(path / name))
        return
    try:
        with tarfile.open(path, "r:") as archive:
            yield _bundle(lambda name: _member(archive, name))
    except FileNotFoundError:
        raise BundleUnreadable(f"{path} does not exist", remedy=_MAKE) from None
    except tarfile.TarError as error:
        raise BundleUnreadable(f"{path} is neither a bundle directory nor a tar: {error}", remedy=_MAKE) from None


def fetch(place: RepositoryStorage, digest: str, folder: Path) -> PublishableBundle:
    """Copy a bundle from a repository into an empty folder, checking every byte, and return it.

    Raises:
        FileMissing, HashMismatch: a file of it is missing or damaged.
        OSError, UpstreamFailed, UpstreamRefused: the repository cannot be read, or the folder not written.
    """
    raw = b"".join(_blob(place, digest, MANIFEST_NAME))
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_bytes(raw)
    for artifact in manifest.parse(raw).artifacts:
        path = folder / artifact.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in _blob(place, artifact.sha256, artifact.path):
                file.write(chunk)
    return _bundle(lambda name: _file(folder / name))


def _blob(place: RepositoryStorage, sha256: str, name: str) -> Iterator[bytes]:
    path = layout.blob(sha256)
    if place.size(path) is None:
        raise FileMissing(f"the repository lacks {path}, which is {name} of a signed bundle", remedy=_REPAIR)
    hashed = hashlib.sha256()
    for chunk in place.chunks(path):
        hashed.update(chunk)
        yield chunk
    if hashed.hexdigest() != sha256:
        raise HashMismatch(f"{path}, which is {name} of a signed bundle, is damaged", remedy=_REPAIR)


def _bundle(open_file: Callable[[str], IO[bytes]]) -> PublishableBundle:
    with open_file(MANIFEST_NAME) as file:
        raw = file.read(MANIFEST_BYTES_MAX + 1)
    return PublishableBundle(raw, manifest.parse(raw), open_file)


def _file(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise FileMissing(f"the bundle has no {path.name}", remedy=_MAKE) from None


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    for written in (name, f"./{name}"):
        try:
            if (file := archive.extractfile(written)) is not None:
                return file
        except KeyError:
            continue
    raise FileMissing(f"the bundle has no {name}", remedy=_MAKE)
