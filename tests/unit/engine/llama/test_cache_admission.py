"""Admission of jobs to the key-value cache: in order, with smaller jobs passing a large one a bounded number of
times."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.step_scheduler import PASSED_MAX, CacheAdmission

CELLS = 100


@dataclass
class Buffer:
    """A cache with a number of cells, and the jobs in it."""

    admission: CacheAdmission = field(default_factory=CacheAdmission)
    inside: dict[str, int] = field(default_factory=dict)

    def admit(self, waiting: dict[str, int]) -> list[str]:
        """Admit the jobs that fit; return them in order."""
        before = list(self.inside)

        def enter(key: str) -> bool:
            fits = sum(self.inside.values()) + waiting[key] <= CELLS
            if fits:
                self.inside[key] = waiting[key]
            return fits

        self.admission.admit(list(waiting), enter)
        entered = [key for key in self.inside if key not in before]
        for key in entered:
            del waiting[key]
        return entered


def test_jobs_are_admitted_in_order_while_they_fit() -> None:
    """Where all jobs fit, they are admitted in their order."""
    assert ["a", "b", "c"] == Buffer().admit({"a": 50, "b": 20, "c": 30})


def test_small_jobs_pass_a_job_that_does_not_fit() -> None:
    """Small jobs are admitted before a large one that does not fit, so free cells are used."""
    assert ["a", "small", "tiny"] == Buffer().admit({"a": 60, "large": 60, "small": 30, "tiny": 10})


def test_large_job_is_passed_a_limited_number_of_times() -> None:
    """After `PASSED_MAX` jobs have passed a large job, no other is admitted before it, and it is admitted when it
    fits."""
    buffer = Buffer()
    waiting = {"holder": 50, "large": 90}
    passed = []
    for came in range(1, 40):
        waiting[f"small-{came}"] = 10
        passed += buffer.admit(waiting)
        if "large" in passed:
            break
        buffer.inside.pop(passed[-1], None)  # the small ones end soon
    else:
        buffer.inside.pop("holder")
        passed += buffer.admit(waiting)
    assert ["holder", *(f"small-{i + 1}" for i in range(PASSED_MAX)), "large"] == passed[: PASSED_MAX + 2]


@given(
    st.lists(st.integers(1, CELLS), min_size=1, max_size=12), st.lists(st.integers(1, CELLS), max_size=200), st.data()
)
def test_waiting_job_is_passed_by_a_bounded_number(first: list[int], later: list[int], data: st.DataObject) -> None:
    """Whatever jobs arrive later, a job with k jobs before it is passed by at most (k + 1) * PASSED_MAX, and all jobs
    are admitted."""
    buffer = Buffer()
    waiting = {f"first-{i}": cells for i, cells in enumerate(first)}
    arrivals = [(f"later-{i}", cells) for i, cells in enumerate(later)]
    entered: list[str] = []
    while waiting or arrivals:
        for _ in range(min(3, len(arrivals))):
            key, cells = arrivals.pop(0)
            waiting[key] = cells
        entered += buffer.admit(waiting)
        ended = data.draw(st.sampled_from(sorted(buffer.inside)), label="ends")
        del buffer.inside[ended]
    assert len(first) + len(later) == len(entered)
    for place in range(len(first)):
        before = [key for key in entered[: entered.index(f"first-{place}")] if key.startswith("later")]
        assert len(before) <= (place + 1) * PASSED_MAX
