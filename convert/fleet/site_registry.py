"""sites.json: the sites of a fleet, and the keys that each signs with.

    {"schema": "edge-agent/sites/v1", "sites": {"shop-1": {"keys": ["9f…"], "retired": [], "rejected": [], "kits": []}}}

A site is known once an enrolment file was made for it. A person then accepts its key, after comparing the code of the
key with the one that the site shows. For a site that was never registered, the first key seen is stored, and from then
on only that key counts (trust on first use), unless only registered sites are accepted. Another key of a known site
waits for a decision: a replaced machine has a new key, and so has an impostor.

Several commands can change the file at the same time, such as `sites revoke` while collect runs for an hour: each
change reads the file again under a lock. A decision is in the log (accountability.py) before it counts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from convert.fleet import accountability
from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest, ManifestInvalid
from edge_agent.formats import strict_json
from edge_agent.formats.enrolment_file import verification_code
from edge_agent.formats.signed_document import At, SiteId

FILE_NAME = "sites.json"
SCHEMA = "edge-agent/sites/v1"
_KEY = re.compile(r"[0-9a-f]{64}")
_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENROLMENTS_MAX = 20
_KEYS_MAX = 100

KeyStatus = Literal["current", "retired", "rejected", "revoked", "awaited", "another", "unknown"]
"""The status of a key for a site. current: may sign. retired: of an earlier installation; only segments that it sealed
are accepted. rejected: by a person. revoked: the site was revoked. awaited: an enrolment file was made, and no key is
accepted yet. another: the site has other keys. unknown: the site is not in the registry.
"""
UNDECIDED: tuple[KeyStatus, ...] = ("awaited", "another", "unknown")


_OBJECTIONS: dict[KeyStatus, str] = {
    "current": "",
    "retired": "signed by a key of an earlier installation of the site, from which only segments are accepted",
    "rejected": "signed by a key that was rejected",
    "revoked": "the site was revoked; {restore}",
    "awaited": "the site's key is not accepted yet; {how}",
    "another": "signed by another key than the site's, {known}…; was the machine replaced or reinstalled? {how}",
    "unknown": "the site is not registered; {how}",
}


class EnrolmentRecord(BaseModel):
    """An enrolment file that was made; its content is not stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    issued_at: At
    expires_at: At


class SiteEntry(BaseModel):
    """The entry of a site."""

    model_config = ConfigDict(extra="forbid")
    keys: list[str] = Field(default=[], max_length=_KEYS_MAX)
    """Ed25519 public keys in hexadecimal, the newest last."""
    retired: list[str] = Field(default=[], max_length=_KEYS_MAX)
    rejected: list[str] = Field(default=[], max_length=_KEYS_MAX)
    kits: list[EnrolmentRecord] = Field(default=[], max_length=_ENROLMENTS_MAX)
    """The newest last."""
    revoked_at: At | None = None

    @model_validator(mode="after")
    def _check_not_empty(self) -> SiteEntry:
        if not self.known:
            raise ValueError("a site needs a key, or an enrolment file")
        return self

    @property
    def known(self) -> bool:
        """Whether the entry is not empty."""
        return bool(self.model_dump(exclude_defaults=True))

    @property
    def signing_keys(self) -> list[str]:
        """The keys that may sign for the site now."""
        return [] if self.revoked_at else self.keys

    @property
    def every_key(self) -> dict[KeyStatus, list[str]]:
        """Keys with a decision, by their status."""
        return {"current": self.keys, "retired": self.retired, "rejected": self.rejected}


_NO_ENTRY = SiteEntry.model_construct()


class _RegistryDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_: str = Field(default=SCHEMA, alias="schema", pattern=f"^{SCHEMA}$")
    sites: dict[SiteId, SiteEntry] = Field(default_factory=dict)


class SiteRegistry:
    """The registry, a file that each change replaces as a whole. Changes also raise ManifestInvalid."""

    def __init__(self, path: Path) -> None:
        """Read the file; without one there are no sites. Raises ManifestInvalid."""
        self._path = path
        self._document = _read(path)

    def names(self) -> list[str]:
        """Return the ids of all known sites that are not revoked."""
        return sorted(site for site, entry in self._document.sites.items() if not entry.revoked_at)

    def every_name(self) -> list[str]:
        """Return the ids of all known sites, revoked ones included."""
        return sorted(self._document.sites)

    def entry(self, site: str) -> SiteEntry:
        """Return the entry of a site; an empty entry for an unknown one."""
        return self._document.sites.get(site, _NO_ENTRY).model_copy(deep=True)

    def keys(self, site: str) -> list[str]:
        """Return the keys that may sign for the site now; none if it is unknown or revoked."""
        return self.entry(site).signing_keys

    def key_status(self, site: str, key: str) -> KeyStatus:
        """Return the status of a key for a site."""
        entry = self.entry(site)
        if not entry.known:
            return "unknown"
        if entry.revoked_at:
            return "revoked"
        statuses: list[KeyStatus] = [status for status, keys in entry.every_key.items() if key in keys]
        return (statuses or ["another" if entry.keys else "awaited"])[0]

    def objection(self, site: str, key: str) -> str:
        """Return why a key may not sign for a site now; empty = it may."""
        accept = f"accept it with 'edge-convert sites accept {site} {key} {self._option}'"
        how = f"if the site shows the code {verification_code(key)}, {accept}"
        known = self.keys(site)[-1:]
        return _OBJECTIONS[self.key_status(site, key)].format(
            site=site, how=how, known="".join(known)[:16], restore=self._restore(site)
        )

    def _restore(self, site: str) -> str:
        return f"'edge-convert sites restore {site} {self._option}' undoes that"

    @property
    def _option(self) -> str:
        """The option with which 'edge-convert sites' finds this registry."""
        if self._path.name == FILE_NAME:
            return f"--collected {shlex.quote(str(self._path.parent))}"
        return f"--sites {shlex.quote(str(self._path))}"

    def check_open(self, site: str) -> None:
        """Raise InvalidRequest if a site was revoked."""
        revoked_at = self.entry(site).revoked_at
        if revoked_at:
            message = f"{site} was revoked on {revoked_at[:10]}"
            raise InvalidRequest(message, remedy=f"{self._restore(site)}; or use another id.")

    def accept(self, site: str, key: str, *, replaces: bool = False) -> None:
        """Let a site sign with a key, in addition to its keys or in their place. Durable on return.

        Raises:
            InvalidRequest: the site id or the key is not valid, or the site was revoked.
            OSError: the registry cannot be written.
        """
        _check_key(site, key)
        with self._edit(site) as entry:
            self.check_open(site)
            entry.retired = _without(_with(entry.retired, *(entry.keys if replaces else [])), key)
            entry.keys = [key] if replaces else _with(entry.keys, key)
            entry.rejected = _without(entry.rejected, key)
            self._log(entry, "key accepted", site, key=key, replaces=replaces)

    def accept_first(self, site: str, key: str) -> bool:
        """Let a new site sign with the first key that was seen of it; False = the site is known by now.

        Raises as `accept`.
        """
        _check_key(site, key)
        with self._edit(site) as entry:
            if entry.known:
                return False
            entry.keys = [key]
            self._log(entry, "key accepted", site, actor="collect", key=key, why="the first key of a new site")
            return True

    def retire(self, site: str, key: str) -> None:
        """Accept only segments that a key has sealed: its machine was replaced. Raises as `accept`."""
        _check_key(site, key)
        with self._edit(site) as entry:
            entry.retired = _with(entry.retired, key)
            entry.keys, entry.rejected = _without(entry.keys, key), _without(entry.rejected, key)
            self._log(entry, "key retired", site, key=key)

    def reject(self, site: str, key: str) -> None:
        """Accept nothing more from a key. Raises as `accept`."""
        _check_key(site, key)
        with self._edit(site) as entry:
            entry.rejected = _with(entry.rejected, key)
            entry.keys, entry.retired = _without(entry.keys, key), _without(entry.retired, key)
            self._log(entry, "key rejected", site, key=key)

    def issue(self, site: str, enrolment: EnrolmentRecord) -> None:
        """Store that an enrolment file was made: the site is known from now on. Raises as `accept`."""
        with self._edit(site) as entry:
            self.check_open(site)
            entry.kits = [*entry.kits, enrolment][-_ENROLMENTS_MAX:]

    def revoke(self, site: str, at: str) -> None:
        """Accept nothing from a site until `restore`. Raises InvalidRequest, OSError."""
        self._set_revoked(site, at)

    def restore(self, site: str) -> None:
        """Undo `revoke`. Raises InvalidRequest, OSError."""
        self._set_revoked(site, None)

    def _set_revoked(self, site: str, at: str | None) -> None:
        if not self.entry(site).known:
            remedy = f"'edge-convert sites list {self._option}' shows all sites."
            raise InvalidRequest(f"'{site}' is not in {self._path}", remedy=remedy)
        with self._edit(site) as entry:
            entry.revoked_at = at
            self._log(entry, "site revoked" if at else "site restored", site)

    @contextmanager
    def _edit(self, site: str) -> Iterator[SiteEntry]:
        """Yield the current entry of a site, and write it after the block; nothing if the block raises."""
        if not self._path.parent.exists():
            atomic_files.make_private(self._path.parent)  # collect will put examples into it
        lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._document = _read(self._path)
            entry = self.entry(site)
            yield entry
            if entry.known:
                self._document.sites[site] = entry
                plain = self._document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
                content = (json.dumps({"schema": SCHEMA, **plain}, indent=2, sort_keys=True) + "\n").encode()
                if not self._path.is_file() or self._path.read_bytes() != content:
                    atomic_files.write_atomically(self._path, content)
        finally:
            os.close(lock)

    def _log(
        self, entry: SiteEntry, action: accountability.Action, site: str, *, actor: str = "", **details: Any
    ) -> None:
        """Log a decision. Raises InvalidRequest if the entry would have more keys than the registry accepts."""
        for status, keys in entry.every_key.items():
            if len(keys) > _KEYS_MAX:
                message = f"{site} would have {len(keys)} keys of the kind '{status}'; the limit is {_KEYS_MAX}"
                raise InvalidRequest(message, remedy=f"Remove old keys of the site from {self._path}.")
        accountability.record(self._path.parent, action, [site], actor=actor, **details)


def _read(path: Path) -> _RegistryDocument:
    """Read the file; without one there are no sites. Raises ManifestInvalid."""
    if path.exists() and not path.is_file():
        raise ManifestInvalid(f"{path} is not a file", remedy="Name the registry of the sites: sites.json.")
    try:
        plain = strict_json.decode(path.read_bytes() if path.is_file() else b"{}")
        return strict_json.validate(_RegistryDocument, plain)
    except ValueError as error:
        message = f"{path}: {strict_json.first_problem(error, show=True)}"
        raise ManifestInvalid(message, remedy="Correct it, or restore it from its backup.") from None


def _check_key(site: str, key: str) -> None:
    """Raise InvalidRequest unless site id and key are valid."""
    check_site(site)
    if not _KEY.fullmatch(key):
        raise InvalidRequest(f"'{key[:80]}' is not a site key", remedy="A site's key has 64 hexadecimal digits.")


def check_site(site: str) -> None:
    """Raise InvalidRequest unless a site id is valid."""
    if not _SITE.fullmatch(site):
        raise InvalidRequest(f"'{site}' is not a site id", remedy="Lower-case letters, digits and inner hyphens.")


def _with(keys: list[str], *more: str) -> list[str]:
    return list(dict.fromkeys([*keys, *more]))


def _without(keys: list[str], key: str) -> list[str]:
    return [each for each in keys if each != key]
