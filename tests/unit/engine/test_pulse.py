"""When an engine counts as stuck."""

import pytest

from edge_agent.engine.pulse import Effort, Pulse


def test_a_sign_is_owed_after_a_pause():
    """Nothing is owed until the last sign is that old; then it is, until one comes."""
    pulse = Pulse(30)
    pulse.sign(100.0)
    assert [False, True, True] == [pulse.owes(now, 15) for now in (114.9, 115.0, 116.0)]
    pulse.sign(117.0)
    assert not pulse.owes(118.0, 15)


@pytest.mark.parametrize(("now", "stuck"), [(115.0, False), (145.0, False), (145.1, True)])
def test_it_is_stuck_when_it_owes_one_for_too_long(now: float, stuck: bool):
    """Patience counts from when the sign was owed, not from the last one."""
    pulse = Pulse(30)
    pulse.sign(100.0)
    pulse.owes(115.0, 15)
    assert stuck is pulse.stuck(now)


def test_a_late_sign_mends_it():
    """An engine that computes again is not stuck."""
    pulse = Pulse(30)
    pulse.owes(100.0, 15)
    assert pulse.stuck(200.0)
    pulse.sign(201.0)
    assert not pulse.stuck(202.0)


def test_without_the_question_nothing_is_owed():
    """An engine that nobody looks at is never stuck."""
    pulse = Pulse(30)
    pulse.sign(100.0)
    assert not pulse.stuck(1e9)


def test_what_computes_goes_on_however_long_it_takes():
    """Each look that finds more time spent begins the patience anew."""
    effort = Effort(30)
    assert all(effort.goes_on(spent_seconds=now / 10, now=now) for now in (100.0, 200.0, 300.0))


def test_what_spends_nothing_has_its_patience_from_the_first_look():
    """The same time spent at each look: after that long it does not go on."""
    effort = Effort(30)
    assert [True, True, False] == [effort.goes_on(spent_seconds=4.2, now=now) for now in (100.0, 130.0, 130.1)]
