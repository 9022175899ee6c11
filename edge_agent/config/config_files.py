"""The files of the configuration, in descending precedence, all in one folder:

    agent.yaml        written by the technician; optional
    site.yaml         written by enrolment: the site's id, what it trusts, where its files go
    appliance.yaml    written by the installer: the folders and groups of an installed appliance

Precedence is per key: a key in two files has the value of the upper one alone; lists and maps are not merged.

A client of a daemon over the network has remote.yaml instead, beside its certificate; `certs issue` writes it. Paths in
it are relative to its folder, so that the folder can be moved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from edge_agent.config.sections import ConfigSection
from edge_agent.errors import ConfigInvalid
from edge_agent.formats.strict_yaml import load_yaml

SITE_FILE, APPLIANCE_FILE = "site.yaml", "appliance.yaml"
CONFIG_BYTES_MAX = 1024 * 1024
Plain = dict[str, Any]


@dataclass(frozen=True)
class ConfigFiles:
    """The contents of the files, each with its path."""

    agent: tuple[Path, Plain]
    lower_files: tuple[tuple[Path, Plain], ...] = ()
    """The lower files that exist, the highest precedence first."""

    def merged(self) -> Plain:
        """Return the files merged into one configuration."""
        merged: Plain = {}
        for _, plain in (*reversed(self.lower_files), self.agent):
            merged |= {key: _overlay(merged.get(key), value) for key, value in plain.items()}
        return merged

    def source_of(self, *keys: str | int) -> Path:
        """Return the file that sets a key; agent.yaml if none does."""
        paths = (path for path, plain in (self.agent, *self.lower_files) if _has_key(plain, keys))
        return next(paths, self.agent[0])

    def overruled_keys(self) -> list[str]:
        """Return the keys of the lower files that agent.yaml sets to another value."""
        lower = {keys: value for _, plain in reversed(self.lower_files) for keys, value in _leaves(plain)}
        upper = dict(_leaves(self.agent[1]))
        return sorted(".".join(keys) for keys, value in lower.items() if upper.get(keys, value) != value)


def read(path: Path, *, optional: bool) -> ConfigFiles:
    """Read agent.yaml, which may be missing if `optional`, and the lower files, which may always be missing.

    Raises:
        ConfigInvalid: a file cannot be read, is not YAML, is too large, or holds no keys.
    """
    return ConfigFiles((path, _read(path, optional=optional)), read_lower_files(path))


def read_lower_files(path: Path) -> tuple[tuple[Path, Plain], ...]:
    """Read the lower files that exist, the highest precedence first. Raises ConfigInvalid."""
    files = []
    for file in lower_file_paths(path):
        plain = _read(file, optional=True)
        if not all(isinstance(keys, dict) for keys in plain.values()):
            remedy = "Restore it: run 'edge-agent enrol', or the installer, again."
            raise ConfigInvalid(f"{file} must hold sections with keys", remedy=remedy)
        if plain:
            files.append((file, plain))
    return tuple(files)


def lower_file_paths(path: Path) -> list[Path]:
    """Return the paths of the lower files, beside agent.yaml; any of them may not exist."""
    return [path.parent / name for name in (SITE_FILE, APPLIANCE_FILE) if name != path.name]


def render_sections(sections: Mapping[str, Any], head: str) -> bytes:
    """Return a file of sections; each line of `head` becomes a comment."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    return (comment + yaml.safe_dump(dict(sections), sort_keys=False, allow_unicode=True)).encode()


def _has_key(plain: Plain, keys: tuple[str | int, ...]) -> bool:
    """Tell whether a file sets a key, or has its section."""
    section, key = (*keys, "", "")[:2]
    content = plain.get(str(section), {})
    return key in content if isinstance(content, dict) and key else section in plain


def _leaves(plain: Plain) -> Iterator[tuple[tuple[str, str], Any]]:
    for section, content in plain.items():
        for key, value in content.items() if isinstance(content, dict) else ():
            yield (str(section), str(key)), value


def _overlay(lower: object, upper: Any) -> Any:
    """Merge the same section of two files; None is a section whose keys are all commented out."""
    if isinstance(lower, dict) and upper is None:
        return lower
    return {**lower, **upper} if isinstance(lower, dict) and isinstance(upper, dict) else upper


def _read(
    path: Path, *, optional: bool, bytes_max: int = CONFIG_BYTES_MAX, option: str = "--config", remedy: str = ""
) -> Plain:
    try:
        with path.open("rb") as file:
            text = file.read(bytes_max + 1)
        plain = load_yaml(text) if len(text) <= bytes_max else "too large"
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy=f"Check {option}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an invalid date or number
        raise ConfigInvalid(f"{path} is not valid YAML: {error}", remedy="Correct the line that it names.") from None
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigInvalid(f"{path} must hold keys and values, and at most {bytes_max} bytes", remedy=remedy)
    return plain


REMOTE_FILE = "remote.yaml"
REMOTE_BYTES_MAX = 64 * 1024


class RemoteDaemonConfig(ConfigSection):
    """How a client reaches a daemon over the network."""

    address: str = Field(description="host:port.")
    ca: str = Field(default="", description="Who issued the server's certificate, PEM.")
    certificate: str = Field(default="", description="This client's certificate, PEM.")
    key: str = Field(default="", description="Its private key, PEM.")
    server_name: str = Field(default="", description="The name in the server's certificate, if not that of 'address'.")

    @property
    def has_tls(self) -> bool:
        """Whether the client has a certificate."""
        return bool(self.certificate)


def load_remote(path: Path | None, environ: Mapping[str, str] = os.environ) -> RemoteDaemonConfig | None:
    """Read remote.yaml from its path or its folder, by default $EDGE_AGENT_REMOTE; None if neither is given.

    Raises:
        ConfigInvalid: it cannot be read, is too large, has an invalid key or value, or names a file that cannot be
            read.
    """
    remote_path = path or (Path(environ["EDGE_AGENT_REMOTE"]) if environ.get("EDGE_AGENT_REMOTE") else None)
    if remote_path is None:
        return None
    source = remote_path / REMOTE_FILE if remote_path.is_dir() else remote_path
    plain = _read(source, optional=False, bytes_max=REMOTE_BYTES_MAX, option="--remote", remedy=_REMOTE_KEYS)
    return _validate_remote(plain, source)


def render_remote(address: str) -> str:
    """Return the text of remote.yaml for the file names that `certs issue` uses."""
    remote = RemoteDaemonConfig(address=address, ca="ca.crt", certificate="client.crt", key="client.key")
    fields = RemoteDaemonConfig.model_fields
    return "".join(
        f"# {fields[key].description}\n{yaml.safe_dump({key: value})}"
        for key, value in remote.model_dump(exclude_defaults=True).items()
    )


def _validate_remote(plain: Plain, source: Path) -> RemoteDaemonConfig:
    try:
        remote = RemoteDaemonConfig.model_validate(plain)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ConfigInvalid(f"{source}: {where}: {problem['msg']}", remedy=_REMOTE_KEYS) from None
    files = {key: getattr(remote, key) for key in ("ca", "certificate", "key")}
    missing = [key for key, name in files.items() if not name]
    if missing and len(missing) < len(files):
        raise ConfigInvalid(f"{source}: a certificate needs {' and '.join(missing)} as well", remedy=_REMOTE_KEYS)
    paths = {key: str(source.parent / name) for key, name in files.items() if name}
    for key, name in paths.items():
        if not os.access(name, os.R_OK):
            raise ConfigInvalid(
                f"{source}: {key}: {name} cannot be read", remedy="Check that it exists and belongs to this user."
            )
    return remote.model_copy(update=paths)


_REMOTE_KEYS = f"Known keys: {', '.join(RemoteDaemonConfig.model_fields)}."
