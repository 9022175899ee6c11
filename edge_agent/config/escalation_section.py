"""The section `escalation` of agent.yaml: the large model of a site."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.config.sections import ConfigSection, Mode, Seconds, TaskName


class EscalationConfig(ConfigSection):
    """The large model: which tasks may ask it, where it is, and what it may cost. What leaves for it is redacted."""

    tasks: tuple[TaskName, ...] = Field(
        default=(), max_length=1000, description="Tasks whose inputs may go to the large model; none by default."
    )
    modes: dict[TaskName, Mode] = Field(
        default={},
        description="Who answers, by task: local (default), hybrid, shadow or bootstrap; the plan may say other.",
    )
    url: str = Field(
        default="",
        description="Base URL of an API like OpenAI's, https://models.example/v1; empty = none.",
    )
    model: str = Field(default="", max_length=200, description="Its name there.")
    task_models: dict[TaskName, Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default={},
        max_length=1000,
        description="Its name there by task, where that is not 'model', e.g. the tasks of another appliance.",
    )
    protocol: Literal["chat", "decisions", "systemone"] = Field(
        default="chat",
        description="How it is asked to choose; decisions and systemone give probabilities. Other tasks use chat.",
    )
    credentials_file: str = Field(
        default="", description="File with the key alone; empty = systemd's credential 'escalation', if given."
    )
    socket: str = Field(
        default="", description="Where serve asks the uplink; empty = escalation.sock in the uplink's notes_dir."
    )
    calls_max: int = Field(
        default=4, ge=1, le=1000, description="Questions under way at a time; one more is not asked."
    )
    seconds_max: Seconds = Field(default=30, description="Longest time for an answer, in seconds.")
    connect_seconds_max: Seconds = Field(default=3, description="Longest time for a connection, in seconds.")
    answer_tokens_max: int = Field(default=1024, ge=1, le=131_072, description="Longest answer, in tokens.")
    answer_bytes_max: int = Field(
        default=2**20, ge=1024, le=2**26, description="Largest answer with what HTTP wraps around it, in bytes."
    )
    input_token_price: float = Field(
        default=0, ge=0, le=1e6, description="Price of a million tokens of questions, in your currency."
    )
    output_token_price: float = Field(
        default=0, ge=0, le=1e6, description="Price of a million tokens of answers, in your currency."
    )
    day_cost_max: float = Field(default=0, ge=0, le=1e9, description="Cap for a day (UTC), in your currency; 0 = none.")
    month_cost_max: float = Field(
        default=0, ge=0, le=1e9, description="Cap for a month (UTC), in your currency; 0 = none."
    )
    retry_seconds_first: Seconds = Field(
        default=2, description="Longest pause after a failure, in seconds; doubles with each."
    )
    retry_seconds_max: Seconds = Field(default=300, description="Longest pause after many failures, in seconds.")
    audit_share: float = Field(
        default=0.01, ge=0, le=1, description="Share of the sure answers that is also asked, later; mode hybrid only."
    )
    later_questions_max: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="Questions put off until they can be asked, and as many audits; then the oldest go. 0 = none.",
    )
    later_bytes_max: int = Field(
        default=16 * 2**20, ge=2**16, description="The same in bytes, for each; also what waits of the answers."
    )
    later_seconds_max: float = Field(
        default=7 * 86_400, gt=0, le=366 * 86_400, description="Oldest question that is asked, in running seconds."
    )
    later_cost_share: float = Field(
        default=0.8, ge=0, le=1, description="Share of each cap that leaves the rest to callers: beyond, none is asked."
    )
