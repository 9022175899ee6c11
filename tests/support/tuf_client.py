"""python-tuf's own client over a folder: an independent check of the published repository."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from edge_agent.formats import manifest, plan
from edge_agent.formats.plan import RolloutPlan


@dataclass(frozen=True)
class VerifiedContent:
    """The metadata and files that a client has verified."""

    plan: RolloutPlan
    bundles: frozenset[str]
    """Digests that the plan names, each signed and with all its blobs there."""
    root_version: int
    timestamp_version: int


class Client:
    """A site that keeps its metadata in `cache`. `refresh` raises what python-tuf raises."""

    def __init__(self, cache: Path, root: bytes) -> None:
        self.cache, self.root = cache, root
        cache.mkdir(exist_ok=True)

    def refresh(self, repository: Path) -> VerifiedContent:
        """Update from a repository, and read the plan and all blobs that it leads to."""
        base = f"{repository}/metadata/"
        updater = Updater(str(self.cache), base, fetcher=_Files(), bootstrap=self.root)
        updater.refresh()
        target = updater.get_targetinfo(plan.FILE_NAME)
        assert target is not None
        raw = blob(repository, target.hashes["sha256"])
        target.verify_length_and_hashes(raw)
        believed = plan.parse(raw)
        tasks = {
            offer.bundle: name
            for fleet in [*believed.channels.values(), *believed.sites.values()]
            for name, task in fleet.tasks.items()
            for offer in task.offers
        }
        for digest, task in tasks.items():
            info = updater.get_targetinfo(f"bundles/{task}/{digest}")
            assert info is not None, f"{digest} is not signed"
            assert digest == info.hashes["sha256"]
            for artifact in manifest.parse(blob(repository, digest)).artifacts:
                assert artifact.size_bytes == len(blob(repository, artifact.sha256))
        trusted = updater._trusted_set
        return VerifiedContent(believed, frozenset(tasks), trusted.root.version, trusted.timestamp.version)


def blob(repository: Path, sha256: str) -> bytes:
    """Read a blob, which must be what its name says."""
    raw = (repository / "blobs" / sha256).read_bytes()
    assert sha256 == hashlib.sha256(raw).hexdigest()
    return raw


class _Files(FetcherInterface):
    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield Path(url).read_bytes()
        except FileNotFoundError:
            raise DownloadHTTPError("not there", 404) from None
