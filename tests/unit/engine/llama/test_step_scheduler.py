"""The rules of the step scheduler. test_starvation.py covers that no work item starves."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edge_agent.engine.runtimes.llama.step_costs import (
    BULK_ROWS_MIN,
    EXACT_ROWS_MAX,
    ROWS_GROUP,
    StepCostModel,
    StepWork,
    attention_pairs,
)
from edge_agent.engine.runtimes.llama.step_scheduler import (
    ALONE_SECONDS,
    BULK_ROWS_LEAST,
    BULK_SECONDS_MAX,
    QUANTUM_SECONDS,
    ROWS_MIN,
    STEP_SECONDS,
    WRITING_ROWS_MAX,
    StepPlan,
    StepScheduler,
    WorkItem,
)

EXACT_ROWS = EXACT_ROWS_MAX // ROWS_GROUP * ROWS_GROUP
"""Of a step with exact work items of which one is read only in part."""
FAST = StepCostModel(0.001, 1e-5, 0.0)
SERVER = StepCostModel(0.004, 0.0016, 9e-7)
SLOW = StepCostModel(0.02, 0.002, 4e-7)
BOARD = StepCostModel(0.09, 0.02, 4e-6)


def rows_of(plan: StepPlan) -> dict[str, int]:
    """Return the rows of each work item in a plan."""
    return {item.key: rows for item, rows in plan}


def taught(machine: StepCostModel, bulk_rows: int = 256) -> StepScheduler:
    """Return a scheduler that has learned the cost of steps on a machine."""
    scheduler = StepScheduler(bulk_rows)
    for rows in (1, 16, 63, 64, 200) * 12:
        scheduler.costs.learn(
            StepWork(rows, attention_pairs(rows, 500)), machine.cost(rows, attention_pairs(rows, 500))
        )
    return scheduler


def prompt(key: str, rows: int = 3000, *, exact: bool = False, depth: int = 0) -> WorkItem:
    """Return a work item that reads."""
    return WorkItem(key, "", rows, exact=exact, depth=depth)


def stream(key: str, *, exact: bool = False) -> WorkItem:
    """Return a work item that writes."""
    return WorkItem(key, "", 1, decoding=True, exact=exact, depth=300)


def test_no_work_items_give_an_empty_plan() -> None:
    """The plan for no work items is empty."""
    assert StepScheduler().plan([], 1.0) == []


def test_first_step_without_measurements_is_small() -> None:
    """Before any step was measured, a prompt advances by ROWS_MIN rows only."""
    assert {"a": ROWS_MIN} == rows_of(StepScheduler().plan([prompt("a")], 1.0))


def test_streams_come_before_prompts() -> None:
    """Every stream gets its row next to a long prompt, which gets the rows that still fit into the time of a step."""
    scheduler = taught(SERVER, EXACT_ROWS_MAX)
    plan = scheduler.plan([prompt("prompt", depth=4000), *map(stream, "abc")], 1.0)
    rows = rows_of(plan)
    assert {"a": 1, "b": 1, "c": 1} == {key: rows[key] for key in "abc"}
    pairs = sum(attention_pairs(count, item.depth) for item, count in plan)
    assert scheduler.costs.cost(StepWork(sum(rows.values()), pairs)) == pytest.approx(STEP_SECONDS, rel=0.1)


def test_steps_get_smaller_as_the_prompt_gets_longer() -> None:
    """At greater depth fewer rows fit into the same time, but never fewer than ROWS_MIN."""
    sizes = [
        rows_of(taught(SERVER, bulk_rows=0).plan([stream("a"), prompt("p", depth=depth)], 1.0))["p"]
        for depth in (0, 4000, 8000, 100_000)
    ]
    assert sizes == sorted(set(sizes), reverse=True)
    assert ROWS_MIN == sizes[-1], "but never so small that it does not get anywhere"


def test_lone_prompt_gets_longer_steps() -> None:
    """If no other job waits, a step of a prompt may be longer, and is still limited for jobs that arrive next."""
    scheduler = taught(BOARD)
    shared = rows_of(scheduler.plan([stream("a"), prompt("p")], 1.0))["p"]
    ((item, alone),) = scheduler.plan([prompt("p")], 2.0)
    assert shared < alone
    assert scheduler.costs.cost(StepWork(alone, attention_pairs(alone, item.depth))) <= ALONE_SECONDS * 1.01


def test_short_prompts_share_a_step() -> None:
    """Prompts that fit into one step are computed together."""
    items = [prompt(str(i), 20, exact=True) for i in range(3)]
    assert {"0": 20, "1": 20, "2": 20} == rows_of(taught(FAST).plan(items, 1.0))


def test_prompt_gets_more_rows_where_steps_are_slow_anyway() -> None:
    """On a machine where every step takes at least a second, a prompt gets at least three times ROWS_MIN, because more
    rows add little time."""
    busy = StepCostModel(1.0, 0.005, 0.0)
    rows = rows_of(taught(busy, EXACT_ROWS_MAX).plan([stream("a"), prompt("p")], 1.0))
    assert 1 == rows["a"]
    assert 3 * ROWS_MIN <= rows["p"]


def test_prompt_is_not_split_for_a_few_rows() -> None:
    """A prompt for which only a few rows are left waits for the next step, and is first in it."""
    scheduler, items = taught(FAST), [prompt(key, 30, exact=True) for key in "abc"]
    assert {"a": 30, "b": 30} == rows_of(scheduler.plan(items, 1.0))
    assert "c" == scheduler.plan(items, 2.0)[0][0].key


def test_long_prompts_take_turns() -> None:
    """Two prompts longer than a step alternate."""
    scheduler, items = taught(FAST), [prompt("a"), prompt("b")]
    assert ["a", "b", "a", "b"] == [scheduler.plan(items, at)[0][0].key for at in range(1, 5)]


def test_more_streams_than_rows_take_turns() -> None:
    """Of 70 streams 63 get a row, and the others get theirs in the next step."""
    scheduler, items = taught(FAST), [stream(str(i)) for i in range(70)]
    first, second = (set(rows_of(scheduler.plan(items, at))) for at in (1.0, 2.0))
    assert EXACT_ROWS_MAX == len(first) == len(second)
    assert {item.key for item in items} == first | second


def test_many_streams_leave_half_a_step_to_prompts() -> None:
    """Next to a prompt, at most half of a step's rows are given to streams."""
    rows = rows_of(taught(FAST).plan([*(stream(str(i), exact=True) for i in range(60)), prompt("p")], 1.0))
    assert WRITING_ROWS_MAX == len([key for key in rows if key != "p"])


def test_label_branch_is_computed_in_one_step() -> None:
    """A work item that needs 31 rows at once gets them next to 60 streams."""
    branch = WorkItem("labels", "", 40, rows_min=31)
    rows = rows_of(taught(FAST).plan([*(stream(str(i)) for i in range(60)), branch], 1.0))
    assert 31 == rows["labels"]


def test_prompts_without_exact_results_are_read_in_bulk() -> None:
    """Without an exact work item a step has up to 256 rows."""
    assert 256 == sum(rows_of(taught(FAST).plan([stream("a"), prompt("p")], 1.0)).values())


def test_bulk_step_has_a_minimum_of_rows() -> None:
    """Where few rows fit into the time of a step, a bulk step has 128 rows, which cost half as much as in small
    steps."""
    costs, scheduler = taught(SLOW).costs, taught(SLOW)
    plan = scheduler.plan([stream("a"), prompt("p", depth=2000)], 1.0)
    assert {"a": 1, "p": BULK_ROWS_LEAST - 1} == rows_of(plan)
    assert (
        STEP_SECONDS < costs.cost(StepWork(BULK_ROWS_LEAST, attention_pairs(BULK_ROWS_LEAST, 2000))) < BULK_SECONDS_MAX
    )


def test_bulk_step_stays_within_its_maximum_time() -> None:
    """Where a bulk step would take more than BULK_SECONDS_MAX, prompts are read in small steps."""
    assert ROWS_MIN == rows_of(taught(BOARD).plan([stream("a"), prompt("p", depth=9000)], 1.0))["p"]


def test_bulk_steps_can_be_disabled() -> None:
    """With `bulk_rows` of 63 every step is small enough for exact work items."""
    assert {"p": EXACT_ROWS} == rows_of(taught(FAST, EXACT_ROWS_MAX).plan([prompt("p")], 1.0))


def crowd(rows: int, each: int = 30) -> list[WorkItem]:
    """Return short prompts whose results may depend on the other rows of a step."""
    return [prompt(f"crowd{start}", min(each, rows - start))._replace(bulk_safe=True) for start in range(0, rows, each)]


def test_many_bulk_safe_prompts_share_a_bulk_step() -> None:
    """Bulk-safe prompts share a bulk step, however short each is, as soon as they have enough rows; other prompts stay
    in small steps."""
    for rows, expected in ((BULK_ROWS_LEAST - 1, EXACT_ROWS), (BULK_ROWS_LEAST, BULK_ROWS_LEAST), (250, 250)):
        assert expected == sum(rows_of(taught(FAST).plan(crowd(rows), 1.0)).values())
    alike = [item._replace(bulk_safe=False) for item in crowd(250)]
    assert EXACT_ROWS_MAX >= sum(rows_of(taught(FAST).plan(alike, 1.0)).values()), "others keep to small steps"


@pytest.mark.parametrize(("machine", "bulk_rows"), [(FAST, EXACT_ROWS_MAX), (FAST, BULK_ROWS_MIN), (BOARD, 256)])
def test_bulk_safe_prompts_stay_in_small_steps_on_slow_machines(machine: StepCostModel, bulk_rows: int) -> None:
    """Where bulk steps bring no gain or take too long, bulk-safe prompts are read in small steps."""
    assert EXACT_ROWS_MAX >= sum(rows_of(taught(machine, bulk_rows).plan(crowd(250), 1.0)).values())


def test_single_bulk_safe_prompt_is_read_as_exact() -> None:
    """A single bulk-safe prompt is read in small steps like an exact one, whatever its length; two share a bulk
    step."""
    alone = prompt("p", 2000)._replace(bulk_safe=True)
    assert EXACT_ROWS_MAX >= sum(rows_of(taught(FAST).plan([alone, stream("s")], 1.0)).values())
    scheduler, items = taught(FAST), [alone, prompt("long")]
    assert [{"p": EXACT_ROWS}, {"long": 256}] * 2 == [rows_of(scheduler.plan(items, at)) for at in (1.0, 2.0, 3.0, 4.0)]
    assert EXACT_ROWS_MAX < sum(rows_of(taught(FAST).plan([alone, alone._replace(key="q")], 1.0)).values())


def test_bulk_safe_and_exact_prompts_alternate() -> None:
    """The work item that has waited longest decides the kind of step, and a bulk step has no exact rows."""
    scheduler, items = taught(FAST), [prompt("exact", 30, exact=True), *crowd(150)]
    plans = [set(rows_of(scheduler.plan(items, at))) for at in (1.0, 2.0, 3.0)]
    assert [{"exact"}, {item.key for item in crowd(150)}, {"exact"}] == plans


def test_exact_and_long_prompts_alternate() -> None:
    """Next to an exact prompt, a long prompt is read in bulk steps of its own without exact rows."""
    scheduler, items = taught(FAST), [prompt("exact", exact=True), prompt("long")]
    plans = [rows_of(scheduler.plan(items, at)) for at in range(1, 5)]
    assert [{"exact": EXACT_ROWS}, {"long": 256}] * 2 == plans


def test_short_prompt_joins_an_exact_step() -> None:
    """A short prompt is read in the step of an exact one, because a separate step would cost more than its rows."""
    assert {"exact": 20, "short": 40} == rows_of(
        taught(FAST).plan([prompt("exact", 20, exact=True), prompt("short", 40)], 1.0)
    )


def test_exact_streams_never_miss_two_steps_in_a_row() -> None:
    """Between two bulk steps exact streams get a row; other streams get one in each step."""
    scheduler, items = taught(FAST), [stream("record", exact=True), stream("text"), *map(prompt, "abc")]
    plans = [rows_of(scheduler.plan(items, at)) for at in range(1, 13)]
    assert all("text" in plan for plan in plans)
    assert all("record" in plan or "record" in following for plan, following in pairwise(plans))
    assert 6 == len([plan for plan in plans if sum(plan.values()) >= BULK_ROWS_MIN])


def test_long_prompts_join_exact_steps_on_a_slow_machine() -> None:
    """On a machine where no bulk step fits into the time, long prompts are read in small steps next to exact ones."""
    rows = rows_of(taught(BOARD).plan([prompt("exact", 10, exact=True), prompt("long"), stream("a")], 1.0))
    assert {"exact": 10, "a": 1} == rows
    scheduler = taught(BOARD)
    served = [rows_of(scheduler.plan([prompt("exact", 40, exact=True), prompt("long")], at)) for at in range(1, 5)]
    assert {"exact", "long"} == {key for plan in served for key in plan}
    assert all(sum(plan.values()) <= EXACT_ROWS_MAX for plan in served)


@pytest.mark.parametrize(("arrived_at", "first"), [(9.8, "operator"), (10.2, "device")])
def test_one_priority_step_equals_one_second_of_waiting(arrived_at: float, first: str) -> None:
    """A prompt of higher priority overtakes only prompts that arrived within the second before it."""
    scheduler = taught(FAST)
    device = prompt("device", exact=True)._replace(priority=1, arrived_at=9.0)
    operator = prompt("operator", exact=True)._replace(arrived_at=arrived_at)
    scheduler.plan([prompt("other", exact=True)._replace(arrived_at=9.0), device], 9.0)
    assert first == scheduler.plan([device, operator], arrived_at)[0][0].key


def test_adapters_are_never_mixed_and_change_slowly() -> None:
    """Work items of two adapters are never in one step; the adapter changes about every tenth of a second, not in each
    step."""
    scheduler = taught(SERVER)
    items = [stream(key)._replace(group=group) for key, group in (("a", "x"), ("b", "y"), ("c", "x"))]
    plans = [set(rows_of(scheduler.plan(items, 1 + step * 0.01))) for step in range(40)]
    assert {frozenset("ac"), frozenset("b")} == set(map(frozenset, plans))
    assert 3 == sum(plan != following for plan, following in pairwise(plans))


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.002, QUANTUM_SECONDS[0]), (0.015, 0.3), (0.2, QUANTUM_SECONDS[1])]
)
def test_slow_adapter_changes_are_made_less_often(seconds: float, expected: float) -> None:
    """An adapter stays in use so long that changing it takes a twentieth of the time, within limits."""
    scheduler, now, stays = taught(SERVER), 1.0, []
    items = [stream(key)._replace(group=key) for key in "xy"]
    current, since = "", now
    for _ in range(2000):
        plan = scheduler.plan(items, now)
        took = SERVER.cost(1, 300.5)
        if plan[0][0].key != current:
            stays.append(now - since)
            current, since, took = plan[0][0].key, now, took + seconds
        scheduler.record_step(plan, took)
        now += took
    assert stays[-1] == pytest.approx(expected, rel=0.2, abs=0.02)


def test_adapter_without_jobs_is_replaced_at_once() -> None:
    """When the jobs of an adapter end, the next adapter computes in the next step."""
    scheduler = taught(SERVER)
    scheduler.plan([stream("a")._replace(group="x")], 1.0)
    assert {"b": 1} == rows_of(scheduler.plan([stream("b")._replace(group="y")], 1.001))


def test_unattainable_deadline_is_refused() -> None:
    """A prompt that would take twice as long alone as its caller waits is refused; one without a deadline never is."""
    scheduler = taught(SERVER)
    for rows in (63, 256):
        pairs = attention_pairs(rows, 0)
        scheduler.costs.confirm(StepWork(rows, pairs), scheduler.costs.cost(StepWork(rows, pairs)), 10.0)
    hopeless, tight, patient = prompt("p", 3000), prompt("q", 300), prompt("r", 3_000_000)
    items = [hopeless._replace(deadline=10.5), tight._replace(deadline=10.5), patient]
    for item, expected in zip(items, (["p"], [], []), strict=True):
        assert expected == [refused.key for refused, _ in scheduler.unattainable([item], 10.0)]
    assert ["p"] == [refused.key for refused, _ in scheduler.unattainable([*items, stream("s")], 10.0)]


def test_passed_deadline_is_unattainable() -> None:
    """A prompt whose deadline has passed is refused, even before any step was measured."""
    assert ["p"] == [item.key for item, _ in StepScheduler().unattainable([prompt("p")._replace(deadline=10.0)], 10.0)]
