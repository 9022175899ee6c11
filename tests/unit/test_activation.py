"""Which bundle answers each task: with a real store, and engines that only take notes."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import structlog

from edge_agent.errors import (
    BundleInUse,
    BundleUnsigned,
    EdgeAgentError,
    FileMissing,
    ModelLoadFailed,
    NothingToRollBack,
    StoreDamaged,
    UnknownBundle,
    UnknownTask,
)
from edge_agent.formats.manifest import MANIFEST_NAME, Manifest
from edge_agent.store.store import Store, StoreLimits
from edge_agent.update.activation import Activation, Engines
from tests.bundles import digest_of, echo_bundle

DRAIN_SECONDS = 7.0


class Notebook:
    """Engines that take notes: what was attached and detached, and where the pointer stood at that moment."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.attached: set[str] = set()
        self.broken: set[str] = set()
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.notes: list[tuple[str, str, str]] = []
        self.keeps: list[bool] = []
        self.reports = 0
        self.drains: list[float] = []
        self.tasks: dict[str, str] = {}
        self.paths: Mapping[str, Path] = {}
        self.on_attach: Callable[[], object] = lambda: None

    async def attach(
        self, digest: str, manifest: Manifest, manifest_bytes: bytes, paths: Mapping[str, Path], keep: bool
    ) -> None:
        self.tasks[digest] = manifest.task.name
        self.note("attach", digest)
        self.keeps.append(keep)
        self.paths = paths
        self.on_attach()
        await self.may_load.wait()
        if digest in self.broken:
            raise ModelLoadFailed("it does not load")
        self.attached.add(digest)

    async def detach(self, digest: str, drain_seconds: float) -> None:
        self.note("detach", digest)
        self.drains.append(drain_seconds)
        self.attached.discard(digest)

    def note(self, what: str, digest: str) -> None:
        active = self.store.active().get(self.tasks[digest])
        self.notes.append((what, digest, active.digest if active else ""))

    def engines(self) -> Engines:
        return Engines(self.attach, self.detach, self.attached.__contains__, self.report)

    async def report(self) -> None:
        """Count how often health was told."""
        self.reports += 1


class Site:
    """One state directory, its activation, and bundles to install."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.start()

    def start(self, allow_unsigned: bool = True) -> None:
        """Start the daemon's part of it."""
        self.store = Store.open(self.tmp_path / "state", StoreLimits(disk_reserve_bytes=0))
        self.engines = Notebook(self.store)
        self.activation = Activation(
            self.store, self.engines.engines(), allow_unsigned=allow_unsigned, drain_seconds=DRAIN_SECONDS
        )

    async def restart(self) -> None:
        """Stop, and start again."""
        await self.stop()
        self.start()

    async def stop(self) -> None:
        """Stop."""
        await self.activation.stop()
        self.store.close()

    async def install(self, version: str, name: str = "pos", activate: bool = True) -> str:
        """Install a bundle; return its digest."""
        path = echo_bundle(self.tmp_path / f"{name}-{version}", name, version=version, weights=b"w")
        bundle, _ = await self.activation.install(path, activate=activate)
        return bundle.digest

    def broken(self, version: str) -> str:
        """Return the digest of a bundle that will not load."""
        digest = digest_of(echo_bundle(self.tmp_path / f"pos-{version}", "pos", version=version, weights=b"w"))
        self.engines.broken.add(digest)
        return digest

    def lose_blobs(self) -> None:
        """Delete every stored file behind the store's back."""
        for blob in (self.tmp_path / "state" / "blobs").rglob("*"):
            if blob.is_file():
                blob.unlink()

    def active(self) -> str:
        """Return what answers, which memory and disk must agree on."""
        assert {task: b.digest for task, b in self.activation.serving.items()} == {
            task: b.digest for task, b in self.store.active().items()
        }
        return self.activation.bundle_of("pos").digest

    async def loaded(self) -> None:
        """Wait until everything that loads in the background has ended."""
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Return an empty site."""
    made = Site(tmp_path)
    yield made
    await made.stop()


async def test_a_first_bundle_is_attached_and_then_answers(site):
    """The first bundle is attached with its files before the pointer names it."""
    digest = await site.install("1.0.0")
    assert [("attach", digest, "")] == site.engines.notes
    assert b"w" == site.engines.paths["weights"].read_bytes()
    assert digest == site.active()


async def test_the_new_one_is_ready_before_the_old_one_goes(site):
    """The new bundle is attached while the pointer is on the old one, which is detached after the pointer moved."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0")
    assert [("attach", old, ""), ("attach", new, old), ("detach", old, new)] == site.engines.notes
    assert [DRAIN_SECONDS] == site.engines.drains
    assert new == site.active()
    assert {new} == site.engines.attached


async def test_while_the_new_one_loads_the_old_one_answers(site):
    """A task answers with its old bundle as long as the new one loads."""
    old = await site.install("1.0.0")
    site.engines.may_load.clear()
    loading = asyncio.Event()
    site.engines.on_attach = loading.set
    installing = asyncio.create_task(site.install("1.1.0"))
    await loading.wait()
    assert old == site.active()
    site.engines.may_load.set()
    assert await installing == site.active()


async def test_changes_come_one_after_the_other(site):
    """A change that comes while another runs waits for its end."""
    site.engines.may_load.clear()
    loading = asyncio.Event()
    site.engines.on_attach = loading.set
    changes = [asyncio.create_task(site.install(version)) for version in ("1.0.0", "1.1.0")]
    await loading.wait()
    assert 1 == len(site.engines.notes)
    site.engines.may_load.set()
    first, second = await asyncio.gather(*changes)
    assert [("attach", first, ""), ("attach", second, first), ("detach", first, second)] == site.engines.notes


async def test_a_bundle_that_does_not_load_changes_nothing(site):
    """The old bundle goes on, the pointer stays, and the new one is installed all the same."""
    old, new = await site.install("1.0.0"), site.broken("1.1.0")
    with pytest.raises(ModelLoadFailed):
        await site.install("1.1.0")
    assert old == site.active()
    assert {old} == site.engines.attached
    assert [new, old] == [bundle.digest for bundle in site.store.bundles("pos")]
    assert [False, False] == site.engines.keeps


async def test_a_first_bundle_that_does_not_load_is_no_task(site):
    """A task whose only bundle does not load is not known."""
    site.broken("1.0.0")
    with pytest.raises(ModelLoadFailed):
        await site.install("1.0.0")
    assert {} == dict(site.activation.serving)


async def test_a_pointer_that_cannot_move_changes_nothing(site):
    """When the store fails after the new bundle is attached, it is detached again and the old one goes on."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0", activate=False)

    def forget() -> None:
        with sqlite3.connect(site.tmp_path / "state" / "state.db") as db:
            db.execute("DELETE FROM bundles WHERE digest = ?", (new,))
        db.close()

    site.engines.on_attach = forget
    with pytest.raises(UnknownBundle):
        await site.activation.activate("pos", new)
    assert old == site.active()
    assert {old} == site.engines.attached


async def test_installing_need_not_activate(site):
    """A bundle can be installed without answering."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0", activate=False)
    assert old == site.active()
    assert new == (await site.activation.activate("pos", "1.1.0")).digest == site.active()


async def test_installing_again_is_nothing_new(site):
    """The same bytes once more change nothing, and the answer says so."""
    digest = await site.install("1.0.0")
    bundle, new = await site.activation.install(site.tmp_path / "pos-1.0.0", activate=True)
    assert (digest, False) == (bundle.digest, new)
    assert 1 == len(site.engines.notes)


async def test_a_refused_bundle_is_not_attached(site):
    """A bundle that the store refuses never reaches the engines."""
    folder = echo_bundle(site.tmp_path / "spoilt", "pos", weights=b"w")
    next(path for path in folder.iterdir() if path.name != MANIFEST_NAME).unlink()
    with pytest.raises(FileMissing):
        await site.activation.install(folder, activate=True)
    assert [] == site.engines.notes


async def test_unsigned_bundles_need_leave(site):
    """Without `allow_unsigned` an unsigned bundle is refused."""
    await site.stop()
    site.start(allow_unsigned=False)
    with pytest.raises(BundleUnsigned):
        await site.install("1.0.0")
    assert [] == site.engines.notes


async def test_rollback_goes_forth_and_back(site):
    """Rolling back twice ends where it began, and each way attaches before it detaches."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0")
    site.engines.notes.clear()
    assert old == (await site.activation.rollback("pos")).digest == site.active()
    assert new == (await site.activation.rollback("pos")).digest == site.active()
    back, forth = [("attach", old, new), ("detach", new, old)], [("attach", new, old), ("detach", old, new)]
    assert back + forth == site.engines.notes


async def test_rollback_needs_a_bundle_before(site):
    """The first bundle of a task has nothing before it; a task that is not there is unknown."""
    await site.install("1.0.0")
    with pytest.raises(NothingToRollBack, match=r"task 'pos' has no bundle before 1\.0\.0"):
        await site.activation.rollback("pos")
    with pytest.raises(UnknownTask):
        await site.activation.rollback("other")


async def test_rollback_to_a_broken_bundle_changes_nothing(site):
    """When the bundle before does not load any more, the active one goes on."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0")
    site.engines.broken.add(old)
    with pytest.raises(ModelLoadFailed):
        await site.activation.rollback("pos")
    assert new == site.active()


async def test_a_ready_bundle_is_not_attached_again(site):
    """Activating what answers already is a success that does nothing."""
    digest = await site.install("1.0.0")
    assert digest == (await site.activation.activate("pos", "1.0.0")).digest
    assert [("attach", digest, "")] == site.engines.notes


@pytest.mark.parametrize("mended", [True, False])
async def test_a_bundle_that_is_not_ready_is_attached_again(site, mended):
    """Activating the bundle whose engine is down tries it again and keeps it, whether that helps or not."""
    digest = await site.install("1.0.0")
    site.engines.attached.clear()
    if mended:
        await site.activation.activate("pos", digest)
    else:
        site.engines.broken.add(digest)
        with pytest.raises(ModelLoadFailed):
            await site.activation.activate("pos", digest)
    assert [("attach", digest, ""), ("attach", digest, digest)] == site.engines.notes
    assert [False, True] == site.engines.keeps
    assert digest == site.active()


async def test_activating_an_unknown_bundle_changes_nothing(site):
    """A bundle that is not installed cannot answer."""
    digest = await site.install("1.0.0")
    with pytest.raises(UnknownBundle):
        await site.activation.activate("pos", "9.9.9")
    assert digest == site.active()


async def test_resume_serves_what_was_active(site):
    """After a restart each task has its bundle at once, and the engines load it in the background, to be kept."""
    await site.install("1.0.0")
    digest, other = await site.install("1.1.0"), await site.install("1.0.0", name="other")
    await site.restart()
    site.engines.may_load.clear()
    await site.activation.resume()
    assert digest == site.active()
    assert {"pos": digest, "other": other} == {task: b.digest for task, b in site.activation.serving.items()}
    site.engines.may_load.set()
    await site.loaded()
    assert {digest, other} == site.engines.attached
    assert [True, True] == site.engines.keeps


@pytest.mark.parametrize(("how", "reason"), [("does not load", "MODEL_LOAD_FAILED"), ("lost a file", "STORE_DAMAGED")])
async def test_resume_survives_a_broken_bundle(site, how, reason):
    """A bundle that fails at the start is a problem of its own task, which is logged and can be repaired."""
    digest, other = await site.install("1.0.0"), await site.install("2.0.0", name="other")
    await site.restart()
    if how == "lost a file":
        site.lose_blobs()
    else:
        site.engines.broken.add(digest)
    with structlog.testing.capture_logs() as logged:
        await site.activation.resume()
        await site.loaded()
    assert ("pos", reason) in [(entry["task"], entry["reason"]) for entry in logged]
    assert digest == site.active()
    assert ({other} if how == "does not load" else set()) == site.engines.attached
    site.engines.broken.clear()
    assert digest == await site.install("1.0.0") == site.active()
    assert digest in site.engines.attached


async def test_activating_a_damaged_bundle_says_so(site):
    """A bundle whose file was lost is refused before the engines are asked."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0", activate=False)
    site.lose_blobs()
    with pytest.raises(StoreDamaged):
        await site.activation.activate("pos", new)
    assert [("attach", old, "")] == site.engines.notes


async def test_stopping_ends_the_loading(site):
    """What still loads when the daemon stops is given up."""
    digest = await site.install("1.0.0")
    await site.restart()
    site.engines.may_load.clear()
    loading = asyncio.Event()
    site.engines.on_attach = loading.set
    await site.activation.resume()
    await loading.wait()
    await site.activation.stop()
    assert {asyncio.current_task()} == asyncio.all_tasks()
    assert [("attach", digest, digest)] == site.engines.notes


async def test_removing_a_task_detaches_it(site):
    """A removed task is detached, unknown afterwards, and its bytes are given back; other tasks stay."""
    digest, other = await site.install("1.0.0"), await site.install("1.0.0", name="other")
    await site.install("1.1.0", activate=False)
    await site.activation.remove("pos", "")
    assert ("detach", digest, digest) == site.engines.notes[-1]
    assert {"other"} == set(site.activation.serving)
    assert {other} == site.engines.attached
    assert [] == site.store.bundles("pos")
    assert 1 == await site.activation.remove("other", "")


async def test_removing_a_bundle_that_never_answered_detaches_nothing(site):
    """An idle bundle, or a task that never answered, goes without the engines."""
    await site.install("1.0.0")
    await site.install("1.1.0", activate=False)
    await site.install("1.0.0", name="other", activate=False)
    await site.activation.remove("pos", "1.1.0")
    await site.activation.remove("other", "")
    assert 1 == len(site.engines.notes)
    assert 1 == len(site.store.bundles())


@pytest.mark.parametrize(
    ("task", "wanted", "error"),
    [
        ("pos", "1.1.0", BundleInUse),
        ("pos", "1.0.0", BundleInUse),
        ("pos", "9.9.9", UnknownBundle),
        ("other", "", UnknownBundle),
        ("other", "1.0.0", UnknownBundle),
    ],
)
async def test_what_is_needed_is_not_removed(site, task, wanted, error: type[EdgeAgentError]):
    """The active bundle, the one before and what is not there cannot be removed, and nothing changes."""
    await site.install("1.0.0")
    new = await site.install("1.1.0")
    with pytest.raises(error):
        await site.activation.remove(task, wanted)
    assert new == site.active()
    assert {new} == site.engines.attached


async def test_an_unknown_task_lists_the_known_ones(site):
    """The error names the task asked for and the tasks there are, or says that there is none."""
    with pytest.raises(UnknownTask, match="no task is called 'till'; no task is installed"):
        site.activation.bundle_of("till")
    await site.install("1.0.0", name="vet")
    await site.install("1.0.0")
    with pytest.raises(UnknownTask, match="no task is called 'till'; known tasks: pos, vet") as caught:
        site.activation.bundle_of("till")
    assert {"task": "till", "known": "pos,vet"} == caught.value.metadata


async def test_a_long_task_name_is_cut(site):
    """The error shows the start of a name that is far too long for one."""
    with pytest.raises(UnknownTask) as caught:
        site.activation.bundle_of("x" * 10_000)
    assert len(caught.value.message) < 200


async def test_health_is_told_before_a_change_returns(tmp_path: Path) -> None:
    """Whoever installed a bundle finds the task's health up to date."""
    site = Site(tmp_path)
    await site.install("1.0.0")
    assert 1 == site.engines.reports
    await site.stop()


async def test_a_change_runs_to_its_end_without_its_caller(tmp_path: Path) -> None:
    """A caller who goes away in the middle leaves a finished change: pointer, table and inventory agree."""
    site = Site(tmp_path)
    installing = asyncio.create_task(site.install("1.0.0"))
    await asyncio.wait({installing}, timeout=0)
    installing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await installing
    await site.install("2.0.0")
    assert "2.0.0" == site.activation.serving["pos"].manifest.version
    assert ["2.0.0", "1.0.0"] == [bundle.manifest.version for bundle in site.activation.inventory.bundles]
    assert {site.activation.inventory.bundles[1].digest} == site.activation.inventory.previous
    await site.stop()
