"""Who computes how many tokens in the next step. Pure: no clock, no model.

A step has a budget of rows and one adapter group, because adapters belong to the whole batch. Within the group, lanes
that write text come first, one row each, so that streams stay smooth; the others share the rest. Everywhere the one
that has waited longest goes first, groups as well as lanes, so nobody starves: a lane moves within (groups x lanes)
steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lane:
    """What one job wants to compute."""

    key: str
    group: str
    rows: int
    """Tokens that could be computed now; at least 1."""
    least: int = 1
    """Fewer rows than these are no use; at most half of the budget."""
    decoding: bool = False


class _Queue:
    """Remembers for each key when it last had its turn; a new key counts as served just before its first step."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, float] = {}

    def arrive(self, keys: Iterable[Hashable], now: int) -> None:
        self._turns = {key: self._turns.get(key, now - 0.5) for key in keys}

    def serve(self, key: Hashable, now: int) -> None:
        self._turns[key] = now

    def turn(self, key: Hashable) -> float:
        return self._turns[key]


class Scheduler:
    """Plans one step after the other."""

    def __init__(self, budget: int) -> None:
        """Take the most rows that a step may have."""
        self._budget = budget
        self._step = 0
        self._lanes = _Queue()
        self._groups = _Queue()

    def plan(self, lanes: Sequence[Lane]) -> list[tuple[Lane, int]]:
        """Return lanes of one group and their rows: `least` to `rows` each, `budget` at most together."""
        if not lanes:
            return []
        self._step += 1
        self._lanes.arrive((lane.key for lane in lanes), self._step)
        self._groups.arrive((lane.group for lane in lanes), self._step)
        group = min((lane.group for lane in lanes), key=self._groups.turn)
        self._groups.serve(group, self._step)
        chosen = sorted((lane for lane in lanes if lane.group == group), key=lambda lane: self._lanes.turn(lane.key))
        plan = self._share(chosen)
        for lane, _ in plan:
            self._lanes.serve(lane.key, self._step)
        return plan

    def _share(self, lanes: list[Lane]) -> list[tuple[Lane, int]]:
        decoding = [lane for lane in lanes if lane.decoding]
        others = [lane for lane in lanes if not lane.decoding]
        room = self._budget - self._budget // 2 if others else self._budget
        plan = [(lane, 1) for lane in decoding[:room]]
        left = self._budget - len(plan)
        for lane in others:
            if lane.least <= left:
                rows = min(lane.rows, left)
                plan.append((lane, rows))
                left -= rows
        return plan
