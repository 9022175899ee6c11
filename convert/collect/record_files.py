"""Parquet files of collected records: their columns, and the segments that each file lists in its metadata.

Times are UTC without a zone, which every reader of Parquet interprets in the same way.

A file is written next to its place, synced and renamed, so that its segments are stored whole or not at all, and no
second list of collected segments could disagree. Its name is derived from its content, so that repeating the work
after a crash makes the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convert.collect import near_duplicates
from convert.data.data_row import normalised
from edge_agent.durable import atomic_files
from edge_agent.formats.example_records import AnyRecord, ExampleFeedback, ExamplePrediction, ExampleTeacherLabel
from edge_agent.formats.segment import SegmentManifest, name_of
from edge_agent.formats.signed_document import SignedDocument

REVIEWED_CENTRALLY = "centre"
"""The epoch of feedback by the central team, which has none."""

SCHEMA = pa.schema(
    [
        pa.field("type", pa.string(), nullable=False),
        pa.field("site", pa.string(), nullable=False),
        pa.field("epoch", pa.string(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("recorded_at", pa.timestamp("us"), nullable=False),
        pa.field("prediction_id", pa.string(), nullable=False),
        pa.field("task", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("bundle_version", pa.string()),
        pa.field("bundle_digest", pa.string()),
        pa.field("input", pa.string()),
        pa.field("output", pa.string()),
        pa.field("scores", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))),
        pa.field("confidence", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("sure", pa.bool_()),
        pa.field("label_mass", pa.float64()),
        pa.field("route", pa.string()),
        pa.field("route_reason", pa.string()),
        pa.field("kept_because", pa.string()),
        pa.field("kept_share", pa.float64()),
        pa.field("redaction_version", pa.string()),
        pa.field("redaction_rules", pa.list_(pa.string())),
        pa.field("redaction_counts", pa.map_(pa.string(), pa.int64())),
        pa.field("reviewer", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("value", pa.string()),
        pa.field("review_reason", pa.string()),
        pa.field("text_key", pa.uint64()),
        pa.field("sketch", pa.list_(pa.uint64(), near_duplicates.BANDS)),
        # LATER_COLUMNS: older files lack them.
        pa.field("model", pa.string()),
        pa.field("why", pa.string()),
        pa.field("local_answer", pa.string()),
        pa.field("teacher_answer", pa.string()),
        pa.field("collected_at", pa.timestamp("us")),
        pa.field("review_stream", pa.string()),
        pa.field("sampling_probability", pa.float64()),
        pa.field("p_value", pa.float64()),
        pa.field("teacher_scores", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))),
        pa.field("question", pa.string()),
    ]
)

LATER_COLUMNS = {
    "model": "VARCHAR",
    "why": "VARCHAR",
    "local_answer": "VARCHAR",
    "teacher_answer": "VARCHAR",
    "collected_at": "TIMESTAMP",
    "review_stream": "VARCHAR",
    "sampling_probability": "DOUBLE",
    "p_value": "DOUBLE",
    "teacher_scores": "STRUCT(label VARCHAR, score DOUBLE)[]",
    "question": "VARCHAR",
}
"""Columns that files of version 0.1 may lack, with their SQL type; `derived_examples.py` derives them for such rows."""


@dataclass(frozen=True)
class SegmentOrigin:
    """The segment of some records, and when it was collected, in seconds since 1970 by the central team's clock."""

    epoch: str
    sequence: int
    collected: float


def table(records: Sequence[AnyRecord], origin: SegmentOrigin, first_line: int) -> pa.RecordBatch:
    """Turn successive records of a segment into columns; `first_line` is the number of the first, from 1."""
    collected_at = datetime.fromtimestamp(origin.collected, UTC).replace(tzinfo=None)
    origin_columns = {"epoch": origin.epoch, "sequence": origin.sequence, "collected_at": collected_at}
    rows = [{**_row(record), **origin_columns, "line": line} for line, record in enumerate(records, first_line)]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _row(record: AnyRecord) -> dict[str, Any]:
    details = _prediction(record) if isinstance(record, ExamplePrediction) else {}
    if isinstance(record, ExampleFeedback):
        details = {
            "task": record.task,
            "reviewer": record.reviewer,
            "verdict": record.verdict,
            "value": record.value,
            "review_reason": record.reason,
        }
    elif isinstance(record, ExampleTeacherLabel):
        details = {
            "task": record.task,
            "model": record.model,
            "why": record.why,
            "value": record.value,
            "teacher_scores": _pairs(record.scores),
        }
    return {
        "type": record.type,
        "site": record.site,
        "record_id": record.record_id,
        "recorded_at": datetime.fromisoformat(record.at).astimezone(UTC).replace(tzinfo=None),
        "prediction_id": record.prediction_id,
        **details,
    }


def _prediction(record: ExamplePrediction) -> dict[str, Any]:
    text, local = normalised(record.input), record.local_answer
    return {
        "task": record.task,
        "kind": record.kind,
        "question": record.question,
        "bundle_version": record.bundle.version,
        "bundle_digest": record.bundle.digest,
        "input": record.input,
        "output": record.output,
        "local_answer": local.answer if local else None,
        "scores": [{"label": label, "score": score} for label, score in local.scores] if local else [],
        "confidence": local.confidence if local else None,
        "threshold": local.threshold if local else None,
        "sure": local.sure if local else False,
        "label_mass": local.label_mass if local else None,
        "teacher_answer": record.teacher_answer,
        "route": record.route,
        "route_reason": record.reason,
        "model": record.model,
        "kept_because": record.kept.because,
        "kept_share": record.kept.share,
        "review_stream": record.review_stream,
        "sampling_probability": record.sampling_probability,
        "p_value": record.p_value,
        "teacher_scores": _pairs(record.teacher_scores),
        "redaction_version": record.redaction.version,
        "redaction_rules": record.redaction.rules,
        "redaction_counts": list(record.redaction.counts.items()),
        "text_key": near_duplicates.text_key(text),
        "sketch": near_duplicates.sketch(text),
    }


def _pairs(scores: Sequence[tuple[str, float]]) -> list[dict[str, Any]] | None:
    return [{"label": label, "score": score} for label, score in scores] or None


FOLDER = "raw"
_SEGMENTS_KEY = b"edge-agent/segments"
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
        for plain in json.loads(pq.read_schema(file).metadata[_SEGMENTS_KEY]):
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
            parts = [f"{entry.name} {entry.manifest_sha256}" for entry in self._entries]
            content = "\n".join(parts or table["record_id"].to_pylist())
            name = hashlib.sha256(content.encode()).hexdigest()[:32]
            write(self._folder / f"{name}.parquet", table, segments)
        self._entries, self._batches = [], []
        self._rows = self._bytes = 0


def write(path: Path, table: pa.Table, segments: list[dict[str, Any]]) -> None:
    """Write one file of records, or replace it. Raises OSError."""
    described = table.replace_schema_metadata({_SEGMENTS_KEY: json.dumps(segments)})
    with atomic_files.replacing(path) as partial:
        pq.write_table(described, partial, compression="zstd")


def forget(path: Path, erased: Collection[tuple[str, str]]) -> int:
    """Rewrite a file without the records of some predictions, named by site and id, except for their tombstones.

    Returns the number of removed records. The file still lists the same segments. Raises OSError.
    """
    segments = json.loads(pq.read_schema(path).metadata[_SEGMENTS_KEY])
    table = pq.read_table(path, schema=SCHEMA)
    names = zip(*(table[name].to_pylist() for name in ("type", "site", "prediction_id")), strict=True)
    keep: list[bool] = [kind == "tombstone" or (site, prediction) not in erased for kind, site, prediction in names]
    write(path, table.filter(pa.array(keep, pa.bool_())), segments)
    return len(keep) - sum(keep)
