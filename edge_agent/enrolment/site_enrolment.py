"""Enrolment: check everything first; then write the settings of the enrolment file, all or nothing.

The data of the previous site on this machine is set aside. A site's key, spool and segments belong to that site: the
central team would refuse them under another name. Nothing is deleted. Sealed segments
go to `outbox/former/<time>/site=<id>/`, which `edge-convert collect` accepts; key and spool go to
`state_dir/former/<time>/`. Bundles stay, and continue to answer.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from edge_agent import config
from edge_agent.config import Config, ConfigFiles, Overrides, config_files
from edge_agent.durable.atomic_files import disk_errors, read_regular, stat_or_none, sync_directory
from edge_agent.enrolment import site_files, unit_drop_ins
from edge_agent.enrolment.site_files import SiteFile, StoredCredential, SystemPaths, encrypt
from edge_agent.enrolment.unit_drop_ins import UnitDropIn
from edge_agent.errors import (
    ConfigInvalid,
    DocumentInvalid,
    EnrolmentFileInvalid,
    EnrolmentFileRefused,
    InvalidRequest,
    SiteError,
    StateDirInUse,
)
from edge_agent.formats import enrolment_file
from edge_agent.formats.enrolment_file import (
    ENROLMENT_BYTES_MAX,
    ENROLMENT_FILE_BYTES_MAX,
    EnrolmentFile,
    SiteEnrolment,
)
from edge_agent.formats.signed_document import format_timestamp, parse_timestamp
from edge_agent.update import metadata_chain
from edge_agent.update.metadata_chain import TrustRoot

FOLDER = "former"
_SITE_STATE_FILES = ("site.key", "value.key", "spool.db", "spool.db-wal", "spool.db-shm")


@dataclass(frozen=True)
class PreviousSite:
    """The data that was set aside."""

    state: Path
    outbox: Path
    segments: int
    """Sealed segments without a receipt of the central team."""


def check_idle(config: Config) -> None:
    """Check that no daemon uses the state directory. Raises StateDirInUse."""
    lock = config.state_dir / "lock"
    if stat_or_none(lock) is None:
        return
    with disk_errors(lock):
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"the daemon is at work in {config.state_dir}, and this machine is about to become another site"
            remedy = (
                "Stop it first: 'sudo systemctl stop edge-agent edge-uplink', or as it was started. Then enrol again."
            )
            raise StateDirInUse(message, remedy=remedy, path=config.state_dir) from None
        finally:
            os.close(fd)


def set_aside(config: Config, site: str, stamp: str) -> PreviousSite:
    """Move all data of a site; after a crash the same call completes it.

    Raises:
        SiteError: this disk failed.
    """
    state, outbox = config.state_dir / FOLDER / stamp, config.outbox / FOLDER / stamp
    with disk_errors(state):
        segments = len(list((config.outbox / "segments").glob("*.age")))
        # Receipts first: they would delete, for the new site, what the previous one has sealed.
        (config.receipts / "receipts.json").unlink(missing_ok=True)
        _move([config.outbox / "segments", config.outbox / "status.json"], outbox / f"site={site}")
        _move([config.state_dir / name for name in _SITE_STATE_FILES], state)
    return PreviousSite(state, outbox, segments)


def _move(sources: list[Path], target: Path) -> None:
    for source in filter(stat_or_none, sources):
        for folder in (target.parent.parent, target.parent, target):
            _make_like(source.parent, folder)
        source.rename(target / source.name)
        if (target / source.name).is_dir():
            # With the previous owner and mode, so that the uplink can still read it.
            _make_like(target / source.name, source)
        for folder in (target, source.parent):
            sync_directory(folder)


def _make_like(model: Path, folder: Path) -> None:
    """Create a folder with the owner and mode of another one."""
    if not folder.exists():
        status = model.stat()
        folder.mkdir()
        os.chown(folder, status.st_uid, status.st_gid)
        folder.chmod(status.st_mode & 0o7777)


EnrolmentKind = Literal["first", "renewal", "replacement"]
"""first: this machine was not a site. renewal: new settings for the same site. replacement: another site."""


@dataclass(frozen=True)
class EnrolmentRequest:
    """An enrolment file, and where to apply it."""

    enrolment: EnrolmentFile
    sha256: str
    paths: SystemPaths
    now: float
    """Seconds since 1970, by this machine's clock."""
    replace: bool = False
    overrides: Overrides = field(default_factory=Overrides)
    networks: Sequence[str] = ()
    """The networks of this machine, which may reach a TCP listener."""


@dataclass(frozen=True)
class PreparedEnrolment:
    """An enrolment file that passed the checks; nothing is written yet."""

    request: EnrolmentRequest
    kind: EnrolmentKind | Literal["same"]
    """same: this file is in use already, and nothing has to change."""
    previous: SiteEnrolment | None
    config: Config
    """The future configuration."""
    trust: TrustRoot | None
    """None = the file has no root: updates come by 'install' only."""
    changes: list[str]
    """Keys of site.yaml that change, and other files that change."""
    overruled: list[str]
    """Keys that agent.yaml sets to another value than the file."""
    drop_ins: list[UnitDropIn]
    """Drop-ins of the units that must be changed."""


@dataclass(frozen=True)
class CompletedEnrolment:
    """What was written."""

    record: SiteEnrolment
    previous_site: PreviousSite | None


def prepare(request: EnrolmentRequest) -> PreparedEnrolment:
    """Check everything, and change nothing.

    Raises:
        EnrolmentFileInvalid, EnrolmentFileRefused: it is not valid, not now, or not for this machine.
        SiteError: something on this machine prevents it.
    """
    enrolment, paths = request.enrolment, request.paths
    previous = load_record(paths.record)
    try:
        trust_root = metadata_chain.parse_trust_root(enrolment.root.encode()) if enrolment.root else None
    except ValueError as error:
        raise EnrolmentFileInvalid(f"the enrolment file's root of trust is not valid: {error}") from None
    files = config_files.read(paths.agent_yaml, optional=True)
    site_sections = site_files.sections(enrolment, paths)
    future = _future_config(request, files, site_sections)
    networks = unit_drop_ins.allowed_networks(future, paths.units, (), request.networks)
    # They are not recorded, because people change them, too.
    drop_ins = [each for each in unit_drop_ins.unit_drop_ins(future, paths.units, networks) if not each.is_in_place()]
    is_same = previous is not None and previous.kit_sha256 == request.sha256 and is_intact(previous)
    overruled = ConfigFiles(files.agent, ((paths.site_yaml, site_sections),)).overruled_keys()
    if previous and is_same and not drop_ins and not site_files.could_be_encrypted(previous):
        return PreparedEnrolment(request, "same", previous, future, trust_root, [], overruled, [])
    same_fleet = _is_same_fleet(enrolment, paths.root)
    kind = classify_enrolment(enrolment, previous, request.now, same_fleet=same_fleet, replace=request.replace)
    changes = _changed_keys(dict(files.lower_files).get(paths.site_yaml, {}), site_sections)
    return PreparedEnrolment(request, kind, previous, future, trust_root, changes, overruled, drop_ins)


def apply(prepared: PreparedEnrolment) -> CompletedEnrolment:
    """Apply a prepared enrolment.

    Raises:
        SiteError: the disk is full, or the daemon of the previous site still runs. Nothing was changed.
    """
    request, previous = prepared.request, prepared.previous
    paths, enrolment = request.paths, request.enrolment
    if prepared.kind == "replacement":
        check_idle(prepared.config)
    credentials = {name: encrypt(name, secret) for name, secret in site_files.secrets_of(enrolment).items()}
    files = site_files.files_of(enrolment, paths, credentials)
    record = _build_record(request, credentials, files)
    files += [SiteFile(each.path, each.content.encode()) for each in prepared.drop_ins if each.content]
    files.append(SiteFile(paths.record, enrolment_file.encode_record(record)))
    site_files.stage(files)
    try:
        previous_site = None
        if prepared.kind == "replacement" and previous is not None:
            stamp = f"{datetime.fromtimestamp(request.now, UTC):%Y%m%dT%H%M%SZ}"
            previous_site = set_aside(prepared.config, previous.site, stamp)
    except SiteError:
        site_files.unstage(files)
        raise
    stale = set(map(Path, previous.files if previous else ())) | site_files.replaced_credentials(paths, credentials)
    removed = [each.path for each in prepared.drop_ins if not each.content]
    site_files.put(files, [*sorted(stale - set(map(Path, record.files))), *removed])
    return CompletedEnrolment(record, previous_site)


def _build_record(
    request: EnrolmentRequest, credentials: Mapping[str, StoredCredential], files: list[SiteFile]
) -> SiteEnrolment:
    enrolment = request.enrolment
    return SiteEnrolment(
        site=enrolment.site,
        kit_sha256=request.sha256,
        issued_at=enrolment.issued_at,
        expires_at=enrolment.expires_at,
        enrolled_at=format_timestamp(request.now),
        secrecy=site_files.secrecy_of(credentials),
        files={str(file.path): file.sha256 for file in files},
    )


def _is_same_fleet(enrolment: EnrolmentFile, path: Path) -> bool:
    """Return whether roots connect the file's root and the trusted one; without a trusted one, any is accepted."""
    try:
        trusted_root = path.read_bytes()
        return bool(enrolment.root) and metadata_chain.same_fleet(trusted_root, enrolment.root.encode())
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:
        message = f"{path} is no longer a root of trust: {error}"
        raise ConfigInvalid(message, remedy="Check the disk; then move the file away, and enrol again.") from None


def _future_config(request: EnrolmentRequest, files: ConfigFiles, site_sections: dict[str, Any]) -> Config:
    """Return the future configuration. Raises EnrolmentFileInvalid, ConfigInvalid."""
    site_yaml = request.paths.site_yaml
    lower_files = [entry for entry in files.lower_files if entry[0] != site_yaml]
    future_files = ConfigFiles(files.agent, ((site_yaml, site_sections), *lower_files))
    try:
        future = config.validate_files(future_files, request.overrides)
    except ConfigInvalid as error:
        if error.message.startswith(str(site_yaml)):
            unknown = error.message.partition(": ")[2]
            message = f"the enrolment file sets what this edge-agent does not know: {unknown}"
            raise EnrolmentFileInvalid(message) from None
        raise
    if future.site.id != request.enrolment.site:
        file_site = request.enrolment.site
        message = f"{files.agent[0]} says that this is site {future.site.id}, the enrolment file says {file_site}"
        remedy = "Remove 'id' under 'site' in agent.yaml, or use this machine's own enrolment file."
        raise ConfigInvalid(message, remedy=remedy)
    return future


def _changed_keys(old_sections: Mapping[str, Any], new_sections: Mapping[str, Any]) -> list[str]:
    before, after = _flatten(old_sections), _flatten(new_sections)
    return [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]


def _flatten(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by key with its section, as in "site.id"."""
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def load_record(path: Path) -> SiteEnrolment | None:
    """Read the record of an enrolment; None = this machine was never enrolled. Raises ConfigInvalid."""
    try:
        with path.open("rb") as file:
            return enrolment_file.parse_record(file.read(ENROLMENT_BYTES_MAX))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy="Run the command with sudo.") from None
    except DocumentInvalid as error:
        remedy = f"Move it away, and enrol with this machine's own enrolment file again: it was {path}."
        raise ConfigInvalid(f"{path} is damaged: {error.message}", remedy=remedy) from None


def is_intact(record: SiteEnrolment) -> bool:
    """Return whether every written file is unchanged."""
    return all(_sha256_of(Path(path)) == sha256 for path, sha256 in record.files.items())


def _sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file; empty = it does not exist, or cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


_PATH_REMEDY = "Name the file that the central team made: SITE.kit. 'lsblk' shows where a USB drive is mounted."


def read_enrolment_file(path: Path) -> bytes:
    """Return the bytes of a file, at most one more than the limit of an enrolment file.

    Raises:
        InvalidRequest: there is no such file.
        ConfigInvalid: this user may not read it.
        EnrolmentFileInvalid: it is not a regular file, or the drive fails.
    """
    try:
        return read_regular(path, ENROLMENT_FILE_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidRequest(f"there is no file {path}", remedy=_PATH_REMEDY) from None
    except PermissionError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise ConfigInvalid(message, remedy="Run the command with sudo.") from None
    except OSError as error:
        is_other_kind = error.errno == errno.EINVAL
        message = f"{path} is not a regular file" if is_other_kind else f"cannot read {path}: {error.strerror}"
        raise EnrolmentFileInvalid(message, remedy=_PATH_REMEDY) from None


CLOCK_SECONDS_SLACK = 86_400
"""Tolerated lag of this machine's clock: without a battery it may only know the day."""
_NEW_FILE_REMEDY = "Have the central team make a new one: 'edge-convert enrolment-file'."


def classify_enrolment(
    enrolment: EnrolmentFile, previous: SiteEnrolment | None, now: float, *, same_fleet: bool, replace: bool
) -> EnrolmentKind:
    """Decide about an enrolment file.

    Args:
        enrolment: the enrolment file.
        previous: the record of the previous enrolment; None = never enrolled.
        now: seconds since 1970, by this machine's clock.
        same_fleet: whether a chain of roots connects its root of trust and the one trusted here.
        replace: whether this machine may become another site.

    Raises:
        EnrolmentFileRefused: the reason, and what to do.
    """
    _check_dates(enrolment, now)
    if previous is None:
        return "first"
    other_site_reason = _other_site_reason(enrolment, previous, same_fleet=same_fleet)
    if other_site_reason and replace:
        return "replacement"
    if other_site_reason:
        raise EnrolmentFileRefused(
            f"{other_site_reason}; nothing was changed",
            remedy="Use this machine's own enrolment file. To make it another site, add --replace: the data of this one"
            " is set aside ('edge-agent help enrolment').",
        )
    if parse_timestamp(enrolment.issued_at) < parse_timestamp(previous.issued_at):
        issued, previously_issued = enrolment.issued_at[:16], previous.issued_at[:16]
        message = f"the enrolment file of {issued} is older than the one in use, of {previously_issued}"
        raise EnrolmentFileRefused(message, remedy=_NEW_FILE_REMEDY)
    return "renewal"


def _check_dates(enrolment: EnrolmentFile, now: float) -> None:
    if now >= parse_timestamp(enrolment.expires_at):
        raise EnrolmentFileRefused(
            f"the enrolment file expired on {enrolment.expires_at[:10]}",
            remedy=f"{_NEW_FILE_REMEDY} If that is not so, this machine's clock is wrong: 'date' shows it.",
        )
    if now < parse_timestamp(enrolment.issued_at) - CLOCK_SECONDS_SLACK:
        message = f"the enrolment file was made on {enrolment.issued_at[:10]}, and this machine's clock is before that"
        remedy = "Set the clock: 'date' shows it, 'sudo timedatectl set-time' sets it."
        raise EnrolmentFileRefused(message, remedy=remedy)


def _other_site_reason(enrolment: EnrolmentFile, previous: SiteEnrolment, *, same_fleet: bool) -> str:
    """Return why the enrolment file would make this machine another site; empty = it would not."""
    if enrolment.site != previous.site:
        return f"the enrolment file is for site {enrolment.site}, and this machine is site {previous.site}"
    if not same_fleet:
        return f"the enrolment file of {enrolment.site} has another root of trust than this machine, so another fleet"
    return ""
