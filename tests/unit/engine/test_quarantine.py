"""Which inputs are refused after a crash, and which deaths say nothing of an input."""

from __future__ import annotations

import signal

import pytest

from edge_agent.engine.protocol import EXIT_OUT_OF_MEMORY, JobRequest
from edge_agent.engine.quarantine import ENTRIES_MAX, Quarantine, describe_exit, fingerprint, is_to_blame
from edge_agent.errors import InputQuarantined

RUN = JobRequest(job_id="1", digest="d", text="hello")


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


def test_an_input_is_refused_until_its_time_is_over() -> None:
    """The refusal says for how long."""
    quarantine = Quarantine(seconds=60)
    quarantine.check(RUN, now=0)
    quarantine.add(RUN, now=0)
    with pytest.raises(InputQuarantined, match="for another 50 s") as caught:
        quarantine.check(RUN, now=10)
    assert {"seconds": "50"} == caught.value.metadata
    quarantine.check(RUN, now=60)


def test_another_call_with_the_same_input_is_refused_too() -> None:
    """The id and the seed do not matter; text, bundle and options do."""
    same = JobRequest(job_id="2", digest="d", text="hello", seed=7)
    assert fingerprint(RUN) == fingerprint(same)
    others = [
        JobRequest(job_id="1", digest="e", text="hello"),
        JobRequest(job_id="1", digest="d", text="hello!"),
        JobRequest(job_id="1", digest="d", text="hello", output_tokens_max=1),
        JobRequest(job_id="1", digest="d", text="hello", temperature=0.5),
        JobRequest(job_id="1", digest="d", text="hello", stops=("x",)),
    ]
    assert 6 == len({fingerprint(run) for run in (RUN, *others)})


def test_the_text_is_not_kept() -> None:
    """Only a hash stays in memory."""
    quarantine = Quarantine(seconds=60)
    quarantine.add(RUN, now=0)
    assert "hello" not in repr(quarantine)


def test_the_list_is_bounded() -> None:
    """The oldest entry makes room."""
    quarantine = Quarantine(seconds=60)
    for i in range(ENTRIES_MAX + 1):
        quarantine.add(JobRequest(job_id="", digest="d", text=str(i)), now=0)
    quarantine.check(JobRequest(job_id="", digest="d", text="0"), now=1)
    with pytest.raises(InputQuarantined):
        quarantine.check(JobRequest(job_id="", digest="d", text="1"), now=1)
