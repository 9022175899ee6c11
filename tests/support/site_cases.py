"""A site's examples for tests: answers, a worker on a simulated clock, and the records that a central team reads.

site = TestSite(tmp_path)
site.keep(answered(1)); site.worker.seal_all()
records = site.records()
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.capture.capture_values import CapturedAnswer, HumanFeedback, SpoolWorkerDependencies
from edge_agent.capture.spool_worker import SpoolWorker
from edge_agent.capture.text_redaction import build_redactor
from edge_agent.config import Config
from edge_agent.formats import segment
from edge_agent.formats.calibration import MissedBound
from edge_agent.formats.example_records import AnyRecord
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.signed_document import format_timestamp, public_key_hex, sign
from tests.support.examples import CENTRAL_KEY, DIGEST, IDENTITY, NOW, RECIPIENT, records_of

TASKS: dict[str, dict[str, Any]] = {
    "pos-intent": {"kind": "classify", "labels": ["refund", "price"]},
    "visit": {"kind": "extract", "labels": ["O", "B-PATIENT", "B-DRUG"], "pii_fields": ["PATIENT"]},
    "talk": {"kind": "generate"},
}


def manifest(task: str = "pos-intent") -> Manifest:
    """Return the manifest of a task's bundle."""
    plain = {"task": {"name": task, **TASKS[task]}, "version": "1.0.0", "runtime": "echo"}
    return Manifest.model_validate(plain)


def answered(number: int, **changes: Any) -> CapturedAnswer:
    """Return an unsure classification."""
    plain = {
        "prediction_id": f"p-{number}",
        "manifest": manifest(),
        "digest": DIGEST,
        "text": f"refund number {number}",
        "local_answer": "refund",
        "scores": [("refund", 0.75), ("price", 0.25)],
        "confidence": 0.75,
        "threshold": 0.8,
        "sure": False,
        "label_mass": 0.5,
    }
    return CapturedAnswer(**{**plain, **changes})


def judgement(number: int, **changes: Any) -> HumanFeedback:
    """Return a correction of that answer."""
    plain = {"feedback_id": f"f-{number}", "prediction_id": f"p-{number}", "reviewer": "anna", "verdict": "corrected"}
    return HumanFeedback(**{**plain, "value": "price", "request_id": f"r-{number}", **changes})


def config_of(
    state_dir: Path, *, site: dict[str, Any] | None = None, escalation: dict[str, Any] | None = None, **examples: Any
) -> Config:
    """Return the configuration of a site that may send everything to the central team."""
    identity = {"id": "site-1", "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]}
    collect = dict.fromkeys(TASKS, "upstream")
    return Config.model_validate(
        {
            "state_dir": state_dir,
            "examples": {"collect": collect, "disk_reserve_bytes": 0, **examples},
            "site": {**identity, **(site or {})},
            "escalation": escalation or {},
        }
    )


def opener(state_dir: Path, cls: type[SpoolWorker] = SpoolWorker, **examples: Any) -> Callable[[], SpoolWorker]:
    """Return what opens a worker on real clocks, as the daemon hands it to the writer."""
    config = config_of(state_dir, **examples)
    return lambda: cls(config, build_redactor(config), SpoolWorkerDependencies(lambda: (), "0.1.0"))


PREDICTION: dict[str, Any] = {
    **{"kind": "classify", "task": "pos-intent", "bundle": {"version": "1.0.0", "digest": DIGEST}, "reason": ""},
    **{"scores": [["refund", 0.75], ["price", 0.25]], "sure": False, "route": "local", "confidence": 0.75},
}


class Clock:
    """Two clocks that a test advances."""

    def __init__(self) -> None:
        self.wall, self.running = NOW, 0.0
        self.draws = 1.0
        """What the random audit of the worker draws: 1 = nothing, 0 = all."""
        self.redactor: tuple[str, MissedBound | None] = "", None
        """The bundle that redacts, and what it promises."""

    def around(self) -> SpoolWorkerDependencies:
        """Return the dependencies of a worker with these clocks and no tasks."""
        return SpoolWorkerDependencies(
            lambda: (),
            "0.1.0",
            lambda: self.wall,
            lambda: self.running,
            draw=lambda: self.draws,
            redactor=lambda: self.redactor,
        )


class SiteCase:
    """One state directory and the worker on it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.config = config_of(folder / "state", **settings)
        self.config.state_dir.mkdir(parents=True, exist_ok=True)
        self.clock = Clock()
        self.worker = self.open()

    def open(self) -> SpoolWorker:
        """Open the worker, as a start of the daemon does."""
        self.worker = SpoolWorker(self.config, build_redactor(self.config), self.clock.around())
        weakref.finalize(self, self.worker.spool.db.close)  # Python warns of one that is left open, from 3.13 on
        return self.worker

    def reopen(self) -> SpoolWorker:
        """Close and open it again."""
        self.worker.close()
        return self.open()

    def keep(self, *answers: CapturedAnswer) -> None:
        """Keep answers in one commit."""
        with self.worker.spool.transaction():
            self.worker.store_predictions(
                [self.worker.recorder.build_prediction(each, self.clock.wall) for each in answers]
            )

    def judge(self, *judgements: HumanFeedback, prediction: dict[str, Any] | None = None) -> None:
        """Keep feedback in one commit."""
        known = prediction or {**PREDICTION, "input": "", "output": "refund"}
        with self.worker.spool.transaction():
            for each in judgements:
                self.worker.store_feedback(each, known, manifest(known["task"]))

    def files(self) -> list[str]:
        """Return the names in the outbox's folder of segments."""
        return sorted(path.name for path in (self.config.outbox / "segments").iterdir())

    def segments(self) -> dict[int, list[AnyRecord]]:
        """Open every segment of the present epoch as the central team would, chain and all; return its records."""
        return read_outbox(self.config.outbox, self.worker.spool.incarnation)

    def records(self) -> dict[str, AnyRecord]:
        """Return all sealed records by their id, the last one of each."""
        return {record.record_id: record for records in self.segments().values() for record in records}

    def receipt(self, last: int, first: int = 1, **changes: Any) -> None:
        """Let the central team sign for a range of segments, and put its receipts where they arrive."""
        raw = (
            self.config.outbox / "segments" / f"{segment.name_of(self.worker.spool.incarnation, last)}.json"
        ).read_bytes()
        span = {"first": first, "last": last, "manifest_sha256": hashlib.sha256(raw).hexdigest()}
        self.write_receipts(**{"epochs": [{"epoch": self.worker.spool.incarnation, "received": [span]}], **changes})

    def write_receipts(self, key: Any = CENTRAL_KEY, **changes: Any) -> None:
        """Write receipts, signed by a key."""
        said = segment.Receipts.model_validate({"site": "site-1", "at": format_timestamp(NOW), **changes})
        (self.config.receipts / segment.RECEIPTS_FILE_NAME).write_bytes(sign(said, key))


def read_outbox(outbox: Path, epoch: str) -> dict[int, list[AnyRecord]]:
    """Verify and open the segments of an epoch; return their records by sequence."""
    found: dict[int, list[AnyRecord]] = {}
    hashes: dict[int, str] = {}
    for path in sorted((outbox / "segments").glob(f"{epoch}-*.json")):
        signed = segment.verify(path.read_bytes(), path.stem, None)
        sealed = path.with_suffix(".age").read_bytes()
        assert hashlib.sha256(sealed).hexdigest() == signed.body.sha256
        assert signed.body.previous == hashes.get(signed.body.sequence - 1, signed.body.previous)
        hashes[signed.body.sequence] = signed.sha256
        found[signed.body.sequence] = records_of(segment.unseal(sealed, [IDENTITY]))
        assert signed.body.records == len(found[signed.body.sequence])
    return found
