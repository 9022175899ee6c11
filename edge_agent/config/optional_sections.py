"""The sections of agent.yaml that few sites have: the large model, the redaction model, the console in a browser."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator

from edge_agent.config import sections
from edge_agent.config.sections import ConfigSection, Mode, Role, Seconds, TaskName
from edge_agent.errors import ConfigInvalid

CHAT_MEMBERS = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "response_format", "n"}
)
"""Members of a chat request that set the model, its input, its cost and the form of its answer."""
PARAMETERS_BYTES_MAX = 4096


class EscalationConfig(ConfigSection):
    """The large model: which tasks may ask it, its address, and its cost. Texts that are sent to it are redacted."""

    tasks: tuple[TaskName, ...] = Field(
        default=(), max_length=1000, description="Tasks whose inputs may go to the large model; none by default."
    )
    modes: dict[TaskName, Mode] = Field(
        default={}, description="Mode by task: local (default), hybrid, shadow or bootstrap; the plan can set another."
    )
    url: str = Field(
        default="", description="Base URL of an API like OpenAI's, https://models.example/v1; empty = none."
    )
    model: str = Field(default="", max_length=200, description="Name of the model there.")
    task_models: dict[TaskName, Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default={},
        max_length=1000,
        description="Name of the model by task, if it differs from 'model', e.g. the tasks of another appliance.",
    )
    protocol: Literal["chat", "decisions", "systemone"] = Field(
        default="chat",
        description="Protocol for classify and decide tasks; decisions and systemone give probabilities. Other"
        " tasks use chat.",
    )
    credentials_file: str = Field(
        default="", description="File with the key alone; empty = systemd's credential 'escalation', if given."
    )
    proxy_url: str = Field(
        default="", description="HTTP proxy on the way to it, http://proxy.example:3128; empty = none."
    )
    socket: str = Field(
        default="",
        description="Socket over which serve sends questions to the uplink; empty = escalation.sock in the"
        " uplink's notes_dir.",
    )
    calls_max: int = Field(
        default=4, ge=1, le=1000, description="Most questions in progress at a time; further ones are not asked."
    )
    seconds_max: Seconds = Field(default=30, description="Longest time for an answer, in seconds.")
    connect_seconds_max: Seconds = Field(default=3, description="Longest time for a connection, in seconds.")
    answer_tokens_max: int = Field(default=1024, ge=1, le=131_072, description="Longest answer, in tokens.")
    thinking_tokens_max: int = Field(
        default=0,
        ge=0,
        le=131_072,
        description="Tokens that a reasoning model can use before its answer, in addition to those of the answer.",
    )
    parameters: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], JsonValue] = Field(
        default={},
        max_length=32,
        description="Further members of each request to the chat API, e.g. {reasoning_effort: low}.",
    )
    answer_bytes_max: int = Field(
        default=2**20, ge=1024, le=2**26, description="Largest answer, including the HTTP response around it, in bytes."
    )
    input_token_price: float = Field(
        default=0, ge=0, le=1e6, description="Price of a million input tokens, in your currency."
    )
    output_token_price: float = Field(
        default=0, ge=0, le=1e6, description="Price of a million output tokens, in your currency."
    )
    day_cost_max: float = Field(default=0, ge=0, le=1e9, description="Cap for a day (UTC), in your currency; 0 = none.")
    month_cost_max: float = Field(
        default=0, ge=0, le=1e9, description="Cap for a month (UTC), in your currency; 0 = none."
    )
    retry_seconds_first: Seconds = Field(
        default=2, description="Longest pause after the first failure, in seconds; doubles with each further one."
    )
    retry_seconds_max: Seconds = Field(default=300, description="Longest pause after many failures, in seconds.")
    audit_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of the confident answers about which the large model is asked later (an audit); only"
        " in mode hybrid.",
    )
    later_questions_max: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="Most questions that wait until they can be asked, and as many audits; beyond that, the"
        " oldest are deleted. 0 = none.",
    )
    later_bytes_max: int = Field(
        default=16 * 2**20, ge=2**16, description="The same in bytes, for each; also for answers that wait."
    )
    later_seconds_max: float = Field(
        default=7 * 86_400,
        gt=0,
        le=366 * 86_400,
        description="Age up to which a deferred question is asked, in seconds for which the daemon runs.",
    )
    later_cost_share: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Share of each cap that deferred questions can use; the rest is for callers.",
    )

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, value: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted(value.keys() & CHAT_MEMBERS):
            raise ValueError(f"{', '.join(reserved)}: the uplink sets this itself")
        try:
            size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
        except ValueError:
            raise ValueError("it holds a number that JSON cannot hold (.nan, .inf), or half a character") from None
        if size > PARAMETERS_BYTES_MAX:
            raise ValueError(f"it has {size} bytes as JSON; the limit is {PARAMETERS_BYTES_MAX}")
        return value


class RedactionConfig(ConfigSection):
    """A redaction model: it reads every text that is captured or sent to the large model, in addition to the rules."""

    task: str = Field(
        default="",
        pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        description="The task of kind redact whose bundle reads every text; empty = only the rules.",
    )
    without_model: dict[TaskName, Literal["hold", "rules"]] = Field(
        default={},
        description="By task, while the model does not answer: hold (default: nothing is stored or sent) or"
        " rules (the rules are enough).",
    )
    surrogates: tuple[TaskName, ...] = Field(
        default=(),
        max_length=1000,
        description="Tasks for which the large model gets made-up names in place of placeholders such as [CITY_1].",
    )
    seconds_max: Seconds = Field(default=10, description="Longest time for the texts of one example, in seconds.")
    audit_share: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of the texts that people compare with their originals (an audit); originals stay on"
        " the site. 0 = none.",
    )
    audit_examples_max: int = Field(
        default=200, ge=1, le=10_000, description="Most originals that are stored for the audit."
    )
    audit_days: float = Field(
        default=30, gt=0, le=3650, description="How long an original is stored for the audit, in days."
    )

    def holds(self, task: str) -> bool:
        """Tell whether texts of a task wait for the model, rather than pass by the rules alone."""
        return bool(self.task) and self.without_model.get(task, "hold") == "hold"


TOKEN_NAME = "web-token"  # noqa: S105 - the name of a file


class WebConfig(ConfigSection):
    """The console and the HTTP gateway, of 'edge-agent serve web'. Without that command nothing listens."""

    address: str = Field(
        default="127.0.0.1:8390",
        description="Address to listen on, e.g. 0.0.0.0:9443; if other machines reach it, the three files below"
        " are required.",
    )
    names: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="Names by which browsers reach it, e.g. [till-3.shop, 'localhost:8391'], in addition to"
        " 'address' and those in its certificate.",
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
        description="File of the token that admits browsers; created if it is missing. Empty ="
        " edge-agent/web-token in the state directory of the user who starts it.",
    )
    certificate_file: str = Field(
        default="",
        description="Its certificate and the certificates that issued it, PEM. If set, the next two are required.",
    )
    key_file: str = Field(default="", description="Its private key, PEM.")
    client_ca_file: str = Field(
        default="",
        description="Authorities that may issue certificates of browsers' users, PEM; 'roles' under 'access'"
        " applies, too.",
    )
    session_seconds_max: Seconds = Field(
        default=43_200, description="How long a browser's session lasts after it has sent the token, in seconds."
    )
    connections_max: int = Field(
        default=64, ge=1, le=10_000, description="Most connections of browsers; further ones get 'try again later'."
    )
    body_bytes_max: int = Field(default=4 * 2**20, ge=1024, le=2**30, description="Largest request, in bytes.")
    request_seconds_max: Seconds = Field(
        default=30,
        description="Longest time until an answer begins, in seconds, including the time to receive the request; under"
        " /v1 only the time to receive it.",
    )
    silent_seconds_max: Seconds = Field(
        default=20,
        description="Longest time that an open connection can be without a request, in seconds; then it is closed.",
    )

    @property
    def has_tls(self) -> bool:
        """Whether browsers connect with TLS, and need a certificate."""
        return bool(self.certificate_file)


def check_web(web: WebConfig, source: str) -> None:
    """Require certificates if other machines can reach the console. Raises ConfigInvalid."""
    try:
        host, _ = sections.split_host_port(web.address)
    except ValueError as error:
        raise ConfigInvalid(f"{source}: web.address: {error}", remedy="Correct it, or leave it out.") from None
    files = {key: getattr(web, key) for key in ("certificate_file", "key_file", "client_ca_file")}
    missing = [f"web.{key}" for key, path in files.items() if not path]
    if missing and len(missing) < len(files):
        raise ConfigInvalid(f"{source}: TLS of the console needs {' and '.join(missing)} as well", remedy=_TLS_REMEDY)
    if missing and not sections.is_loopback(host):
        raise ConfigInvalid(
            f"{source}: web.address is {web.address}, which others than this machine may reach", remedy=_TLS_REMEDY
        )


_TLS_REMEDY = (
    "Name the three files that 'sudo edge-agent certs init' makes, or choose 127.0.0.1: a token must not cross a"
    " network."
)


def token_path(web: WebConfig, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the token's file."""
    if web.token_file:
        return Path(web.token_file)
    home = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - by the user, too
    return Path(home) / "edge-agent" / TOKEN_NAME
