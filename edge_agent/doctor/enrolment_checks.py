"""What the central team gave this site: enrolment, the root of trust, the site's key, credentials.

Probes read the public parts only, and never a secret.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent.doctor.configuration_checks import FileReader, file_reader, is_shared
from edge_agent.doctor.findings import Check, Finding, FindingRule, first_match, otherwise
from edge_agent.doctor.installation import UPLINK_USER, FileInfo, read_bytes, read_text, stat_file
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext
from edge_agent.formatting import format_duration

ENROLMENT = Check("enrolment", "settings")
ROOT = Check("root-of-trust", "settings")
SITE_KEY = Check("site-key", "settings")
CREDENTIALS = Check("credentials", "settings")

_ENROL = "sudo edge-agent-setup --kit FILE"
_NEEDS_CREDENTIAL = ("s3://", "gs://", "az://", "abfs://", "https://")
_KEY_BEGIN = b"-----BEGIN PRIVATE KEY-----"
_DROP_IN = "etc/systemd/system/edge-uplink.service.d/credentials.conf"
"""Enrolment lists here what systemd passes to the uplink."""
_SEALED, _PLAIN = "etc/credstore.encrypted/edge-agent-{name}.cred", "etc/credstore/edge-agent-{name}.cred"


@dataclass(frozen=True)
class EnrolmentFacts:
    """Settings from the enrolment file."""

    site: str
    recipients: int
    receipt_keys: int
    upstream: str
    updates: str
    shares_examples: bool
    """The examples of a task may leave the site."""

    @property
    def missing(self) -> str:
        """Keys of missing settings, as text."""
        required = {
            "site.id": self.site,
            "site.recipients": self.recipients or not self.shares_examples,
            "site.receipt_keys": self.receipt_keys or not self.shares_examples,
        }
        return ", ".join(key for key, value in required.items() if not value)


_ENROLMENT: tuple[FindingRule[EnrolmentFacts], ...] = (
    FindingRule(
        "note",
        lambda f: not (f.site or f.upstream or f.updates),
        "this site belongs to no fleet: its bundles are installed by hand",
    ),
    FindingRule(
        "fault",
        lambda f: f.missing,
        "the enrolment is incomplete; missing: {f.missing}",
        "Enrol the site with the enrolment file that the central team made for it.",
        _ENROL,
    ),
    FindingRule("ok", otherwise, "site {f.site}"),
)


def judge_enrolment(facts: EnrolmentFacts) -> Iterator[Finding]:
    """Judge whether the enrolment is complete, or absent."""
    yield from first_match(ENROLMENT, _ENROLMENT, facts)


@dataclass(frozen=True)
class RootFacts:
    """The fleet's root of trust."""

    path: str
    updates: str
    """URL of updates; empty when they arrive on a USB drive only."""
    exists: bool = False
    problem: str = ""
    """Why it is not a root of trust; empty when it is."""
    version: int = 0
    expires_in: float = 0.0
    """Seconds; negative when it has expired."""

    @property
    def expiry_text(self) -> str:
        """Time until it expires or since it expired, as text."""
        return format_duration(abs(self.expires_in))


_NO_ROOT = "this site has none: it refuses every update"
_PROVIDE = "Enrol the site, or name the fleet's root.json in 'root_file' under 'update' in agent.yaml."
_ROOT: tuple[FindingRule[RootFacts], ...] = (
    FindingRule("fault", lambda f: not f.path and f.updates, _NO_ROOT, _PROVIDE, _ENROL),
    FindingRule("note", lambda f: not f.path, _NO_ROOT, _PROVIDE, _ENROL),
    FindingRule(
        "fault", lambda f: not f.exists, "{f.path} does not exist", "Enrol the site again, or restore the file.", _ENROL
    ),
    FindingRule(
        "fault",
        lambda f: f.problem,
        "{f.path} is not a root of trust: {f.problem}",
        "Replace it with the fleet's root.json.",
        _ENROL,
    ),
    FindingRule(
        "note",
        lambda f: f.expires_in < 0,
        "{f.path} is version {f.version}, expired {f.expiry_text} ago",
        "Harmless while updates bring a newer one. If updates expire, ask the central team to rotate it.",
        "edge-agent status",
    ),
    FindingRule("ok", otherwise, "{f.path}, version {f.version}, valid for {f.expiry_text}"),
)


def judge_root(facts: RootFacts) -> Iterator[Finding]:
    """Judge the root of trust, without which the site refuses every update."""
    yield from first_match(ROOT, _ROOT, facts)


@dataclass(frozen=True)
class SiteKeyFacts:
    """The key that signs what leaves the site."""

    file: FileInfo
    is_key: bool
    """It starts like a private key."""
    needed: bool


_KEY: tuple[FindingRule[SiteKeyFacts], ...] = (
    FindingRule(
        "note",
        lambda f: f.needed and not f.file.kind,
        "{f.file.path} does not exist yet",
        "The daemon makes it when it starts. The central team then has to accept it: 'edge-convert sites accept'.",
        "sudo systemctl restart edge-agent",
    ),
    FindingRule(
        "fault",
        lambda f: f.file.kind and not f.is_key,
        "{f.file.path} is not a key ({f.file.size} bytes)",
        "Restore it from a copy, or move it away: the daemon makes a new one, which the central team has to accept.",
        "sudo mv {f.file.path} {f.file.path}.damaged && sudo systemctl restart edge-agent",
    ),
    FindingRule(
        "warning",
        lambda f: f.file.mode & 0o077,
        "{f.file.path} is {f.file.owner_and_mode}: other users may read it",
        "Restrict its mode. If another user may have read it, make a new key for the central team to accept.",
        "sudo chmod 600 {f.file.path}",
    ),
    FindingRule("ok", lambda f: f.file.kind, "{f.file.path}, readable for its owner only"),
)


def judge_site_key(facts: SiteKeyFacts) -> Iterator[Finding]:
    """Judge the site's key."""
    yield from first_match(SITE_KEY, _KEY, facts)


@dataclass(frozen=True)
class CredentialFile:
    """A credential for an object store or a large model."""

    purpose: str
    """uplink, uplink-updates or escalation."""
    url: str
    """The URL that it opens, without secrets."""
    file: FileInfo
    """The file that agent.yaml names, or the one in systemd's credential store."""
    sealed: bool
    """systemd stores it encrypted."""
    readers: tuple[FileReader, ...]
    expected: bool = True
    """agent.yaml names it, or enrolment gave it to the uplink's unit."""

    @property
    def needed(self) -> bool:
        """The URL needs a credential; a folder does not."""
        return self.url.startswith(_NEEDS_CREDENTIAL)

    @property
    def denied_user(self) -> str:
        """The user who has to read it and may not; empty when there is none."""
        return next((reader.name for reader in self.readers if not reader.can_read), "")


_CREDENTIAL: tuple[FindingRule[CredentialFile], ...] = (
    FindingRule(
        "note",
        lambda f: not f.file.kind and not f.expected,
        "no credential was given for {f.url}",
        "Correct for a public store. Otherwise enrol the site with a file that has one.",
        _ENROL,
    ),
    FindingRule(
        "warning",
        lambda f: not f.file.kind,
        "{f.url} has none: {f.file.path} does not exist",
        "Enrol the site again, or write the credential.",
        _ENROL,
    ),
    FindingRule("fault", lambda f: not f.file.size, "{f.file.path} is empty", "Write the credential again.", _ENROL),
    FindingRule(
        "fault",
        lambda f: not f.sealed and f.file.mode & 0o007,
        "{f.file.path} is {f.file.owner_and_mode}: every user may read it",
        "Restrict its mode, and have the central team make a new credential.",
        "sudo chmod 600 {f.file.path}",
    ),
    FindingRule(
        "fault",
        lambda f: f.denied_user,
        "{f.denied_user} may not read {f.file.path} ({f.file.owner_and_mode})",
        "Make the uplink's user its owner.",
        "sudo chown {f.denied_user} {f.file.path}",
    ),
    FindingRule(
        "note",
        lambda f: not f.sealed,
        "{f.file.path} exists, but is not encrypted",
        "A user who can read this disk can read it. If systemd-creds is available, enrolling again encrypts it.",
        _ENROL,
    ),
    FindingRule("ok", otherwise, "{f.file.path}, encrypted for this machine"),
)


def judge_credentials(files: tuple[CredentialFile, ...]) -> Iterator[Finding]:
    """Judge the credentials of the uplink, one for each URL."""
    for credential in files:
        if credential.needed:
            yield from first_match(CREDENTIALS, _CREDENTIAL, credential, about=credential.purpose)


def probe_enrolment(context: ProbeContext) -> EnrolmentFacts:
    """Read the settings from the enrolment file."""
    config = context.installation.config
    return EnrolmentFacts(
        site=config.site.id,
        recipients=len(config.site.recipients),
        receipt_keys=len(config.site.receipt_keys),
        upstream=config.uplink.url,
        updates=config.uplink.updates_url,
        shares_examples="upstream" in config.examples.collect.values(),
    )


def probe_root(context: ProbeContext) -> RootFacts:
    """Read version and expiry of the root of trust that enrolment installed."""
    config = context.installation.config
    path, updates = config.update.root_file, config.uplink.updates_url
    if not path:
        return RootFacts("", updates)
    if not stat_file(Path(path)).kind:
        return RootFacts(path, updates)
    try:
        version, expires = read_signed_part(Path(path), "root")
    except ValueError as error:
        return RootFacts(path, updates, exists=True, problem=str(error))
    return RootFacts(path, updates, True, "", version, expires - time.time())


def read_signed_part(path: Path, role: str) -> tuple[int, float]:
    """Return version and expiry (seconds since 1970) of TUF metadata, unverified. Raises OSError, ValueError."""
    raw = read_bytes(path)
    try:
        signed = json.loads(raw)["signed"]
        kind, version, expires = signed["_type"], int(signed["version"]), datetime.fromisoformat(signed["expires"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"it is not {role} metadata") from None
    if kind != role or expires.tzinfo is None:
        raise ValueError(f"it is {kind!r} metadata, not {role} metadata")
    return version, expires.timestamp()


def probe_site_key(context: ProbeContext) -> SiteKeyFacts:
    """Look at the first bytes of the key."""
    config = context.installation.config
    path = config.state_dir / "site.key"
    file = stat_file(path)
    is_key = file.kind == "file" and read_bytes(path, len(_KEY_BEGIN)) == _KEY_BEGIN
    # The daemon makes it where examples are collected, or reports on updates go to the central team.
    is_used = any(consent != "off" for consent in config.examples.collect.values()) or config.update.root_file
    return SiteKeyFacts(file, is_key, bool(config.site.id and config.site.recipients and is_used))


def probe_credentials(context: ProbeContext) -> tuple[CredentialFile, ...]:
    """Find each credential, and check who may read it."""
    uplink, escalation = context.installation.config.uplink, context.installation.config.escalation
    settings = (
        ("uplink", uplink.url, uplink.credentials_file),
        ("uplink-updates", uplink.updates_url, uplink.updates_credentials_file),
        ("escalation", escalation.url, escalation.credentials_file),
    )
    return tuple(_probe_credential(context, purpose, url, file) for purpose, url, file in settings if url)


def _probe_credential(context: ProbeContext, purpose: str, url: str, file: str) -> CredentialFile:
    sealed, plain = (context.installation.at(path.format(name=purpose)) for path in (_SEALED, _PLAIN))
    if file:
        user = context.installation.find_user(UPLINK_USER) if is_shared(context) else None
        reader = file_reader(Path(file), user)
        return CredentialFile(purpose, url, reader.file, sealed=False, readers=(reader,))
    # systemd reads these as root, and passes them to the uplink only.
    path = plain if stat_file(plain).kind and not stat_file(sealed).kind else sealed
    expected = f"={purpose}:" in read_text(context.installation.at(_DROP_IN))
    return CredentialFile(purpose, url, stat_file(path), sealed=path == sealed, readers=(), expected=expected)


GROUPS = (
    CheckGroup((ENROLMENT,), probe_enrolment, judge_enrolment),
    CheckGroup((ROOT,), probe_root, judge_root),
    CheckGroup((SITE_KEY,), probe_site_key, judge_site_key),
    CheckGroup((CREDENTIALS,), probe_credentials, judge_credentials),
)
