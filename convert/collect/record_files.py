"""Parquet files of collected records, each of which lists its segments in its metadata.

A file is written next to its place, synced and renamed, so that its segments are stored whole or not at all, and no
second record of collected segments could disagree. Its name is derived from its content, so that repeating the work
after a crash makes the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convert.collect.record_columns import SCHEMA
from edge_agent.durable import atomic_files
from edge_agent.formats.segment import SegmentManifest, name_of
from edge_agent.formats.signed_document import SignedDocument

FOLDER = "raw"
_SEGMENTS = b"edge-agent/segments"
ROWS_MAX = 100_000
"""A file is written when it has this many rows or bytes in memory; one segment can exceed that."""
BYTES_MAX = 128 * 1024 * 1024


@dataclass(frozen=True, order=True)
class SegmentEntry:
    """One collected segment."""

    site: str
    epoch: str
    sequence: int
    manifest_sha256: str
    previous: str
    """sha256 of the manifest before it; empty for the first."""
    size_bytes: int
    """Of the sealed file."""
    records: int
    reseals: tuple[int, ...] = ()
    """Earlier segments whose surviving records came again in this one."""

    @property
    def name(self) -> str:
        """The segment's name for people."""
        return f"{self.site}/{name_of(self.epoch, self.sequence)}"


def entry_of(signed: SignedDocument[SegmentManifest]) -> SegmentEntry:
    """Return the description of a segment for the metadata."""
    body = signed.body
    return SegmentEntry(
        body.site, body.epoch, body.sequence, signed.sha256, body.previous, body.size_bytes, body.records, body.reseals
    )


def files(folder: Path) -> list[Path]:
    """Return the files of records, in the order of their names."""
    return sorted(folder.glob("*.parquet"))


def entries(folder: Path) -> Iterator[SegmentEntry]:
    """Yield every collected segment."""
    for file in files(folder):
        for plain in json.loads(pq.read_schema(file).metadata[_SEGMENTS]):
            yield SegmentEntry(**{**plain, "reseals": tuple(plain["reseals"])})


class RecordWriter:
    """Gathers segments and writes them in files of a sensible size. `close` writes the rest."""

    def __init__(self, folder: Path) -> None:
        """Write to a folder, which is created; files that a crash left incomplete are removed."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(f"*{atomic_files.PARTIAL}"):
            partial.unlink()
        self._entries: list[SegmentEntry] = []
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def add(self, entry: SegmentEntry, batches: Sequence[pa.RecordBatch]) -> bool:
        """Add a whole segment; return whether everything added so far is now on the disk. Raises OSError."""
        self._entries.append(entry)
        return self.add_rows(batches)

    def add_rows(self, batches: Sequence[pa.RecordBatch]) -> bool:
        """Add records without a segment; otherwise like `add`."""
        self._batches += batches
        self._rows += sum(batch.num_rows for batch in batches)
        self._bytes += sum(batch.nbytes for batch in batches)
        if self._rows < ROWS_MAX and self._bytes < BYTES_MAX:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Write the gathered records. Raises OSError."""
        if self._batches:
            table = pa.Table.from_batches(self._batches, SCHEMA)
            segments = [asdict(entry) for entry in self._entries]
            write(self._folder / _name(self._entries, table), table, segments)
        self._entries, self._batches = [], []
        self._rows = self._bytes = 0


def write(path: Path, table: pa.Table, segments: list[dict[str, Any]]) -> None:
    """Write one file of records, or replace it. Raises OSError."""
    marked = table.replace_schema_metadata({_SEGMENTS: json.dumps(segments)})
    with atomic_files.replacing(path) as partial:
        pq.write_table(marked, partial, compression="zstd")


def forget(path: Path, forgotten: Collection[tuple[str, str]]) -> int:
    """Rewrite a file without the records of some predictions, named by site and id, except for their tombstones.

    Returns the number of removed records. The file still lists the same segments. Raises OSError.
    """
    segments = json.loads(pq.read_schema(path).metadata[_SEGMENTS])
    table = pq.read_table(path, schema=SCHEMA)
    names = zip(*(table[name].to_pylist() for name in ("type", "site", "prediction_id")), strict=True)
    stays: list[bool] = [kind == "tombstone" or (site, prediction) not in forgotten for kind, site, prediction in names]
    write(path, table.filter(pa.array(stays, pa.bool_())), segments)
    return len(stays) - sum(stays)


def _name(held: Sequence[SegmentEntry], table: pa.Table) -> str:
    said = [f"{entry.name} {entry.manifest_sha256}" for entry in held] or table["record_id"].to_pylist()
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32] + ".parquet"
