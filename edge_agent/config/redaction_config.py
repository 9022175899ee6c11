"""The section `redaction` of agent.yaml: the model that reads what the site captures, sends or shows elsewhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edge_agent.config.sections import ConfigSection, Seconds, TaskName


class RedactionConfig(ConfigSection):
    """A redaction model: what is captured or sent passes it and the rules, and either finds a value."""

    task: str = Field(
        default="",
        pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        description="The task of kind redact whose bundle reads every text; empty = rules alone.",
    )
    without_model: dict[TaskName, Literal["hold", "rules"]] = Field(
        default={},
        description="By task, while it does not answer: hold (default: nothing is written or sent) or rules.",
    )
    surrogates: tuple[TaskName, ...] = Field(
        default=(),
        max_length=1000,
        description="Tasks for which the large model reads made-up names in place of placeholders such as [CITY_1].",
    )
    seconds_max: Seconds = Field(default=10, description="Longest time for the texts of one example, in seconds.")
    audit_share: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of the texts that a person compares with their originals, which stay here; 0 = none.",
    )
    audit_examples_max: int = Field(default=200, ge=1, le=10_000, description="Most originals that are kept for it.")
    audit_days: float = Field(default=30, gt=0, le=3650, description="How long an original is kept for it, in days.")

    def holds(self, task: str) -> bool:
        """Tell whether texts of a task wait for the model, rather than pass by the rules alone."""
        return bool(self.task) and self.without_model.get(task, "hold") == "hold"
