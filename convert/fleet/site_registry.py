"""sites.json: which sites there are, and which keys each signs with.

    {"schema": "edge-agent/sites/v1", "sites": {"shop-1": {"keys": ["9f…"], "retired": [], "rejected": [], "kits": []}}}

A site that an enrolment file was made for is known from then on: its key is accepted by a person, who compares its
code with what the site shows. Of a site that was never registered, the first key seen is written down and binds (trust
on first use), unless only registered sites are taken. Another key of a known site waits until someone decides: a
replaced machine has a new key, and so has someone who pretends to be it.

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
_KITS_KEPT = 20
_KEYS_MAX = 100

Standing = Literal["current", "retired", "rejected", "revoked", "awaited", "another", "unknown"]
"""What a key is to a site. current: speaks for it. retired: of an earlier life; what it sealed is taken, and nothing
else. rejected: somebody said no. revoked: the site is no more. awaited: an enrolment file was made, and no key was
accepted yet. another: the site has other keys. unknown: nothing is known of the site.
"""
UNDECIDED: tuple[Standing, ...] = ("awaited", "another", "unknown")


_WHY: dict[Standing, str] = {
    "current": "",
    "retired": "signed by a key of an earlier life of the site, whose segments only are taken",
    "rejected": "signed by a key that was rejected",
    "revoked": "the site was revoked; {restore}",
    "awaited": "the site's key was not accepted yet; {how}",
    "another": "signed by another key than the site's, {known}…; was the machine replaced or reinstalled? {how}",
    "unknown": "the site is not registered; {how}",
}


class EnrolmentRecord(BaseModel):
    """An enrolment file that was made; what is in it is not kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    issued_at: At
    expires_at: At


class SiteEntry(BaseModel):
    """What is known of a site."""

    model_config = ConfigDict(extra="forbid")
    keys: list[str] = Field(default=[], max_length=_KEYS_MAX)
    """Ed25519 public keys in hexadecimal, the newest last."""
    retired: list[str] = Field(default=[], max_length=_KEYS_MAX)
    rejected: list[str] = Field(default=[], max_length=_KEYS_MAX)
    kits: list[EnrolmentRecord] = Field(default=[], max_length=_KITS_KEPT)
    """The newest last."""
    revoked_at: At | None = None

    @model_validator(mode="after")
    def _says_something(self) -> SiteEntry:
        if not self.known:
            raise ValueError("a site needs a key, or an enrolment file")
        return self

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return bool(self.model_dump(exclude_defaults=True))

    @property
    def speaking(self) -> list[str]:
        """The keys that may speak for the site now."""
        return [] if self.revoked_at else self.keys

    @property
    def every_key(self) -> dict[Standing, list[str]]:
        """Keys that somebody has decided about, by what they are."""
        return {"current": self.keys, "retired": self.retired, "rejected": self.rejected}


_BLANK = SiteEntry.model_construct()


class _RegistryDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_: str = Field(default=SCHEMA, alias="schema", pattern=f"^{SCHEMA}$")
    sites: dict[SiteId, SiteEntry] = Field(default_factory=dict)


class SiteRegistry:
    """The registry, as a file that is replaced whole at every change. Changes raise ManifestInvalid, too."""

    def __init__(self, path: Path) -> None:
        """Read it; a file that is not there holds no site. Raises ManifestInvalid."""
        self._path = path
        self._document = _read(path)

    def names(self) -> list[str]:
        """Return the ids of all sites that are known and not revoked."""
        return sorted(site for site, entry in self._document.sites.items() if not entry.revoked_at)

    def every_name(self) -> list[str]:
        """Return the ids of all sites that are known, also those that were revoked."""
        return sorted(self._document.sites)

    def entry(self, site: str) -> SiteEntry:
        """Return what is known of a site; of one that is not known, an entry without anything."""
        return self._document.sites.get(site, _BLANK).model_copy(deep=True)

    def keys(self, site: str) -> list[str]:
        """Return the keys that may speak for the site now; none when it is not known, or revoked."""
        return self.entry(site).speaking

    def standing(self, site: str, key: str) -> Standing:
        """Say what a key is to a site."""
        entry = self.entry(site)
        if not entry.known:
            return "unknown"
        if entry.revoked_at:
            return "revoked"
        found: list[Standing] = [standing for standing, keys in entry.every_key.items() if key in keys]
        return (found or ["another" if entry.keys else "awaited"])[0]

    def objection(self, site: str, key: str) -> str:
        """Return why a key may not speak for a site now; empty = it may."""
        accept = f"accept it with 'edge-convert sites accept {site} {key} {self._option}'"
        how = f"if the site shows the code {verification_code(key)}, {accept}"
        known = self.keys(site)[-1:]
        return _WHY[self.standing(site, key)].format(
            site=site, how=how, known="".join(known)[:16], restore=self._restore(site)
        )

    def _restore(self, site: str) -> str:
        return f"'edge-convert sites restore {site} {self._option}' takes that back"

    @property
    def _option(self) -> str:
        """Return the option by which 'edge-convert sites' finds this registry."""
        if self._path.name == FILE_NAME:
            return f"--collected {shlex.quote(str(self._path.parent))}"
        return f"--sites {shlex.quote(str(self._path))}"

    def check_open(self, site: str) -> None:
        """Raise InvalidRequest when a site was revoked."""
        revoked_at = self.entry(site).revoked_at
        if revoked_at:
            said = f"{site} was revoked on {revoked_at[:10]}"
            raise InvalidRequest(said, remedy=f"{self._restore(site)}; or take another id.")

    def accept(self, site: str, key: str, *, replaces: bool = False) -> None:
        """Let a site sign with a key, beside those it has or in their place. Durable when it returns.

        Raises:
            InvalidRequest: no site id, no key, or the site was revoked.
            OSError: it cannot be written down.
        """
        _check_key(site, key)
        with self._changed(site) as entry:
            self.check_open(site)
            entry.retired = _without(_with(entry.retired, *(entry.keys if replaces else [])), key)
            entry.keys = [key] if replaces else _with(entry.keys, key)
            entry.rejected = _without(entry.rejected, key)
            self._log(entry, "key accepted", site, key=key, replaces=replaces)

    def accept_first(self, site: str, key: str) -> bool:
        """Let a site sign with the first key that was seen of it; False = something is known of the site by now.

        Raises as `accept`.
        """
        _check_key(site, key)
        with self._changed(site) as entry:
            if entry.known:
                return False
            entry.keys = [key]
            self._log(entry, "key accepted", site, actor="collect", key=key, why="the first key of a new site")
            return True

    def retire(self, site: str, key: str) -> None:
        """Take what a key has sealed, and let it say nothing else: of a box that is no more. Raises as `accept`."""
        _check_key(site, key)
        with self._changed(site) as entry:
            entry.retired = _with(entry.retired, key)
            entry.keys, entry.rejected = _without(entry.keys, key), _without(entry.rejected, key)
            self._log(entry, "key retired", site, key=key)

    def reject(self, site: str, key: str) -> None:
        """Take nothing of a key any more. Raises as `accept`."""
        _check_key(site, key)
        with self._changed(site) as entry:
            entry.rejected = _with(entry.rejected, key)
            entry.keys, entry.retired = _without(entry.keys, key), _without(entry.retired, key)
            self._log(entry, "key rejected", site, key=key)

    def issue(self, site: str, enrolment: EnrolmentRecord) -> None:
        """Write down that an enrolment file was made: the site is known from now on. Raises as `accept`."""
        with self._changed(site) as entry:
            self.check_open(site)
            entry.kits = [*entry.kits, enrolment][-_KITS_KEPT:]

    def revoke(self, site: str, at: str) -> None:
        """Take nothing of a site any more, until `restore`. Raises InvalidRequest, OSError."""
        self._revoked(site, at)

    def restore(self, site: str) -> None:
        """Take that back. Raises InvalidRequest, OSError."""
        self._revoked(site, None)

    def _revoked(self, site: str, at: str | None) -> None:
        if not self.entry(site).known:
            remedy = f"'edge-convert sites list {self._option}' shows who is."
            raise InvalidRequest(f"'{site}' is not in {self._path}", remedy=remedy)
        with self._changed(site) as entry:
            entry.revoked_at = at
            self._log(entry, "site revoked" if at else "site restored", site)

    @contextmanager
    def _changed(self, site: str) -> Iterator[SiteEntry]:
        """Yield what the file says of a site now, and write what the block makes of it; nothing if it raises."""
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
                self._write()
        finally:
            os.close(lock)

    def _log(
        self, entry: SiteEntry, action: accountability.Action, site: str, *, actor: str = "", **details: Any
    ) -> None:
        """Write a decision into the log. Raises InvalidRequest if the entry would be too long to be read again."""
        for standing, keys in entry.every_key.items():
            if len(keys) > _KEYS_MAX:
                said = f"{site} would have {len(keys)} keys of the kind '{standing}'; the limit is {_KEYS_MAX}"
                raise InvalidRequest(said, remedy=f"Take old ones of the site out of {self._path}.")
        accountability.record(self._path.parent, action, [site], actor=actor, **details)

    def _write(self) -> None:
        plain = self._document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        content = (json.dumps({"schema": SCHEMA, **plain}, indent=2, sort_keys=True) + "\n").encode()
        if not self._path.is_file() or self._path.read_bytes() != content:
            atomic_files.write_atomically(self._path, content)


def _read(path: Path) -> _RegistryDocument:
    """Read the file; one that is not there holds no site. Raises ManifestInvalid."""
    if path.exists() and not path.is_file():
        raise ManifestInvalid(f"{path} is not a file", remedy="Name the registry of the sites: sites.json.")
    try:
        plain = strict_json.decode(path.read_bytes() if path.is_file() else b"{}")
        return strict_json.validate(_RegistryDocument, plain)
    except ValueError as error:
        said = f"{path}: {strict_json.first_problem(error, show=True)}"
        raise ManifestInvalid(said, remedy="Correct it, or restore it from its backup.") from None


def _check_key(site: str, key: str) -> None:
    """Raise InvalidRequest when a text is no site id, or another no key."""
    check_site(site)
    if not _KEY.fullmatch(key):
        raise InvalidRequest(f"'{key[:80]}' is no site key", remedy="A site's key has 64 hexadecimal digits.")


def check_site(site: str) -> None:
    """Raise InvalidRequest when a text is no site id."""
    if not _SITE.fullmatch(site):
        raise InvalidRequest(f"'{site}' is no site id", remedy="Lower-case letters, digits and inner hyphens.")


def _with(keys: list[str], *more: str) -> list[str]:
    return list(dict.fromkeys([*keys, *more]))


def _without(keys: list[str], key: str) -> list[str]:
    return [each for each in keys if each != key]
