"""edge_agent/engine/restart_policy.py: how a child ended, which input is to blame, and when the next one starts."""

from __future__ import annotations

import signal

import msgspec
import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.protocol import EXIT_OUT_OF_MEMORY, AskedQuestion, JobRequest
from edge_agent.engine.restart_policy import (
    QUARANTINED_MAX,
    Quarantine,
    RestartPolicy,
    describe_exit,
    fingerprint,
    is_to_blame,
)
from edge_agent.errors import InputQuarantined

URGENT = AskedQuestion("urgent", "predicate", "Is it urgent?", ("no", "yes"))


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


def policy(first: float = 0.5, longest: float = 3.0, failures: int = 3) -> RestartPolicy:
    """Return a policy with short pauses."""
    config = EngineConfig(restart_seconds_first=first, restart_seconds_max=longest, load_failures_max=failures)
    return RestartPolicy(config)


def test_pauses_double_up_to_the_longest():
    """Each crash without an answer between doubles the pause, up to the configured longest."""
    restart = policy()
    assert [0.5, 1.0, 2.0, 3.0, 3.0] == [restart.pause_after_crash() for _ in range(5)]


def test_a_life_longer_than_the_pause_needs_none():
    """The time that a child was ready counts: only those that keep dying young are waited for."""
    restart = policy()
    assert [0.0, 0.75, 2.0, 0.0] == [restart.pause_after_crash(lived) for lived in (0.5, 0.25, 0.0, 60.0)]


def test_the_longest_pause_holds_for_ever():
    """The thousandth crash waits no longer than the configured longest, and no shorter."""
    restart = policy(longest=86_400)
    pauses = [restart.pause_after_crash() for _ in range(2000)]
    assert sorted(pauses) == pauses
    assert 86_400 == pauses[-1]


def test_the_first_pause_is_never_over_the_longest():
    """A first pause configured above the longest is cut to it."""
    assert 3.0 == policy(first=10.0).pause_after_crash()


def test_a_good_answer_starts_again_at_the_shortest_pause():
    """After a good answer the next crash waits the first pause again."""
    restart = policy()
    restart.pause_after_crash()
    restart.pause_after_crash()
    restart.record_answer()
    assert 0.5 == restart.pause_after_crash()


def test_loading_alone_does_not_shorten_the_pause():
    """A child that loads and crashes before its first answer waits longer each time."""
    restart = policy()
    pauses = []
    for _ in range(3):
        restart.record_load()
        pauses.append(restart.pause_after_crash())
    assert [0.5, 1.0, 2.0] == pauses


@pytest.mark.parametrize(("failures", "pauses"), [(1, [None]), (3, [0.5, 1.0, None]), (5, [0.5, 1.0, 2.0, 3.0, None])])
def test_loads_that_fail_in_a_row_end_the_tries(failures, pauses):
    """The pause between failed loads doubles; after the configured number there is none."""
    restart = policy(failures=failures)
    assert pauses == [restart.pause_after_load_failure() for _ in range(failures)]
    assert restart.pause_after_load_failure() is None


def test_starts_that_fail_never_end_the_tries():
    """The pause doubles up to the longest, for as long as the machine lets no child begin; a load starts it again."""
    restart = policy(failures=1)
    assert [0.5, 1.0, 2.0, 3.0, 3.0] == [restart.pause_after_start_failure() for _ in range(5)]
    restart.record_load()
    assert 0.5 == restart.pause_after_start_failure()


def test_loads_that_fail_for_what_may_pass_never_end_the_tries():
    """The pause doubles up to the longest; that as many have failed as may is known all the same."""
    restart = policy(failures=2)
    assert [0.5, 1.0, 2.0, 3.0, 3.0] == [restart.pause_after_load_failure(transient=True) for _ in range(5)]
    assert restart.is_exhausted
    restart.record_load()
    assert not restart.is_exhausted


def test_a_load_that_succeeds_starts_the_count_again():
    """Only failures in a row count."""
    restart = policy(failures=2)
    for _ in range(5):
        assert 0.5 == restart.pause_after_load_failure()
        restart.record_load()


def test_crashes_and_failed_loads_are_counted_apart():
    """A crash leaves the tries of loading as they were, and the other way round."""
    restart = policy()
    for _ in range(10):
        restart.pause_after_crash()
    assert 0.5 == restart.pause_after_load_failure()
    restart.record_answer()
    assert 1.0 == restart.pause_after_load_failure()
    assert 0.5 == restart.pause_after_crash()


RUN = JobRequest(job_id="1", digest="d", text="hello")


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
    """The id and the seed do not matter; text, bundle, options and questions do."""
    same = JobRequest(job_id="2", digest="d", text="hello", seed=7)
    assert fingerprint(RUN) == fingerprint(same)
    others = [
        JobRequest(job_id="1", digest="e", text="hello"),
        JobRequest(job_id="1", digest="d", text="hello!"),
        JobRequest(job_id="1", digest="d", text="hello", output_tokens_max=1),
        JobRequest(job_id="1", digest="d", text="hello", temperature=0.5),
        JobRequest(job_id="1", digest="d", text="hello", stops=("x",)),
        JobRequest(job_id="1", digest="d", text="hello", questions=(URGENT,)),
        JobRequest(job_id="1", digest="d", text="hello", questions=(URGENT, msgspec.structs.replace(URGENT, name="x"))),
    ]
    assert 8 == len({fingerprint(run) for run in (RUN, *others)})


def test_an_input_whose_time_is_over_is_forgotten() -> None:
    """Callers are checked only while some input is refused, and one that is refused again counts from then on."""
    quarantine = Quarantine(seconds=60)
    other = JobRequest(job_id="2", digest="d", text="other")
    for run, now in ((RUN, 0), (other, 10), (RUN, 30)):
        quarantine.add(run, now)
    with pytest.raises(InputQuarantined):
        quarantine.check(RUN, now=80)
    assert 1 == len(quarantine.refused_until)
    quarantine.check(RUN, now=90)
    assert not quarantine.refused_until


def test_the_text_is_not_kept() -> None:
    """Only a hash stays in memory."""
    quarantine = Quarantine(seconds=60)
    quarantine.add(RUN, now=0)
    assert "hello" not in repr(quarantine)


def test_the_list_is_bounded() -> None:
    """The oldest entry makes room."""
    quarantine = Quarantine(seconds=60)
    for i in range(QUARANTINED_MAX + 1):
        quarantine.add(JobRequest(job_id="", digest="d", text=str(i)), now=0)
    quarantine.check(JobRequest(job_id="", digest="d", text="0"), now=1)
    with pytest.raises(InputQuarantined):
        quarantine.check(JobRequest(job_id="", digest="d", text="1"), now=1)
