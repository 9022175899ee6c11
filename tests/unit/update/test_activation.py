"""The bundle that answers each task, with a real store and engines that record what they are told to do."""

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


async def test_first_bundle_is_attached_before_it_answers(site):
    """The engine attaches the first bundle with its files before the task's pointer names it."""
    digest = await site.install("1.0.0")
    assert [("attach", digest, "")] == site.engines.notes
    assert b"w" == site.engines.paths["weights"].read_bytes()
    assert digest == site.active()


async def test_new_bundle_is_ready_before_the_old_one_is_detached(site):
    """The new bundle is attached while the task's pointer names the old one, which is detached after the pointer has
    moved."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0")
    assert [("attach", old, ""), ("attach", new, old), ("detach", old, new)] == site.engines.notes
    assert [DRAIN_SECONDS] == site.engines.drains
    assert new == site.active()
    assert {new} == site.engines.attached


async def test_old_bundle_answers_while_the_new_one_loads(site):
    """The old bundle answers a task until the new one has loaded."""
    old = await site.install("1.0.0")
    site.engines.may_load.clear()
    loading = asyncio.Event()
    site.engines.on_attach = loading.set
    installing = asyncio.create_task(site.install("1.1.0"))
    await loading.wait()
    assert old == site.active()
    site.engines.may_load.set()
    assert await installing == site.active()


async def test_changes_of_a_task_run_one_after_the_other(site):
    """A change that is requested while another of the same task runs waits for its end."""
    site.engines.may_load.clear()
    loading = asyncio.Event()
    site.engines.on_attach = loading.set
    changes = [asyncio.create_task(site.install(version)) for version in ("1.0.0", "1.1.0")]
    await loading.wait()
    assert 1 == len(site.engines.notes)
    site.engines.may_load.set()
    first, second = await asyncio.gather(*changes)
    assert [("attach", first, ""), ("attach", second, first), ("detach", first, second)] == site.engines.notes


async def test_task_does_not_wait_for_a_change_of_another_task(site):
    """While a bundle of one task loads, a bundle of another task is installed and answers."""
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
async def test_install_is_abandoned_when_its_caller_leaves(site, swap, brought_back):
    """If the caller leaves before the new bundle is ready, the old bundle continues and the store does not keep the new
    one. With `swap: pause` the old bundle is attached again."""
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


async def test_bundle_whose_task_changes_while_it_is_read_is_refused(site, tmp_path):
    """The store refuses a bundle whose files name another task than the one that the caller read before."""
    path = echo_bundle(tmp_path / "bundle", "pos")
    with pytest.raises(BundleUnreadable, match="was of task other and is of task pos now"):
        site.store.install(path, True, "other")


async def test_a_bundle_that_does_not_load_changes_nothing(site):
    """If a new bundle does not load, the old one continues, the pointer stays, and the store does not keep the new
    one."""
    old, _ = await site.install("1.0.0"), site.broken("1.1.0")
    with pytest.raises(ModelLoadFailed, match=r"bundle pos 1\.1\.0: "):
        await site.install("1.1.0")
    assert old == site.active()
    assert {old} == site.engines.attached
    assert [old] == [bundle.digest for bundle in site.store.bundles("pos")]
    assert [False, False] == site.engines.keeps


async def test_task_is_unknown_if_its_only_bundle_does_not_load(site):
    """A task whose only bundle does not load is not served."""
    site.broken("1.0.0")
    with pytest.raises(ModelLoadFailed):
        await site.install("1.0.0")
    assert {} == dict(site.activation.serving)


async def test_store_error_at_the_switch_leaves_the_old_bundle_active(site):
    """If the store fails after the new bundle was attached, the new one is detached again and the old one continues."""
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


async def test_bundle_can_be_installed_without_activating_it(site):
    """A bundle that is installed with `activate=False` answers only after it is activated."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0", activate=False)
    assert old == site.active()
    assert new == (await site.activation.activate("pos", "1.1.0")).digest == site.active()


async def test_installing_the_same_bytes_again_changes_nothing(site):
    """A second installation of the same bytes changes nothing, and its result says so."""
    digest = await site.install("1.0.0")
    bundle, new = await site.activation.install(site.tmp_path / "pos-1.0.0", activate=True)
    assert (digest, False) == (bundle.digest, new)
    assert 1 == len(site.engines.notes)


async def test_a_refused_bundle_is_not_attached(site):
    """The engines never see a bundle that the store refuses."""
    folder = echo_bundle(site.tmp_path / "spoilt", "pos", weights=b"w")
    next(path for path in folder.iterdir() if path.name != MANIFEST_NAME).unlink()
    with pytest.raises(FileMissing):
        await site.activation.install(folder, activate=True)
    assert [] == site.engines.notes


async def test_unsigned_bundle_is_refused_without_allow_unsigned(site):
    """Without `allow_unsigned` an unsigned bundle is refused."""
    await site.stop()
    site.start(allow_unsigned=False)
    with pytest.raises(BundleUnsigned):
        await site.install("1.0.0")
    assert [] == site.engines.notes


async def test_two_rollbacks_return_to_the_first_bundle(site):
    """Two rollbacks end with the bundle that was active at first, and each attaches one bundle before it detaches the
    other."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0")
    site.engines.notes.clear()
    assert old == (await site.activation.rollback("pos")).digest == site.active()
    assert new == (await site.activation.rollback("pos")).digest == site.active()
    back, forth = [("attach", old, new), ("detach", new, old)], [("attach", new, old), ("detach", old, new)]
    assert back + forth == site.engines.notes


async def test_rollback_requires_a_previous_bundle(site):
    """A rollback fails if the task has no previous bundle, or is unknown."""
    await site.install("1.0.0")
    with pytest.raises(NothingToRollBack, match=r"task 'pos' has no bundle before 1\.0\.0"):
        await site.activation.rollback("pos")
    with pytest.raises(UnknownTask):
        await site.activation.rollback("other")


async def test_rollback_to_a_broken_bundle_changes_nothing(site):
    """If the previous bundle no longer loads, a rollback fails and the active bundle continues."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0")
    site.engines.broken.add(old)
    with pytest.raises(ModelLoadFailed):
        await site.activation.rollback("pos")
    assert new == site.active()


async def test_a_ready_bundle_is_not_attached_again(site):
    """Activating the bundle that already answers succeeds without a change."""
    digest = await site.install("1.0.0")
    assert digest == (await site.activation.activate("pos", "1.0.0")).digest
    assert [("attach", digest, "")] == site.engines.notes


@pytest.mark.parametrize("mended", [True, False])
async def test_a_bundle_that_is_not_ready_is_attached_again(site, mended):
    """Activating the active bundle while its engine is down attaches it again, and keeps it attached whether or not
    that succeeds."""
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
    """Activating a bundle that is not installed fails, and the active bundle stays."""
    digest = await site.install("1.0.0")
    with pytest.raises(UnknownBundle):
        await site.activation.activate("pos", "9.9.9")
    assert digest == site.active()


async def test_resume_serves_the_bundles_that_were_active(site):
    """After a restart each task has its active bundle at once; the engines load it in the background and keep it if
    that fails."""
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
    """A bundle that fails at the start affects only its own task; the failure is logged, and a new installation repairs
    it."""
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


async def test_activating_a_damaged_bundle_is_refused(site):
    """Activating a bundle that has lost a file fails before the engines are asked to load it."""
    old, new = await site.install("1.0.0"), await site.install("1.1.0", activate=False)
    site.lose_blobs()
    with pytest.raises(StoreDamaged):
        await site.activation.activate("pos", new)
    assert [("attach", old, "")] == site.engines.notes


async def test_stop_cancels_loading(site):
    """When activation stops, bundles that are still loading are cancelled."""
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


async def test_stalled_disk_is_reported_and_harms_no_other_work(tmp_path):
    """The store's thread reports for how long its work has stalled; work whose caller left is dropped, and the rest is
    done once the disk responds."""
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


async def test_unexpected_error_while_a_task_loads_is_logged_and_reported(site):
    """An exception of no known type while a task loads leaves the task without an answer, a reason in its status, and a
    traceback in the log."""
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
    """A removed task is detached, then unknown, and its bundles are deleted; other tasks stay."""
    digest, other = await site.install("1.0.0"), await site.install("1.0.0", name="other")
    await site.install("1.1.0", activate=False)
    await site.activation.remove("pos", "")
    assert ("detach", digest, "") == site.engines.notes[-1], "the disk first: if it refuses, the task goes on"
    assert {"other"} == set(site.activation.serving)
    assert {other} == site.engines.attached
    assert [] == site.store.bundles("pos")
    assert 1 == await site.activation.remove("other", "")


async def test_removing_a_bundle_that_was_never_active_detaches_nothing(site):
    """Removing a bundle or a task that was never active does not involve the engines."""
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
async def test_removing_a_bundle_in_use_or_an_unknown_one_is_refused(site, task, wanted, error: type[EdgeAgentError]):
    """The active bundle, the previous one and one that does not exist cannot be removed, and nothing changes."""
    await site.install("1.0.0")
    new = await site.install("1.1.0")
    with pytest.raises(error):
        await site.activation.remove(task, wanted)
    assert new == site.active()
    assert {new} == site.engines.attached


async def test_error_for_an_unknown_task_lists_the_known_tasks(site):
    """The error names the requested task and the installed ones, or states that no task is installed."""
    with pytest.raises(UnknownTask, match="no task is called 'till'; no task is installed"):
        site.activation.bundle_of("till")
    await site.install("1.0.0", name="vet")
    await site.install("1.0.0")
    with pytest.raises(UnknownTask, match="no task is called 'till'; known tasks: pos, vet") as caught:
        site.activation.bundle_of("till")
    assert {"task": "till", "known": "pos,vet"} == caught.value.metadata


async def test_error_for_a_long_task_name_shows_its_start(site):
    """The error shows only the start of a task name of 10,000 characters."""
    with pytest.raises(UnknownTask) as caught:
        site.activation.bundle_of("x" * 10_000)
    assert len(caught.value.message) < 200


async def test_health_is_up_to_date_when_a_change_returns(tmp_path: Path) -> None:
    """The task's health is reported before the call that installs a bundle returns."""
    site = Site(tmp_path)
    await site.install("1.0.0")
    assert 1 == site.engines.reports
    await site.stop()


async def test_a_change_runs_to_its_end_without_its_caller(tmp_path: Path) -> None:
    """A change whose caller is cancelled is still completed: pointer, table and inventory agree."""
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


async def test_unreadable_bundle_stops_only_its_own_task(site):
    """If an installed manifest cannot be read, only its task reports an error, and it answers again after a
    rollback."""
    old, _, other = await site.install("1.0.0"), await site.install("2.0.0"), await site.install("1.0.0", "other")
    await strange_after_restart(site, "2.0.0")
    assert {"other": other} == {task: bundle.digest for task, bundle in site.activation.serving.items()}
    with pytest.raises(StoreDamaged, match="cannot read the installed bundle"):
        site.activation.bundle_of("pos")
    await site.activation.rollback("pos")
    assert old == site.active()
    assert {} == site.activation.problems


async def test_rollback_to_an_unreadable_bundle_is_refused(site):
    """The inventory lists a previous bundle whose manifest cannot be read; a rollback to it fails, and the task
    continues."""
    _, new = await site.install("1.0.0"), await site.install("2.0.0")
    strange = await strange_after_restart(site, "1.0.0")
    assert [strange] == [broken.name.digest for broken in site.activation.inventory.unreadable]
    with pytest.raises(StoreDamaged, match="cannot read the installed bundle"):
        await site.activation.rollback("pos")
    assert new == site.active()


async def test_unreadable_bundle_can_be_replaced_and_removed(site):
    """A new version replaces a bundle whose manifest cannot be read, and the task with both can then be removed."""
    await site.install("1.0.0")
    strange = await strange_after_restart(site, "1.0.0")
    new = await site.install("2.0.0")
    assert new == site.active()
    with pytest.raises(BundleInUse):
        await site.activation.remove("pos", strange)
    await site.activation.remove("pos", "")
    assert ((), ()) == (site.activation.inventory.bundles, site.activation.inventory.unreadable)
