"""docs/routing.md's table, made from the policy; `python -m tests.support.decision_table` regenerates it.

The whole table has a row for each mode, wish, doubt and obstacle; rows that lead to the same are shown as one.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

from edge_agent.formats.calibration_and_gate import OodGate, Threshold, TypicalInputs
from edge_agent.formats.plan import Mode
from edge_agent.routing import policy
from edge_agent.routing.policy import (
    BLOCKERS,
    PERMANENT_BLOCKERS,
    EscalationContext,
    InputObservation,
    LowConfidencePolicy,
    RouteDecision,
    RouteReason,
)

PAGE = Path(__file__).parents[2] / "docs" / "routing.md"
BEGIN, END = "<!-- made by python -m tests.support.decision_table -->", "<!-- end -->"
CALIBRATED = Threshold(
    temperature=1.0,
    threshold=0.8,
    target_risk=0.05,
    delta=0.1,
    n=100,
    bound=0.04,
    coverage=0.7,
    floor=0.85,
    gate=OodGate(score="ood_score", held_up_max=0.25, scores=(1.0, 2.0, 3.0)),
    novelty=TypicalInputs(input_tokens_min=3, input_tokens_max=20),
)
DOUBTS = {
    "sure": (0.9, InputObservation(5, ood_score=0.0)),
    "unusual": (0.9, InputObservation(50, ood_score=0.0)),
    "unsure": (0.3, InputObservation(5, ood_score=0.0)),
    "unlikely": (0.82, InputObservation(5, ood_score=0.0)),
    "strange": (0.9, InputObservation(5, ood_score=4.0)),
    "varying": (0.9, InputObservation(5, scores_vary=True, ood_score=0.0)),
}
NOT_CONFIDENT = "unsure or unlikely or strange or varying"
"""Written shorter where all of them lead to the same, which is everywhere."""
MODES: tuple[Mode, ...] = get_args(Mode)
WISHES: tuple[LowConfidencePolicy, ...] = get_args(LowConfidencePolicy)
OBSTACLES: tuple[RouteReason | None, ...] = (None, *BLOCKERS)


def decided(
    mode: Mode, wish: LowConfidencePolicy, doubt: str, obstacle: RouteReason | None, *, kept: bool = False
) -> RouteDecision:
    """Decide as the server does: before the local model runs, or from its answer."""
    asked = EscalationContext(mode, wish, obstacle, kept)
    return policy.decide_before_local_answer(asked) or policy.decide_graded(
        DOUBTS[doubt][0], CALIBRATED, asked, DOUBTS[doubt][1]
    )


def rows() -> list[tuple[str, str, str, str, str]]:
    """Return mode, answer, preference, escalation blocker and route; rows with the same route are merged."""
    kinds: dict[str, tuple[RouteReason | None, ...]] = {
        "none": (None,),
        "not configured or not allowed": tuple(PERMANENT_BLOCKERS),
        "any other": tuple(each for each in BLOCKERS if each not in PERMANENT_BLOCKERS),
    }
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for mode, doubt, wish in itertools.product(MODES, DOUBTS, WISHES):
        for name, obstacles in kinds.items():
            (route,) = {_route(mode, wish, doubt, each) for each in obstacles}
            found.setdefault((mode, doubt, name, route), []).append(wish)
    return [
        (mode, doubt, "any" if len(wishes) == len(WISHES) else ", ".join(wishes), name, route)
        for (mode, doubt, name, route), wishes in found.items()
    ]


def _route(mode: Mode, wish: LowConfidencePolicy, doubt: str, obstacle: RouteReason | None) -> str:
    """Return the route, and the other one of an input that is captured."""
    plain, kept = (decided(mode, wish, doubt, obstacle, kept=each).route.upper() for each in (False, True))
    return plain if plain == kept else f"{plain}; {kept} if captured"


def table() -> str:
    """Return the table in Markdown."""
    head = ("mode", "local answer", "`on_low_confidence`", "escalation blocker", "route")
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *_fewer(rows()))]
    return "\n".join(lines)


def _fewer(every: list[tuple[str, str, str, str, str]]) -> list[tuple[str, str, str, str, str]]:
    """Merge rows that differ only in the escalation blocker, then those that differ only in the local answer."""
    for column in (3, 1):
        merged: dict[tuple[str, ...], list[str]] = {}
        for row in every:
            merged.setdefault(row[:column] + row[column + 1 :], []).append(row[column])
        whole = len(dict.fromkeys(row[column] for row in every))
        every = []
        for rest, values in merged.items():
            said = (
                "any"
                if len(values) == whole
                else " or ".join(values).replace(NOT_CONFIDENT, "not confident").replace("sure", "confident")
            )
            every.append((*rest[:column], said, *rest[column:]))  # type: ignore[arg-type]
    return every


def page() -> str:
    """Return the page with the table of today in it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
