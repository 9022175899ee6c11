"""A site with its updater, a plan that the test sets, and scripted engines and self-tests.

site = UpdatingSite(tmp_path)
new = site.publish("2.0.0")
site.want(new, "2.0.0")
await site.updater.check()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_agent.config import Config, SiteConfig, UpdateConfig
from edge_agent.errors import EdgeAgentError
from edge_agent.formats.golden_cases import GoldenAnswer
from edge_agent.formats.plan import BundleOffer, FleetPlan, MachineCapabilities, RolloutPlan, TaskPlan
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.store.bundle_store import Store
from edge_agent.store.state_database import InstalledBundle, UpdateProgress
from edge_agent.update.blocked_update_messages import CopyProgress, DownloadBlocker, VerifiedRepository
from edge_agent.update.ingest import MissingFiles
from edge_agent.update.probation import BundleActivity
from edge_agent.update.selftest import BundleUnderTest
from edge_agent.update.updater import Updater, UpdaterDependencies
from tests.support.activation_cases import Site
from tests.support.bundles import digest_of
from tests.support.examples import NOW
from tests.support.store_cases import bundle

TASK = "pos"
GOLDEN = b'{"input": "where is it", "answer": "yes", "scores": [0.1, 0.9]}\n'
RIGHT = GoldenAnswer("yes", (0.1, 0.9))
Answering = Callable[[str], GoldenAnswer]


class Publications:
    """The publications of the central team, and which of them have arrived."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self.store = store
        self.verified = VerifiedRepository()
        self.folders: dict[str, Path] = {}
        self.on_the_way: set[str] = set()
        self.asked: list[tuple[bool, list[str]]] = []
        self.problem: EdgeAgentError | None = None
        self.nothing_arrived = False
        self.copied = CopyProgress()
        self.cannot_admit: EdgeAgentError | None = None
        self.cannot_read: EdgeAgentError | None = None

    def refresh(self, folder: Path) -> VerifiedRepository:
        if self.problem:
            raise self.problem
        return self.verified

    def awaits_first(self, folder: Path) -> bool:
        return self.nothing_arrived

    def describe_missing(self, folder: Path, verified: VerifiedRepository, digest: str) -> MissingFiles | None:
        if self.cannot_read:
            raise self.cannot_read
        fault = f"blobs/{digest[:12]}… is not there"
        return MissingFiles(1, 1_500_000, fault) if digest in self.on_the_way else None

    def admit(self, folder: Path, digest: str) -> InstalledBundle:
        if self.cannot_admit:
            raise self.cannot_admit
        return self.store().install(self.folders[digest], True)[0]

    def request_downloads(
        self, verified: VerifiedRepository | None, digests: Collection[str], bytes_per_second_max: int | None
    ) -> None:
        self.asked.append((verified is not None, list(digests)))


class UpdatingSite(Site):
    """See the module. `wall` and `running` are its clocks, in seconds."""

    def __init__(self, tmp_path: Path) -> None:
        self.published = Publications(lambda: self.store)
        self.wall, self.running = NOW, 0.0
        self.check_seconds = 0.01
        self.download_blocker: DownloadBlocker | None = None
        self.seen: dict[str, BundleActivity] = {}
        self.answers: dict[str, Answering] = {}
        self.refused: dict[str, EdgeAgentError] = {}
        self.tested: list[str] = []
        self.tries = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        super().__init__(tmp_path)

    def start(self, allow_unsigned: bool = True, swap: str = "overlap") -> None:
        """Start, with an updater."""
        super().start(allow_unsigned, swap)
        around = UpdaterDependencies(
            load_for_test=self._load_for_test,
            serving=lambda _bundle: None,
            activity=lambda digest: self.seen.get(digest, BundleActivity()),
            machine=MachineCapabilities(2**32),
            download_blocker=lambda: self.download_blocker,
            now=lambda: self.wall,
            monotonic=lambda: self.running,
        )
        self.updater = Updater(self.config(), self.store, self.activation, around, self.ingest())

    def config(self, **update: object) -> Config:
        """Return what agent.yaml would say."""
        settings = {"selftest_seconds_max": 5, "check_seconds": self.check_seconds, **update}
        return Config(
            state_dir=self.tmp_path / "state",
            site=SiteConfig(id="shop-1"),
            update=UpdateConfig.model_validate(settings),
        )

    def ingest(self) -> Any:
        """Return where bundles come from."""
        return self.published

    async def stop(self) -> None:
        """Stop in the daemon's order."""
        await self.updater.stop()
        await super().stop()

    async def killed(self, swap: str = "overlap") -> None:
        """Restart as after a kill: the update in progress was not suspended."""
        await super().stop()
        self.start(swap=swap)
        await self.activation.resume()
        await self.loaded()

    def publish(self, version: str, task: str = TASK, **files: bytes) -> str:
        """Make a bundle that can be fetched; return its digest."""
        files = {"weights": version.encode(), "golden": GOLDEN, **files}
        folder = bundle(self.tmp_path / f"published-{task}-{version}", version, task, **files)
        digest = digest_of(folder)
        self.published.folders[digest] = folder
        return digest

    def want(self, digest: str, version: str, plan_version: int = 1, **more: object) -> None:
        """Publish a plan that wants one bundle of one task."""
        task = TaskPlan.model_validate({"offers": (BundleOffer(bundle=digest, version=version),), **more})
        self.plan({TASK: task}, plan_version)

    def plan(self, tasks: Mapping[str, TaskPlan], plan_version: int = 1) -> None:
        """Publish a plan."""
        channels = {"stable": FleetPlan(tasks=dict(tasks))}
        plan = RolloutPlan(version=plan_version, issued_at=format_timestamp(NOW), channels=channels)
        self.published.verified = replace(self.published.verified, plan=plan)

    async def look(self) -> UpdateProgress:
        """Look once; return the row, which the journal must agree with."""
        await self.updater.check()
        return self.row()

    def row(self) -> UpdateProgress:
        """Return the row as it is shown and as it is on the disk."""
        assert self.updater.overview.rows == self.store.journal.rows()
        return self.updater.overview.rows[TASK]

    async def switched(self, **more: Any) -> str:
        """Bring the site to 2.0.0, in probation; return its digest."""
        new = self.publish("2.0.0")
        self.want(new, "2.0.0", **more)
        assert "probation" == (await self.look()).state
        return new

    def where(self) -> tuple[str, str]:
        """Return the state and the reason."""
        return self.row().state, self.row().reason

    @asynccontextmanager
    async def _load_for_test(
        self, tried: InstalledBundle, paths: Mapping[str, Path], seconds_max: float
    ) -> AsyncIterator[BundleUnderTest]:
        self.tested.append(tried.digest)
        if tried.digest in self.refused:
            raise self.refused[tried.digest]

        async def answer(text: str, seconds: float) -> tuple[GoldenAnswer, float]:
            self.tries.set()
            await self.may_answer.wait()
            given = self.answers.get(tried.digest)
            return given(text) if given else RIGHT, 1.0

        yield BundleUnderTest(answer, lambda: 10**6, lambda: 0, lambda: 0)
