"""edge_agent/engine/runtimes/llama/scheduler.py"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.scheduler import Lane, Scheduler

BUDGET = 16


def rows_of(plan: list[tuple[Lane, int]]) -> dict[str, int]:
    """Return the rows of each lane in a plan."""
    return {lane.key: rows for lane, rows in plan}


def test_nothing_to_do_is_an_empty_plan() -> None:
    """Without lanes there are no rows."""
    assert Scheduler(BUDGET).plan([]) == []


def test_decoding_comes_before_prefill() -> None:
    """A stream gets its row beside a long prompt, which gets the rest of the budget."""
    lanes = [Lane("prompt", "", rows=100), Lane("stream", "", rows=1, decoding=True)]
    assert {"stream": 1, "prompt": BUDGET - 1} == rows_of(Scheduler(BUDGET).plan(lanes))


def test_short_prompts_share_a_step() -> None:
    """Prompts that fit together are computed together."""
    lanes = [Lane(str(i), "", rows=5) for i in range(3)]
    assert {"0": 5, "1": 5, "2": 5} == rows_of(Scheduler(BUDGET).plan(lanes))


def test_long_prompts_take_turns() -> None:
    """Two prompts longer than the budget alternate."""
    scheduler, lanes = Scheduler(BUDGET), [Lane("a", "", rows=99), Lane("b", "", rows=99)]
    assert ["a", "b", "a", "b"] == [scheduler.plan(lanes)[0][0].key for _ in range(4)]


def test_new_prompts_do_not_overtake_an_old_one_for_ever() -> None:
    """A long prompt moves in every second step although a new prompt arrives each time."""
    scheduler = Scheduler(BUDGET)
    turns = [scheduler.plan([Lane("old", "", rows=99), Lane(f"new{i}", "", rows=99)])[0][0].key for i in range(6)]
    assert turns.count("old") >= 3


def test_groups_take_turns() -> None:
    """Lanes of two adapters are never in one step, and both groups move."""
    scheduler, lanes = Scheduler(BUDGET), [Lane("a", "x", rows=1), Lane("b", "y", rows=1), Lane("c", "x", rows=1)]
    assert [{"a", "c"}, {"b"}, {"a", "c"}, {"b"}] == [set(rows_of(scheduler.plan(lanes))) for _ in range(4)]


def test_many_streams_leave_half_a_step_to_prompts() -> None:
    """More streams than rows take turns, and prompts keep half of the budget."""
    lanes = [Lane(f"s{i}", "", rows=1, decoding=True) for i in range(40)]
    plan = rows_of(Scheduler(BUDGET).plan([*lanes, Lane("prompt", "", rows=99)]))
    assert BUDGET // 2 == plan["prompt"]
    assert BUDGET == sum(plan.values())


_lanes = st.lists(
    st.builds(
        Lane,
        key=st.just(""),
        group=st.sampled_from(["", "x", "y"]),
        rows=st.integers(1, 60),
        least=st.integers(1, BUDGET // 2),
        decoding=st.booleans(),
    ).map(
        lambda lane: replace(lane, rows=1, least=1) if lane.decoding else replace(lane, rows=max(lane.rows, lane.least))
    ),
    min_size=1,
    max_size=40,
)


@given(_lanes, st.lists(_lanes, max_size=4))
def test_every_lane_moves_within_a_bounded_number_of_steps(first: list[Lane], later: list[list[Lane]]) -> None:
    """Whoever arrives meanwhile: no step is over budget or of two groups, and nobody waits more than groups x lanes."""
    scheduler = Scheduler(BUDGET)
    waiting = {f"0-{i}": replace(lane, key=f"0-{i}") for i, lane in enumerate(first)}
    waited = dict.fromkeys(waiting, 0)
    arrivals = list(later)
    most = len(waiting)
    for step in range(60):
        if arrivals and step % 3 == 2:
            waiting |= {f"{step}-{i}": replace(lane, key=f"{step}-{i}") for i, lane in enumerate(arrivals.pop())}
            most = max(most, len(waiting))
        plan = scheduler.plan(list(waiting.values()))
        assert sum(rows for _, rows in plan) <= BUDGET
        assert len({lane.group for lane, _ in plan}) <= 1
        assert all(lane.least <= rows <= lane.rows for lane, rows in plan)
        moved = rows_of(plan)
        waited = {key: 0 if key in moved else waited.get(key, 0) + 1 for key in waiting}
        assert max(waited.values(), default=0) <= 3 * most
