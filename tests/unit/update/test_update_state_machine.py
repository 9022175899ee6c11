"""The way of a task to the bundle that the plan wants: every transition, and that no order of events breaks it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import BundleUnsigned, DiskFull, MemoryShort, ModelLoadFailed, QueueFull, RequirementUnmet
from edge_agent.formats.plan import (
    BundleOffer,
    DesiredState,
    HardwareRequirements,
    ProbationRules,
    SwitchWindow,
    Verdict,
)
from edge_agent.formats.status_object import UpdateState
from edge_agent.store.state_database import UpdateProgress
from edge_agent.update import update_state_machine
from edge_agent.update.update_state_machine import StepOutcome, StepResult, TaskFacts, UpdateAction
from tests.support.plans import NEW, OLD, TASK, task

OTHER = "2f" * 32
STATES: tuple[UpdateState, ...] = get_args(UpdateState)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NOW = 1000.0
PLAN = task()
PASSED, FAILED = (
    StepOutcome(StepResult.PASSED, message="fine"),
    StepOutcome(StepResult.FAILED, "GOLDEN_DIFFERS", "it says otherwise"),
)
HINDERED = StepOutcome(StepResult.BLOCKED, "DISK_FULL", "no room")


def desired(verdict: Verdict = "WANTED", plan=PLAN) -> DesiredState:
    """Return the state that the plan requires."""
    return DesiredState(verdict, plan, None if verdict == "HARDWARE_UNMET" else plan.offers[0])


def facts(active: str = OLD, **changes) -> TaskFacts:
    """Return the facts of a task whose candidate is installed and not blocked."""
    return TaskFacts(**{"active": active, "desired": desired(), "plan_version": 7, "installed": True, **changes})


def row(state: UpdateState, **changes) -> UpdateProgress:
    """Return the progress of an update from OLD to NEW."""
    begun, _ = update_state_machine.decide(TASK, None, facts(desired=desired("HALTED")), 0.0)
    return replace(begun, state=state, **{"reason": "", "message": "", **changes})


def decided(before: UpdateProgress | None, seen: TaskFacts) -> tuple[UpdateState, str, UpdateAction]:
    """Return the state, reason and action of a decision."""
    after, action = update_state_machine.decide(TASK, before, seen, NOW)
    return after.state, after.reason, action


def test_first_decision_records_the_active_bundle():
    """The first decision records the active bundle as the one to return to, and the time."""
    begun, action = update_state_machine.decide(TASK, None, facts(), NOW)
    expected = UpdateProgress(
        TASK, NEW, "2.0.0", update_state_machine.desired_state_id(desired()), 7, OLD, "testing", NOW
    )
    assert (expected, UpdateAction.TEST) == (begun, action)


@pytest.mark.parametrize("state", ["waiting", "fetching", "staged"])
@pytest.mark.parametrize(
    ("seen", "leads_to"),
    [
        (facts(installed=False, missing="2 files"), ("fetching", "", UpdateAction.NOTHING)),
        (facts(installed=False), ("staged", "", UpdateAction.ADMIT)),
        (facts(installed=False, may_retry=False), ("staged", "", UpdateAction.NOTHING)),
        (facts(may_retry=False), ("staged", "", UpdateAction.NOTHING)),
        (facts(window_open=False), ("staged", "WINDOW_CLOSED", UpdateAction.NOTHING)),
        (facts(), ("testing", "", UpdateAction.TEST)),
        (facts(desired=desired("HALTED")), ("waiting", "HALTED", UpdateAction.NOTHING)),
        (facts(desired=desired("WAVE_LATER")), ("waiting", "WAVE_LATER", UpdateAction.NOTHING)),
        (facts(desired=desired("NO_WAVE")), ("waiting", "NO_WAVE", UpdateAction.NOTHING)),
        (facts(desired=desired("HARDWARE_UNMET")), ("waiting", "HARDWARE_UNMET", UpdateAction.NOTHING)),
        (facts(active=NEW), ("done", "BY_HAND", UpdateAction.NOTHING)),
        (facts(active=OTHER), ("held", "BY_HAND", UpdateAction.NOTHING)),
        (facts(active=""), ("held", "REMOVED", UpdateAction.NOTHING)),
    ],
)
def test_next_state_depends_on_the_facts_alone(
    state: UpdateState, seen: TaskFacts, leads_to: tuple[UpdateState, str, UpdateAction]
):
    """In each state before the test, the decision depends only on the facts and not on the state."""
    assert leads_to == decided(row(state), seen)


@pytest.mark.parametrize("state", ["testing", "switching"])
def test_interrupted_step_is_repeated_a_limited_number_of_times(state: UpdateState):
    """An interrupted self-test or switch is repeated; after INTERRUPTIONS_MAX interruptions the bundle has failed."""
    before = row(state)
    for number in range(1, update_state_machine.INTERRUPTIONS_MAX):
        before, action = update_state_machine.decide(TASK, before, facts(), NOW)
        assert ("testing", number, UpdateAction.TEST) == (before.state, before.interruptions, action)
    assert ("failed", "INTERRUPTED", UpdateAction.NOTHING) == decided(before, facts())


@pytest.mark.parametrize("state", ["testing", "switching"])
def test_orderly_stop_is_not_counted_as_an_interruption(state: UpdateState):
    """If the daemon is stopped during a self-test or switch, the step is staged again and not counted as interrupted;
    other states stay."""
    down = update_state_machine.suspend(row(state), NOW)
    assert ("staged", 0) == (down.state, down.interruptions)
    others = [row(other) for other in STATES if other not in ("testing", "switching")]
    assert others == [update_state_machine.suspend(each, NOW) for each in others]


@pytest.mark.parametrize(("state", "verdict"), [*itertools.product(("failed", "rolled_back", "held"), VERDICTS)])
def test_settled_state_stays_while_the_plan_is_the_same(state: UpdateState, verdict: Verdict):
    """A failed, rolled back or held update stays so under a halt, another wave, a new plan version or no plan, as long
    as the plan for the task is the same."""
    settled = row(state, reason="WHY")
    for active, wanted in itertools.product((OLD, OTHER, ""), (desired(verdict), None)):
        after, action = update_state_machine.decide(TASK, settled, facts(active, desired=wanted, plan_version=9), NOW)
        held_by = "BY_HAND" if active else "REMOVED"
        reason = held_by if state == "held" else "WHY"
        assert (settled.state, reason, UpdateAction.NOTHING) == (after.state, after.reason, action)


@pytest.mark.parametrize("state", ["failed", "rolled_back", "held"])
def test_activating_the_candidate_locally_ends_the_update(state: UpdateState):
    """If somebody activates the candidate locally, the update is done, whatever failed before."""
    assert ("done", "BY_HAND", UpdateAction.NOTHING) == decided(row(state), facts(NEW))
    after, _ = update_state_machine.decide(TASK, row(state), facts(NEW), NOW)
    assert "somebody activated it here, without a test" == after.message


@pytest.mark.parametrize("state", ["probation", "done"])
@pytest.mark.parametrize("wanted", [desired(), desired("HALTED"), None])
@pytest.mark.parametrize("active", [OLD, OTHER, ""])
def test_local_rollback_or_removal_is_held(state: UpdateState, wanted: DesiredState | None, active: str):
    """After a local rollback, installation or removal the update is held, so the plan does not undo it."""
    before = row(state, watch="{}")
    reason = "BY_HAND" if active else "REMOVED"
    assert ("held", reason, UpdateAction.NOTHING) == decided(before, facts(active, desired=wanted))


@pytest.mark.parametrize("active", [OLD, OTHER, ""])
def test_held_update_names_the_command_that_lifts_it(active: str):
    """The message of a held update says what was chosen locally and names `edge-agent bundles allow`."""
    held, _ = update_state_machine.decide(TASK, row("done"), facts(active), NOW)
    assert "somebody removed the task here" in held.message or active
    assert f"'sudo edge-agent bundles allow {TASK}'" in held.message


@pytest.mark.parametrize("active", [OLD, OTHER, ""])
def test_allow_restarts_a_held_update(active: str):
    """`allow` restarts a held update with the present bundle as the one to return to, and changes no other state."""
    held, _ = update_state_machine.decide(TASK, row("done", attempts=2), facts(active), NOW)
    lifted = update_state_machine.allow(held, active, NOW)
    assert ("waiting", active, 0) == (lifted.state, lifted.incumbent, lifted.attempts)
    assert ("testing", "", UpdateAction.TEST) == decided(lifted, facts(active))
    assert ("waiting", "", UpdateAction.NOTHING) == decided(lifted, facts(active, desired=None))
    others = [row(state) for state in STATES if state != "held"]
    assert others == [update_state_machine.allow(each, active, NOW) for each in others]


def test_imported_files_restore_a_removed_task():
    """Importing all files of a removed task restores it, incomplete ones do not; a version that was chosen locally
    stays."""
    removed, _ = update_state_machine.decide(TASK, row("done"), facts(""), NOW)
    for there in ({"installed": True}, {"installed": False}):
        after, action = update_state_machine.decide(TASK, removed, facts("", importing=True, **there), NOW)
        assert (False, "") == (action is UpdateAction.NOTHING, after.incumbent)
    for refused in (
        facts("", importing=False),
        facts("", importing=True, desired=None),
    ):
        assert ("held", "REMOVED", UpdateAction.NOTHING) == decided(removed, refused)
    damaged, _ = update_state_machine.decide(
        TASK, removed, facts("", importing=True, installed=False, missing="blobs/ab is damaged"), NOW
    )
    assert ("held", "UPDATE_INCOMPLETE") == (damaged.state, damaged.reason)
    assert damaged.message.startswith("blobs/ab is damaged: have the USB drive written again")
    assert damaged.message.endswith("Until then the task stays removed")
    assert ("held", "REMOVED", UpdateAction.NOTHING) == decided(damaged, facts("", importing=False))
    chosen, _ = update_state_machine.decide(TASK, row("done"), facts(OTHER), NOW)
    assert ("held", "BY_HAND", UpdateAction.NOTHING) == decided(chosen, facts(OTHER, importing=True))


def test_unreadable_manifest_does_not_count_as_removed():
    """If this agent cannot read the active manifest, as after a downgrade, the update stays as it is."""
    for state in ("probation", "done", "held"):
        before = row(state, reason="WHY", watch="{}")
        assert (before, UpdateAction.NOTHING) == update_state_machine.decide(
            TASK, before, facts("", unreadable=True, desired=None), NOW
        )


@pytest.mark.parametrize("state", STATES)
def test_changed_plan_restarts_the_update(state: UpdateState):
    """Another bundle, or the same with other probation rules, restarts the update with the present bundle as the one to
    return to."""
    for plan in (task(OTHER, version="3.0.0"), task(probation=ProbationRules(calls=1))):
        begun, action = update_state_machine.decide(
            TASK, row(state, attempts=3), facts(desired=desired(plan=plan)), NOW
        )
        assert (("testing", 0, OLD), UpdateAction.TEST) == ((begun.state, begun.attempts, begun.incumbent), action)


def test_wave_window_and_halt_do_not_restart_an_update():
    """Waves, windows and a halt do not change the identity of the desired state, so a held update is not restarted; the
    offered bundles do."""
    same = task(waves=[("2026-11-02T08:00:00Z", 10)], window=SwitchWindow(start="01:00", end="02:00"), halted=True)
    assert update_state_machine.desired_state_id(desired()) == update_state_machine.desired_state_id(desired(plan=same))
    offer = BundleOffer(bundle=NEW, version="2.0.0", requires=HardwareRequirements(memory_bytes_min=1))
    assert update_state_machine.desired_state_id(desired()) != update_state_machine.desired_state_id(
        desired(plan=task(offers=(offer,)))
    )


@pytest.mark.parametrize(
    ("outcome", "leads_to"),
    [
        (PASSED, ("switching", "", 0)),
        (FAILED, ("failed", "GOLDEN_DIFFERS", 0)),
        (HINDERED, ("staged", "DISK_FULL", 1)),
    ],
)
def test_next_state_after_the_self_test(outcome: StepOutcome, leads_to: tuple[UpdateState, str, int]):
    """A failure of the bundle ends the update; a blocked machine is counted and the self-test tried again."""
    after = update_state_machine.after_test(row("testing"), outcome, NOW)
    assert leads_to == (after.state, after.reason, after.attempts)
    assert (True, NOW) == (outcome.message in after.message, after.since)


@pytest.mark.parametrize(
    ("outcome", "leads_to"),
    [
        (PASSED, ("probation", "", 0, 0)),
        (FAILED, ("failed", "GOLDEN_DIFFERS", 2, 1)),
        (HINDERED, ("staged", "DISK_FULL", 3, 1)),
    ],
)
def test_next_state_after_the_switch(outcome: StepOutcome, leads_to: tuple[UpdateState, str, int, int]):
    """After a successful switch the counts of attempts and interruptions are reset; otherwise they stay."""
    after = update_state_machine.after_switch(row("switching", attempts=2, interruptions=1), outcome, NOW)
    assert leads_to == (after.state, after.reason, after.attempts, after.interruptions)


def test_probation_continues_until_its_verdict():
    """Without a verdict the probation continues; a good verdict ends it, a bad one leads to a rollback."""
    before = row("probation")
    for wanted in (desired(), desired("HALTED"), None):
        assert ("probation", "", UpdateAction.NOTHING) == decided(before, facts(NEW, desired=wanted))
        assert ("done", "", UpdateAction.NOTHING) == decided(
            before, facts(NEW, desired=wanted, probation_outcome=PASSED)
        )
        bad = decided(before, facts(NEW, desired=wanted, probation_outcome=FAILED))
        assert ("probation", "GOLDEN_DIFFERS", UpdateAction.ROLL_BACK) == bad


def test_interrupted_rollback_continues():
    """The verdict is stored before the rollback, so a rollback that was interrupted continues and no later verdict
    revokes it."""
    condemned = row("probation", reason="ERRORS", message="5 of 20")
    for judged in (None, PASSED):
        assert ("probation", "ERRORS", UpdateAction.ROLL_BACK) == decided(
            condemned, facts(NEW, probation_outcome=judged)
        )
    assert ("probation", "ERRORS", UpdateAction.NOTHING) == decided(condemned, facts(NEW, may_retry=False))
    back = update_state_machine.after_rollback(condemned, NOW)
    assert ("rolled_back", "ERRORS", "5 of 20") == (back.state, back.reason, back.message)
    stuck = update_state_machine.after_failed_rollback(
        update_state_machine.after_failed_rollback(condemned, HINDERED), HINDERED
    )
    assert ("probation", "ERRORS", 2) == (stuck.state, stuck.reason, stuck.attempts)
    assert 1 == stuck.message.count("no room")


def test_failed_probation_without_a_previous_bundle_keeps_it_active():
    """Without a previous bundle a failed probation leaves the new one active, with the problem as its reason."""
    alone = replace(row("probation"), incumbent="")
    assert ("done", "GOLDEN_DIFFERS", UpdateAction.NOTHING) == decided(alone, facts(NEW, probation_outcome=FAILED))


def test_probation_is_judged_before_a_later_wave():
    """A plan whose wave is later does not end a probation; one that is due replaces the bundle."""
    before, later = row("probation"), task(OTHER, version="3.0.0")
    bad = decided(before, facts(NEW, desired=desired("WAVE_LATER", later), probation_outcome=FAILED))
    assert ("probation", "GOLDEN_DIFFERS", UpdateAction.ROLL_BACK) == bad
    begun, _ = update_state_machine.decide(TASK, before, facts(NEW, desired=desired(plan=later)), NOW)
    assert (OTHER, NEW) == (begun.candidate, begun.incumbent)


def test_plan_that_names_the_active_bundle_is_done():
    """A plan that names the active bundle changes nothing."""
    assert ("done", "", UpdateAction.NOTHING) == decided(None, facts(NEW))
    assert ("done", "", UpdateAction.NOTHING) == decided(row("done"), facts(NEW))


@pytest.mark.parametrize("state", ["waiting", "fetching", "staged"])
def test_nothing_changes_without_a_verified_plan(state: UpdateState):
    """Without a verified plan an update stays in its state."""
    before = row(state, reason="WHY")
    assert (before, UpdateAction.NOTHING) == update_state_machine.decide(TASK, before, facts(desired=None), NOW)


def test_pauses_double_up_to_half_an_hour():
    """The first attempt has no pause; later pauses double up to half an hour."""
    assert [0.0, 10.0, 20.0, 40.0] == [update_state_machine.pause_seconds(attempts) for attempts in range(4)]
    assert (
        update_state_machine.PAUSE_SECONDS_MAX
        == update_state_machine.pause_seconds(20)
        == update_state_machine.pause_seconds(10**9)
    )


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (DiskFull("no room"), StepResult.BLOCKED),
        (MemoryShort("no room"), StepResult.BLOCKED),
        (QueueFull("busy"), StepResult.BLOCKED),
        (RequirementUnmet("old agent"), StepResult.BLOCKED),
        (ModelLoadFailed("no model"), StepResult.FAILED),
        (BundleUnsigned("no"), StepResult.FAILED),
    ],
)
def test_errors_of_machine_and_bundle_are_told_apart(error, end: StepResult):
    """Errors of disk, memory and load block the update; all others fail the bundle."""
    assert StepOutcome(end, error.reason, error.message) == update_state_machine.classify_error(error)


# --- any order of events ----------------------------------------------------------------------------------------------


class KillableSite:
    """A site that takes every step at once and may be killed before or after each write."""

    def __init__(self) -> None:
        self.active, self.row, self.plan = OLD, None, task()
        self.tested: list[str] = []

    def look(self, outcomes: list[StepOutcome], *, killed_at: int = 99, **seen) -> None:
        """Perform a check as the updater does; `killed_at` counts the writes of the journal."""
        writes = itertools.count()
        row, action = update_state_machine.decide(
            TASK, self.row, facts(self.active, desired=desired(plan=self.plan), **seen), NOW
        )
        if next(writes) == killed_at:
            return
        self.row = row
        if action is UpdateAction.TEST:
            self.tested.append(row.candidate)
            row = update_state_machine.after_test(row, outcomes[0], NOW)
            if next(writes) == killed_at:
                return
            self.row = row
            if row.state == "switching" and next(writes) != killed_at:
                self.row = update_state_machine.after_switch(row, outcomes[1], NOW)
                self.active = row.candidate if self.row.state == "probation" else self.active
        elif action is UpdateAction.ROLL_BACK and next(writes) != killed_at:
            self.row, self.active = update_state_machine.after_rollback(row, NOW), row.incumbent


outcomes = st.sampled_from([PASSED, FAILED, HINDERED])
events = st.one_of(
    st.tuples(st.just("look"), st.lists(outcomes, min_size=2, max_size=2), st.integers(0, 4), outcomes | st.none()),
    st.tuples(st.just("by hand"), st.sampled_from([OLD, NEW, OTHER, ""])),
    st.tuples(st.just("plan"), st.sampled_from([task(), task(OTHER, version="3.0.0"), task(OLD, version="1.0.0")])),
)


SETTLED: frozenset[UpdateState] = frozenset({"probation", "done", "failed", "rolled_back", "held"})
"""Nothing has to be fetched for a task in one of these."""


def agrees(world: KillableSite) -> bool:
    """Return whether the recorded progress agrees with the active bundle, unless a step was interrupted."""
    row = world.row
    if row is None or row.state not in SETTLED:
        return True
    return (row.state in ("probation", "done")) == (world.active == row.candidate)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(events, max_size=25))
def test_progress_agrees_with_the_active_bundle_after_any_events(happened):
    """After any order of kills, local changes and plans only known bundles are active, and the update settles."""
    world = KillableSite()
    for event in happened:
        before = world.active
        match event:
            case ("by hand", str(digest)):
                world.active = digest
            case ("plan", plan):
                world.plan = plan
            case ("look", list(ends), int(killed), judged):
                world.look(ends, killed_at=killed, probation_outcome=judged)
                row = world.row
                assert world.active == before or (row and world.active in (row.candidate, row.incumbent))
                assert killed < 3 or agrees(world)
    for _ in range(6):  # with nothing in the way it settles, and then nothing moves any more
        world.look([PASSED, PASSED], probation_outcome=PASSED)
    settled = world.row
    assert settled is not None
    assert settled.state in ("done", "failed", "rolled_back", "held")
    world.look([PASSED, PASSED], probation_outcome=PASSED)
    assert (settled, True) == (world.row, agrees(world))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=30))
def test_failed_bundle_is_not_tested_again_under_the_same_plan(kills):
    """However often the daemon is killed, a failing bundle is tested at most INTERRUPTIONS_MAX times and never again
    under the same plan."""
    world = KillableSite()
    for killed in kills:
        world.look([FAILED, FAILED], killed_at=killed)
    world.look([FAILED, FAILED])
    world.look([FAILED, FAILED])
    tested = len(world.tested)
    assert tested <= update_state_machine.INTERRUPTIONS_MAX
    world.look([FAILED, FAILED])
    assert (OLD, tested) == (world.active, len(world.tested))
