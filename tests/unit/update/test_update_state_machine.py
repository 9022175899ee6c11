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
    """Return what the plan wants."""
    return DesiredState(verdict, plan, None if verdict == "HARDWARE_UNMET" else plan.offers[0])


def facts(active: str = OLD, **changes) -> TaskFacts:
    """Return what there is to see: the candidate is installed and nothing is in the way."""
    return TaskFacts(**{"active": active, "desired": desired(), "plan_version": 7, "installed": True, **changes})


def row(state: UpdateState, **changes) -> UpdateProgress:
    """Return a row on the way from OLD to NEW."""
    begun, _ = update_state_machine.decide(TASK, None, facts(desired=desired("HALTED")), 0.0)
    return replace(begun, state=state, **{"reason": "", "message": "", **changes})


def decided(before: UpdateProgress | None, seen: TaskFacts) -> tuple[UpdateState, str, UpdateAction]:
    """Return where a decision leads."""
    after, action = update_state_machine.decide(TASK, before, seen, NOW)
    return after.state, after.reason, action


def test_it_begins_with_what_answers():
    """The first row knows the bundle before, and since when it stands."""
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
def test_what_leads_on(state: UpdateState, seen: TaskFacts, leads_to: tuple[UpdateState, str, UpdateAction]):
    """Before the test nothing depends on the state, only on what there is to see."""
    assert leads_to == decided(row(state), seen)


@pytest.mark.parametrize("state", ["testing", "switching"])
def test_a_step_that_was_cut_off_is_done_again_and_not_for_ever(state: UpdateState):
    """A self-test during which the machine falls over again and again is the bundle's doing."""
    before = row(state)
    for number in range(1, update_state_machine.INTERRUPTIONS_MAX):
        before, action = update_state_machine.decide(TASK, before, facts(), NOW)
        assert ("testing", number, UpdateAction.TEST) == (before.state, before.interruptions, action)
    assert ("failed", "INTERRUPTED", UpdateAction.NOTHING) == decided(before, facts())


@pytest.mark.parametrize("state", ["testing", "switching"])
def test_a_step_that_was_put_down_counts_for_nothing(state: UpdateState):
    """A daemon that is stopped by its operator blames nobody."""
    down = update_state_machine.suspend(row(state), NOW)
    assert ("staged", 0) == (down.state, down.interruptions)
    others = [row(other) for other in STATES if other not in ("testing", "switching")]
    assert others == [update_state_machine.suspend(each, NOW) for each in others]


@pytest.mark.parametrize(("state", "verdict"), [*itertools.product(("failed", "rolled_back", "held"), VERDICTS)])
def test_what_is_settled_stays_while_the_plan_wants_the_same(state: UpdateState, verdict: Verdict):
    """Whatever else happens: a halt, a wave, a new plan with the same words of this task, no plan at all."""
    settled = row(state, reason="WHY")
    for active, wanted in itertools.product((OLD, OTHER, ""), (desired(verdict), None)):
        after, action = update_state_machine.decide(TASK, settled, facts(active, desired=wanted, plan_version=9), NOW)
        held_by = "BY_HAND" if active else "REMOVED"
        reason = held_by if state == "held" else "WHY"
        assert (settled.state, reason, UpdateAction.NOTHING) == (after.state, after.reason, action)


@pytest.mark.parametrize("state", ["failed", "rolled_back", "held"])
def test_whoever_activates_the_candidate_by_hand_knows_better(state: UpdateState):
    """A person overrides what the site remembers."""
    assert ("done", "BY_HAND", UpdateAction.NOTHING) == decided(row(state), facts(NEW))
    after, _ = update_state_machine.decide(TASK, row(state), facts(NEW), NOW)
    assert "somebody activated it here, without a test" == after.message


@pytest.mark.parametrize("state", ["probation", "done"])
@pytest.mark.parametrize("wanted", [desired(), desired("HALTED"), None])
@pytest.mark.parametrize("active", [OLD, OTHER, ""])
def test_going_back_by_hand_sticks(state: UpdateState, wanted: DesiredState | None, active: str):
    """So does installing another bundle, or removing the task: nothing comes back by itself."""
    before = row(state, watch="{}")
    reason = "BY_HAND" if active else "REMOVED"
    assert ("held", reason, UpdateAction.NOTHING) == decided(before, facts(active, desired=wanted))


@pytest.mark.parametrize("active", [OLD, OTHER, ""])
def test_a_refusal_names_the_command_that_lifts_it(active: str):
    """What somebody chose here, and how the plan's bundle comes to answer again."""
    held, _ = update_state_machine.decide(TASK, row("done"), facts(active), NOW)
    assert "somebody removed the task here" in held.message or active
    assert f"'sudo edge-agent bundles allow {TASK}'" in held.message


@pytest.mark.parametrize("active", [OLD, OTHER, ""])
def test_a_refusal_that_is_lifted_begins_again(active: str):
    """What answers meanwhile is what the update may go back to; only `held` can be lifted."""
    held, _ = update_state_machine.decide(TASK, row("done", attempts=2), facts(active), NOW)
    lifted = update_state_machine.allow(held, active, NOW)
    assert ("waiting", active, 0) == (lifted.state, lifted.incumbent, lifted.attempts)
    assert ("testing", "", UpdateAction.TEST) == decided(lifted, facts(active))
    assert ("waiting", "", UpdateAction.NOTHING) == decided(lifted, facts(active, desired=None))
    others = [row(state) for state in STATES if state != "held"]
    assert others == [update_state_machine.allow(each, active, NOW) for each in others]


def test_whoever_brings_the_files_of_a_removed_task_wants_it_back():
    """With all files on the drive or in the store; another version that answers here stays."""
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


def test_what_this_agent_cannot_read_was_removed_by_nobody():
    """After a return to an older agent the row stays as it is."""
    for state in ("probation", "done", "held"):
        before = row(state, reason="WHY", watch="{}")
        assert (before, UpdateAction.NOTHING) == update_state_machine.decide(
            TASK, before, facts("", unreadable=True, desired=None), NOW
        )


@pytest.mark.parametrize("state", STATES)
def test_another_wish_begins_anew(state: UpdateState):
    """Another bundle, or the same one judged otherwise; what answers now is what it may go back to."""
    for plan in (task(OTHER, version="3.0.0"), task(probation=ProbationRules(calls=1))):
        begun, action = update_state_machine.decide(
            TASK, row(state, attempts=3), facts(desired=desired(plan=plan)), NOW
        )
        assert (("testing", 0, OLD), UpdateAction.TEST) == ((begun.state, begun.attempts, begun.incumbent), action)


def test_what_a_wave_or_a_window_says_is_no_other_wish():
    """Otherwise a site that is held would begin again whenever a wave grows."""
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
def test_what_a_self_test_leads_to(outcome: StepOutcome, leads_to: tuple[UpdateState, str, int]):
    """The bundle's failures are remembered, the machine's are counted and tried again."""
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
def test_what_a_switch_leads_to(outcome: StepOutcome, leads_to: tuple[UpdateState, str, int, int]):
    """Once it answers, what was tried before is forgotten."""
    after = update_state_machine.after_switch(row("switching", attempts=2, interruptions=1), outcome, NOW)
    assert leads_to == (after.state, after.reason, after.attempts, after.interruptions)


def test_a_probation_goes_on_until_it_is_judged():
    """Without a verdict nothing changes; a good one ends it, a bad one leads back."""
    before = row("probation")
    for wanted in (desired(), desired("HALTED"), None):
        assert ("probation", "", UpdateAction.NOTHING) == decided(before, facts(NEW, desired=wanted))
        assert ("done", "", UpdateAction.NOTHING) == decided(
            before, facts(NEW, desired=wanted, probation_outcome=PASSED)
        )
        bad = decided(before, facts(NEW, desired=wanted, probation_outcome=FAILED))
        assert ("probation", "GOLDEN_DIFFERS", UpdateAction.ROLL_BACK) == bad


def test_a_rollback_that_was_cut_off_goes_on():
    """The verdict was written first: it is not given again, and nothing that happens since revokes it."""
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


def test_where_nothing_answered_before_there_is_no_way_back():
    """The bundle stays active, and status shows its problem."""
    alone = replace(row("probation"), incumbent="")
    assert ("done", "GOLDEN_DIFFERS", UpdateAction.NOTHING) == decided(alone, facts(NEW, probation_outcome=FAILED))


def test_a_bundle_in_probation_is_judged_before_a_wish_that_is_not_due():
    """A desired state that comes later leaves what answers now under watch; one that is due takes its place."""
    before, later = row("probation"), task(OTHER, version="3.0.0")
    bad = decided(before, facts(NEW, desired=desired("WAVE_LATER", later), probation_outcome=FAILED))
    assert ("probation", "GOLDEN_DIFFERS", UpdateAction.ROLL_BACK) == bad
    begun, _ = update_state_machine.decide(TASK, before, facts(NEW, desired=desired(plan=later)), NOW)
    assert (OTHER, NEW) == (begun.candidate, begun.incumbent)


def test_what_answers_already_is_done():
    """A plan that names what a site runs changes nothing there."""
    assert ("done", "", UpdateAction.NOTHING) == decided(None, facts(NEW))
    assert ("done", "", UpdateAction.NOTHING) == decided(row("done"), facts(NEW))


@pytest.mark.parametrize("state", ["waiting", "fetching", "staged"])
def test_without_a_plan_that_is_believed_nothing_moves(state: UpdateState):
    """What was on its way stays where it is, as it is."""
    before = row(state, reason="WHY")
    assert (before, UpdateAction.NOTHING) == update_state_machine.decide(TASK, before, facts(desired=None), NOW)


def test_pauses_double_up_to_half_an_hour():
    """The first try is at once."""
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
def test_whose_fault_an_error_is(error, end: StepResult):
    """Disk, memory and load are the machine's; what is left is the bundle's."""
    assert StepOutcome(end, error.reason, error.message) == update_state_machine.classify_error(error)


# --- any order of events ----------------------------------------------------------------------------------------------


class World:
    """A site that takes every step at once, and may be killed before or after each write."""

    def __init__(self) -> None:
        self.active, self.row, self.plan = OLD, None, task()
        self.tested: list[str] = []

    def look(self, outcomes: list[StepOutcome], *, killed_at: int = 99, **seen) -> None:
        """Go on as the updater does; `killed_at` counts the writes of the journal."""
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


def agrees(world: World) -> bool:
    """Tell whether the row tells the truth about what answers, as far as nothing was cut off."""
    row = world.row
    if row is None or row.state not in SETTLED:
        return True
    return (row.state in ("probation", "done")) == (world.active == row.candidate)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(events, max_size=25))
def test_any_order_of_events_leaves_a_row_that_agrees_with_what_answers(happened):
    """Whatever is killed, changed by hand or planned: only known bundles come to answer, and in the end all settles."""
    world = World()
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
def test_a_bundle_that_failed_is_not_tried_again_under_the_same_wish(kills):
    """However often the daemon is killed: at most as often as interruptions are forgiven, and once to its end."""
    world = World()
    for killed in kills:
        world.look([FAILED, FAILED], killed_at=killed)
    world.look([FAILED, FAILED])
    world.look([FAILED, FAILED])
    tested = len(world.tested)
    assert tested <= update_state_machine.INTERRUPTIONS_MAX
    world.look([FAILED, FAILED])
    assert (OLD, tested) == (world.active, len(world.tested))
