"""The self-test: which answers, latencies and memory sizes of a new bundle fail it, and which do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from edge_agent.errors import (
    DeadlineExpired,
    EdgeAgentError,
    EngineCrashed,
    InputTooLong,
    MemoryShort,
    QueueFull,
    StreamBroken,
)
from edge_agent.formats.golden_cases import GoldenAnswer, GoldenCase
from edge_agent.update import selftest
from edge_agent.update.selftest import BundleUnderTest, SelfTest, run_selftest
from edge_agent.update.update_state_machine import StepResult

MEGABYTE = selftest.MEGABYTE
CASES = tuple(GoldenCase(input=f"text {number}", answer="yes", scores=(0.1, 0.9)) for number in range(20))


class Bundle:
    """A bundle that answers correctly with a given latency and memory size, unless a test changes that."""

    def __init__(self, milliseconds: float = 10.0, megabytes: int = 100) -> None:
        self.milliseconds: Callable[[], float] = lambda: milliseconds
        self.resident = megabytes * MEGABYTE
        self.grows = self.expected = self.asked = self.crashes = 0
        self.says: dict[str, GoldenAnswer] = {}
        self.error: EdgeAgentError | None = None
        self.error_after = 0

    async def answer(self, text: str, seconds_max: float) -> tuple[GoldenAnswer, float]:
        self.asked += 1
        if self.error and self.asked > self.error_after:
            raise self.error
        self.resident += self.grows
        return self.says.get(text, GoldenAnswer("yes", (0.12, 0.88))), self.milliseconds()

    def subject(self) -> BundleUnderTest:
        return BundleUnderTest(self.answer, lambda: self.resident, lambda: self.expected, lambda: self.crashes)


def exam(cases: tuple[GoldenCase, ...] = CASES, **changes: int) -> SelfTest:
    """Return a self-test that allows twice the latency."""
    more = {"latency_percent_max": 200, "memory_bytes_wanted": 0, **changes}
    return SelfTest(cases=cases, vector=False, answer_seconds_max=1.0, **more)


async def examined(
    candidate: Bundle, incumbent: Bundle | None = None, of: SelfTest | None = None
) -> tuple[StepResult, str, str]:
    """Test a bundle; return result, reason and message."""
    outcome = await run_selftest(of or exam(), candidate.subject(), incumbent.subject() if incumbent else None)
    return outcome.end, outcome.reason, outcome.message


async def test_bundle_with_matching_answers_passes():
    """A bundle whose golden answers match within the tolerance passes, with or without a previous bundle."""
    expected = (StepResult.PASSED, "", "20 of 20 golden inputs are answered alike")
    assert expected == await examined(Bundle(), Bundle()) == await examined(Bundle())


async def test_bundle_without_golden_answers_has_only_to_load():
    """A bundle without golden cases passes if it loads; golden inputs without an answer must still not crash it."""
    said = "it loads; it has no golden answers to compare with"
    assert (StepResult.PASSED, "", said) == await examined(Bundle(), of=exam(()))
    silent = Bundle()
    silent.error = EngineCrashed("it died")
    assert (StepResult.FAILED, "ENGINE_CRASHED") == (await examined(silent, of=exam((GoldenCase(input="x"),))))[:2]


@pytest.mark.parametrize(("wrong", "reason"), [(1, ""), (2, "GOLDEN_DIFFERS"), (20, "GOLDEN_DIFFERS")])
async def test_one_golden_answer_in_twenty_may_differ(wrong: int, reason: str):
    """One golden answer in 20 may differ, because processors round differently; with two, the self-test fails."""
    candidate = Bundle()
    candidate.says = {case.input: GoldenAnswer("no", (0.9, 0.1)) for case in CASES[:wrong]}
    _, found, message = await examined(candidate)
    assert reason == found
    assert f"{20 - wrong} of 20" in message if not reason else f"{wrong} of 20" in message and "'text 0'" in message


async def test_scores_are_compared_as_well_as_labels():
    """The same label with another confidence fails the self-test, because it would be routed differently."""
    candidate = Bundle()
    candidate.says = {case.input: GoldenAnswer("yes", (0.4, 0.6)) for case in CASES}
    assert "GOLDEN_DIFFERS" == (await examined(candidate))[1]


async def test_cases_that_rounding_may_change_are_not_compared():
    """Golden cases that edge-convert marked and whose labels are nearly equal are not compared; the message has their
    number."""
    near = tuple(
        case.model_copy(update={"report_only": True, "scores": (0.52, 0.48)} if place < 5 else {})
        for place, case in enumerate(CASES)
    )
    candidate = Bundle()
    candidate.says = {case.input: GoldenAnswer("no", (0.9, 0.1)) for case in near[:5]}
    end, _, message = await examined(candidate, of=exam(near))
    assert (StepResult.PASSED, True) == (
        end,
        message.endswith("; 5 more were not compared, as rounding may turn their answers"),
    )


async def test_marked_cases_with_clear_scores_are_compared():
    """A mark does not exempt a golden case whose scores are far apart. (With a threshold of 0.98 every case was marked,
    so reversed labels passed.)"""
    cases = tuple(case.model_copy(update={"report_only": True, "scores": (0.01, 0.99)}) for case in CASES)
    candidate = Bundle()
    candidate.says = {case.input: GoldenAnswer("no", (0.99, 0.01)) for case in cases}
    assert "GOLDEN_DIFFERS" == (await examined(candidate, of=exam(cases)))[1]


@pytest.mark.parametrize(
    ("new_ms", "old_ms", "reason"),
    [
        (30.0, 10.0, "SLOWER"),
        (19.0, 10.0, ""),
        (22.0, 10.0, ""),
        (24.0, 10.0, "SLOWER"),
        (3.0, 0.5, ""),
        (1.0, 9.0, ""),
    ],
)
async def test_latency_is_compared_with_the_previous_bundle(new_ms: float, old_ms: float, reason: str):
    """Latency may exceed that of the previous bundle by a percentage and a small constant for noise."""
    _, found, message = await examined(Bundle(new_ms), Bundle(old_ms))
    assert reason == found
    assert not reason or f"it takes {new_ms:.1f} ms where the previous bundle takes {old_ms:.1f} ms" in message


async def test_temporary_slowness_does_not_fail_the_self_test():
    """The shortest time of each text counts, and a slow round is measured again."""
    times: Iterator[float] = iter([100.0] * 55 + [10.0] * 1000)
    candidate = Bundle()
    candidate.milliseconds = lambda: next(times)
    assert StepResult.PASSED == (await examined(candidate, Bundle()))[0]
    assert candidate.asked > 20 + 12 * selftest.REPEATS


@pytest.mark.parametrize("error", [InputTooLong("too long"), QueueFull("busy")])
async def test_latency_is_not_compared_if_the_previous_bundle_fails(error: EdgeAgentError):
    """If the previous bundle refuses the inputs or is busy, latency is not compared."""
    incumbent = Bundle()
    incumbent.error = error
    assert StepResult.PASSED == (await examined(Bundle(1000.0), incumbent))[0]


async def test_memory_leak_fails_the_self_test():
    """A bundle whose memory grows by 2 MB with each call fails; growth of 0.5 MB, as of a cache that fills, passes."""
    candidate = Bundle()
    candidate.grows = 2 * MEGABYTE
    end, reason, message = await examined(candidate)
    assert (StepResult.FAILED, "MEMORY_GROWS") == (end, reason)
    assert "grew by 72 MB in 36 calls" in message
    candidate = Bundle()
    candidate.grows = MEGABYTE // 2  # a cache fills up
    assert StepResult.PASSED == (await examined(candidate))[0]


@pytest.mark.parametrize(
    ("megabytes", "expected", "wanted", "reason"),
    [
        (300, 100, 0, "MEMORY_GROWS"),
        (210, 100, 0, ""),
        (300, 0, 150, "MEMORY_GROWS"),
        (300, 0, 0, ""),
        (300, 180, 0, ""),
    ],
)
async def test_memory_is_compared_with_the_expected_size(megabytes: int, expected: int, wanted: int, reason: str):
    """Memory is compared with what the engine computed beforehand or the manifest requests; without either it is not
    compared."""
    candidate = Bundle(megabytes=megabytes)
    candidate.expected = expected * MEGABYTE
    assert reason == (await examined(candidate, of=exam(memory_bytes_wanted=wanted * MEGABYTE)))[1]


async def test_crash_fails_the_self_test_despite_correct_answers():
    """A bundle whose child crashed and was restarted fails the self-test although every answer was right."""
    candidate = Bundle()
    candidate.crashes = 1
    assert (StepResult.FAILED, "CRASHES") == (await examined(candidate))[:2]


async def test_answer_past_the_time_limit_fails_the_self_test():
    """An answer that exceeds the time limit fails with a reason of the self-test instead of a caller's deadline."""
    candidate = Bundle()
    candidate.error = DeadlineExpired("the deadline passed")
    assert (StepResult.FAILED, "SELF_TEST_TOO_LONG", "a golden input took 1 s and more") == await examined(candidate)


@pytest.mark.parametrize("after", [0, 5, 40])
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (EngineCrashed("it died"), StepResult.FAILED),
        (StreamBroken("in the middle"), StepResult.FAILED),
        (InputTooLong("of its own golden file"), StepResult.FAILED),
        (MemoryShort("elsewhere"), StepResult.BLOCKED),
    ],
)
async def test_errors_become_a_result_of_the_self_test(error: EdgeAgentError, end: StepResult, after: int):
    """An error during the golden pass or the measuring passes becomes a failed or blocked result with the error's
    reason and message."""
    candidate = Bundle()
    candidate.error, candidate.error_after = error, after
    assert (end, error.reason, error.message) == await examined(candidate)
