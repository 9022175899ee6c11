"""The loop that brings a task to the bundle that the plan wants: each step, what stops it, and what a kill leaves."""

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


async def test_a_bundle_is_fetched_tested_switched_to_and_watched(site: UpdatingSite):
    """One look takes all steps that are due; the mirror is asked for what is missing and for nothing after it came."""
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


async def test_another_copy_waits_for_no_pause(site: UpdatingSite):
    """After a failure of this machine a look waits; a folder that somebody brings does not."""
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


async def test_the_old_one_answers_until_the_new_one_is_ready(site: UpdatingSite):
    """The journal says 'switching' and the pointer stands at the old one while the new one loads."""
    seen = []
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.engines.on_attach = lambda: seen.append((site.store.journal.rows()[TASK].state, site.active()))
    await site.look()
    assert [("switching", site.old)] == seen  # type: ignore[attr-defined]
    assert [("attach", new), ("detach", site.old)] == [note[:2] for note in site.engines.notes[-2:]]  # type: ignore


async def test_a_task_that_the_plan_does_not_name_is_left_alone(site: UpdatingSite):
    """Nothing is written of it; a row of an earlier plan is forgotten."""
    await site.switched(probation=ProbationRules(calls=0))
    assert "done" == (await site.look()).state
    site.plan({}, 2)
    await site.updater.check()
    assert ({}, {}) == (site.updater.overview.rows, site.store.journal.rows())


async def test_a_bundle_that_answers_wrong_is_never_activated_and_not_tried_again(site: UpdatingSite):
    """Until the plan wants it to be judged otherwise."""
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


async def test_a_bundle_that_passes_and_then_does_not_load_has_failed(site: UpdatingSite):
    """The one before goes on."""
    new = site.publish("2.0.0")
    site.engines.broken.add(new)
    site.want(new, "2.0.0")
    await site.look()
    assert (("failed", "MODEL_LOAD_FAILED"), site.old) == (site.where(), site.active())  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["admit", "test", "switch"])
async def test_what_this_machine_lacks_is_tried_again_after_a_pause(site: UpdatingSite, where: str):
    """Nothing is remembered against the bundle; the pauses grow."""
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
async def test_what_another_copy_mends_is_tried_again(site: UpdatingSite, error, state: str):
    """A mirror may bring rubbish; a manifest that breaks a rule breaks it in every copy."""
    site.want(site.publish("2.0.0"), "2.0.0")
    site.published.cannot_admit = error
    assert (state, error.reason) == ((await site.look()).state, site.row().reason)


async def test_a_closed_window_keeps_a_bundle_staged(site: UpdatingSite):
    """It is fetched and taken in, and neither tested nor switched to."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0", window={"start": "01:00", "end": "01:01"})
    await site.look()
    assert (("staged", "WINDOW_CLOSED"), []) == (site.where(), site.tested)
    assert new in {bundle.digest for bundle in site.activation.inventory.bundles}
    site.want(new, "2.0.0", window={"start": "00:00", "end": "23:59"})
    assert "probation" == (await site.look()).state


async def test_a_halt_stops_what_has_not_switched_and_nothing_else(site: UpdatingSite):
    """Before the switch it waits; after it, it stays and is judged."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0", halted=True)
    await site.look()
    assert ("waiting", "HALTED") == site.where()
    site.want(new, "2.0.0", 2)
    assert "probation" == (await site.look()).state
    site.want(new, "2.0.0", 3, halted=True)
    assert ("probation", new, 3) == ((await site.look()).state, site.active(), site.row().plan_version)


async def test_a_bad_probation_rolls_back_by_itself(site: UpdatingSite):
    """The verdict is remembered, and no later rollback leads to the bad bundle."""
    new = await site.switched()
    site.seen[new] = BundleActivity(calls=20, failures=5)
    await site.look()
    assert (("rolled_back", "ERRORS"), site.old) == (site.where(), site.active())  # type: ignore[attr-defined]
    assert "it failed 5 of 20 calls; 5% are allowed" == site.row().message
    assert {} == site.activation.inventory.rollbacks
    await site.killed()
    assert ("rolled_back", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]


async def test_a_rollback_that_fails_is_tried_again(site: UpdatingSite):
    """The bad bundle goes on answering meanwhile, and the status says both."""
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


async def test_a_rollback_by_hand_sticks_until_the_plan_moves_on(site: UpdatingSite):
    """In probation and after it; a restart does not forget it."""
    new = await site.switched()
    await site.activation.rollback(TASK)
    assert ("held", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]
    await site.killed()
    site.want(new, "2.0.0", 2, waves=[{"start": "2020-01-01T00:00:00Z", "percent": 100}])
    assert ("held", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]
    newer = site.publish("3.0.0")
    site.want(newer, "3.0.0", 3)
    assert ("probation", newer) == ((await site.look()).state, site.active())


async def test_a_bundle_installed_by_hand_is_held(site: UpdatingSite):
    """While another one was on its way, and after the plan's own was there."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.published.on_the_way.add(new)
    await site.look()
    own = await site.install("9.0.0")
    site.published.on_the_way.clear()
    assert ("held", own) == ((await site.look()).state, site.active())
    await site.activation.activate(TASK, site.old)  # type: ignore[attr-defined]
    assert ("held", site.old) == ((await site.look()).state, site.active())  # type: ignore[attr-defined]


async def test_an_operator_can_go_back_while_a_bundle_is_tested(site: UpdatingSite):
    """The self-test keeps nothing locked; what was tested is then not switched to."""
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


async def test_the_other_tasks_of_a_plan_do_not_wait_for_a_self_test(site: UpdatingSite):
    """While one is tested, the rows of the others are of the new plan: taken in, asked for, or rolled back."""
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


async def test_a_self_test_that_hangs_has_failed(tmp_path: Path):
    """It gets its seconds and not more."""
    site = UpdatingSite(tmp_path)
    old = await site.install("1.0.0")
    new = site.publish("2.0.0")
    site.want(new, "2.0.0")
    site.may_answer.clear()
    site.updater._tasks._selftests._seconds_max = 0.01
    await site.look()
    assert (("failed", "SELF_TEST_TOO_LONG"), old) == (site.where(), site.active())
    await site.stop()


async def test_a_stop_during_the_self_test_blames_nobody(site: UpdatingSite):
    """The daemon does not wait for it, and the next start tests again."""
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


async def test_a_kill_during_the_self_test_is_counted(site: UpdatingSite):
    """After the third it is the bundle's fault."""
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


async def test_where_two_do_not_fit_the_test_comes_between_them(site: UpdatingSite):
    """swap: pause: the old one stops, the new one is tested and loaded, or the old one comes back."""
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
async def test_what_is_not_believed_begins_nothing_and_stops_nothing(site: UpdatingSite, error):
    """A probation is judged all the same; the mirror is told, and the status has the reason."""
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
    """Nothing has arrived, so nothing that arrived was refused; another fault is said all the same."""
    site.published.nothing_arrived = True
    site.published.problem = UpdateIncomplete("there is no update")
    assert (None, None) == (await site.updater.check(), site.updater.overview.problem)
    site.published.problem = UpdateUntrusted("not the root of this fleet")
    assert site.published.problem is await site.updater.check()


async def test_a_new_task_arrives(site: UpdatingSite):
    """Without an incumbent: tested on its own, and kept even when its probation goes badly."""
    await site.activation.remove(TASK, "")
    site.plan({})
    await site.updater.check()
    new = await site.switched()
    site.seen[new] = BundleActivity(problem="it died")
    row = await site.look()
    assert ("done", "NOT_ANSWERING", new) == (row.state, row.reason, site.active())
    assert "nothing to go back to" in row.message


async def test_what_a_probation_counted_survives_a_restart(site: UpdatingSite):
    """Calls and hours go on; a clock that jumps ends nothing."""
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


async def test_it_looks_by_itself(site: UpdatingSite):
    """Every `check_seconds`, until it is stopped."""
    new = site.publish("2.0.0")
    running = asyncio.create_task(site.updater.run())
    await eventually(lambda: len(site.published.asked) > 2)
    site.want(new, "2.0.0")
    await eventually(lambda: "probation" in {row.state for row in site.updater.overview.rows.values()})
    await site.updater.stop()
    await running
    assert new == site.active()


async def test_a_choice_of_somebody_here_waits_for_no_pause(site: UpdatingSite):
    """Who has changed what answers wakes the updater: the state is true at once, not at the end of the pause."""
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


async def test_a_bundle_that_vanishes_before_its_test_is_fetched_again(site: UpdatingSite):
    """An operator removes the idle bundle while it waits for its window."""
    new = site.publish("2.0.0")
    site.want(new, "2.0.0", window={"start": "01:00", "end": "01:01"})
    await site.look()
    await site.activation.remove(TASK, new)
    site.want(new, "2.0.0")
    assert ("probation", new) == ((await site.look()).state, site.active())


async def test_a_load_that_fails_for_the_incumbent_is_no_reason_to_forget_the_test(site: UpdatingSite):
    """ModelLoadFailed of the candidate in its trial is the candidate's."""
    new = site.publish("2.0.0")
    site.refused[new] = ModelLoadFailed("no such tensor")
    site.want(new, "2.0.0")
    await site.look()
    assert ("failed", "MODEL_LOAD_FAILED") == site.where()
