"""How a child ended, and which ends say nothing of an input."""

from __future__ import annotations

import signal

import pytest

from edge_agent.engine.child_exit import describe_exit, is_to_blame
from edge_agent.engine.protocol import EXIT_OUT_OF_MEMORY


@pytest.mark.parametrize("code", [-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGSYS, 1])
def test_a_crash_is_the_inputs_fault(code: int) -> None:
    """Signals that a program brings on itself, and an exit with an error."""
    assert is_to_blame(code, wedged=False)


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, EXIT_OUT_OF_MEMORY])
def test_a_death_from_outside_is_not(code: int) -> None:
    """The kernel out of memory, an operator, or a MemoryError: the same input may work the next time."""
    assert not is_to_blame(code, wedged=False)


def test_our_own_kill_for_silence_is() -> None:
    """A child that we kill because it hangs dies by SIGKILL, and the work in it is to blame."""
    assert is_to_blame(-signal.SIGKILL, wedged=True)


@pytest.mark.parametrize(
    ("code", "words"),
    [(12, "it ran out of memory"), (19, "it lost its device"), (-6, "killed by signal 6"), (1, "exit code 1")],
)
def test_a_death_is_told_in_words(code: int, words: str) -> None:
    """What the child could say itself, the signal, or the code."""
    assert words == describe_exit(code)
