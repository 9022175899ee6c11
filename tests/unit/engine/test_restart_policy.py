"""How a child ended, which input is to blame, and when the next child starts."""

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
def test_crash_is_blamed_on_the_input(code: int) -> None:
    """Signals that a program causes itself, and an exit with an error, are blamed on the input."""
    assert is_to_blame(code, wedged=False)


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, EXIT_OUT_OF_MEMORY])
def test_external_kill_is_not_blamed_on_the_input(code: int) -> None:
    """An end by the kernel's out-of-memory killer, an operator or a MemoryError is not blamed on the input, which may
    work the next time."""
    assert not is_to_blame(code, wedged=False)


def test_kill_of_a_stuck_child_is_blamed_on_the_input() -> None:
    """If the daemon kills a stuck child with SIGKILL, the input in work is to blame."""
    assert is_to_blame(-signal.SIGKILL, wedged=True)


@pytest.mark.parametrize(
    ("code", "words"),
    [(12, "it ran out of memory"), (19, "it lost its device"), (-6, "killed by signal 6"), (1, "exit code 1")],
)
def test_exit_is_described_in_words(code: int, words: str) -> None:
    """The description of an exit has the child's own report, the signal's name or the exit code."""
    assert words == describe_exit(code)


def policy(first: float = 0.5, longest: float = 3.0, failures: int = 3) -> RestartPolicy:
    """Return a policy with short pauses."""
    config = EngineConfig(restart_seconds_first=first, restart_seconds_max=longest, load_failures_max=failures)
    return RestartPolicy(config)


def test_pauses_double_up_to_the_longest():
    """Each crash without an answer in between doubles the pause, up to the configured maximum."""
    restart = policy()
    assert [0.5, 1.0, 2.0, 3.0, 3.0] == [restart.pause_after_crash() for _ in range(5)]


def test_time_alive_is_subtracted_from_the_pause():
    """The time that a child was ready is subtracted from the pause, so only children that crash early cause a wait."""
    restart = policy()
    assert [0.0, 0.75, 2.0, 0.0] == [restart.pause_after_crash(lived) for lived in (0.5, 0.25, 0.0, 60.0)]


def test_longest_pause_never_shrinks_or_grows():
    """Even after 2,000 crashes the pause is exactly the configured maximum."""
    restart = policy(longest=86_400)
    pauses = [restart.pause_after_crash() for _ in range(2000)]
    assert sorted(pauses) == pauses
    assert 86_400 == pauses[-1]


def test_first_pause_is_limited_to_the_longest():
    """A first pause that is configured above the maximum is reduced to it."""
    assert 3.0 == policy(first=10.0).pause_after_crash()


def test_answer_resets_the_pause():
    """After a successful answer the next crash causes the first pause again."""
    restart = policy()
    restart.pause_after_crash()
    restart.pause_after_crash()
    restart.record_answer()
    assert 0.5 == restart.pause_after_crash()


def test_loading_alone_does_not_shorten_the_pause():
    """The pause of a child that loads and crashes before its first answer doubles each time."""
    restart = policy()
    pauses = []
    for _ in range(3):
        restart.record_load()
        pauses.append(restart.pause_after_crash())
    assert [0.5, 1.0, 2.0] == pauses


@pytest.mark.parametrize(("failures", "pauses"), [(1, [None]), (3, [0.5, 1.0, None]), (5, [0.5, 1.0, 2.0, 3.0, None])])
def test_load_retries_end_after_configured_failures(failures, pauses):
    """The pause between failed loads doubles; after the configured number of failures the load is not retried."""
    restart = policy(failures=failures)
    assert pauses == [restart.pause_after_load_failure() for _ in range(failures)]
    assert restart.pause_after_load_failure() is None


def test_failed_starts_are_retried_without_limit():
    """While the machine cannot start a child, the pause doubles up to the maximum and retries continue; a successful
    load resets the pause."""
    restart = policy(failures=1)
    assert [0.5, 1.0, 2.0, 3.0, 3.0] == [restart.pause_after_start_failure() for _ in range(5)]
    restart.record_load()
    assert 0.5 == restart.pause_after_start_failure()


def test_transient_load_failures_are_retried_without_limit():
    """After transient load failures the pause doubles up to the maximum and retries continue, but the policy reports
    that the configured number is exhausted until a load succeeds."""
    restart = policy(failures=2)
    assert [0.5, 1.0, 2.0, 3.0, 3.0] == [restart.pause_after_load_failure(transient=True) for _ in range(5)]
    assert restart.is_exhausted
    restart.record_load()
    assert not restart.is_exhausted


def test_successful_load_resets_the_failure_count():
    """Only consecutive load failures are counted."""
    restart = policy(failures=2)
    for _ in range(5):
        assert 0.5 == restart.pause_after_load_failure()
        restart.record_load()


def test_crashes_and_failed_loads_are_counted_separately():
    """A crash does not change the count of failed loads, and a failed load does not change the count of crashes."""
    restart = policy()
    for _ in range(10):
        restart.pause_after_crash()
    assert 0.5 == restart.pause_after_load_failure()
    restart.record_answer()
    assert 1.0 == restart.pause_after_load_failure()
    assert 0.5 == restart.pause_after_crash()


RUN = JobRequest(job_id="1", digest="d", text="hello")


def test_quarantined_input_is_refused_until_the_time_ends() -> None:
    """The refusal of a quarantined input has the remaining seconds; afterwards the input is accepted."""
    quarantine = Quarantine(seconds=60)
    quarantine.check(RUN, now=0)
    quarantine.add(RUN, now=0)
    with pytest.raises(InputQuarantined, match="for another 50 s") as caught:
        quarantine.check(RUN, now=10)
    assert {"seconds": "50"} == caught.value.metadata
    quarantine.check(RUN, now=60)


def test_fingerprint_covers_input_and_options_only() -> None:
    """Two jobs that differ only in id and seed have the same fingerprint; another text, bundle, option or question
    changes it."""
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


def test_expired_quarantine_entry_is_removed() -> None:
    """An entry is removed when its time is over; an input that is quarantined again counts from the later time."""
    quarantine = Quarantine(seconds=60)
    other = JobRequest(job_id="2", digest="d", text="other")
    for run, now in ((RUN, 0), (other, 10), (RUN, 30)):
        quarantine.add(run, now)
    with pytest.raises(InputQuarantined):
        quarantine.check(RUN, now=80)
    assert 1 == len(quarantine.refused_until)
    quarantine.check(RUN, now=90)
    assert not quarantine.refused_until


def test_quarantine_does_not_store_the_text() -> None:
    """The quarantine stores only a hash of the input."""
    quarantine = Quarantine(seconds=60)
    quarantine.add(RUN, now=0)
    assert "hello" not in repr(quarantine)


def test_quarantine_is_bounded() -> None:
    """When the quarantine is full, the oldest entry is dropped."""
    quarantine = Quarantine(seconds=60)
    for i in range(QUARANTINED_MAX + 1):
        quarantine.add(JobRequest(job_id="", digest="d", text=str(i)), now=0)
    quarantine.check(JobRequest(job_id="", digest="d", text="0"), now=1)
    with pytest.raises(InputQuarantined):
        quarantine.check(JobRequest(job_id="", digest="d", text="1"), now=1)
