"""The sections of agent.yaml: one for each package, every limit with its unit in its name."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MESSAGE_BYTES_MAX = 64 * 2**20
"""An input as large as that fits into a frame to its engine's process, with what else is said there."""
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Consent = Literal["off", "local", "upstream"]
RuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Mode = Literal["bootstrap", "shadow", "hybrid", "local"]
ReceiptKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Role = Literal["infer", "feedback", "admin"]


class ConfigSection(BaseModel):
    """What all sections have in common: frozen, and no unknown keys.

    pydantic compiles a model where it is first used: the whole file in one piece, not each section of it before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class LogConfig(ConfigSection):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe level shown.")
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto = console on a terminal, JSON lines otherwise."
    )


class StoreConfig(ConfigSection):
    """What may be installed."""

    allow_unsigned: bool = Field(
        default=False, description="Install bundles without a signature. Every status then reports it."
    )
    bundle_bytes_max: int = Field(default=16 * 2**30, ge=1, description="Largest bundle, all files together, in bytes.")
    bundles_per_task_max: int = Field(
        default=10, ge=2, le=1000, description="Versions kept for each task; the oldest idle one makes room."
    )
    disk_reserve_bytes: int = Field(
        default=64 * 2**20, ge=0, description="Bytes that an install must leave free on the disk."
    )


class EngineConfig(ConfigSection):
    """Engines: one model in one child process each."""

    device: Literal["auto", "cpu", "cuda", "vulkan"] = Field(
        default="auto",
        description="Where models compute; auto = the best that there is. What cannot be used is said and left.",
    )
    gpu_layers: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = Field(
        default="auto", description="Layers of a model that the device computes; auto = all that fit into its memory."
    )
    gpu_index: Literal["auto"] | Annotated[int, Field(ge=0, le=255)] = Field(
        default="auto", description="Which device, as its driver counts them from 0; auto = the first that suits."
    )
    gpu_memory_bytes_max: int = Field(
        default=0,
        ge=0,
        description="The most that one engine takes of the device's memory, in bytes; 0 = what is free.",
    )
    device_failures_max: int = Field(
        default=2, ge=1, le=100, description="Deaths on a device, close together, after which the CPU computes."
    )
    device_retry_seconds: Seconds = Field(
        default=3600, description="Time until a device that was left is tried again, in seconds; doubles with each try."
    )
    cpu_threads: int = Field(default=0, ge=0, le=1024, description="Threads for all engines; 0 = one for each core.")
    sequences_max: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Requests that one engine computes together; 0 = as many as memory allows, at most 32.",
    )
    queue_requests_max: int = Field(
        default=64, ge=1, le=100_000, description="Inputs waiting for one engine; one more is refused."
    )
    load_seconds_max: Seconds = Field(
        default=120, description="Longest time that loading a model may take, in seconds."
    )
    attach_seconds_max: Seconds = Field(
        default=120,
        description="Longest time that making a bundle ready in a loaded model may take, in seconds; then it is"
        " refused. Only what needs the same engine waits for it.",
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
    prompt_cache_bytes_max: int = Field(
        default=64 * 2**20,
        ge=2**20,
        description="What one llama engine keeps of prompts that it has computed, in bytes.",
    )
    tune: bool = Field(
        default=True,
        description="Measure at the first load of a llama model which settings suit the processor: about 2 s.",
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


class ServiceConfig(ConfigSection):
    """The gRPC edge."""

    tcp_address: str = Field(
        default="", description="Also listen there, e.g. 0.0.0.0:9443; empty = Unix sockets only. See 'access'."
    )
    insecure: bool = Field(
        default=False, description="Allow tcp_address without certificates. Anyone who reaches it may infer."
    )
    inference_group: str = Field(
        default="", description="Group that may use inference.sock (mode 0660); empty = the daemon's own."
    )
    review_group: str = Field(
        default="", description="Group that may use review.sock (mode 0660); empty = the daemon's own."
    )
    admin_group: str = Field(
        default="",
        description="Group that may use admin.sock (mode 0660); empty = the daemon's user and root alone (mode 0600).",
    )
    message_bytes_max: int = Field(
        default=4 * 2**20, ge=1024, description="Largest request or response message, in bytes; 64 MiB at most."
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
        description="Answers remembered by request_id, of all clients, so that a retry is not run twice.",
    )
    request_ids_bytes_max: int = Field(
        default=16 * 2**20,
        ge=0,
        le=2**34,
        description="The same in bytes; the oldest go first. An answer that alone is larger is not remembered.",
    )
    request_id_seconds: Seconds = Field(default=300, description="How long they are remembered, in seconds.")


class AccessConfig(ConfigSection):
    """Who may call: certificates on TCP, and limits for each client."""

    certificate_file: str = Field(
        default="", description="The server's certificate and what it was issued by, PEM; 'edge-agent certs' makes one."
    )
    key_file: str = Field(default="", description="Its private key, PEM.")
    client_ca_file: str = Field(
        default="", description="Who may issue certificates of clients, PEM. All three are read again when they change."
    )
    roles: dict[str, tuple[Role, ...]] = Field(
        default={},
        description="Roles by a name in a client's certificate, e.g. {'spiffe://shop/*': [infer]}; beside those that it"
        " says itself, as edge-agent://role/infer.",
    )
    connection_seconds_max: Seconds = Field(
        default=3600,
        description="Age at which a TCP connection is made again, in seconds: nobody stays who is let in no more.",
    )
    client_calls_max: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Inference calls in progress of one client; 0 = its share of 'calls_max' under 'service'.",
    )
    client_streams_max: int = Field(
        default=256,
        ge=1,
        le=1024,
        description="Open streams of requests (ModelStreamInfer) of one client; one more is refused.",
    )
    client_calls_per_second_max: float = Field(
        default=0, ge=0, le=100_000, description="Calls of one client per second, on average; 0 = any number."
    )
    socket_clients_max: int = Field(
        default=16,
        ge=0,
        le=1024,
        description="Clients of one socket that are told apart by the names that they give; the rest are one client.",
    )
    client_calls_burst_max: int = Field(
        default=50, ge=1, le=100_000, description="Calls that one client may make at once before that average counts."
    )
    audit_bytes_max: int = Field(
        default=16 * 2**20,
        ge=2**16,
        le=2**34,
        description="The audit log (audit.jsonl and audit.1.jsonl in state_dir), in bytes; then its older half goes.",
    )
    connections_max: int = Field(
        default=2048, ge=1, le=100_000, description="Connections to each address; one more is closed at once."
    )
    connection_calls_max: int = Field(
        default=1024, ge=1, le=100_000, description="Calls in progress on one connection; more wait in the client."
    )


class MetricsConfig(ConfigSection):
    """What Prometheus may read, at http://ADDRESS/metrics."""

    address: str = Field(
        default="127.0.0.1:9464", description="Listen there; empty = no metrics. Only this machine reaches 127.0.0.1."
    )
    insecure: bool = Field(
        default=False, description="Allow an address that others reach. They may read all metrics, and nothing else."
    )


class ExamplesConfig(ConfigSection):
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
    phone_regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = Field(
        default=(),
        max_length=5,
        description="Regions of telephone numbers without a prefix that redaction finds, as codes of ISO 3166-1: [ES].",
    )
    window_seconds: float = Field(
        default=86_400,
        gt=0,
        le=366 * 86_400,
        description="How long an answer waits for feedback, in running seconds.",
    )
    retention_days: dict[TaskName, Annotated[float, Field(gt=0, le=36_600)]] = Field(
        default={},
        description="By task: days of the calendar after which answers and feedback are deleted here, sent or not.",
    )
    value_digests_max: int = Field(
        default=200_000,
        ge=0,
        le=100_000_000,
        description="Keyed digests of replaced values, by which 'erase --value' finds records; the oldest go first.",
    )
    value_digest_days: float = Field(
        default=400, gt=0, le=36_600, description="Longest time that a digest is kept, in running days."
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
    review_share: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Share of all answers that people are asked to review whatever they are (the audit), 0 to 1.",
    )
    review_shares: dict[TaskName, Annotated[float, Field(ge=0, le=1)]] = Field(
        default={}, description="The same by task, 0 to 1, e.g. {pos-intent: 0.05}; other tasks have 'review_share'."
    )
    new_inputs_level: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default={},
        description="By task: probability of a false alarm 'new_inputs' over the life of a bundle; else 0.01.",
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


class SiteConfig(ConfigSection):
    """The site, as the central team knows it."""

    id: str = Field(
        default="",
        pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        description="Name of the site: a-z, 0-9, '-'.",
    )
    recipients: tuple[str, ...] = Field(
        default=(), max_length=20, description="age public keys of the central team (age1…); each opens what is sealed."
    )
    receipt_keys: tuple[ReceiptKey, ...] = Field(
        default=(), max_length=20, description="Ed25519 keys, in hexadecimal, whose receipts let the site delete."
    )
    outbox_dir: str = Field(default="", description="Sealed segments and status; empty = outbox below state_dir.")
    receipts_dir: str = Field(default="", description="Receipts of the central team; empty = receipts below state_dir.")


class UplinkConfig(ConfigSection):
    """The uplink uploads examples and downloads updates. It alone reaches a network, and runs as its own user."""

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
    updates_url: str = Field(
        default="", description="The repository of signed updates, a place like that of 'url'; empty = no updates."
    )
    updates_options: dict[str, str] = Field(default={}, description="Of its store, like 'options'.")
    updates_credentials_file: str = Field(
        default="", description="Its secrets, like 'credentials_file'; empty = systemd's credential 'uplink-updates'."
    )
    updates_seconds: Seconds = Field(default=300, description="Time between two questions for updates, in seconds.")
    chunk_bytes: int = Field(
        default=2**20,
        ge=2**12,
        le=2**26,
        description="Downloads come in pieces of this many bytes; after a reboot at most one comes again.",
    )
    disk_reserve_bytes: int = Field(
        default=256 * 2**20, ge=0, description="Bytes that downloads must leave free on the disk."
    )
    notes_dir: str = Field(default="", description="The uplink's own notes; empty = uplink below state_dir.")
    bytes_per_second_max: int = Field(
        default=0, ge=0, description="What it may send and fetch on average, in bytes per second; 0 = no cap."
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


class UpdateConfig(ConfigSection):
    """Signed updates: what is trusted, and where they come in."""

    root_file: str = Field(
        default="",
        description="The fleet's root of trust as it was handed over, root.json; empty = no updates but by 'install'.",
    )
    channel: str = Field(
        default="stable",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
        description="The site's part of the plan.",
    )
    incoming_dir: str = Field(default="", description="What the uplink brings; empty = incoming below state_dir.")
    wants_dir: str = Field(default="", description="Where wants.json lies; empty = outbox.")
    check_seconds: Seconds = Field(default=5, description="Time between two looks at what has come in, in seconds.")
    selftest_seconds_max: Seconds = Field(
        default=300, description="Longest self-test of a bundle, in seconds; what takes longer has failed it."
    )


def split_host_port(address: str) -> tuple[str, int]:
    """Return host and port. Raises ValueError, with a sentence."""
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is no address: it needs a host and a port, e.g. 127.0.0.1:9464 or [::1]:9464")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Tell whether nobody outside this machine reaches it; of names, only localhost is known to be so."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def store_folder(url: str) -> Path | None:
    """Return the folder that a store's URL names; None = it names none, or a store that is not a folder."""
    scheme, colon, rest = url.partition("://")
    if not url or (colon and scheme != "file"):
        return None
    return Path(rest if colon else url)
