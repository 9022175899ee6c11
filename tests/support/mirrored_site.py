"""A site with updates in `incoming/` and the real trust and ingest, for interrupting or failing any write.

carry_on(folder, "forward", digest)             # folder/root.json and folder/state/incoming are there

It does all its work on one thread, so that the calls of its disk come in one order and can be counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.config import Config
from edge_agent.durable.disk_thread import DiskThread
from edge_agent.update.ingest import BundleIngest
from edge_agent.update.probation import BundleActivity
from edge_agent.update.repository_acceptance import RepositoryTrust
from edge_agent.update.update_state_machine import PAUSE_SECONDS_MAX
from tests.support.updating_site import TASK, UpdatingSite

LOOKS = 4


class CallingThread(DiskThread):
    """Runs work on the caller's thread instead of the store's."""

    async def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do the work now."""
        return work(*args, **kwargs)


class MirroredSite(UpdatingSite):
    """See the module. Engines and self-tests are scripted; they write nothing."""

    def start(self, allow_unsigned: bool = True, swap: str = "overlap") -> None:
        """Start, with a store that is used on the thread of the caller."""
        super().start(allow_unsigned, swap)
        self.store.thread = CallingThread("store")

    def config(self, **update: object) -> Config:
        """Return what agent.yaml would say: with a root of trust."""
        return super().config(root_file=str(self.tmp_path / "root.json"), **update)

    def ingest(self) -> BundleIngest:
        """Return what verifies and admits bundles, as the daemon puts it together."""
        config = self.config()
        return BundleIngest(config, self.store, RepositoryTrust(config, self.store.trusted))

    async def carry_on(self, back: bool, arrived: Callable[[], object]) -> None:
        """Run as a daemon does from its start: load the active bundles, check for updates until all are done, stop.

        Args:
            back: the operator goes back to the bundle before, unless it answers already.
            arrived: called when all is done, before the stop.
        """
        self.wall = time.time()
        await self.activation.resume()
        await self.loaded()
        row = self.store.journal.rows().get(TASK)
        if back and row and row.candidate == self.active():
            await self.activation.rollback(TASK)
        for _ in range(LOOKS):
            await self.updater.check()
            self.running += PAUSE_SECONDS_MAX
        arrived()
        await self.stop()


CHANGES = {
    "forward": BundleActivity(calls=200),
    "back": BundleActivity(problem="it died"),
    "back by hand": BundleActivity(),
    "watch": BundleActivity(),
}
"""What is seen of the bundle that has just come, by what becomes of it."""


def carry_on(folder: Path, change: str, digest: str, arrived: Callable[[], object] = lambda: None) -> None:
    """Let a site do one of CHANGES with a bundle; `arrived` is called before it stops."""
    site = MirroredSite(folder)
    site.seen[digest] = CHANGES[change]
    asyncio.run(site.carry_on(change == "back by hand", arrived))
