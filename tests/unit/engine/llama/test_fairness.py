"""Short jobs next to long ones in step_scheduler.py, on machines whose steps are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

import pytest

from edge_agent.engine.runtimes.llama.step_costs import StepCostModel, StepWork, attention_pairs
from edge_agent.engine.runtimes.llama.step_scheduler import FILL_SHARE, LARGE_ROUNDS, StepPlan, StepScheduler, WorkItem

DEPTH = 240
"""Tokens of the prompt that all of them share."""
SHORT, LONG = (20, 6), (20, 320)
"""Rows of an input, and of its labels: 8 of them, and 200."""
LABELS_ALIKE = (20, 60)
"""200 labels that begin alike."""
CALLS = 60
MACHINES = {
    "server": StepCostModel(0.004, 0.0016, 9e-7),
    "large vocabulary": StepCostModel(0.005, 0.0055, 4e-7),
    "slow": StepCostModel(0.03, 0.012, 1e-6),
    "bound by memory": StepCostModel(0.09, 0.001, 4e-7),
    "costly logits": StepCostModel(0.005, 0.003, 4e-7),
    "costly logits, said to be free": StepCostModel(0.005, 0.003, 4e-7),
}
LOGITS_SECONDS = {"costly logits": 0.006, "costly logits, said to be free": 0.006}
"""What the logits of a row take beyond that."""
LOGITS_ROWS = {"costly logits": 2.0}
"""What the scheduler is told of it, in rows."""


@dataclass
class Call:
    """A call, whose parts are computed one after the other."""

    key: str
    parts: tuple[int, ...]
    arrived_at: float
    part: int = 0
    done: int = 0

    def item(self) -> WorkItem:
        """Return the work item that can be computed now."""
        rows = self.parts[self.part] - self.done
        ahead = sum(self.parts[self.part + 1 :])
        return WorkItem(self.key, "", rows, depth=DEPTH, arrived_at=self.arrived_at, rows_ahead=ahead, logits=not ahead)

    def advance(self, rows: int) -> bool:
        """Take computed rows; tell whether the call has ended."""
        self.done += rows
        if self.done == self.parts[self.part]:
            self.part, self.done = self.part + 1, 0
        return self.part == len(self.parts)


@dataclass
class Machine:
    """Clients that each call again after every answer, and a clock that advances with the steps."""

    name: str
    now: float = 1000.0
    rows: int = 0
    latencies: dict[str, list[float]] = field(default_factory=dict)

    def serve(self, clients: dict[str, tuple[int, ...]], calls: int, counted: str) -> None:
        """Run until one of the clients has this many answers."""
        scheduler = taught(MACHINES[self.name], LOGITS_ROWS.get(self.name, 0.0))
        self.latencies = {client: [] for client in clients}
        running = {client: Call(f"{client} 0", parts, self.now) for client, parts in clients.items()}
        away = ""
        while len(self.latencies[counted]) < calls:
            by_key = {call.key: client for client, call in running.items()}
            plan = scheduler.plan([call.item() for client, call in running.items() if client != away], self.now)
            seconds = self.compute(scheduler, plan)
            if away:  # it called in this step, now soon and now late
                running[away].arrived_at = self.now - seconds * (1 - len(self.latencies[away]) % 4 / 8)
            away = ""
            for item, rows in plan:
                client = by_key[item.key]
                if running[client].advance(rows):
                    self.latencies[client].append(self.now - running[client].arrived_at)
                    number = len(self.latencies[client])
                    running[client] = Call(f"{client} {number}", clients[client], self.now)
                    # Clients need a moment, in which the next step begins.
                    away = client if len(clients) > 1 else ""

    def compute(self, scheduler: StepScheduler, plan: StepPlan) -> float:
        """Advance the clock by the time of a step, and return that time."""
        pairs = sum(attention_pairs(rows, item.depth) for item, rows in plan)
        labels = sum(rows for item, rows in plan if not item.rows_ahead)
        seconds = MACHINES[self.name].cost(sum(rows for _, rows in plan), pairs)
        seconds += LOGITS_SECONDS.get(self.name, 0.0) * labels
        scheduler.record_step(plan, seconds)
        self.now += seconds
        self.rows += sum(rows for _, rows in plan)
        return seconds


def taught(cost: StepCostModel, logits_rows: float = 0.0, depth: int = DEPTH) -> StepScheduler:
    """Return a scheduler that has learned the cost of steps on a machine."""
    scheduler = StepScheduler(logits_rows=logits_rows)
    for rows in (1, 16, 63, 64, 200) * 12:
        work = StepWork(rows, attention_pairs(rows, depth))
        scheduler.costs.learn(work, cost.cost(work.rows, work.pairs))
    return scheduler


def p50_of_short(name: str, others: int, long: tuple[int, ...] = LONG) -> float:
    """Return the median latency of a client with short calls next to a number of clients with long ones."""
    machine = Machine(name)
    machine.serve({"short": SHORT, **{f"long {each}": long for each in range(others)}}, CALLS, "short")
    return median(machine.latencies["short"])


def rows_per_second(name: str, clients: dict[str, tuple[int, ...]]) -> float:
    """Return the throughput with these clients."""
    machine = Machine(name)
    machine.serve(clients, 12, next(reversed(clients)))
    return machine.rows / (machine.now - 1000.0)


@pytest.mark.parametrize("others", [1, 4, 8, 24])
@pytest.mark.parametrize("name", MACHINES)
def test_short_call_takes_at_most_three_times_as_long_beside_long_calls(name: str, others: int) -> None:
    """However many jobs with 200 labels run, the median latency of calls with 8 labels is at most three times that
    without them."""
    assert p50_of_short(name, others) <= 3 * p50_of_short(name, 0)
    if others <= 8:
        assert p50_of_short(name, others, LABELS_ALIKE) <= 3 * p50_of_short(name, 0)


@pytest.mark.parametrize("name", MACHINES)
def test_fairness_costs_less_than_a_tenth_of_throughput(name: str) -> None:
    """With a client of short calls, throughput in rows per second is at least 0.9 of that without it, and the long
    calls end."""
    long = {f"long {each}": LONG for each in range(8)}
    assert rows_per_second(name, {"short": SHORT, **long}) >= 0.9 * rows_per_second(name, long)


@pytest.mark.parametrize("name", MACHINES)
def test_short_calls_do_not_starve_long_calls(name: str) -> None:
    """The median latency of a call with 200 labels next to eight clients with short calls stays within a fixed number
    of rounds of all clients."""
    machine = Machine(name)
    clients = {**{f"short {each}": SHORT for each in range(8)}, "long 0": LONG, "long 1": LONG}
    machine.serve(clients, 3, "long 1")
    alone = Machine(name)
    alone.serve({"long 1": LONG}, 3, "long 1")
    assert median(machine.latencies["long 1"]) <= (2 + LARGE_ROUNDS) * len(clients) * median(alone.latencies["long 1"])


def test_longer_text_fills_up_the_step_of_a_short_one() -> None:
    """Next to a text that is read to its end, a longer text adds half of that time to the step, rounded to a multiple
    of four rows, and nothing if only a few rows fit."""
    scheduler = taught(StepCostModel(0.001, 0.001, 0.0), depth=0)
    short, long = WorkItem("short", "", 39), WorkItem("long", "", 400)
    plan = scheduler.plan([short, long], 1.0)
    assert {"short": 39, "long": round(40 * FILL_SHARE) - 3} == {item.key: rows for item, rows in plan}
    (alone,) = scheduler.plan([short._replace(key="crumb", rows=20), long], 2.0)
    assert ("crumb", 20) == (alone[0].key, alone[1])


def test_rows_with_logits_fill_less_of_a_step() -> None:
    """Where logits cost as much as 0.4 rows, fewer rows fit into the time that others may add; where they cost two
    rows, none are added."""
    short, long = WorkItem("short", "", 45), WorkItem("long", "", 400, logits=True)
    filled = {}
    for logits_rows in (0.4, 2.0):
        scheduler = taught(StepCostModel(0.001, 0.001, 0.0), logits_rows, depth=0)
        filled[logits_rows] = {item.key: rows for item, rows in scheduler.plan([short, long], 1.0)}
    assert {0.4: {"short": 45, "long": int(46 * FILL_SHARE / 1.4)}, 2.0: {"short": 45}} == filled
