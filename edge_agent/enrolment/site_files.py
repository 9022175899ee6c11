"""The files of an enrolment, and writing all of them or none.

Every file is first written next to its final path and synced. When all are written, they are renamed, site.yaml after
the files that it names, and the record of the enrolment last. So a full disk changes nothing, and after a power failure
the same command completes.

systemd encrypts the uplink's credentials with a key of this machine and passes them to one service. A copy of such a
file cannot be decrypted on another machine; root on this machine can decrypt it. Where systemd cannot encrypt, the
secret is stored in plain text, readable by root alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.config import config_files
from edge_agent.durable.atomic_files import is_disk_full, make_folders, partial_path, sync_directory, write_synced
from edge_agent.errors import ConfigInvalid, DiskFull
from edge_agent.formats.enrolment_file import RECORD_FILE_NAME, EnrolmentFile, LargeModelAccess, Secrecy, SiteEnrolment

_HEAD = """Site {site}, by an enrolment file of {issued}.
Written by 'edge-agent enrol': do not edit it; agent.yaml overrides it."""
CERTIFICATE, KEY, CLIENTS = "server.crt", "server.key", "clients.crt"
_PLAIN_FOLDER = "credstore"
DAEMON_GROUP = "edge-agent"
"""Group that reads the files of the listener, besides root."""


@dataclass(frozen=True)
class SystemPaths:
    """Paths below a directory, which is /etc except in tests."""

    etc: Path

    @property
    def folder(self) -> Path:
        """The folder of the configuration."""
        return self.etc / "edge-agent"

    @property
    def agent_yaml(self) -> Path:
        """The configuration of the technician."""
        return self.folder / "agent.yaml"

    @property
    def site_yaml(self) -> Path:
        """The configuration from enrolment, which agent.yaml overrides."""
        return self.folder / config_files.SITE_FILE

    @property
    def root(self) -> Path:
        """The fleet's root of trust."""
        return self.folder / "root.json"

    @property
    def record(self) -> Path:
        """The record of the enrolment."""
        return self.folder / RECORD_FILE_NAME

    @property
    def units(self) -> Path:
        """The folder of the units and their drop-ins."""
        return self.etc / "systemd/system"

    @property
    def drop_in(self) -> Path:
        """The drop-in of the uplink's unit that names its credentials."""
        return self.units / "edge-uplink.service.d/credentials.conf"

    @property
    def uplink_unit(self) -> Path:
        """The uplink's unit, written by the installer."""
        return self.units / "edge-uplink.service"

    def credential(self, name: str, *, encrypted: bool) -> Path:
        """Return the path where systemd reads a secret."""
        return self.etc / ("credstore.encrypted" if encrypted else _PLAIN_FOLDER) / f"edge-agent-{name}.cred"

    def tls(self, name: str) -> Path:
        """Return the path of a file of the TCP listener."""
        return self.folder / "tls" / name


@dataclass(frozen=True)
class SiteFile:
    """A file to write."""

    path: Path
    content: bytes
    mode: int = 0o644
    group: str = ""
    """Group that may read it; empty, or a group that does not exist = only the mode decides."""

    @property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def partial(self) -> Path:
        """The temporary path where it is written first."""
        return partial_path(self.path)


def secrets_of(enrolment: EnrolmentFile) -> dict[str, bytes]:
    """Return the credentials of an enrolment file, by the names under which the uplink asks systemd for them."""
    stores = {"uplink": enrolment.examples.credential, "uplink-updates": enrolment.updates.credential}
    head = "Credential '{}' of edge-agent serve uplink."
    credentials = {
        name: config_files.render_sections(secret, head.format(name)) for name, secret in stores.items() if secret
    }
    key = enrolment.escalation.key if enrolment.escalation else ""
    return credentials | ({"escalation": f"{key}\n".encode()} if key else {})


def sections(enrolment: EnrolmentFile, paths: SystemPaths) -> dict[str, Any]:
    """Return the content of site.yaml."""
    uplink = {
        "url": enrolment.examples.url,
        "options": enrolment.examples.options,
        "updates_url": enrolment.updates.url,
        "updates_options": enrolment.updates.options,
    }
    names = (
        {"certificate_file": CERTIFICATE, "key_file": KEY, "client_ca_file": CLIENTS}
        if enrolment.tls.certificate
        else {}
    )
    contents = {
        "site": {
            "id": enrolment.site,
            "recipients": list(enrolment.recipients),
            "receipt_keys": list(enrolment.receipt_keys),
        },
        "update": {"channel": enrolment.channel, **({"root_file": str(paths.root)} if enrolment.root else {})},
        "uplink": {key: value for key, value in uplink.items() if value},
        "service": {"tcp_address": enrolment.tls.address} if enrolment.tls.address else {},
        "access": {key: str(paths.tls(name)) for key, name in names.items()},
        "escalation": _escalation(enrolment.escalation) if enrolment.escalation else {},
    }
    return {section: keys for section, keys in contents.items() if keys}


def _escalation(access: LargeModelAccess) -> dict[str, Any]:
    names = ("input_token_price", "output_token_price", "day_cost_max", "month_cost_max")
    amounts = {name: float(getattr(access, name)) for name in names}
    thinking = {"thinking_tokens_max": access.thinking_tokens_max, "parameters": access.parameters}
    values = {"url": access.url, "model": access.model, "tasks": list(access.tasks), **amounts, **thinking}
    return {key: value for key, value in values.items() if value}


def files_of(
    enrolment: EnrolmentFile, paths: SystemPaths, credentials: Mapping[str, StoredCredential]
) -> list[SiteFile]:
    """Return every file of an enrolment, site.yaml last."""
    head = _HEAD.format(site=enrolment.site, issued=enrolment.issued_at[:10])
    files = [SiteFile(paths.root, enrolment.root.encode())] if enrolment.root else []
    for name, each in credentials.items():
        files.append(SiteFile(paths.credential(name, encrypted=each.encrypted), each.content, 0o600))
    if credentials:
        files.append(SiteFile(paths.drop_in, drop_in(paths, credentials)))
    tls = {CERTIFICATE: enrolment.tls.certificate, KEY: enrolment.tls.key, CLIENTS: enrolment.tls.clients}
    files += [SiteFile(paths.tls(name), pem.encode(), 0o640, DAEMON_GROUP) for name, pem in tls.items() if pem]
    return [*files, SiteFile(paths.site_yaml, config_files.render_sections(sections(enrolment, paths), head))]


def plain_credentials(files: Iterable[str]) -> list[str]:
    """Return which files of an enrolment are credentials that are stored unencrypted."""
    return [path for path in files if Path(path).parent.name == _PLAIN_FOLDER]


def secrecy_of(credentials: Mapping[str, StoredCredential]) -> Secrecy:
    """Return how credentials are stored on the disk: plain if one of them is."""
    if not credentials:
        return "none"
    return "encrypted" if all(credential.encrypted for credential in credentials.values()) else "plain"


def stage(files: Sequence[SiteFile]) -> None:
    """Write all files next to their final paths, or none.

    Raises:
        DiskFull, ConfigInvalid: nothing was changed.
    """
    try:
        for file in files:
            # A folder of secrets that systemd has not created yet is private.
            make_folders(file.path.parent, 0o700 if file.mode == 0o600 else 0o755)
            write_synced(file.partial, file.content, file.mode, file.group)
    except OSError as error:
        unstage(files)
        raise _write_error(error, file.path) from None


def unstage(files: Iterable[SiteFile]) -> None:
    """Delete staged files."""
    for file in files:
        with contextlib.suppress(OSError):
            file.partial.unlink(missing_ok=True)


def put(files: Sequence[SiteFile], stale: Iterable[Path]) -> None:
    """Rename staged files into place, and delete stale files of an earlier enrolment.

    The last file, which is the record of an enrolment, comes after everything else: until it exists, the same enrolment
    file repeats every step.
    """
    for file in files[:-1]:
        _put(file)
    for path in stale:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_directory(path.parent)
    for file in files[-1:]:
        _put(file)


def _put(file: SiteFile) -> None:
    file.partial.rename(file.path)
    sync_directory(file.path.parent)


def replaced_credentials(paths: SystemPaths, credentials: Mapping[str, StoredCredential]) -> set[Path]:
    """Return where the same secrets lie if an enrolment that was cut off stored them in the other way."""
    return {paths.credential(name, encrypted=not each.encrypted) for name, each in credentials.items()}


def require_rights(paths: SystemPaths) -> None:
    """Refuse a user who may not write the configuration, before people compare codes. Raises ConfigInvalid."""
    folder = next(path for path in (paths.folder, *paths.folder.parents) if path.exists())
    if os.geteuid() != 0 and not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise _write_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), paths.site_yaml)


def _write_error(error: OSError, path: Path) -> DiskFull | ConfigInvalid:
    message = f"cannot write {path}: {error.strerror}; nothing was changed"
    if is_disk_full(error):
        return DiskFull(message, remedy="Free some space, and run the same command again.", path=path)
    return ConfigInvalid(message, remedy="Run the command with sudo; if it was, check the disk ('dmesg').")


_SECONDS_MAX = 60
_PROGRAM = "systemd-creds"


@dataclass(frozen=True)
class StoredCredential:
    """A secret as stored on the disk."""

    content: bytes
    encrypted: bool


def encrypt(name: str, plain: bytes) -> StoredCredential:
    """Encrypt a secret under its systemd credential name, if this machine can."""
    encrypted_bytes = _run(["encrypt", f"--name={name}", "-", "-"], plain)
    if encrypted_bytes and _run(["decrypt", f"--name={name}", "-", "-"], encrypted_bytes) == plain:
        return StoredCredential(encrypted_bytes, encrypted=True)
    return StoredCredential(plain, encrypted=False)


def could_be_encrypted(record: SiteEnrolment) -> bool:
    """Return whether this machine can now encrypt credentials that were stored in plain text at enrolment."""
    return record.secrecy == "plain" and encrypt("trial", b"trial").encrypted


def drop_in(paths: SystemPaths, credentials: Mapping[str, StoredCredential]) -> bytes:
    """Return the drop-in of the uplink's unit through which systemd passes the secrets.

    Encrypted and plain ones can be mixed: systemd-creds can encrypt one and fail for the next.
    """
    lines = [
        f"LoadCredential{'Encrypted' * each.encrypted}={name}:{paths.credential(name, encrypted=each.encrypted)}"
        for name, each in credentials.items()
    ]
    return "\n".join(["# Written by 'edge-agent enrol'.", "[Service]", *lines, ""]).encode()


def _run(arguments: list[str], stdin: bytes) -> bytes:
    """Run systemd's program; return empty output if it does not exist or fails."""
    command = [shutil.which(_PROGRAM) or _PROGRAM, *arguments]
    try:
        result = subprocess.run(command, input=stdin, capture_output=True, timeout=_SECONDS_MAX, check=True)  # noqa: S603 - systemd's
    except (OSError, subprocess.SubprocessError):
        return b""
    return result.stdout
