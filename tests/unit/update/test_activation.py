"""Which bundle answers each task: with a real store, and engines that only take notes."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from edge_agent.durable.disk_thread import DiskThread
from edge_agent.errors import (
    BundleInUse,
    BundleUnreadable,
    BundleUnsigned,
    EdgeAgentError,
    FileMissing,
    ModelLoadFailed,
    NothingToRollBack,
    RequestCancelled,
    StoreDamaged,
    UnknownBundle,
    UnknownTask,
)
from edge_agent.formats.manifest import MANIFEST_NAME
from tests.support.activation_cases import DRAIN_SECONDS, Site
from tests.support.bundles import echo_bundle
from tests.support.eventually import eventually
from tests.support.store_cases import as_of_another_agent


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


async def test_a_task_does_not_wait_for_the_change_of_another(site):
    """While a bundle of one task loads, one of another is installed and answers."""
    site.engines.may_load.clear()
    loading = asyncio.Event()
    site.engines.on_attach = loading.set
    slow = asyncio.create_task(site.install("1.0.0"))
    await loading.wait()
    held, site.engines.may_load = site.engines.may_load, asyncio.Event()
    site.engines.may_load.set()
    other = await site.install("1.0.0", "other")
    assert other == site.activation.bundle_of("other").digest
    assert not slow.done()
    held.set()
    assert await slow == site.active()


@pytest.mark.parametrize(("swap", "brought_back"), [("overlap", 0), ("pause", 1)])
async def test_a_bundle_whose_caller_leaves_is_given_up(site, swap, brought_back):
    """Before it is ready: the old bundle goes on and nothing is kept of the new one. With `swap: pause` the old one is
    brought back."""
    await site.stop()
    site.start(swap=swap)
    old = await site.install("1.0.0")
    site.engines.may_load.clear()
    left = asyncio.Event()
    attaching = [site.engines.may_load.set, left.set]
    site.engines.on_attach = lambda: attaching.pop()()
    path = echo_bundle(site.tmp_path / "new", "pos", version="2.0.0", weights=b"w")
    with pytest.raises(RequestCancelled):
        await site.activation.install(path, activate=True, caller_left=left)
    assert old == site.active()
    assert ["1.0.0"] == [bundle.manifest.version for bundle in site.activation.inventory.bundles]
    assert 1 + brought_back == [what for what, digest, _ in site.engines.notes if digest == old].count("attach")


async def test_a_bundle_that_changes_while_it_is_read_is_refused(site, tmp_path):
    """The task whose turn it was is not the one that the files name now."""
    path = echo_bundle(tmp_path / "bundle", "pos")
    with pytest.raises(BundleUnreadable, match="was of task other and is of task pos now"):
        site.store.install(path, True, "other")


async def test_a_bundle_that_does_not_load_changes_nothing(site):
    """The old bundle goes on, the pointer stays, and nothing of the new one is kept."""
    old, _ = await site.install("1.0.0"), site.broken("1.1.0")
    with pytest.raises(ModelLoadFailed, match=r"bundle pos 1\.1\.0: "):
        await site.install("1.1.0")
    assert old == site.active()
    assert {old} == site.engines.attached
    assert [old] == [bundle.digest for bundle in site.store.bundles("pos")]
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


async def test_a_disk_that_stands_is_seen_and_bounds_the_end(tmp_path):
    """It is said for how long; callers who leave are dropped and harm none; what was begun is done when it answers."""
    seconds, works, entered, done = [0.0], threading.Event(), threading.Event(), []
    site = Site(tmp_path)
    thread = site.store.thread = DiskThread("store", lambda: seconds[0])

    def stands() -> None:
        entered.set()
        assert works.wait(60.0)

    standing = asyncio.create_task(thread.run(stands))
    left, later = (asyncio.create_task(thread.run(done.append, number)) for number in range(2))
    await eventually(entered.is_set)
    seconds[0] = 7.0
    assert 7.0 == thread.stalled_seconds
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    works.set()
    await asyncio.gather(standing, later)
    assert ([1], True, 0.0) == (done, await site.activation.stop(), thread.stalled_seconds)
    await site.stop()


async def test_a_mistake_while_a_task_loads_is_logged_and_said(site):
    """An exception of no error tree leaves its task silent, with a reason in status, and a traceback in the log."""
    await site.install("1.0.0")
    await site.restart()

    def mistaken() -> None:
        raise KeyError("a mistake of ours")

    site.engines.on_attach = mistaken
    with structlog.testing.capture_logs() as logged:
        await site.activation.resume()
        await eventually(lambda: "pos" in site.activation.problems)
    assert "MODEL_LOAD_FAILED" == site.activation.problems["pos"].reason
    assert [KeyError] == [type(each["exc_info"]) for each in logged if each["event"] == "task_not_ready"]


async def test_removing_a_task_detaches_it(site):
    """A removed task is detached, unknown afterwards, and its bytes are given back; other tasks stay."""
    digest, other = await site.install("1.0.0"), await site.install("1.0.0", name="other")
    await site.install("1.1.0", activate=False)
    await site.activation.remove("pos", "")
    assert ("detach", digest, "") == site.engines.notes[-1], "the disk first: if it refuses, the task goes on"
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


async def strange_after_restart(site: Site, version: str) -> str:
    """Start again with that version's manifest in a format that this agent does not know; return its digest."""
    await site.stop()
    strange = as_of_another_agent(site.tmp_path / "state", version)
    site.start()
    await site.activation.resume()
    await site.loaded()
    return strange


async def test_a_bundle_that_cannot_be_read_stops_its_own_task_only(site):
    """The other task answers; this one says why not, and answers again after a roll-back."""
    old, _, other = await site.install("1.0.0"), await site.install("2.0.0"), await site.install("1.0.0", "other")
    await strange_after_restart(site, "2.0.0")
    assert {"other": other} == {task: bundle.digest for task, bundle in site.activation.serving.items()}
    with pytest.raises(StoreDamaged, match="cannot read the installed bundle"):
        site.activation.bundle_of("pos")
    await site.activation.rollback("pos")
    assert old == site.active()
    assert {} == site.activation.problems


async def test_a_bundle_before_that_cannot_be_read_is_no_way_back(site):
    """Status has it in the inventory; the task goes on."""
    _, new = await site.install("1.0.0"), await site.install("2.0.0")
    strange = await strange_after_restart(site, "1.0.0")
    assert [strange] == [broken.name.digest for broken in site.activation.inventory.unreadable]
    with pytest.raises(StoreDamaged, match="cannot read the installed bundle"):
        await site.activation.rollback("pos")
    assert new == site.active()


async def test_a_task_whose_bundle_cannot_be_read_can_be_installed_or_removed(site):
    """A new version takes over; then the strange one can go."""
    await site.install("1.0.0")
    strange = await strange_after_restart(site, "1.0.0")
    new = await site.install("2.0.0")
    assert new == site.active()
    with pytest.raises(BundleInUse):
        await site.activation.remove("pos", strange)
    await site.activation.remove("pos", "")
    assert ((), ()) == (site.activation.inventory.bundles, site.activation.inventory.unreadable)
