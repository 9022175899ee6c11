"""sites.json: which keys each site signs with. A site that is not there is taken at its word once, or refused.

    {"schema": "edge-agent/sites/v1", "sites": {"shop-1": {"keys": ["9f…"]}}}

The first key seen of a site is written down and binds from then on (trust on first use), unless only registered sites
are taken. Another key of a known site is refused until someone accepts it: a replaced box has a new key, and so has
someone who pretends to be it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from convert import durable, yaml_file
from edge_agent.errors import InvalidRequest, ManifestInvalid
from edge_agent.formats.document import SiteId

FILE_NAME = "sites.json"
SCHEMA = "edge-agent/sites/v1"
_KEY = re.compile(r"[0-9a-f]{64}")
_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class _Site(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: list[str] = Field(min_length=1, max_length=100)
    """Ed25519 public keys in hexadecimal, the newest last."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_: str = Field(default=SCHEMA, alias="schema", pattern=f"^{SCHEMA}$")
    sites: dict[SiteId, _Site] = Field(default_factory=dict)


class Sites:
    """The registry, as a file that is replaced whole at every change."""

    def __init__(self, path: Path) -> None:
        """Read it; a file that is not there holds no site. Raises ManifestInvalid."""
        self._path = path
        try:
            self._document = _Document.model_validate_json(path.read_bytes() if path.is_file() else b"{}")
        except ValidationError as error:
            said = f"{path}: {yaml_file.first_problem(error, 'the registry')}"
            raise ManifestInvalid(said, remedy="Correct it, or take it from its backup.") from None

    def names(self) -> list[str]:
        """Return the ids of all sites that are known."""
        return sorted(self._document.sites)

    def keys(self, site: str) -> list[str]:
        """Return the keys that the site may sign with; none when it is not known."""
        known = self._document.sites.get(site)
        return list(known.keys) if known else []

    def accept(self, site: str, key: str) -> None:
        """Let a site sign with a key, beside those it has. Durable when it returns. Raises InvalidRequest, OSError."""
        if not _SITE.fullmatch(site):
            raise InvalidRequest(f"'{site}' is no site id", remedy="Lower-case letters, digits and inner hyphens.")
        if not _KEY.fullmatch(key):
            raise InvalidRequest(f"'{key[:80]}' is no site key", remedy="A site's key has 64 hexadecimal digits.")
        keys = self.keys(site)
        if key in keys:
            return
        self._document.sites[site] = _Site(keys=[*keys, key])
        plain = self._document.model_dump(mode="json", by_alias=True)
        durable.write(self._path, (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode())
