"""Converts records to columns: one table for records of every type, with empty columns for missing fields. Pure.

Times are UTC without a zone, which every reader of Parquet interprets in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from convert.collect import minhash
from convert.data.text_normalisation import normalised
from edge_agent.formats.example_records import AnyRecord, ExampleFeedback, ExamplePrediction, ExampleTeacherLabel

REVIEWED_CENTRALLY = "centre"
"""Takes the place of the epoch for feedback by the central team."""

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
        pa.field("sketch", pa.list_(pa.uint64(), minhash.BANDS)),
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
"""Columns that files of version 0.1 may lack, with their SQL type; `answer_columns.py` derives them for such rows."""


@dataclass(frozen=True)
class SegmentOrigin:
    """The segment of some records, and when it was collected, in seconds since 1970 by the central team's clock."""

    epoch: str
    sequence: int
    collected: float


def table(records: Sequence[AnyRecord], origin: SegmentOrigin, first_line: int) -> pa.RecordBatch:
    """Turn successive records of a segment into columns; `first_line` is the number of the first, from 1."""
    collected_at = datetime.fromtimestamp(origin.collected, UTC).replace(tzinfo=None)
    place = {"epoch": origin.epoch, "sequence": origin.sequence, "collected_at": collected_at}
    rows = [{**_row(record), **place, "line": line} for line, record in enumerate(records, first_line)]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _row(record: AnyRecord) -> dict[str, Any]:
    more = _prediction(record) if isinstance(record, ExamplePrediction) else {}
    if isinstance(record, ExampleFeedback):
        more = {
            "task": record.task,
            "reviewer": record.reviewer,
            "verdict": record.verdict,
            "value": record.value,
            "review_reason": record.reason,
        }
    elif isinstance(record, ExampleTeacherLabel):
        more = {
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
        "recorded_at": _moment(record.at),
        "prediction_id": record.prediction_id,
        **more,
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
        "text_key": minhash.text_key(text),
        "sketch": minhash.sketch(text),
    }


def _pairs(scores: Sequence[tuple[str, float]]) -> list[dict[str, Any]] | None:
    return [{"label": label, "score": score} for label, score in scores] or None


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at).astimezone(UTC).replace(tzinfo=None)
