"""Takes what the daemon knows of the large model; nobody is asked over the network."""

from __future__ import annotations

from edge_agent.doctor.escalation import LargeModelFacts
from edge_agent.doctor.findings import Unseen
from edge_agent.doctor.probes.serving import Case


def large_model(case: Case) -> LargeModelFacts | Unseen | None:
    """None = agent.yaml names none."""
    if not case.place.config.escalation.url:
        return None
    if case.status is None or case.status.large_model is None:
        return Unseen("the daemon does not say how the large model is")
    said = case.status.large_model
    return LargeModelFacts(
        model=said.model,
        online=said.online,
        affordable=said.affordable,
        reason=said.problem_reason,
        problem=said.problem,
        tasks=said.tasks,
        usual_ms=said.usual_ms,
        spent=(
            ("today", said.day_micros, said.day_micros_max),
            ("this month", said.month_micros, said.month_micros_max),
        ),
    )
