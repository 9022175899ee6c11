"""What the flywheel measures, call by call, summed up in blocks of calls; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from edge_agent.client import FieldSeries

BLOCK_CALLS = 100


class Call(NamedTuple):
    """One call."""

    right: bool
    """What the caller got."""
    large_right: bool
    """What the large model says of that text, asked or not."""
    local: bool
    """The small model answered."""
    abstained: bool
    local_label: str
    """What the small model says, whoever answered; empty where there is none."""
    large_label: str


@dataclass(frozen=True)
class Block:
    """Some calls in a row, all in one mode."""

    mode: str
    calls: int
    local_share: float
    accuracy: float
    large_accuracy: float
    cost: float
    """In the currency of the prices."""


@dataclass(frozen=True)
class ModeTotals:
    """All the calls of a mode."""

    calls: int
    right: int
    large_right: int
    local: int
    local_right: int
    abstained: int
    agreed: int
    """The small model says what the large one says, where it says something."""
    cost: float

    def plus(self, other: ModeTotals) -> ModeTotals:
        """Return the sum of both."""
        mine, theirs = asdict(self), asdict(other)
        return ModeTotals(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def accuracy(self) -> float:
        """Share of the calls that got the right label."""
        return self.right / self.calls

    @property
    def large_accuracy(self) -> float:
        """The same, had the large model answered all of them."""
        return self.large_right / self.calls

    @property
    def local_share(self) -> float:
        """Share of the calls that the small model answered."""
        return self.local / self.calls

    @property
    def local_wrong_share(self) -> float:
        """Share of its answers that are wrong."""
        return 1 - self.local_right / self.local if self.local else 0.0

    def plain(self) -> dict[str, float]:
        """Return it as JSON has it."""
        shares = ("accuracy", "large_accuracy", "local_share", "local_wrong_share")
        return {**asdict(self), **{name: round(getattr(self, name), 4) for name in shares}}


def sum_up(calls: Sequence[Call], cost: float) -> ModeTotals:
    """Sum calls up."""
    return ModeTotals(
        calls=len(calls),
        right=sum(call.right for call in calls),
        large_right=sum(call.large_right for call in calls),
        local=sum(call.local for call in calls),
        local_right=sum(call.local and call.right for call in calls),
        abstained=sum(call.abstained for call in calls),
        agreed=sum(call.local_label == call.large_label for call in calls),
        cost=round(cost, 6),
    )


def block(mode: str, calls: Sequence[Call], cost: float) -> Block:
    """Sum a block up."""
    found = sum_up(calls, cost)
    return Block(mode, found.calls, found.local_share, found.accuracy, found.large_accuracy, found.cost)


@dataclass
class Figures:
    """All figures of a run of the flywheel."""

    task: str
    large_model: str
    blocks: list[Block] = field(default_factory=list)
    modes: dict[str, ModeTotals] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Of collecting: what was reviewed, and what 'assess' says then."""
    model: dict[str, Any] = field(default_factory=dict)
    """The small one, as it was measured at the central team."""
    counted: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the site itself had counted after a mode: see `told`."""
    report: dict[str, Any] = field(default_factory=dict)
    """What 'edge-agent report' says at the end: see `advised`."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What each stage took."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        modes = {mode: found.plain() for mode, found in self.modes.items()}
        return {"schema": "edge-agent/flywheel/v1", **asdict(self), "modes": modes}


def told(series: FieldSeries) -> dict[str, Any]:
    """Take out of what a site has counted of a bundle what the flywheel shows."""
    whole = next(each.agreed for each in series.agreement if each.source == "shadow" and not each.label)
    alarms = [alarm.message for alarm in series.alarms]
    return {"agreed": whole.hits, "compared": whole.rows, "answers": series.totals["answers"], "alarms": alarms}


def advised(document: dict[str, Any]) -> dict[str, Any]:
    """Take out of a report on one task what the flywheel shows."""
    (task,) = document["tasks"]
    money = {name: task["money"][name] for name in ("answered_here", "spent_micros", "saved_micros")}
    return {**{name: task["advice"][name] for name in ("mode", "why", "because", "then")}, **money}


def parse(plain: dict[str, Any]) -> Figures:
    """Read what `Figures.plain` has written."""
    own = {each.name: plain[each.name] for each in fields(Figures)}
    sums = [each.name for each in fields(ModeTotals)]
    modes = {mode: ModeTotals(**{name: found[name] for name in sums}) for mode, found in plain["modes"].items()}
    return Figures(**{**own, "blocks": [Block(**each) for each in plain["blocks"]], "modes": modes})
