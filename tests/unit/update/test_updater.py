"""The loop that brings a task to the bundle of the plan: each step, what blocks it, and the state after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.errors import (
    DiskFull,
    HashMismatch,
    ManifestInvalid,
    MemoryShort,
    ModelLoadFailed,
    UpdateExpired,
    UpdateIncomplete,
    UpdateUntrusted,
)
from edge_agent.formats.golden_cases import GoldenAnswer
from edge_agent.formats.plan import BundleOffer, ProbationRules, TaskPlan
from edge_agent.update.probation import BundleActivity
from edge_agent.update.update_state_machine import PAUSE_SECONDS_FIRST
from tests.support.eventually import eventually
from tests.support.updating_site import TASK, UpdatingSite

WRONG = GoldenAnswer("no", (0.9, 0.1))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[UpdatingSite]:
    """Return a site whose task 'pos' runs 1.0.0."""
    site = UpdatingSite(tmp_path)
    site.old = await site.install("1.0.0")  # type: ignore[attr-defined]
    yield site
    await site.stop()


async def test_update_is_fetched_tested_activated_and_watched(site: UpdatingSite):
    """One check takes all steps that are due; the mirror is asked for the missing files and for nothing once they have
    arrived."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.published.on_the_way.add(new)
    assert "fetching" == (await site.look()).state
    assert "1 file (1.5 MB) still to come" == site.row().message
    assert (True, [new]) == site.published.asked[-1]
    site.published.on_the_way.clear()
    assert "probation" == (await site.look()).state
    assert ([new], new, (True, [])) == (site.tested, site.active(), site.published.asked[-1])
    site.seen[new] = BundleActivity(calls=200)
    assert "done" == (await site.look()).state
    assert "200 calls in 0.0 h, 0 of them failed" == site.row().message


async def test_imported_folder_does_not_wait_for_the_pause(site: UpdatingSite):
    """After a failure of the machine a check waits for the pause; importing a folder does not."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.published.cannot_admit = DiskFull("no room", free_bytes=0)
    await site.look()
    site.published.cannot_admit = None
    assert ("staged", "DISK_FULL") == ((await site.look()).state, site.row().reason)
    await site.updater.check(site.tmp_path / "drive")
    assert ("probation", "watched for 200 calls or 24 h, whichever comes first") == (
        site.row().state,
        site.row().message,
    )


async def test_old_bundle_answers_while_the_new_one_is_switched_in(site: UpdatingSite):
    """While the new bundle loads, the journal has 'switching' and the old bundle is active."""
    seen = []
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.engines.on_attach = lambda: seen.append((site.store.journal.rows()[TASK].state, site.active()))
    await site.look()
    assert [("switching", site.old)] == seen  # type: ignore[attr-defined]
    assert [("attach", new), ("detach", site.old)] == [note[:2] for note in site.engines.notes[-2:]]  # type: ignore


async def test_task_that_the_plan_does_not_name_has_no_progress(site: UpdatingSite):
    """A task that the plan no longer names loses its recorded progress and is left alone."""
    await site.switched(probation=ProbationRules(calls=0))
    assert "done" == (await site.look()).state
    site.plan({}, 2)
    await site.updater.check()
    assert ({}, {}) == (site.updater.overview.rows, site.store.journal.rows())


async def test_bundle_with_wrong_answers_is_never_activated(site: UpdatingSite):
    """A bundle with wrong golden answers fails and is not tested again, also after a restart, until the plan changes
    its rules."""
    new = site.publish("2.0.0")
    site.answers[new] = lambda _: WRONG
    site.want(new, "2.0.0")
    for _ in range(3):
        await site.look()
    assert (("failed", "GOLDEN_DIFFERS"), [new]) == (site.where(), site.tested)
    assert "1 of 1 golden inputs" in site.row().message
    await site.killed()
    assert ("failed", site.old, [new]) == ((await site.look()).state, site.active(), site.tested)  # type: ignore
    del site.answers[new]
    site.want(new, "2.0.0", 2, probation=ProbationRules(calls=7))
    assert ("probation", new) == ((await site.look()).state, site.active())


async def test_bundle_that_does_not_load_after_its_test_has_failed(site: UpdatingSite):
    """A bundle that passes its self-test but does not load fails, and the previous one continues."""
    new = site.publish("2.0.0")
    site.engines.broken.add(new)
    site.want(new, "2.0.0")
    await site.look()
    assert (("failed", "MODEL_LOAD_FAILED"), site.old) == (site.where(), site.active())  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["admit", "test", "switch"])
async def test_lack_of_disk_or_memory_is_tried_again_after_a_pause(site: UpdatingSite, where: str):
    """A step that lacks disk space or memory is repeated after growing pauses and does not count against the bundle."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.published.cannot_admit = DiskFull("no room") if where == "admit" else None
    site.refused = {new: MemoryShort("no memory")} if where == "test" else {}
    site.engines.short = {new} if where == "switch" else set()
    for attempts, pause in ((1, PAUSE_SECONDS_FIRST), (2, 2 * PAUSE_SECONDS_FIRST)):
        assert ("staged", attempts) == ((await site.look()).state, site.row().attempts)
        tested = len(site.tested)
        site.running += pause - 1
        assert ("staged", attempts, tested) == ((await site.look()).state, site.row().attempts, len(site.tested))
        site.running += 1
    site.published.cannot_admit = None
    site.refused.clear()
    site.engines.short.clear()
    assert ("probation", 0, new) == ((await site.look()).state, site.row().attempts, site.active())


@pytest.mark.parametrize(
    ("error", "state"),
    [(HashMismatch("x"), "staged"), (UpdateIncomplete("x"), "staged"), (ManifestInvalid("x"), "failed")],
)
async def test_damaged_copy_is_retried_and_invalid_manifest_is_not(site: UpdatingSite, error, state: str):
    """A damaged or incomplete copy is tried again; a manifest that breaks a rule fails the bundle."""
    site.want(site.publish("2.0.0"), "2.0.0")
    site.published.cannot_admit = error
    assert (state, error.reason) == ((await site.look()).state, site.row().reason)


async def test_a_closed_window_keeps_a_bundle_staged(site: UpdatingSite):
    """Outside its window a bundle is fetched and stored, and neither tested nor activated."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0", window={"start": "01:00", "end": "01:01"})
    await site.look()
    assert (("staged", "WINDOW_CLOSED"), []) == (site.where(), site.tested)
    assert new in {bundle.digest for bundle in site.activation.inventory.bundles}
    site.want(new, "2.0.0", window={"start": "00:00", "end": "23:59"})
    assert "probation" == (await site.look()).state


async def test_halt_stops_only_updates_before_the_switch(site: UpdatingSite):
    """A halted update waits before its switch; after it, the bundle stays active and in probation."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0", halted=True)
    await site.look()
    assert ("waiting", "HALTED") == site.where()
    site.want(new, "2.0.0", 2)
    assert "probation" == (await site.look()).state
    site.want(new, "2.0.0", 3, halted=True)
    assert ("probation", new, 3) == ((await site.look()).state, site.active(), site.row().plan_version)


async def test_failed_probation_rolls_back_automatically(site: UpdatingSite):
    """After a failed probation the old bundle is active, the verdict survives a restart, and no rollback leads to the
    bad bundle."""
    new = await site.switched()
    site.seen[new] = BundleActivity(calls=20, failures=5)
    await site.look()
    assert (("rolled_back", "ERRORS"), site.old) == (site.where(), site.active())  # type: ignore[attr-defined]
    assert "it failed 5 of 20 calls; 5% are allowed" == site.row().message
    assert {} == site.activation.inventory.rollbacks
    await site.killed()
    assert ("rolled_back", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]


async def test_failed_rollback_is_tried_again(site: UpdatingSite):
    """If the old bundle cannot load, the bad one continues to answer, status has both reasons, and the rollback is
    repeated after a pause."""
    new = await site.switched()
    site.seen[new] = BundleActivity(problem="it died")
    site.engines.short.add(site.old)  # type: ignore[attr-defined]
    row = await site.look()
    assert ("probation", "NOT_ANSWERING", new) == (row.state, row.reason, site.active())
    assert "cannot answer: the model needs 2 MB" in row.message
    site.engines.short.clear()
    assert "probation" == (await site.look()).state
    site.running += PAUSE_SECONDS_FIRST
    assert ("rolled_back", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]


async def test_local_rollback_is_kept_until_the_plan_changes(site: UpdatingSite):
    """A local rollback is kept after a restart and a new wave; a new version of the plan replaces it."""
    new = await site.switched()
    await site.activation.rollback(TASK)
    assert ("held", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]
    await site.killed()
    site.want(new, "2.0.0", 2, waves=[{"start": "2020-01-01T00:00:00Z", "percent": 100}])
    assert ("held", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]
    newer = site.publish("3.0.0")
    site.want(newer, "3.0.0", 3)
    assert ("probation", newer) == ((await site.look()).state, site.active())


async def test_locally_installed_bundle_is_held(site: UpdatingSite):
    """A bundle that is installed or activated locally stays active, whether the planned one was on its way or already
    active."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.published.on_the_way.add(new)
    await site.look()
    own = await site.install("9.0.0")
    site.published.on_the_way.clear()
    assert ("held", own) == ((await site.look()).state, site.active())
    await site.activation.activate(TASK, site.old)  # type: ignore[attr-defined]
    assert ("held", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]


async def test_operator_can_roll_back_during_a_self_test(site: UpdatingSite):
    """A rollback during the self-test is not blocked, and the tested bundle is then not activated."""
    other = await site.install("1.1.0")
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.may_answer.clear()
    looking = asyncio.create_task(site.updater.check())
    await site.tries.wait()
    assert site.old == (await site.activation.rollback(TASK)).digest != other  # type: ignore[attr-defined]
    site.may_answer.set()
    await looking
    assert ("held", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]


async def test_other_tasks_do_not_wait_for_a_self_test(site: UpdatingSite):
    """While one task is tested, the other tasks of the plan are already staged, fetching or rolled back."""
    digest = await site.switched()
    site.seen[digest] = BundleActivity(calls=200, failures=200)
    offers = {task: site.publish("3.0.0", task) for task in ("a-here", "b-here", "c-missing")}
    site.published.on_the_way.add(offers["c-missing"])
    plans = {task: TaskPlan(offers=(BundleOffer(bundle=new, version="3.0.0"),)) for task, new in offers.items()}
    site.may_answer.clear()
    site.tries.clear()
    site.plan({**plans, TASK: TaskPlan(offers=(BundleOffer(bundle=digest, version="2.0.0"),))}, 2)
    checking = asyncio.create_task(site.updater.check())
    await site.tries.wait()
    states = {task: row.state for task, row in site.updater.overview.rows.items()}
    assert {"a-here": "testing", "b-here": "staged", "c-missing": "fetching", TASK: "rolled_back"} == states
    assert (True, [offers["c-missing"]]) == site.published.asked[-1]
    site.row()  # as it is on the disk
    site.may_answer.set()
    await checking
    states = {task: row.state for task, row in site.updater.overview.rows.items()}
    assert {"a-here": "probation", "b-here": "probation", "c-missing": "fetching", TASK: "rolled_back"} == states


async def test_self_test_beyond_its_time_limit_fails(tmp_path: Path):
    """A self-test that exceeds its time limit fails, and the old bundle stays active."""
    site = UpdatingSite(tmp_path)
    old = await site.install("1.0.0")
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.may_answer.clear()
    site.updater._tasks._selftests._seconds_max = 0.01
    await site.look()
    assert (("failed", "SELF_TEST_TOO_LONG"), old) == (site.where(), site.active())
    await site.stop()


async def test_stop_during_a_self_test_is_not_counted(site: UpdatingSite):
    """The daemon stops without waiting for a self-test and does not count it as interrupted; the next start tests
    again."""
    site.want(site.publish("2.0.0"), "2.0.0")
    site.may_answer.clear()
    running = asyncio.create_task(site.updater.run())
    await site.tries.wait()
    await site.stop()
    await running
    site.start()
    row = site.store.journal.rows()[TASK]
    assert ("staged", 0) == (row.state, row.interruptions)
    await site.activation.resume()
    await site.loaded()
    site.may_answer.set()
    assert "probation" == (await site.look()).state


async def test_kill_during_a_self_test_is_counted(site: UpdatingSite):
    """Each kill during a self-test counts as an interruption; after the third the bundle has failed."""
    site.want(site.publish("2.0.0"), "2.0.0")
    for interruptions in (0, 1, 2):
        site.may_answer.clear()
        site.tries.clear()
        looking = asyncio.create_task(site.updater.check())
        await site.tries.wait()
        assert ("testing", interruptions) == (site.row().state, site.row().interruptions)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        site.may_answer.set()
        await site.killed()
    assert ("failed", "INTERRUPTED") == ((await site.look()).state, site.row().reason)


async def test_pause_stops_the_old_bundle_for_the_self_test(site: UpdatingSite):
    """With `swap: pause` the old bundle stops, the new one is tested and loaded; if it fails, the old one is attached
    again."""
    for version, says, state in (("2.0.0", WRONG, "failed"), ("3.0.0", None, "probation")):
        await site.killed(swap="pause")
        new = site.publish(version)
        site.want(new, version)
        site.answers = {new: (lambda _: WRONG)} if says else {}
        site.refused = {new: MemoryShort("no room for two")}
        detached = len(site.engines.notes)

        def give_room() -> None:
            site.refused.clear()

        site.engines.on_detach = give_room
        await site.look()
        assert state == site.row().state
        assert (site.old if says else new) == site.active()  # type: ignore[attr-defined]
        assert site.active() in site.engines.attached
        assert ("detach", site.old) == site.engines.notes[detached][:2]  # type: ignore[attr-defined]
    assert 4 == len(site.tested)


@pytest.mark.parametrize("error", [UpdateExpired("it is old"), UpdateIncomplete("not all here")])
async def test_refused_repository_neither_starts_nor_stops_an_update(site: UpdatingSite, error):
    """While the repository is refused, a probation is still judged, no update starts, and status has the reason."""
    new = await site.switched()
    newer = site.publish("3.0.0")
    site.want(newer, "3.0.0", 2)
    site.published.problem = error
    site.seen[new] = BundleActivity(calls=200)
    assert error is await site.updater.check()
    assert ("done", error, (False, [])) == (site.row().state, site.updater.overview.problem, site.published.asked[-1])
    site.published.problem = None
    assert None is await site.updater.check()
    assert ("probation", newer, None) == (site.row().state, site.active(), site.updater.overview.problem)


async def test_a_site_that_waits_for_its_first_update_has_no_problem(site: UpdatingSite):
    """A site to which no repository has come yet reports no problem, except an untrusted root."""
    site.published.nothing_arrived = True
    site.published.problem = UpdateIncomplete("there is no update")
    assert (None, None) == (await site.updater.check(), site.updater.overview.problem)
    site.published.problem = UpdateUntrusted("not the root of this fleet")
    assert site.published.problem is await site.updater.check()


async def test_first_bundle_of_a_new_task_is_kept_after_a_failed_probation(site: UpdatingSite):
    """A new task has no previous bundle: its first one is tested alone and stays active even if its probation fails."""
    await site.activation.remove(TASK, "")
    site.plan({})
    await site.updater.check()
    new = await site.switched()
    site.seen[new] = BundleActivity(problem="it died")
    row = await site.look()
    assert ("done", "NOT_ANSWERING", new) == (row.state, row.reason, site.active())
    assert "nothing to go back to" in row.message


async def test_probation_counts_survive_a_restart(site: UpdatingSite):
    """Calls and hours of a probation continue after a restart, and a jump of the clock does not end it."""
    new = await site.switched(probation=ProbationRules(calls=100, hours=2))
    site.seen[new] = BundleActivity(calls=60)
    site.running += 3600
    site.wall += 50 * 365 * 86400
    assert "probation" == (await site.look()).state
    await site.stop()
    site.running, site.seen[new] = 0.0, BundleActivity(calls=39)
    site.start()
    await site.activation.resume()
    await site.loaded()
    assert "probation" == (await site.look()).state
    site.running += 3599
    assert "probation" == (await site.look()).state
    site.running += 1
    assert ("done", "99 calls in 2.0 h, 0 of them failed") == ((await site.look()).state, site.row().message)


async def test_updater_checks_periodically(site: UpdatingSite):
    """The updater checks every `check_seconds` until it is stopped."""
    new = site.publish("2.0.0")
    running = asyncio.create_task(site.updater.run())
    await eventually(lambda: len(site.published.asked) > 2)
    site.want(new, "2.0.0")
    await eventually(lambda: "probation" in {row.state for row in site.updater.overview.rows.values()})
    await site.updater.stop()
    await running
    assert new == site.active()


async def test_local_change_wakes_the_updater(site: UpdatingSite):
    """A local change of the active bundle wakes the updater, so its state is up to date before the pause ends."""
    await site.switched()
    site.check_seconds = 86_400
    await site.killed()
    checks = len(site.published.asked)
    running = asyncio.create_task(site.updater.run())
    await eventually(lambda: checks < len(site.published.asked))
    assert ("probation", None) == (site.updater.overview.rows[TASK].state, site.updater.held_row(TASK))
    await site.activation.remove(TASK, "")
    held = site.updater.held_row(TASK)
    assert ("probation", "REMOVED") == (site.updater.overview.rows[TASK].state, held and held.reason)
    site.updater.wake()
    await eventually(lambda: "REMOVED" == site.updater.overview.rows[TASK].reason)
    await site.updater.stop()
    await running


async def test_bundle_removed_before_its_test_is_fetched_again(site: UpdatingSite):
    """If an operator removes the candidate while it waits for its window, it is fetched and activated later."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0", window={"start": "01:00", "end": "01:01"})
    await site.look()
    await site.activation.remove(TASK, new)
    site.want(new, "2.0.0")
    assert ("probation", new) == ((await site.look()).state, site.active())


async def test_candidate_that_does_not_load_in_its_test_has_failed(site: UpdatingSite):
    """A candidate that cannot load during its self-test fails with MODEL_LOAD_FAILED."""
    new = site.publish("2.0.0")
    site.refused[new] = ModelLoadFailed("no such tensor")
    site.want(new, "2.0.0")
    await site.look()
    assert ("failed", "MODEL_LOAD_FAILED") == site.where()
