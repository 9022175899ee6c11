"""The sections of agent.yaml that few sites have: the large model, the redaction model, the console in a browser."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edge_agent.config import sections
from edge_agent.config.sections import ConfigSection, Mode, Role, Seconds, TaskName
from edge_agent.errors import ConfigInvalid


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


TOKEN_NAME = "web-token"  # noqa: S105 - the name of a file


class WebConfig(ConfigSection):
    """The console and the HTTP gateway, which 'edge-agent serve web' serves; without it nothing of this listens."""

    address: str = Field(
        default="127.0.0.1:8390",
        description="Listen there, e.g. 0.0.0.0:9443; what others than this machine reach needs the three files below.",
    )
    names: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="Names by which browsers reach it, e.g. [till-3.shop, 'localhost:8391'], beside 'address' and those"
        " in its certificate.",
    )
    roles: tuple[Role, ...] = Field(
        default=("infer", "feedback", "admin"),
        description="Sockets of the daemon that it uses, by their role: infer = tasks and /v1, feedback = reviews,"
        " admin = health and charts.",
    )
    remote_file: str = Field(
        default="", description="The remote.yaml of a daemon over the network; empty = the sockets below run_dir."
    )
    token_file: str = Field(
        default="",
        description="Secret that lets browsers of this machine in; made where it is not there. Empty ="
        " edge-agent/web-token in the state directory of the user who starts it.",
    )
    certificate_file: str = Field(
        default="", description="Its certificate and what it was issued by, PEM. With it the next two are needed."
    )
    key_file: str = Field(default="", description="Its private key, PEM.")
    client_ca_file: str = Field(
        default="", description="Who may issue certificates of visitors, PEM; 'roles' under 'access' counts here, too."
    )
    session_seconds_max: Seconds = Field(
        default=43_200, description="How long a browser is known after it has shown the token, in seconds."
    )
    connections_max: int = Field(
        default=64, ge=1, le=10_000, description="Connections of browsers; one more gets 'try again later'."
    )
    body_bytes_max: int = Field(default=4 * 2**20, ge=1024, le=2**30, description="Largest request, in bytes.")
    request_seconds_max: Seconds = Field(
        default=30,
        description="Longest time until an answer begins, in seconds, the request's own way included; under /v1 that"
        " way alone.",
    )
    silent_seconds_max: Seconds = Field(
        default=20, description="Longest wait for a request on an open connection, in seconds; then it is closed."
    )

    @property
    def has_tls(self) -> bool:
        """Visitors come with certificates."""
        return bool(self.certificate_file)


def check_web(web: WebConfig, source: str) -> None:
    """Let others than this machine in with certificates alone. Raises ConfigInvalid."""
    try:
        host, _ = sections.split_host_port(web.address)
    except ValueError as error:
        raise ConfigInvalid(f"{source}: web.address: {error}", remedy="Correct it, or leave it out.") from None
    given = {key: getattr(web, key) for key in ("certificate_file", "key_file", "client_ca_file")}
    missing = [f"web.{key}" for key, path in given.items() if not path]
    if missing and len(missing) < len(given):
        raise ConfigInvalid(f"{source}: TLS of the console needs {' and '.join(missing)} as well", remedy=_CERTS)
    if missing and not sections.is_loopback(host):
        raise ConfigInvalid(
            f"{source}: web.address is {web.address}, which others than this machine may reach", remedy=_CERTS
        )


_CERTS = (
    "Name the three files that 'sudo edge-agent certs init' makes, or choose 127.0.0.1: a token must not cross a"
    " network."
)


def token_path(web: WebConfig, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the token lies."""
    if web.token_file:
        return Path(web.token_file)
    home = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - by the user, too
    return Path(home) / "edge-agent" / TOKEN_NAME
