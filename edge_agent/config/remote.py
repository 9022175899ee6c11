"""How to reach a daemon over the network: a small file beside a client's certificate, which `certs issue` writes.

Paths in it are relative to it, so that the folder can be carried anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from edge_agent.config.sections import ConfigSection
from edge_agent.errors import ConfigInvalid

FILE_NAME = "remote.yaml"
BYTES_MAX = 64 * 1024


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
    source = named / FILE_NAME if named.is_dir() else named
    try:
        with source.open("rb") as file:
            plain = yaml.safe_load(file.read(BYTES_MAX))
    except OSError as error:
        raise ConfigInvalid(f"cannot read {source}: {error.strerror}", remedy="Check --remote.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{source} is not valid YAML: {error}", remedy="Correct the line that it names.") from None
    return _checked(plain, source)


def render_remote(address: str) -> str:
    """Return the text of a file for a folder as `certs issue` makes it."""
    remote = RemoteDaemonConfig(address=address, ca="ca.crt", certificate="client.crt", key="client.key")
    said = {key: field.description for key, field in RemoteDaemonConfig.model_fields.items()}
    return "".join(
        f"# {said[key]}\n{key}: {value}\n" for key, value in remote.model_dump(exclude_defaults=True).items()
    )


def _checked(plain: object, source: Path) -> RemoteDaemonConfig:
    try:
        remote = RemoteDaemonConfig.model_validate(plain)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise ConfigInvalid(f"{source}: {where}: {problem['msg']}", remedy=_KEYS) from None
    files = {key: getattr(remote, key) for key in ("ca", "certificate", "key")}
    missing = [key for key, name in files.items() if not name]
    if missing and len(missing) < len(files):
        raise ConfigInvalid(f"{source}: a certificate needs {' and '.join(missing)} as well", remedy=_KEYS)
    found = {key: str(source.parent / name) for key, name in files.items() if name}
    for key, name in found.items():
        if not os.access(name, os.R_OK):
            raise ConfigInvalid(f"{source}: {key}: {name} cannot be read", remedy="Is it there, and this user's?")
    return remote.model_copy(update=found)


_KEYS = f"Known keys: {', '.join(RemoteDaemonConfig.model_fields)}."
