"""Keys and records for tests of examples: what a site writes and a central team reads."""

from __future__ import annotations

from typing import Any

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.formats import example_records, segment
from edge_agent.formats.signed_document import format_timestamp

SITE_KEY = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
CENTRAL_KEY = Ed25519PrivateKey.from_private_bytes(b"c" * 32)
IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
DIGEST = "ab" * 32
EPOCH = "0123456789abcdef"
NOW = 1_790_000_000.0


def distinct_text(number: int) -> str:
    """Return a text that is unlike all others, so that it is not a near duplicate."""
    return f"{number * 7919:x} {number * 104729:x} {number * 1299709:x} {number * 15485863:x}"


def prediction(number: int = 1, **changes: Any) -> example_records.ExamplePrediction:
    """Return a kept classification."""
    plain = {
        "record_id": f"prediction:p-{number}",
        "site": "site-1",
        "at": format_timestamp(NOW + number),
        "prediction_id": f"p-{number}",
        "task": "pos-intent",
        "kind": "classify",
        "bundle": {"version": "1.0.0", "digest": DIGEST},
        "input": f"refund number {number}",
        "output": "refund",
        "scores": [["refund", 0.75], ["price", 0.25]],
        "confidence": 0.75,
        "threshold": 0.8,
        "sure": False,
        "label_mass": 0.5,
        "route": "local",
        "redaction": {"version": "1", "rules": ["card"]},
        "kept": {"because": "unsure"},
    }
    return example_records.ExamplePrediction.model_validate({**plain, **changes})


def feedback(number: int = 1, **changes: Any) -> example_records.ExampleFeedback:
    """Return a correction of that prediction."""
    plain = {
        "record_id": f"feedback:f-{number}",
        "site": "site-1",
        "at": format_timestamp(NOW + number),
        "feedback_id": f"f-{number}",
        "prediction_id": f"p-{number}",
        "task": "pos-intent",
        "reviewer": "anna",
        "verdict": "corrected",
        "value": "price",
    }
    return example_records.ExampleFeedback.model_validate({**plain, **changes})


def opinion(number: int = 1, **changes: Any) -> example_records.ExampleTeacherLabel:
    """Return the teacher label that the large model gave later for that prediction."""
    plain = {
        "record_id": f"opinion:p-{number}",
        "site": "site-1",
        "at": format_timestamp(NOW + number),
        "prediction_id": f"p-{number}",
        "task": "pos-intent",
        "model": "oracle-1",
        "why": "deferred",
        "value": "stock",
    }
    return example_records.ExampleTeacherLabel.model_validate({**plain, **changes})


def tombstone(number: int = 1) -> example_records.ExampleTombstone:
    """Return the request to delete that prediction."""
    plain = {
        "record_id": f"tombstone:p-{number}",
        "site": "site-1",
        "at": format_timestamp(NOW),
        "prediction_id": f"p-{number}",
    }
    return example_records.ExampleTombstone.model_validate(plain)


def segment_manifest(sequence: int = 1, **changes: Any) -> segment.SegmentManifest:
    """Return the manifest of a segment."""
    plain = {
        "site": "site-1",
        "epoch": EPOCH,
        "sequence": sequence,
        "at": format_timestamp(NOW),
        "sha256": DIGEST,
        "size_bytes": 100,
        "previous": "" if sequence == 1 else DIGEST,
        "records": 1,
        "recipients": [RECIPIENT],
    }
    return segment.SegmentManifest.model_validate({**plain, **changes})


def records_of(lines: bytes) -> list[example_records.AnyRecord]:
    """Read all records of an unsealed segment."""
    return [example_records.parse(line) for line in lines.splitlines()]
