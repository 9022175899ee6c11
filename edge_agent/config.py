"""agent.yaml: one section per room, every limit with its unit, defaults that work without a file.

Sources, the later one wins: the defaults below, the directories that systemd hands over, the file (`--config`,
`$EDGE_AGENT_CONFIG`, or /etc/edge-agent/agent.yaml if it is there), the command line. An unknown key is an error that
names the nearest known one. Only this module reads the environment. The result is frozen; each room gets
its own section.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edge_agent.errors import ConfigInvalid, SocketPathTooLong

DEFAULT_PATH = Path("/etc/edge-agent/agent.yaml")
CONFIG_BYTES_MAX = 1024 * 1024
_SECRET = re.compile("secret|key|token|password|sas|credential|authorization", re.IGNORECASE)
SOCKET_PATH_BYTES_MAX = 107  # sun_path of unix(7) has 108 with the final NUL

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Consent = Literal["off", "local", "upstream"]
RuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
ReceiptKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LogConfig(_Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe level shown.")
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto = console on a terminal, JSON lines otherwise."
    )


class StoreConfig(_Section):
    """What may be installed."""

    allow_unsigned: bool = Field(
        default=False, description="Install bundles without a signature. Every status then says so."
    )
    bundle_bytes_max: int = Field(default=16 * 2**30, ge=1, description="Largest bundle, all files together, in bytes.")
    bundles_per_task_max: int = Field(
        default=10, ge=2, le=1000, description="Versions kept for each task; the oldest idle one makes room."
    )
    disk_reserve_bytes: int = Field(
        default=64 * 2**20, ge=0, description="Bytes that an install must leave free on the disk."
    )


class EngineConfig(_Section):
    """Engines: one model in one child process each."""

    cpu_threads: int = Field(default=0, ge=0, le=1024, description="Threads for all engines; 0 = one for each core.")
    sequences_max: int = Field(default=8, ge=1, le=64, description="Requests that one engine computes together.")
    queue_requests_max: int = Field(
        default=64, ge=1, le=100_000, description="Inputs waiting for one engine; one more is refused."
    )
    load_seconds_max: Seconds = Field(
        default=120, description="Longest time that loading a model may take, in seconds."
    )
    heartbeat_seconds_max: Seconds = Field(
        default=30,
        description="Longest silence of an engine with work, in seconds; then it is killed and started again.",
    )
    restart_seconds_first: Seconds = Field(
        default=0.5,
        description="First pause before a restart, in seconds, less the time that it was up; doubles with each.",
    )
    restart_seconds_max: Seconds = Field(default=60, description="Longest pause before a restart, in seconds.")
    load_failures_max: int = Field(
        default=3, ge=1, le=100, description="Loads that may fail in a row; then the engine is left alone."
    )
    memory_bytes_max: int = Field(
        default=0, ge=0, description="Memory for all engines together, in bytes; 0 = what the machine has."
    )
    memory_reserve_bytes: int = Field(
        default=256 * 2**20, ge=0, description="Memory that engines leave to the rest of the machine, in bytes."
    )
    swap: Literal["overlap", "pause"] = Field(
        default="overlap",
        description="pause = the old version of a task stops before the new one loads: half the memory, and a gap.",
    )
    quarantine_seconds: float = Field(
        default=3600,
        ge=0,
        le=30 * 86_400,
        description="Time for which an input that killed its engine is refused, in seconds.",
    )


class ServiceConfig(_Section):
    """The gRPC edge."""

    tcp_address: str = Field(
        default="", description="Also listen there, e.g. 127.0.0.1:9443; empty = Unix sockets only."
    )
    insecure: bool = Field(default=False, description="Allow tcp_address without TLS. Anyone who reaches it may infer.")
    inference_group: str = Field(
        default="", description="Group that may use inference.sock (mode 0660); empty = the daemon's own."
    )
    review_group: str = Field(
        default="", description="Group that may use review.sock (mode 0660); empty = the daemon's own."
    )
    message_bytes_max: int = Field(
        default=4 * 2**20, ge=1024, le=2**30, description="Largest request or response message, in bytes."
    )
    calls_max: int = Field(default=256, ge=1, le=100_000, description="Inference calls in progress on all connections.")
    devices_priority: int = Field(
        default=1,
        ge=0,
        le=10,
        description="Turn of calls on inference.sock and TCP; each step is like coming 1 s later.",
    )
    operator_priority: int = Field(default=0, ge=0, le=10, description="Turn of calls on admin.sock.")
    deadline_seconds_default: Seconds = Field(
        default=60, description="Deadline of a call that comes without one, in seconds."
    )
    drain_seconds: Seconds = Field(
        default=10, description="Time that running calls get to finish when the daemon stops, in seconds."
    )
    request_ids_max: int = Field(
        default=1024,
        ge=0,
        le=1_000_000,
        description="Answers remembered by request_id, so that a retry is not run twice.",
    )
    request_id_seconds: Seconds = Field(default=300, description="How long they are remembered, in seconds.")


class ExamplesConfig(_Section):
    """Examples: what is kept of inputs and answers, redacted, for review and training."""

    collect: dict[str, Consent] = Field(
        default={},
        description="Consent by task, e.g. {pos-intent: upstream}: off, local (stays here), upstream (may leave).",
    )
    keep_fields: dict[str, tuple[str, ...]] = Field(
        default={}, description="By task: fields marked as personal that may be kept all the same."
    )
    site_rules: dict[RuleName, str] = Field(
        default={},
        description="Patterns (RE2) to redact beside the built-in ones, by name: {loyalty: 'LC[0-9]+'}.",
    )
    presidio_pipeline: str = Field(
        default="", description="Directory of a spaCy pipeline that finds names; needs the extra 'presidio'."
    )
    window_seconds: float = Field(
        default=86_400,
        gt=0,
        le=366 * 86_400,
        description="How long an answer waits for feedback, in running seconds.",
    )
    spool_bytes_max: int = Field(
        default=256 * 2**20, ge=2**20, description="Examples on disk, in bytes; then routine ones are given up first."
    )
    disk_reserve_bytes: int = Field(
        default=256 * 2**20, ge=0, description="Disk that examples leave to everything else, in bytes."
    )
    input_characters_max: int = Field(
        default=32_768, ge=1, le=2**20, description="Longest input that is kept, in characters."
    )
    queue_examples_max: int = Field(
        default=4096, ge=1, le=1_000_000, description="Answers that wait in memory to be written; more are dropped."
    )
    queue_bytes_max: int = Field(default=16 * 2**20, ge=2**16, description="The same in bytes.")
    commit_examples_max: int = Field(default=256, ge=1, le=100_000, description="Examples written in one commit.")
    commit_seconds: Seconds = Field(default=0.2, description="Longest time before they are committed, in seconds.")
    routine_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of the sure answers without feedback that is sealed, 0 to 1."
    )
    segment_bytes_max: int = Field(
        default=4 * 2**20, ge=2**16, le=2**26, description="Records in one sealed segment, in bytes before packing."
    )
    seal_seconds: Seconds = Field(default=3600, description="Longest time before records are sealed, in seconds.")
    outbox_bytes_max: int = Field(
        default=2**30, ge=2**20, description="Sealed segments waiting for their receipt, in bytes."
    )

    @field_validator("collect", mode="before")
    @classmethod
    def _off_is_a_word(cls, collect: object) -> object:
        # YAML reads a bare 'off' as false.
        return {t: "off" if c is False else c for t, c in collect.items()} if isinstance(collect, dict) else collect


class SiteConfig(_Section):
    """The site, as the centre knows it."""

    id: str = Field(
        default="",
        pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        description="Name of the site: a-z, 0-9, '-'.",
    )
    recipients: tuple[str, ...] = Field(
        default=(), max_length=20, description="age public keys of the centre (age1…); each opens what is sealed."
    )
    receipt_keys: tuple[ReceiptKey, ...] = Field(
        default=(), max_length=20, description="Ed25519 keys, in hexadecimal, whose receipts let the site delete."
    )
    outbox_dir: str = Field(default="", description="Sealed segments and status; empty = outbox below state_dir.")
    receipts_dir: str = Field(default="", description="Receipts of the centre; empty = receipts below state_dir.")


class UplinkConfig(_Section):
    """The uplink: what is brought to the centre, and how. It alone has a way out, and runs as a user of its own."""

    url: str = Field(
        default="",
        description="s3://bucket/path, gs://…, az://container/path, https://host/path, or a folder; empty = nowhere.",
    )
    options: dict[str, str] = Field(
        default={}, description="Of the store, nothing secret, e.g. {endpoint: 'https://s3.example', region: eu-1}."
    )
    credentials_file: str = Field(
        default="", description="YAML file with the store's secrets; empty = systemd's credential 'uplink', if given."
    )
    notes_dir: str = Field(default="", description="The uplink's own notes; empty = uplink below state_dir.")
    bytes_per_second_max: int = Field(
        default=0, ge=0, description="What it may send on average, in bytes per second; 0 = no cap."
    )
    bytes_per_second_min: int = Field(
        default=4096, ge=64, description="Slowest transfer that is waited for, in bytes per second."
    )
    request_seconds_max: Seconds = Field(
        default=30, description="Longest time for a request, beside that for its content, in seconds."
    )
    scan_seconds: Seconds = Field(default=5, description="Time between two looks into the outbox, in seconds.")
    heartbeat_seconds: Seconds = Field(
        default=900, description="Longest time between two uploads of the status object, in seconds."
    )
    receipts_seconds: Seconds = Field(default=300, description="Time between two questions for receipts, in seconds.")
    recheck_seconds: float = Field(
        default=7 * 86_400,
        gt=0,
        le=366 * 86_400,
        description="A segment without receipt is looked for upstream again after this time, in seconds.",
    )
    retry_seconds_first: Seconds = Field(
        default=2, description="Longest pause after a failure, in seconds; doubles with each."
    )
    retry_seconds_max: Seconds = Field(default=900, description="Longest pause after many failures, in seconds.")
    failures_max: int = Field(
        default=3, ge=1, le=100, description="Failures in a row after which the upstream counts as offline."
    )


class Config(_Section):
    """The whole file."""

    state_dir: Path = Field(
        default=Path("/var/lib/edge-agent"), description="Installed bundles and state.db; one daemon owns it."
    )
    run_dir: Path = Field(default=Path("/run/edge-agent"), description="Sockets.")
    log: LogConfig = LogConfig()
    store: StoreConfig = StoreConfig()
    engine: EngineConfig = EngineConfig()
    service: ServiceConfig = ServiceConfig()
    examples: ExamplesConfig = ExamplesConfig()
    site: SiteConfig = SiteConfig()
    uplink: UplinkConfig = UplinkConfig()

    @property
    def inference_socket(self) -> Path:
        """The socket of the devices."""
        return self.run_dir / "inference.sock"

    @property
    def admin_socket(self) -> Path:
        """The socket of the operator."""
        return self.run_dir / "admin.sock"

    @property
    def review_socket(self) -> Path:
        """The socket of the reviewers."""
        return self.run_dir / "review.sock"

    @property
    def outbox(self) -> Path:
        """Where what leaves the site lies."""
        return Path(self.site.outbox_dir) if self.site.outbox_dir else self.state_dir / "outbox"

    @property
    def receipts(self) -> Path:
        """Where the centre's receipts arrive."""
        return Path(self.site.receipts_dir) if self.site.receipts_dir else self.state_dir / "receipts"

    @property
    def uplink_notes(self) -> Path:
        """Where the uplink's own notes lie, and what it says of itself."""
        return Path(self.uplink.notes_dir) if self.uplink.notes_dir else self.state_dir / "uplink"


@dataclass(frozen=True)
class Overrides:
    """What the command line says; None = nothing."""

    state_dir: Path | None = None
    run_dir: Path | None = None


def load(
    path: Path | None = None, overrides: Overrides | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """Read the configuration.

    Raises:
        ConfigInvalid: the file cannot be read, is not YAML, has an unknown key or a value out of range.
        SocketPathTooLong: a socket below run_dir has more than 107 bytes.
    """
    named = path or (Path(environ["EDGE_AGENT_CONFIG"]) if environ.get("EDGE_AGENT_CONFIG") else None)
    source = named or DEFAULT_PATH
    plain = _read(source, optional=named is None)
    # A section whose keys are all commented out reads as nothing.
    plain = {key: {} if value is None and key in _sections() else value for key, value in plain.items()}
    config = _validate(_with_places(plain, overrides or Overrides(), environ), str(source))
    if not config.service.insecure and config.service.tcp_address:
        raise ConfigInvalid(
            f"{source}: service.tcp_address is set without TLS",
            remedy="Set 'insecure: true' beside it if everyone on that network may use the models, or remove it.",
        )
    _check_consent(config, str(source))
    _check_secrets(config.uplink, str(source))
    sockets = (config.inference_socket, config.review_socket, config.admin_socket)
    longest = max(len(os.fsencode(sock)) for sock in sockets)
    if longest > SOCKET_PATH_BYTES_MAX:
        raise SocketPathTooLong(
            f"a socket below run_dir {config.run_dir} has {longest} bytes; the limit is {SOCKET_PATH_BYTES_MAX}"
        )
    return config


def _check_consent(config: Config, source: str) -> None:
    leaving = sorted(task for task, consent in config.examples.collect.items() if consent == "upstream")
    site = config.site
    given = {"id": site.id, "recipients": site.recipients, "receipt_keys": site.receipt_keys}
    missing = [f"site.{key}" for key, value in given.items() if not value]
    if leaving and missing:
        raise ConfigInvalid(
            f"{source}: examples of {', '.join(leaving)} may leave the site, but {', '.join(missing)} is not set",
            remedy="Set it to what the centre gave you, or choose 'local' under examples.collect.",
        )


def _check_secrets(uplink: UplinkConfig, source: str) -> None:
    """Keep secrets out of a file that other users may read, and out of what is logged."""
    found = sorted(name for name in uplink.options if _SECRET.search(name))
    authority, _, _ = uplink.url.partition("://")[2].partition("/")
    if "@" in authority or "?" in uplink.url:
        found.append("the user or query of uplink.url")
    if found:
        raise ConfigInvalid(
            f"{source}: uplink: {', '.join(found)} may be a secret, and this file is no place for one",
            remedy="Write it into a file that only the uplink's user may read, and name that in 'credentials_file'.",
        )


def _with_places(plain: dict[str, Any], overrides: Overrides, environ: Mapping[str, str]) -> dict[str, Any]:
    # systemd sets these from StateDirectory= and RuntimeDirectory=; several are joined by colons.
    handed = {"state_dir": environ.get("STATE_DIRECTORY"), "run_dir": environ.get("RUNTIME_DIRECTORY")}
    from_systemd = {key: value.split(":")[0] for key, value in handed.items() if value}
    given = {key: str(value) for key, value in vars(overrides).items() if value is not None}
    uplink = plain.get("uplink", {})
    credential = Path(environ.get("CREDENTIALS_DIRECTORY", ""), "uplink")
    if isinstance(uplink, dict) and environ.get("CREDENTIALS_DIRECTORY") and credential.exists():
        plain = {**plain, "uplink": {"credentials_file": str(credential), **uplink}}
    return {**from_systemd, **plain, **given}


def _read(path: Path, *, optional: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
        plain = yaml.safe_load(text) if len(text) <= CONFIG_BYTES_MAX else "too large"
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy="Check --config.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or number that is none
        raise ConfigInvalid(f"{path} is not valid YAML: {error}", remedy="Mend the line it names.") from None
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigInvalid(f"{path} must hold keys and values, and at most {CONFIG_BYTES_MAX} bytes")
    return plain


def _validate(plain: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            raise ConfigInvalid(f"{source}: unknown key '{where}'", remedy=_nearest(problem["loc"])) from None
        said = f"{source}: {where}: {problem['msg']}, not {reprlib.repr(problem['input'])}"
        raise ConfigInvalid(said, remedy=f"See {where} in the sample agent.yaml.") from None


def _nearest(loc: tuple[int | str, ...]) -> str:
    """Name the known key that was meant: in the same section if one is like it, in any other otherwise."""
    section, key = ".".join(map(str, loc[:-1])), str(loc[-1])
    known = {f"{name}.{leaf}": leaf for name, part in _sections().items() for leaf in part.model_fields}
    known |= {name: name for name in Config.model_fields}
    here = {dotted: leaf for dotted, leaf in known.items() if dotted.rpartition(".")[0] == section}
    for candidates in (here, known):
        for close in difflib.get_close_matches(key, candidates.values(), n=1, cutoff=0.6):
            return f"Did you mean '{next(dotted for dotted, leaf in candidates.items() if leaf == close)}'?"
    return f"Known keys there: {', '.join(here.values())}."


def _sections() -> dict[str, type[BaseModel]]:
    defaults = ((name, field.default) for name, field in Config.model_fields.items())
    return {name: type(default) for name, default in defaults if isinstance(default, BaseModel)}


def sample() -> str:
    """Return agent.yaml with every key, its default and its meaning, every line commented out."""
    head = [
        "## Configuration of edge-agent. Every line is commented out because the defaults work.",
        "## Remove the '#' in front of a key (and of its section) to change it.",
        "#",
    ]
    return "\n".join([*head, *_sample_lines(Config(), "")]) + "\n"


def _sample_lines(section: BaseModel, indent: str) -> Iterator[str]:
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield "#"
            yield f"## {(type(value).__doc__ or '').strip()}"
            yield f"#{indent}{key}:"
            yield from _sample_lines(value, indent + "  ")
            continue
        choices = get_args(field.annotation)
        one_of = f" One of: {', '.join(choices)}." if choices and isinstance(choices[0], str) else ""
        yield f"#{indent}# {field.description}{one_of}"
        yield f"#{indent}{key}: {_as_yaml(value)}"


def _as_yaml(value: object) -> str:
    plain = str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(plain, default_flow_style=True).replace("\n...\n", "").strip()
