"""agent.yaml: one section per component, every limit with its unit, defaults that work without a file.

Sources, in ascending precedence: the defaults below, the directories from systemd's environment, the lower files
(config_files.py), agent.yaml (`--config`, `$EDGE_AGENT_CONFIG`, or /etc/edge-agent/agent.yaml if it exists), the
command line. An unknown key is an error that names the nearest known one. Only this package reads the environment. The
result is frozen; each component gets its own section.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, Field, ValidationError

from edge_agent.config import config_files, optional_sections, sections
from edge_agent.config.config_files import CONFIG_BYTES_MAX, ConfigFiles
from edge_agent.config.folder_access import STORE_SCHEMES, store_folder
from edge_agent.config.optional_sections import EscalationConfig, RedactionConfig, WebConfig
from edge_agent.config.sections import (
    MESSAGE_BYTES_MAX,
    AccessConfig,
    ConfigSection,
    EngineConfig,
    ExamplesConfig,
    LogConfig,
    MetricsConfig,
    Role,
    ServiceConfig,
    SiteConfig,
    StoreConfig,
    UpdateConfig,
    UplinkConfig,
)
from edge_agent.errors import ConfigInvalid, SocketPathTooLong
from edge_agent.errors.base import CONNECTION_REMEDY, connection_setting

__all__ = [
    "CONFIG_BYTES_MAX",
    "AccessConfig",
    "Config",
    "ConfigFiles",
    "EngineConfig",
    "EscalationConfig",
    "ExamplesConfig",
    "LogConfig",
    "MetricsConfig",
    "Overrides",
    "RedactionConfig",
    "Role",
    "ServiceConfig",
    "SiteConfig",
    "StoreConfig",
    "UpdateConfig",
    "UplinkConfig",
    "WebConfig",
    "config_paths",
    "load",
    "load_without_agent_yaml",
    "read_files",
    "sample",
    "validate_files",
]

DEFAULT_PATH = Path("/etc/edge-agent/agent.yaml")
_SECRET = re.compile("secret|key|token|password|sas|credential|authorization", re.IGNORECASE)
_CREDENTIALS = {
    "uplink": {"credentials_file": "uplink", "updates_credentials_file": "uplink-updates"},
    "escalation": {"credentials_file": "escalation"},
}
"""The names of credentials in systemd's folder, by section and key."""
SOCKET_PATH_BYTES_MAX = 107  # sun_path of unix(7) has 108 with the final NUL


class Config(ConfigSection):
    """The whole file."""

    state_dir: Path = Field(
        default=Path("/var/lib/edge-agent"), description="Installed bundles and state.db; one daemon owns it."
    )
    run_dir: Path = Field(default=Path("/run/edge-agent"), description="Sockets.")
    log: LogConfig = Field(default_factory=LogConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    service: ServiceConfig = Field(default_factory=ServiceConfig)
    access: AccessConfig = Field(default_factory=AccessConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    examples: ExamplesConfig = Field(default_factory=ExamplesConfig)
    redaction: RedactionConfig = Field(default_factory=RedactionConfig)
    site: SiteConfig = Field(default_factory=SiteConfig)
    uplink: UplinkConfig = Field(default_factory=UplinkConfig)
    update: UpdateConfig = Field(default_factory=UpdateConfig)
    escalation: EscalationConfig = Field(default_factory=EscalationConfig)
    web: WebConfig = Field(default_factory=WebConfig)

    @property
    def has_tls_listener(self) -> bool:
        """Whether the daemon listens on TCP with certificates."""
        return bool(self.service.tcp_address and self.access.certificate_file)

    @property
    def needs_uplink(self) -> bool:
        """Whether the uplink has something to do: a store of examples or updates, or a large model."""
        return bool(self.uplink.url or self.uplink.updates_url or self.escalation.url)

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
        """Folder of the files that leave the site."""
        return Path(self.site.outbox_dir or self.state_dir / "outbox")

    @property
    def receipts(self) -> Path:
        """Folder where the receipts of the central team arrive."""
        return Path(self.site.receipts_dir or self.state_dir / "receipts")

    @property
    def incoming(self) -> Path:
        """Folder where updates arrive."""
        return Path(self.update.incoming_dir or self.state_dir / "incoming")

    @property
    def wants(self) -> Path:
        """The file that lists what the mirror should fetch."""
        return Path(self.update.wants_dir or self.outbox) / "wants.json"

    @property
    def uplink_notes(self) -> Path:
        """Folder of the uplink's own notes and of its state file."""
        return Path(self.uplink.notes_dir or self.state_dir / "uplink")

    @property
    def escalation_socket(self) -> Path:
        """The socket on which the uplink takes questions for the large model."""
        return Path(self.escalation.socket or self.uplink_notes / "escalation.sock")


@dataclass(frozen=True)
class Overrides:
    """Values from the command line; None = not given."""

    state_dir: Path | None = None
    run_dir: Path | None = None


def read_files(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> ConfigFiles:
    """Read the files as they are.

    Raises:
        ConfigInvalid: a file cannot be read, is not YAML, or holds no keys.
    """
    explicit_path = _explicit_path(path, environ)
    return config_files.read(explicit_path or DEFAULT_PATH, optional=explicit_path is None)


def config_paths(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the paths of the configuration's files, agent.yaml first; any of them may not exist."""
    agent = _explicit_path(path, environ) or DEFAULT_PATH
    return (agent, *config_files.lower_file_paths(agent))


def load_without_agent_yaml(
    path: Path | None = None, overrides: Overrides | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """Return the configuration without agent.yaml, to diagnose a site whose agent.yaml is refused. Raises nothing."""
    agent = config_paths(path, environ)[0]
    try:
        return validate_files(ConfigFiles((agent, {}), config_files.read_lower_files(agent)), overrides, environ)
    except (ConfigInvalid, SocketPathTooLong):
        return Config.model_validate(_with_environment({}, overrides or Overrides(), environ))


def _explicit_path(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    return path or (Path(environ["EDGE_AGENT_CONFIG"]) if environ.get("EDGE_AGENT_CONFIG") else None)


def load(
    path: Path | None = None, overrides: Overrides | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """Read the configuration.

    Raises:
        ConfigInvalid: a file cannot be read, is not YAML, has an unknown key or a value out of range.
        SocketPathTooLong: a socket below run_dir has more than 107 bytes.
    """
    return validate_files(read_files(path, environ), overrides, environ)


def validate_files(
    files: ConfigFiles, overrides: Overrides | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """Return the configuration from files that were read. Raises like `load`."""
    # A section whose keys are all commented out is None in YAML; it counts as missing.
    file_values = {key: value for key, value in files.merged().items() if value is not None or key not in _sections()}
    plain: dict[str, Any] = {key: {} for key in _sections()} | file_values
    config = _validate(_with_environment(plain, overrides or Overrides(), environ), files)
    _check_messages(config.service, str(files.source_of("service", "message_bytes_max")))
    _check_tcp(config, str(files.source_of("service", "tcp_address")))
    _check_texts(config, files)
    _check_metrics(config.metrics, str(files.source_of("metrics", "address")))
    _check_consent(config, str(files.source_of("examples", "collect")))
    _check_secrets(config.uplink, str(files.source_of("uplink", "url")))
    _check_stores(config.uplink, files)
    _check_escalation(config.escalation, files)
    optional_sections.check_web(config.web, str(files.source_of("web", "address")))
    sockets = (config.inference_socket, config.review_socket, config.admin_socket)
    longest = max(len(os.fsencode(sock)) for sock in sockets)
    if longest > SOCKET_PATH_BYTES_MAX:
        raise SocketPathTooLong(
            f"a socket below run_dir {config.run_dir} has {longest} bytes; the limit is {SOCKET_PATH_BYTES_MAX}"
        )
    return config


def _check_messages(service: ServiceConfig, source: str) -> None:
    if service.message_bytes_max > MESSAGE_BYTES_MAX:
        raise ConfigInvalid(
            f"{source}: service.message_bytes_max is {service.message_bytes_max}; an input of more than"
            f" {MESSAGE_BYTES_MAX} bytes does not fit into a message to the process of an engine",
            remedy=f"Set it to {MESSAGE_BYTES_MAX} or less; larger texts go over several inputs.",
        )


def _check_tcp(config: Config, source: str) -> None:
    """Require certificates on both sides for TCP, unless `insecure` is set on purpose."""
    service, access = config.service, config.access
    if service.tcp_address:
        _check_listener("service.tcp_address", service.tcp_address, source)
    files = {key: getattr(access, key) for key in ("certificate_file", "key_file", "client_ca_file")}
    missing = [f"access.{key}" for key, path in files.items() if not path]
    if missing and len(missing) < len(files):
        raise ConfigInvalid(
            f"{source}: TLS needs {' and '.join(missing)} as well",
            remedy="'sudo edge-agent certs init' makes all three, and prints the lines for this file.",
        )
    if service.insecure and not missing:
        raise ConfigInvalid(
            f"{source}: service.insecure is set in addition to the certificates under 'access'",
            remedy="Remove 'insecure', and only clients with a certificate get in; or remove the three files.",
        )
    if service.tcp_address and missing and not service.insecure:
        raise ConfigInvalid(
            f"{source}: service.tcp_address is set without TLS",
            remedy="'sudo edge-agent certs init' makes certificates and prints the lines for this file; or set"
            " 'insecure: true' next to it if everyone on that network may use the models.",
        )


def _check_texts(config: Config, files: ConfigFiles) -> None:
    """Refuse texts that the system rejects as the name of a file, an address or a group."""
    for key, text in _texts(config, ""):
        try:
            is_valid = b"\0" not in os.fsencode(text)
        except UnicodeEncodeError:
            is_valid = False
        if not is_valid:
            source, remedy = files.source_of(*key.split(".")), "Write it without '\\0' and '\\u' escapes."
            quoted = ascii(text)[:100]
            raise ConfigInvalid(f"{source}: {key} holds a character that no name can have: {quoted}", remedy=remedy)


def _texts(section: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in section:
        if isinstance(value, BaseModel):
            yield from _texts(value, f"{prefix}{key}.")
        elif isinstance(value, str | Path):
            yield f"{prefix}{key}", str(value)


def _check_metrics(metrics: MetricsConfig, source: str) -> None:
    if not metrics.address:
        return
    host = _check_listener("metrics.address", metrics.address, source)
    if not metrics.insecure and not sections.is_loopback(host):
        raise ConfigInvalid(
            f"{source}: metrics.address is {metrics.address}, which others than this machine may reach",
            remedy="Choose 127.0.0.1, or set 'insecure: true' next to it if everyone there may read the metrics.",
        )


def _check_listener(key: str, address: str, source: str) -> str:
    """Return the host of an address to listen on."""
    try:
        return sections.split_host_port(address)[0]
    except ValueError as error:
        raise ConfigInvalid(f"{source}: {key}: {error}", remedy="Correct it, or leave it out.") from None


def _check_consent(config: Config, source: str) -> None:
    tasks = sorted(task for task, consent in config.examples.collect.items() if consent == "upstream")
    site = config.site
    site_values = {"id": site.id, "recipients": site.recipients, "receipt_keys": site.receipt_keys}
    missing = [f"site.{key}" for key, value in site_values.items() if not value]
    if tasks and missing:
        raise ConfigInvalid(
            f"{source}: examples of {', '.join(tasks)} may leave the site, which needs {', '.join(missing)}",
            remedy="Set it to what the central team gave you, or choose 'local' under examples.collect.",
        )


def _check_escalation(escalation: EscalationConfig, files: ConfigFiles) -> None:
    url, source = escalation.url, files.source_of("escalation", "url")
    if not url:
        return
    if problem := api_problem(url):
        raise ConfigInvalid(f"{source}: escalation.{problem[0]}", remedy=problem[1])
    if escalation.proxy_url and api_problem(escalation.proxy_url):
        remedy = f"Write it as http://host:port; {_ADDRESS_FORM}, and a proxy that requires a password cannot be used."
        raise ConfigInvalid(f"{source}: escalation.proxy_url is not the plain address of a proxy", remedy=remedy)
    if not escalation.model:
        remedy = "Set it to the large model's name on that server."
        raise ConfigInvalid(f"{source}: escalation.url is set without escalation.model", remedy=remedy)


def api_problem(url: str) -> tuple[str, str] | None:
    """Return what is wrong with the address of a large model, and a remedy; None = it is valid."""
    if url.startswith(("http://", "https://")) and _is_address(url) and not has_secret(url):
        return None
    return (
        "url is not the plain address of an API",
        "Write it as https://host/v1; the key belongs in a file of its own.",
    )


def _check_secrets(uplink: UplinkConfig, source: str) -> None:
    """Keep secrets out of a file that other users may read, and out of what is logged."""
    secrets = sorted({*secret_options(uplink.options), *secret_options(uplink.updates_options)})
    secrets += [
        f"the user or query of uplink.{key}"
        for key, url in (("url", uplink.url), ("updates_url", uplink.updates_url))
        if has_secret(url)
    ]
    if secrets:
        raise ConfigInvalid(
            f"{source}: uplink: {', '.join(secrets)} may be a secret, and this file is no place for one",
            remedy="Write it into a file that only the uplink's user may read, and name that in 'credentials_file'.",
        )


def secret_options(options: Mapping[str, str]) -> list[str]:
    """Return the names of options whose values may be secret."""
    return sorted(name for name in options if _SECRET.search(name))


def has_secret(url: str) -> bool:
    """Tell whether a URL names a user or has a query, either of which may hold a secret."""
    return "@" in url.partition("://")[2].partition("/")[0] or "?" in url


def _check_stores(uplink: UplinkConfig, files: ConfigFiles) -> None:
    """Refuse an address that the uplink cannot open."""
    stores = (("", uplink.url, uplink.options), ("updates_", uplink.updates_url, uplink.updates_options))
    for prefix, url, options in stores:
        if problem := store_problem(url, options, f"uplink.{prefix}"):
            key, message, remedy = problem
            raise ConfigInvalid(f"{files.source_of('uplink', f'{prefix}{key}')}: {message}", remedy=remedy)


def store_problem(url: str, options: Mapping[str, str], prefix: str) -> tuple[str, str, str] | None:
    """Return the key with the fault, a message and a remedy; None = the address and its options are valid.

    `prefix` stands before 'url' and 'options' in the file. The address is not shown, because it may hold a secret.
    """
    if url and not store_folder(url):
        scheme = url.partition("://")[0]
        if scheme not in STORE_SCHEMES:
            return (
                "url",
                f"{prefix}url: '{scheme}' is not a known kind of store",
                f"One of: {', '.join(STORE_SCHEMES)}.",
            )
        if not _is_address(url):
            remedy = f"Write it as {scheme}://host/path; {_ADDRESS_FORM}."
            return "url", f"{prefix}url is not the address of a store", remedy
    if setting := connection_setting(options):
        return "options", f"'{setting}' in {prefix}options is a setting of the connection", CONNECTION_REMEDY
    for name, value in options.items():
        names_server = "endpoint" in name.lower() or name == "proxy_url"
        if names_server and "://" in value and (not _is_address(value) or has_secret(value)):
            message = f"'{name}' in {prefix}options is not the address of a server"
            return "options", message, f"Write it as https://host:port; {_ADDRESS_FORM}."
    return None


_ADDRESS_FORM = "an IPv6 address stands in brackets, and a port is a number"


def _is_address(url: str) -> bool:
    """Tell whether a URL names a host, and its port, if any, is valid."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, or a port that is not a number from 0 to 65535
        return False


def _with_environment(plain: dict[str, Any], overrides: Overrides, environ: Mapping[str, str]) -> dict[str, Any]:
    """Add the directories and credentials from systemd's environment below the files, the command line above them."""
    # systemd sets these from StateDirectory= and RuntimeDirectory=; several are joined by colons.
    directories = {"state_dir": environ.get("STATE_DIRECTORY"), "run_dir": environ.get("RUNTIME_DIRECTORY")}
    from_systemd = {key: value.split(":")[0] for key, value in directories.items() if value}
    from_command_line = {key: str(value) for key, value in vars(overrides).items() if value is not None}
    if environ.get("CREDENTIALS_DIRECTORY"):
        folder = Path(environ["CREDENTIALS_DIRECTORY"])
        for name, files in _CREDENTIALS.items():
            credentials = {key: str(folder / file) for key, file in files.items() if (folder / file).exists()}
            section = plain.get(name, {})
            plain = {**plain, name: {**credentials, **section} if isinstance(section, dict) else section}
    return {**from_systemd, **plain, **from_command_line}


def _validate(plain: dict[str, Any], files: ConfigFiles) -> Config:
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        problem = error.errors()[0]
        source, where = files.source_of(*problem["loc"]), ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            raise ConfigInvalid(f"{source}: unknown key '{where}'", remedy=_suggest_key(problem["loc"])) from None
        message = f"{source}: {where}: {problem['msg']}, not {reprlib.repr(problem['input'])}"
        raise ConfigInvalid(message, remedy=f"See {where} in the sample agent.yaml.") from None


def _suggest_key(loc: tuple[int | str, ...]) -> str:
    """Suggest a known key: a similar one in the same section, or a very similar one anywhere."""
    section, key = ".".join(map(str, loc[:-1])), str(loc[-1])
    known = {f"{name}.{leaf}": leaf for name, part in _sections().items() for leaf in part.model_fields}
    known |= {name: name for name in Config.model_fields}
    in_section = {dotted: leaf for dotted, leaf in known.items() if dotted.rpartition(".")[0] == section}
    for candidates, cutoff in ((in_section, 0.6), (known, 0.8)):
        for similar in difflib.get_close_matches(key, candidates.values(), n=1, cutoff=cutoff):
            return f"Did you mean '{next(dotted for dotted, leaf in candidates.items() if leaf == similar)}'?"
    return f"Known keys there: {', '.join(in_section.values())}."


def _sections() -> dict[str, type[ConfigSection]]:
    classes: dict[str, type[ConfigSection]] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, ConfigSection):
            classes[name] = field.annotation
    return classes


def sample() -> str:
    """Return the sample agent.yaml: every key with its default and meaning, every line commented out."""
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
