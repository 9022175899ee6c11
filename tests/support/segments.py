"""A site that seals segments into a folder as serve and uplink would, and a central team that collects them.

site = SealingSite(tmp_path / "store")
site.seal([prediction(1), feedback(1)])
report = Central team(tmp_path).collect(tmp_path / "store")
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convert.collect.collection import CollectReport, CollectRequest, collect
from convert.collect.sources import SegmentSource, open_source
from convert.publish.central_keys import CentralKeys
from edge_agent.formats import example_records, segment, status_object
from edge_agent.formats.signed_document import format_timestamp, public_key_hex, sign
from tests.support.examples import CENTRAL_KEY, EPOCH, IDENTITY, NOW, RECIPIENT, SITE_KEY, segment_manifest

Record = example_records.AnyRecord
KEYS = CentralKeys((IDENTITY,), CENTRAL_KEY)


class SealingSite:
    """One life of one site. `seal` numbers and chains; the files it wrote may then be spoilt."""

    def __init__(
        self, store: Path, site: str = "site-1", epoch: str = EPOCH, key: Ed25519PrivateKey = SITE_KEY
    ) -> None:
        self.site, self.epoch, self.key = site, epoch, key
        self.folder = store / f"site={site}"
        self.sequence, self.previous = 0, ""
        (self.folder / "segments").mkdir(parents=True, exist_ok=True)

    def seal(self, records: Sequence[Record], **changes: Any) -> str:
        """Write the next segment of records, which become this site's; returns its name without suffix."""
        mine = [record.model_copy(update={"site": self.site}) for record in records]
        return self.seal_lines(b"".join(map(example_records.encode, mine)), records=len(mine), **changes)

    def seal_lines(self, lines: bytes, recipients: Sequence[str] = (RECIPIENT,), **changes: Any) -> str:
        """Write the next segment with any content."""
        self.sequence += 1
        sealed = segment.seal(lines, recipients)
        plain = {
            "site": self.site,
            "epoch": self.epoch,
            "previous": self.previous,
            "sha256": hashlib.sha256(sealed).hexdigest(),
            "size_bytes": len(sealed),
            "recipients": list(recipients),
        }
        raw = sign(segment_manifest(self.sequence, **{**plain, **changes}), self.key)
        self.previous = hashlib.sha256(raw).hexdigest()
        name = segment.name_of(self.epoch, self.sequence)
        self.sealed(name).write_bytes(sealed)
        self.manifest(name).write_bytes(raw)
        return name

    def sealed(self, name: str) -> Path:
        return self.folder / "segments" / f"{name}.age"

    def manifest(self, name: str) -> Path:
        return self.folder / "segments" / f"{name}.json"

    def remove(self, name: str) -> None:
        """Delete a segment, as if it were lost in transit."""
        self.sealed(name).unlink()
        self.manifest(name).unlink()

    def say(self, at: float = NOW, **changes: Any) -> None:
        """Write the status object."""
        plain = {
            "site": self.site,
            "at": format_timestamp(at),
            "agent_version": "0.1.0",
            "epoch": self.epoch,
            "highest": {self.epoch: self.sequence},
        }
        body = status_object.SiteStatus.model_validate({**plain, **changes})
        (self.folder / "status.json").write_bytes(sign(body, self.key))

    def receipts(self) -> segment.Receipts:
        """Read what the central team laid down for the site, checked as the site would."""
        raw = (self.folder / segment.RECEIPTS_FILE_NAME).read_bytes()
        return segment.verify_receipts(raw, [public_key_hex(CENTRAL_KEY)]).body

    def received(self) -> list[tuple[int, int]]:
        """Return the ranges that the site may delete."""
        return [(each.first, each.last) for epoch in self.receipts().epochs for each in epoch.received]


class CentralTeam:
    """A folder that examples are collected to."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.out = root / "collected"
        self.options: dict[str, Any] = {"keys": KEYS, "now": lambda: NOW, **options}

    def collect(self, *stores: Path | SegmentSource, **options: Any) -> CollectReport:
        """Run collect once."""
        sources = [open_source(str(store), {}) if isinstance(store, Path) else store for store in stores]
        return collect(CollectRequest(sources, self.out, **{**self.options, **options}))

    def query(self, select: str) -> list[tuple[Any, ...]]:
        """Ask DuckDB; `examples` and `records` stand for the files."""
        views = {"examples": "examples/**/*.parquet", "records": "raw/*.parquet"}
        with duckdb.connect() as connection:
            for name, files in views.items():
                if list(self.out.glob(files)):
                    connection.execute(f"CREATE VIEW {name} AS FROM '{self.out / files}'")
            return connection.execute(select).fetchall()

    def files(self) -> dict[str, bytes]:
        """Return everything that was written, by path."""
        return {
            str(path.relative_to(self.out)): path.read_bytes() for path in sorted(self.out.rglob("*")) if path.is_file()
        }


def stranger() -> pyrage.x25519.Identity:
    """Return an identity that nothing is sealed to."""
    return pyrage.x25519.Identity.generate()
