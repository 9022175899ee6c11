"""How an alarm changes the mode of a task: as the signed plan permits, once for each bundle, until the operator sets a
mode."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edge_agent.config import Config
from edge_agent.formats.plan import BundleOffer, TaskPlan
from edge_agent.monitoring.answer_observations import AlarmState
from edge_agent.server.task_modes import TaskModes
from edge_agent.store.bundle_archive import StoreLimits
from edge_agent.store.bundle_store import Store
from edge_agent.store.state_database import Demotion

TASK, DIGEST, OTHER = "pos", "ab" * 32, "cd" * 32
ERRORS = AlarmState(TASK, DIGEST, "errors", 1.0, "people found 9 of 20 sure answers wrong")
DRIFT = AlarmState(TASK, DIGEST, "labels", 2.0, "other labels")


class Site:
    """A store with the modes of its tasks; the bundle `digest` is active."""

    def __init__(self, folder) -> None:
        self._folder, self.digest = folder, DIGEST
        self.open()

    def open(self) -> None:
        self.store = Store.open(self._folder, StoreLimits(10**6, 10**6, 10, 0))
        config = Config.model_validate({"state_dir": self._folder, "escalation": {"modes": {TASK: "hybrid"}}})
        self.modes = TaskModes(config, self.store, self)

    @property
    def serving(self) -> dict[str, SimpleNamespace]:
        return {TASK: SimpleNamespace(digest=self.digest)}

    def plan(self, **said) -> None:
        self.modes.apply_plan({TASK: TaskPlan(offers=(BundleOffer(bundle=DIGEST, version="1.0.0"),), **said)})

    def demote(self, *standing: AlarmState, asks: bool = True) -> bool:
        return self.modes.demote(standing, SimpleNamespace(can_ask=lambda _: asks))

    def state(self) -> tuple[str, str]:
        return self.modes.mode_of(TASK), self.modes.mode_by(TASK)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "state")
    yield made
    made.store.close()


def test_alarm_that_the_plan_does_not_permit_changes_no_mode(site):
    """An alarm changes the mode only if the plan permits that alarm."""
    assert not site.demote(ERRORS)
    site.plan(demote_on=("opinions",))
    assert not site.demote(ERRORS, DRIFT)
    assert ("hybrid", "configuration") == site.state()


def test_a_permitted_alarm_puts_the_task_into_shadow(site):
    """A permitted alarm sets the mode to shadow with the alarm as its origin, also after a restart."""
    site.plan(demote_on=("errors",))
    assert site.demote(ERRORS)
    assert ("shadow", "alarm") == site.state()
    site.store.close()
    site.open()
    assert ("shadow", "alarm") == site.state()
    assert "errors" == site.modes.demotion(TASK).alarm


@pytest.mark.parametrize("word", ["hybrid", "local", None])
def test_operator_overrides_an_alarm_for_this_bundle(site, word):
    """After the operator set a mode, the same alarm does not change it again for this bundle; another alarm may."""
    site.plan(demote_on=("errors", "labels"))
    site.demote(ERRORS)
    site.modes.set_by_operator(TASK, word)
    assert not site.demote(ERRORS)
    assert (word or "hybrid", "operator" if word else "configuration") == site.state()
    assert site.demote(ERRORS, DRIFT)
    assert ("shadow", "alarm") == site.state()


def test_earlier_mode_of_the_operator_does_not_prevent_a_demotion(site):
    """A mode that the operator set before the alarm is changed by a permitted alarm."""
    site.modes.set_by_operator(TASK, "local")
    site.plan(demote_on=("errors",))
    assert site.demote(ERRORS)
    assert ("shadow", "alarm") == site.state()


def test_new_mode_in_the_plan_ends_a_demotion(site):
    """A plan with another mode ends the demotion, and the same alarm does not cause it again."""
    site.plan(mode="hybrid", demote_on=("errors",))
    site.demote(ERRORS)
    site.plan(mode="local", demote_on=("errors",))
    assert ("local", "plan") == site.state()
    assert not site.demote(ERRORS)


def test_plan_without_the_permission_ends_a_demotion(site):
    """A plan that no longer permits the alarm ends the demotion."""
    site.plan(demote_on=("errors",))
    site.demote(ERRORS)
    site.plan()
    assert ("hybrid", "configuration") == site.state()


def test_new_bundle_is_not_demoted_by_alarms_of_the_previous_one(site):
    """A new bundle starts in the planned mode; only its own alarms may demote it."""
    site.plan(demote_on=("errors",))
    site.demote(ERRORS)
    site.digest = OTHER
    assert ("hybrid", "configuration") == site.state()
    assert not site.demote(ERRORS)
    assert site.demote(AlarmState(TASK, OTHER, "errors", 3.0, "worse"))


@pytest.mark.parametrize("mode", ["shadow", "bootstrap"])
def test_shadow_and_bootstrap_are_not_demoted(site, mode):
    """In shadow and bootstrap an alarm changes nothing, because the large model answers."""
    site.plan(mode=mode, demote_on=("errors",))
    assert not site.demote(ERRORS)
    assert (mode, "plan") == site.state()


def test_task_without_a_large_model_is_not_demoted(site):
    """If the large model may not be asked, an alarm does not change the mode."""
    site.plan(demote_on=("errors",))
    assert not site.demote(ERRORS, asks=False)
    assert ("hybrid", "configuration") == site.state()


def test_demotion_leaves_the_planned_mode_stored(site):
    """A demotion is stored beside the planned mode, which an older agent still reads."""
    site.plan(mode="hybrid", demote_on=("errors",))
    site.demote(ERRORS)
    assert {TASK: "hybrid"} == site.store.modes.read().planned


def test_unknown_alarm_of_a_newer_agent_demotes_nothing(site):
    """A permission for an alarm that this agent does not know demotes nothing."""
    assert None is Demotion(permitted=frozenset({"smell"})).due(DIGEST, ["errors"])
    assert not Demotion(permitted=frozenset({"smell"}), digest=DIGEST).holds(DIGEST, "")
