"""The files of the configuration: agent.yaml, which the technician writes, over those beside it that others write.

    agent.yaml        the technician's; need not be there
    site.yaml         enrolment's: which site this is, what it trusts, where its files go
    appliance.yaml    the installer's: the places and groups of an installed appliance

The upper one wins key by key: a key that stands in two of them has its value from the upper one alone, lists and maps
included.

A client of a daemon over the network has remote.yaml instead, beside its certificate; `certs issue` writes it. Paths in
it are relative to it, so that the folder can be carried anywhere.
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
    """What was read of them."""

    agent: tuple[Path, Plain]
    beneath: tuple[tuple[Path, Plain], ...] = ()
    """Those that are there, the one that wins first."""

    def merged(self) -> Plain:
        """Return one configuration."""
        made: Plain = {}
        for _, plain in (*reversed(self.beneath), self.agent):
            made |= {key: _over(made.get(key), value) for key, value in plain.items()}
        return made

    def source_of(self, *keys: str | int) -> Path:
        """Return the file that a key has its value from."""
        found = (path for path, plain in (self.agent, *self.beneath) if _names(plain, keys))
        return next(found, self.agent[0])

    def overruled(self) -> list[str]:
        """Return the keys of the files beneath that agent.yaml says otherwise."""
        theirs = {keys: value for _, plain in reversed(self.beneath) for keys, value in _leaves(plain)}
        ours = dict(_leaves(self.agent[1]))
        return sorted(".".join(keys) for keys, value in theirs.items() if ours.get(keys, value) != value)


def read(path: Path, *, optional: bool) -> ConfigFiles:
    """Read agent.yaml, which may be missing if it is `optional`, and the files beside it, which always may.

    Raises:
        ConfigInvalid: a file cannot be read, is not YAML, too large, or holds no keys.
    """
    return ConfigFiles((path, _read(path, optional=optional)), read_lower_files(path))


def read_lower_files(path: Path) -> tuple[tuple[Path, Plain], ...]:
    """Read the files beside agent.yaml that are there, the one that wins first. Raises ConfigInvalid."""
    beneath = ((each, _sections(each, _read(each, optional=True))) for each in lower_file_paths(path))
    return tuple(one for one in beneath if one[1])


def lower_file_paths(path: Path) -> list[Path]:
    """Return where the files beside agent.yaml are, or would be."""
    return [path.parent / name for name in (SITE_FILE, APPLIANCE_FILE) if name != path.name]


def render_sections(sections: Mapping[str, Any], head: str) -> bytes:
    """Return a file of sections; each line of `head` becomes a comment."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    return (comment + yaml.safe_dump(dict(sections), sort_keys=False, allow_unicode=True)).encode()


def _names(plain: Plain, keys: tuple[str | int, ...]) -> bool:
    """Tell whether a file says something of a key."""
    section, key = (*keys, "", "")[:2]
    found = plain.get(str(section), {})
    return key in found if isinstance(found, dict) and key else section in plain


def _leaves(plain: Plain) -> Iterator[tuple[tuple[str, str], Any]]:
    for section, found in plain.items():
        for key, value in found.items() if isinstance(found, dict) else ():
            yield (str(section), str(key)), value


def _over(under: object, over: Any) -> Any:
    """Lay a section over the same of the other file; None is a section whose keys are all commented out."""
    if isinstance(under, dict) and over is None:
        return under
    return {**under, **over} if isinstance(under, dict) and isinstance(over, dict) else over


def _sections(path: Path, plain: Plain) -> Plain:
    if not all(isinstance(keys, dict) for keys in plain.values()):
        raise ConfigInvalid(
            f"{path} must hold sections with keys",
            remedy="Restore it: run 'edge-agent enrol', or the installer, again.",
        )
    return plain


def _read(path: Path, *, optional: bool) -> Plain:
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
        plain = load_yaml(text) if len(text) <= CONFIG_BYTES_MAX else "too large"
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy="Check --config.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or number that is none
        raise ConfigInvalid(f"{path} is not valid YAML: {error}", remedy="Correct the line that it names.") from None
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise ConfigInvalid(f"{path} must hold keys and values, and at most {CONFIG_BYTES_MAX} bytes")
    return plain


REMOTE_FILE = "remote.yaml"
REMOTE_BYTES_MAX = 64 * 1024


class RemoteDaemonConfig(ConfigSection):
    """A daemon over the network."""

    address: str = Field(description="host:port.")
    ca: str = Field(default="", description="Who issued the server's certificate, PEM.")
    certificate: str = Field(default="", description="This client's certificate, PEM.")
    key: str = Field(default="", description="Its private key, PEM.")
    server_name: str = Field(default="", description="The name in the server's certificate, if not that of 'address'.")

    @property
    def has_tls(self) -> bool:
        """It comes with a certificate."""
        return bool(self.certificate)


def load_remote(path: Path | None, environ: Mapping[str, str] = os.environ) -> RemoteDaemonConfig | None:
    """Read the file, or the folder that has it; left out: $EDGE_AGENT_REMOTE; None where nothing is named.

    Raises:
        ConfigInvalid: it cannot be read, breaks a rule, or names a file that is not there.
    """
    named = path or (Path(environ["EDGE_AGENT_REMOTE"]) if environ.get("EDGE_AGENT_REMOTE") else None)
    if named is None:
        return None
    source = named / REMOTE_FILE if named.is_dir() else named
    try:
        with source.open("rb") as file:
            plain = load_yaml(file.read(REMOTE_BYTES_MAX))
    except OSError as error:
        raise ConfigInvalid(f"cannot read {source}: {error.strerror}", remedy="Check --remote.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{source} is not valid YAML: {error}", remedy="Correct the line that it names.") from None
    return _checked_remote(plain, source)


def render_remote(address: str) -> str:
    """Return the text of a file for a folder as `certs issue` makes it."""
    remote = RemoteDaemonConfig(address=address, ca="ca.crt", certificate="client.crt", key="client.key")
    said = {key: field.description for key, field in RemoteDaemonConfig.model_fields.items()}
    return "".join(
        f"# {said[key]}\n{yaml.safe_dump({key: value})}"
        for key, value in remote.model_dump(exclude_defaults=True).items()
    )


def _checked_remote(plain: object, source: Path) -> RemoteDaemonConfig:
    try:
        remote = RemoteDaemonConfig.model_validate(plain)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise ConfigInvalid(f"{source}: {where}: {problem['msg']}", remedy=_REMOTE_KEYS) from None
    files = {key: getattr(remote, key) for key in ("ca", "certificate", "key")}
    missing = [key for key, name in files.items() if not name]
    if missing and len(missing) < len(files):
        raise ConfigInvalid(f"{source}: a certificate needs {' and '.join(missing)} as well", remedy=_REMOTE_KEYS)
    found = {key: str(source.parent / name) for key, name in files.items() if name}
    for key, name in found.items():
        if not os.access(name, os.R_OK):
            raise ConfigInvalid(
                f"{source}: {key}: {name} cannot be read", remedy="Check that it exists and belongs to this user."
            )
    return remote.model_copy(update=found)


_REMOTE_KEYS = f"Known keys: {', '.join(RemoteDaemonConfig.model_fields)}."
