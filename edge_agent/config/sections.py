"""The sections of agent.yaml: one for each package, every limit with its unit in its name."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MESSAGE_BYTES_MAX = 64 * 2**20
"""An input of this size fits into one frame to its engine's process, together with the other members."""
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Consent = Literal["off", "local", "upstream"]
RuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Mode = Literal["bootstrap", "shadow", "hybrid", "local"]
ReceiptKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Role = Literal["infer", "feedback", "admin"]


class ConfigSection(BaseModel):
    """What all sections have in common: frozen, and no unknown keys.

    pydantic compiles a model at its first use: once for the whole file, not for each section beforehand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class LogConfig(ConfigSection):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe level shown.")
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto = console on a terminal, JSON lines otherwise."
    )


class StoreConfig(ConfigSection):
    """Which bundles can be installed, and how much disk they use."""

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
    """Engines: each computes one model in one child process."""

    device: Literal["auto", "cpu", "cuda", "vulkan"] = Field(
        default="auto",
        description="Where models compute; auto = the best device. If it cannot be used, the CPU computes.",
    )
    gpu_layers: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = Field(
        default="auto", description="Layers of a model that the device computes; auto = as many as fit."
    )
    gpu_index: Literal["auto"] | Annotated[int, Field(ge=0, le=255)] = Field(
        default="auto", description="Number of the device at its driver, from 0; auto = the first suitable one."
    )
    gpu_memory_bytes_max: int = Field(
        default=0, ge=0, description="Most device memory that one engine uses, in bytes; 0 = the free memory."
    )
    device_failures_max: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Deaths on a device within 'device_retry_seconds' after which the CPU computes.",
    )
    device_retry_seconds: Seconds = Field(
        default=3600, description="Time until an engine tries such a device again, in seconds; doubles with each try."
    )
    cpu_threads: int = Field(default=0, ge=0, le=1024, description="Threads for all engines; 0 = one for each core.")
    sequences_max: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Requests that one engine computes together; 0 = as many as memory allows, at most 32; with ONNX 8,"
        " or two for each thread.",
    )
    queue_requests_max: int = Field(
        default=64, ge=1, le=100_000, description="Most inputs that wait for one engine; further ones are refused."
    )
    load_seconds_max: Seconds = Field(
        default=120, description="Longest time that loading a model may take, in seconds."
    )
    attach_seconds_max: Seconds = Field(
        default=120,
        description="Longest time that making a bundle ready in a loaded model may take, in seconds; then it is"
        " refused. Only bundles of the same engine wait for it.",
    )
    heartbeat_seconds_max: Seconds = Field(
        default=30, description="Longest silence of an engine with work, in seconds; then it is killed and restarted."
    )
    restart_seconds_first: Seconds = Field(
        default=0.5,
        description="First pause before a restart, in seconds, less the time that the engine ran; it doubles.",
    )
    restart_seconds_max: Seconds = Field(default=60, description="Longest pause before a restart, in seconds.")
    load_failures_max: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Loads that may fail in a row; then there is no retry until the bundle is activated, except where"
        " memory was short.",
    )
    memory_bytes_max: int = Field(
        default=0,
        ge=0,
        description="Memory for all engines together, in bytes; 0 = the machine's memory, less the reserve.",
    )
    memory_reserve_bytes: int = Field(
        default=256 * 2**20, ge=0, description="Memory that engines leave to the rest of the machine, in bytes."
    )
    prompt_cache_bytes_max: int = Field(
        default=64 * 2**20, ge=2**20, description="Computed prompts that one llama engine keeps in memory, in bytes."
    )
    tune: bool = Field(
        default=True,
        description="At the first load of a llama model, measure for 2 s which settings suit the processor.",
    )
    swap: Literal["overlap", "pause"] = Field(
        default="overlap",
        description="overlap = the old version answers while the new one loads. pause = half the memory, and a gap.",
    )
    quarantine_seconds: float = Field(
        default=3600,
        ge=0,
        le=30 * 86_400,
        description="How long an input that killed its engine is refused, in seconds.",
    )


class ServiceConfig(ConfigSection):
    """The gRPC server: sockets, limits and deadlines."""

    tcp_address: str = Field(
        default="",
        description="Also listen on this address, e.g. 0.0.0.0:9443; empty = Unix sockets only. See 'access'.",
    )
    insecure: bool = Field(
        default=False, description="Allow tcp_address without certificates: anyone who reaches it can call the models."
    )
    inference_group: str = Field(
        default="", description="Group that may use inference.sock (mode 0660); empty = the daemon's own."
    )
    review_group: str = Field(
        default="", description="Group that may use review.sock (mode 0660); empty = the daemon's own."
    )
    admin_group: str = Field(
        default="",
        description="Group that may use admin.sock (mode 0660); empty = only the daemon's user and root (mode 0600).",
    )
    message_bytes_max: int = Field(
        default=4 * 2**20, ge=1024, description="Largest request or response message, in bytes; 64 MiB at most."
    )
    calls_max: int = Field(
        default=256, ge=1, le=100_000, description="Most inference calls in progress on all connections together."
    )
    devices_priority: int = Field(
        default=1,
        ge=0,
        le=10,
        description="Priority of calls on inference.sock and TCP, 0 first; a step counts like an arrival 1 s later.",
    )
    operator_priority: int = Field(default=0, ge=0, le=10, description="Priority of calls on admin.sock, likewise.")
    deadline_seconds_default: Seconds = Field(default=60, description="Deadline of a call that has none, in seconds.")
    drain_seconds: Seconds = Field(
        default=10, description="Time that running calls get to finish when the daemon stops, in seconds."
    )
    request_ids_max: int = Field(
        default=1024,
        ge=0,
        le=1_000_000,
        description="Answers stored by request_id, of all clients, so that a retry does not run twice.",
    )
    request_ids_bytes_max: int = Field(
        default=16 * 2**20,
        ge=0,
        le=2**34,
        description="The same in bytes; the oldest are deleted first. A single answer larger than this is not stored.",
    )
    request_id_seconds: Seconds = Field(default=300, description="How long they are stored, in seconds.")


class AccessConfig(ConfigSection):
    """Which clients can call: certificates on TCP, and limits for each client."""

    certificate_file: str = Field(
        default="", description="The server's certificate and its issuers', PEM; 'edge-agent certs' makes one."
    )
    key_file: str = Field(default="", description="Its private key, PEM.")
    client_ca_file: str = Field(
        default="",
        description="Authorities of clients' certificates, PEM. All three files are read again when they change.",
    )
    roles: dict[str, tuple[Role, ...]] = Field(
        default={},
        description="Roles by a name in a client's certificate, e.g. {'spiffe://shop/*': [infer]}; in addition to"
        " roles that the certificate has itself, such as edge-agent://role/infer.",
    )
    connection_seconds_max: Seconds = Field(
        default=3600,
        description="Age at which a TCP connection is closed, in seconds, so that the client is checked again.",
    )
    client_calls_max: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Most inference calls of one client in progress; 0 = its share of 'calls_max' of 'service'.",
    )
    client_streams_max: int = Field(
        default=256,
        ge=1,
        le=1024,
        description="Most open streams of requests (ModelStreamInfer) of one client; further ones are refused.",
    )
    client_calls_per_second_max: float = Field(
        default=0, ge=0, le=100_000, description="Most calls of one client per second, on average; 0 = no limit."
    )
    socket_clients_max: int = Field(
        default=16,
        ge=0,
        le=1024,
        description="Clients of one socket that are distinguished by their names; the others are one client.",
    )
    client_calls_burst_max: int = Field(
        default=50,
        ge=1,
        le=100_000,
        description="Calls that one client can make at once before 'client_calls_per_second_max' applies.",
    )
    audit_bytes_max: int = Field(
        default=16 * 2**20,
        ge=2**16,
        le=2**34,
        description="Most bytes of audit.jsonl and audit.1.jsonl in state_dir; then the older half is deleted.",
    )
    connections_max: int = Field(
        default=2048, ge=1, le=100_000, description="Most connections to each address; further ones are closed at once."
    )
    connection_calls_max: int = Field(
        default=1024,
        ge=1,
        le=100_000,
        description="Most calls in progress on one connection; further ones wait in the client.",
    )


class MetricsConfig(ConfigSection):
    """Metrics for Prometheus, at http://ADDRESS/metrics."""

    address: str = Field(
        default="127.0.0.1:9464",
        description="Address to listen on; empty = no metrics. Only this machine reaches 127.0.0.1.",
    )
    insecure: bool = Field(
        default=False,
        description="Allow an address that other machines reach: they can read all metrics, and nothing else.",
    )


class ExamplesConfig(ConfigSection):
    """Examples: inputs and answers that are stored, redacted, for review and training."""

    collect: dict[str, Consent] = Field(
        default={},
        description="Consent by task, e.g. {pos-intent: upstream}: off, local (stays here), upstream (may leave).",
    )
    keep_fields: dict[str, tuple[str, ...]] = Field(
        default={}, description="By task: fields marked as personal that may be stored nevertheless."
    )
    site_rules: dict[RuleName, str] = Field(
        default={},
        description="Patterns (RE2) to redact in addition to the built-in ones, by name: {loyalty: 'LC[0-9]+'}.",
    )
    presidio_pipeline: str = Field(
        default="", description="Directory of a spaCy pipeline that finds names; needs the extra 'presidio'."
    )
    phone_regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = Field(
        default=(),
        max_length=5,
        description="Regions whose telephone numbers are found without a prefix, too, as codes of ISO 3166-1: [ES].",
    )
    window_seconds: float = Field(
        default=86_400,
        gt=0,
        le=366 * 86_400,
        description="How long an answer waits for feedback, in seconds for which the daemon runs.",
    )
    retention_days: dict[TaskName, Annotated[float, Field(gt=0, le=36_600)]] = Field(
        default={}, description="By task: calendar days after which answers and feedback are deleted here, sent or not."
    )
    value_digests_max: int = Field(
        default=200_000,
        ge=0,
        le=100_000_000,
        description="Most keyed digests of replaced values, by which 'erase --value' finds records.",
    )
    value_digest_days: float = Field(
        default=400, gt=0, le=36_600, description="How long a digest is stored, in days for which the daemon runs."
    )
    spool_bytes_max: int = Field(
        default=256 * 2**20,
        ge=2**20,
        description="Most bytes of examples on disk; beyond that, routine ones are deleted first.",
    )
    disk_reserve_bytes: int = Field(
        default=256 * 2**20, ge=0, description="Bytes that examples must leave free on the disk."
    )
    input_characters_max: int = Field(
        default=32_768, ge=1, le=2**20, description="Longest input that is stored, in characters."
    )
    queue_examples_max: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Most answers that wait in memory to be written; further ones are dropped.",
    )
    queue_bytes_max: int = Field(default=16 * 2**20, ge=2**16, description="The same in bytes.")
    commit_examples_max: int = Field(
        default=256, ge=1, le=100_000, description="Most examples that are written in one commit."
    )
    commit_seconds: Seconds = Field(default=0.2, description="Longest time before they are committed, in seconds.")
    routine_share: float = Field(
        default=0.1, ge=0, le=1, description="Share of the confident answers without feedback that is sealed, 0 to 1."
    )
    review_share: float = Field(
        default=0.02, ge=0, le=1, description="Share of all answers that people review at random (the audit), 0 to 1."
    )
    review_shares: dict[TaskName, Annotated[float, Field(ge=0, le=1)]] = Field(
        default={}, description="The same by task, 0 to 1, e.g. {pos-intent: 0.05}; else 'review_share'."
    )
    new_inputs_level: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default={},
        description="By task: probability of a false alarm 'new_inputs' over the life of a bundle; else 0.01.",
    )
    segment_bytes_max: int = Field(
        default=4 * 2**20,
        ge=2**16,
        le=2**26,
        description="Most records in one sealed segment, in bytes before compression.",
    )
    seal_seconds: Seconds = Field(default=3600, description="Longest time before records are sealed, in seconds.")
    outbox_bytes_max: int = Field(
        default=2**30, ge=2**20, description="Most sealed segments that wait for their receipt, in bytes."
    )

    @field_validator("collect", mode="before")
    @classmethod
    def _read_off_as_word(cls, collect: object) -> object:
        # YAML reads a bare 'off' as false.
        return {t: "off" if c is False else c for t, c in collect.items()} if isinstance(collect, dict) else collect


class SiteConfig(ConfigSection):
    """The site, and its central team."""

    id: str = Field(
        default="", pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$", description="Name of the site: a-z, 0-9, '-'."
    )
    recipients: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="age public keys of the central team (age1…); each can open the sealed examples.",
    )
    receipt_keys: tuple[ReceiptKey, ...] = Field(
        default=(),
        max_length=20,
        description="Ed25519 keys, in hexadecimal, that sign receipts; the site deletes what these cover.",
    )
    outbox_dir: str = Field(
        default="", description="Folder of sealed segments and status; empty = outbox below state_dir."
    )
    receipts_dir: str = Field(
        default="", description="Folder of the central team's receipts; empty = receipts below state_dir."
    )


class UplinkConfig(ConfigSection):
    """The uplink uploads examples and downloads updates. Only it reaches a network. It runs as its own user."""

    url: str = Field(
        default="",
        description="s3://bucket/path, gs://…, az://container/path, https://host/path, or a folder; empty = none.",
    )
    options: dict[str, str] = Field(
        default={},
        description="Options of that store, no secrets, e.g. {endpoint: 'https://s3.example', region: eu-1}.",
    )
    credentials_file: str = Field(
        default="", description="YAML file with the store's secrets; empty = systemd's credential 'uplink', if given."
    )
    updates_url: str = Field(
        default="",
        description="Repository of signed updates, an address of the same form as 'url'; empty = no updates.",
    )
    updates_options: dict[str, str] = Field(default={}, description="Options of its store, like 'options'.")
    updates_credentials_file: str = Field(
        default="", description="Its secrets, like 'credentials_file'; empty = systemd's credential 'uplink-updates'."
    )
    updates_seconds: Seconds = Field(default=300, description="Time between two checks for updates, in seconds.")
    chunk_bytes: int = Field(
        default=2**20,
        ge=2**12,
        le=2**26,
        description="Size of a chunk of a download, in bytes; a reboot repeats one chunk at most.",
    )
    disk_reserve_bytes: int = Field(
        default=256 * 2**20, ge=0, description="Bytes that downloads must leave free on the disk."
    )
    notes_dir: str = Field(default="", description="Folder of the uplink's own state; empty = uplink below state_dir.")
    bytes_per_second_max: int = Field(
        default=0, ge=0, description="Average of uploads and downloads together, in bytes per second; 0 = no cap."
    )
    bytes_per_second_min: int = Field(
        default=4096, ge=64, description="Slowest transfer that is not aborted, in bytes per second."
    )
    request_seconds_max: Seconds = Field(
        default=30, description="Longest time for a request, without the time for its content, in seconds."
    )
    scan_seconds: Seconds = Field(default=5, description="Time between two scans of the outbox, in seconds.")
    heartbeat_seconds: Seconds = Field(
        default=900, description="Longest time between two uploads of the status object, in seconds."
    )
    receipts_seconds: Seconds = Field(default=300, description="Time between two requests for receipts, in seconds.")
    recheck_seconds: float = Field(
        default=7 * 86_400,
        gt=0,
        le=366 * 86_400,
        description="Time after which a segment without receipt is checked again, in seconds.",
    )
    retry_seconds_first: Seconds = Field(
        default=2, description="Longest pause after the first failure, in seconds; it doubles."
    )
    retry_seconds_max: Seconds = Field(default=900, description="Longest pause after many failures, in seconds.")
    failures_max: int = Field(
        default=3, ge=1, le=100, description="Failures in a row after which the store counts as offline."
    )


class UpdateConfig(ConfigSection):
    """Signed updates: whom the site trusts, and in which folders updates arrive."""

    root_file: str = Field(
        default="", description="The fleet's root of trust, root.json; empty = no updates except by 'install'."
    )
    channel: str = Field(
        default="stable",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
        description="Channel of the plan that the site follows.",
    )
    incoming_dir: str = Field(
        default="", description="Folder of the files that the uplink downloads; empty = incoming below state_dir."
    )
    wants_dir: str = Field(default="", description="Folder of wants.json; empty = the outbox.")
    check_seconds: Seconds = Field(default=5, description="Time between two checks of the incoming folder, in seconds.")
    selftest_seconds_max: Seconds = Field(
        default=300, description="Longest self-test of a bundle, in seconds; a bundle that takes longer has failed."
    )


def split_host_port(address: str) -> tuple[str, int]:
    """Return host and port. Raises ValueError, whose message is for people."""
    host, colon, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or {*host} & {*"[]/"} or not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f"{address!r} is not an address: it needs a host and a port, e.g. 127.0.0.1:9464 or [::1]:9464"
        )
    return host, int(port)


def join_host_port(host: str, port: int) -> str:
    """Return host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a host: a loopback address, or the name localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
