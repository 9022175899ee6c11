"""What an alarm may do to a mode: what the signed plan permits, once for a bundle, until the operator takes it back."""

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
    """A store and the modes on it; `digest` answers."""

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


def test_nothing_happens_without_the_plan(site):
    """An alarm that no plan permits changes no mode, and neither does another one than it permits."""
    assert not site.demote(ERRORS)
    site.plan(demote_on=("opinions",))
    assert not site.demote(ERRORS, DRIFT)
    assert ("hybrid", "configuration") == site.state()


def test_a_permitted_alarm_puts_the_task_into_shadow(site):
    """It is said who did it, and a restart does not forget it."""
    site.plan(demote_on=("errors",))
    assert site.demote(ERRORS)
    assert ("shadow", "alarm") == site.state()
    site.store.close()
    site.open()
    assert ("shadow", "alarm") == site.state()
    assert "errors" == site.modes.demotion(TASK).alarm


@pytest.mark.parametrize("word", ["hybrid", "local", None])
def test_the_operator_takes_it_back_for_good(site, word):
    """After his word the same alarm does nothing more to this bundle; another one may."""
    site.plan(demote_on=("errors", "labels"))
    site.demote(ERRORS)
    site.modes.set_by_operator(TASK, word)
    assert not site.demote(ERRORS)
    assert (word or "hybrid", "operator" if word else "configuration") == site.state()
    assert site.demote(ERRORS, DRIFT)
    assert ("shadow", "alarm") == site.state()


def test_an_earlier_word_of_the_operator_does_not_keep_it_off(site):
    """What he said before the alarm is what the plan permits to change."""
    site.modes.set_by_operator(TASK, "local")
    site.plan(demote_on=("errors",))
    assert site.demote(ERRORS)
    assert ("shadow", "alarm") == site.state()


def test_another_mode_in_the_plan_ends_it(site):
    """The central team has spoken since; the same alarm does not answer back."""
    site.plan(mode="hybrid", demote_on=("errors",))
    site.demote(ERRORS)
    site.plan(mode="local", demote_on=("errors",))
    assert ("local", "plan") == site.state()
    assert not site.demote(ERRORS)


def test_the_end_of_the_permission_ends_it(site):
    """A plan that permits it no more lifts it."""
    site.plan(demote_on=("errors",))
    site.demote(ERRORS)
    site.plan()
    assert ("hybrid", "configuration") == site.state()


def test_another_bundle_is_not_demoted_by_what_the_one_before_did(site):
    """It begins in the mode that is planned; its own alarm may demote it."""
    site.plan(demote_on=("errors",))
    site.demote(ERRORS)
    site.digest = OTHER
    assert ("hybrid", "configuration") == site.state()
    assert not site.demote(ERRORS)
    assert site.demote(AlarmState(TASK, OTHER, "errors", 3.0, "worse"))


@pytest.mark.parametrize("mode", ["shadow", "bootstrap"])
def test_where_the_large_model_answers_there_is_nothing_to_demote(site, mode):
    """In shadow and bootstrap nothing is given that the alarm is about."""
    site.plan(mode=mode, demote_on=("errors",))
    assert not site.demote(ERRORS)
    assert (mode, "plan") == site.state()


def test_without_a_large_model_it_would_help_nobody(site):
    """Where it may not be asked, the task stays as it is, and the alarm stands."""
    site.plan(demote_on=("errors",))
    assert not site.demote(ERRORS, asks=False)
    assert ("hybrid", "configuration") == site.state()


def test_an_older_agent_reads_the_modes_that_it_knows(site):
    """The tables lie beside: what the plan and the operator said stands where it stood."""
    site.plan(mode="hybrid", demote_on=("errors",))
    site.demote(ERRORS)
    assert {TASK: "hybrid"} == site.store.modes.read().planned


def test_what_a_newer_agent_wrote_is_left_out(site):
    """An alarm without a name here demotes nothing."""
    assert None is Demotion(permitted=frozenset({"smell"})).due(DIGEST, ["errors"])
    assert not Demotion(permitted=frozenset({"smell"}), digest=DIGEST).holds(DIGEST, "")
