"""A site that verifies a repository: its root of trust, its state directory, and a clock that can be wrong.

site = TrustingSite(tmp_path / "site", central.root_bytes)
site.bring(central.folder)                     # as a mirror would: into incoming/
site.believe().plan_version
site.admit(digest)
"""

from __future__ import annotations

import shutil
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from edge_agent.config import Config, UpdateConfig, UplinkConfig
from edge_agent.formats.manifest import digest_of
from edge_agent.formats.repository_metadata import DownloadRequests, parse
from edge_agent.store.bundle_store import Store, StoreLimits
from edge_agent.store.state_database import InstalledBundle
from edge_agent.update.blocked_update_messages import VerifiedRepository
from edge_agent.update.ingest import BundleIngest
from edge_agent.update.repository_acceptance import RepositoryTrust
from tests.support.store_cases import LIMITS


class TrustingSite:
    """Trust and store of a site in a folder; `again` stands for a restart of the daemon."""

    def __init__(
        self, folder: Path, root: bytes, now: Callable[[], float] = time.time, *, mirrored: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.root_file = folder / "root.json"
        self.root_file.write_bytes(root)
        self.now = now
        update = UpdateConfig(root_file=str(self.root_file))
        uplink = UplinkConfig(updates_url="s3://fleet/updates" if mirrored else "")
        self.config = Config(state_dir=folder / "state", update=update, uplink=uplink)
        self.incoming = self.config.incoming
        self.again()

    def again(self, limits: StoreLimits = LIMITS) -> TrustingSite:
        """Open the same directory again."""
        if hasattr(self, "store"):
            self.store.close()
        self.store: Store = Store.open(self.config.state_dir, limits)
        weakref.finalize(self, self.store.close)  # Python warns of a database that is left open, from 3.13 on
        self.trust = RepositoryTrust(self.config, self.store.trusted, lambda: self.now())
        self.ingest = BundleIngest(self.config, self.store, self.trust, lambda: self.now())
        return self

    def bring(self, repository: Path) -> None:
        """Replace the contents of `incoming/` with those of a repository."""
        shutil.rmtree(self.incoming, ignore_errors=True)
        shutil.copytree(repository, self.incoming)

    def believe(self, source: Path | None = None) -> VerifiedRepository:
        """Verify the metadata in `incoming/`, or in another folder."""
        return self.trust.refresh(source or self.incoming)

    def admit(self, digest: str, source: Path | None = None) -> InstalledBundle:
        """Take a bundle into the store, as the loop of updates does."""
        folder = source or self.incoming
        assert () == self.ingest.missing_files(folder, self.believe(folder), digest)
        return self.ingest.admit(folder, digest)

    @property
    def wants(self) -> DownloadRequests:
        """The download requests to the mirror."""
        return parse(self.config.wants.read_bytes())


def damage(path: Path, how: str) -> None:
    """Spoil a file: "zeroed", "truncated", "flipped", "gone" or "longer"."""
    content = path.read_bytes()
    middle = len(content) // 2
    spoilt = {
        "zeroed": b"\0" * len(content),
        "truncated": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "longer": content + b" " * 10_000_000,
    }
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(spoilt[how])


def digest(bundle: Path) -> str:
    """Return the digest of a bundle directory."""
    return digest_of((bundle / "manifest.json").read_bytes())
