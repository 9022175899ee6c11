"""Which records are in which segment, and which segments the central team has: sealing's part of spool.db.

A segment is *building* from the assignment of its number until its files are on the disk, then *sealed* until the
central team sends its receipt, then *received*. It is *lost* when its files are damaged or missing, or the central team
refused them. Records of a lost segment that are still in the spool are sealed again, under a new number.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_agent.capture.personal_data_retention import SENT
from edge_agent.capture.review_and_audit import NAMES
from edge_agent.capture.spool import CLASS_NAMES, PASSED_OVER, REVIEWED, ROUTINE, SENT_BEFORE, UPSTREAM, Spool

_ROWS_AT_ONCE = 20_000
_RESEALS_MAX = 1000
# Corrected predictions that waited only for this receipt: the central team has them and all their feedback.
_MARK_SPARE = """
    UPDATE predictions SET spare = 1 WHERE spare = 0 AND prediction_id IN (
        SELECT prediction_id FROM predictions WHERE segment = :sequence AND segment > 0
        UNION SELECT prediction_id FROM feedback WHERE segment = :sequence)
    AND (segment <= 0 OR segment IN (SELECT sequence FROM segments WHERE state = 'received'))
    AND NOT EXISTS (SELECT 1 FROM feedback f WHERE f.prediction_id = predictions.prediction_id AND (
        f.segment IS NULL
        OR f.segment > 0 AND f.segment NOT IN (SELECT sequence FROM segments WHERE state = 'received')))
"""
_IN_SEGMENT = "segment = ? AND segment > 0"
"""Of one segment. The second condition lets SQLite use the partial index of predictions."""
_SEGMENT = "SELECT sequence, state, size, sha256, manifest_sha256 FROM segments"
_TABLES = ("predictions", "feedback", "tombstones")
_SEALED_TABLES = ("predictions", "feedback", "opinions", "tombstones")
"""Tables whose records are sealed; triggers update `opinions` with their segment (spool.py)."""


@dataclass(frozen=True)
class LedgerSegment:
    """One segment in the site's ledger."""

    sequence: int
    state: str
    size: int
    sha256: str
    manifest_sha256: str


@dataclass(frozen=True)
class SealedFiles:
    """The files of a sealed segment: size in bytes, SHA-256, and number of records."""

    size: int
    sha256: str
    manifest_sha256: str
    reseals: tuple[int, ...]
    records: int


class SegmentLedger:
    """The segments of one spool. Methods that change something run inside the spool's transaction."""

    def __init__(self, spool: Spool, routine_share: float) -> None:
        """`routine_share`: the share of routine predictions that is sealed."""
        self._spool, self._db = spool, spool.db
        self._routine_share = routine_share

    def waiting_bytes(self, bytes_max: int) -> int:
        """Return how many bytes of records wait to be sealed; counting stops at `bytes_max`."""
        total: int = 0
        for query in (
            "SELECT size FROM feedback WHERE segment IS NULL AND consent = 2",
            "SELECT size FROM opinions WHERE segment IS NULL AND consent = 2",
            "SELECT length(record) FROM tombstones WHERE segment IS NULL",
            "SELECT size FROM predictions WHERE segment IS NULL AND consent = 2 ORDER BY row",
        ):
            with self._db.errors():
                for (size,) in self._db.execute(query):
                    total += size
                    if total >= bytes_max:
                        return total
        return total

    def oldest_seconds(self) -> float:
        """Return the age of the oldest prediction that waits to be sealed, in seconds of running; 0 = none waits."""
        query = "SELECT kept_at FROM predictions WHERE segment IS NULL AND consent = 2 ORDER BY row LIMIT 1"
        rows = self._db.rows(query)
        return max(0.0, self._spool.clock - float(rows[0][0])) if rows else 0.0

    def assign_records(self, bytes_max: int) -> int:
        """Assign records to the next segment, oldest first, up to `bytes_max`; return its sequence, 0 = none."""
        sequence = self.next_sequence()
        room = self._take("tombstones", "length(record)", "segment IS NULL", sequence, bytes_max)
        # Feedback and teacher labels go before predictions, so that they leave as soon as possible.
        for table in ("feedback", "opinions"):
            room = self._take(table, "size", f"segment IS NULL AND consent = {UPSTREAM}", sequence, room)
        self._take_predictions(sequence, room)
        queries = (f"SELECT 1 FROM {table} WHERE {_IN_SEGMENT} LIMIT 1" for table in _SEALED_TABLES)
        if not any(self._db.rows(query, (sequence,)) for query in queries):
            return 0
        self._db.execute("INSERT INTO segments (sequence, state) VALUES (?, 'building')", (sequence,))
        return sequence

    def next_sequence(self) -> int:
        """Return the number that the next segment gets."""
        ((highest,),) = self._db.rows("SELECT coalesce(max(sequence), 0) FROM segments")
        return int(highest) + 1

    def building_sequence(self) -> int:
        """Return the number of the segment whose files are not finished; 0 = none."""
        rows = self._db.rows("SELECT sequence FROM segments WHERE state = 'building'")
        return int(rows[0][0]) if rows else 0

    def record_lines(self, sequence: int) -> Iterator[bytes]:
        """Yield the records of a segment, each with its newline."""
        query = f"SELECT record, class, stream, probability FROM predictions WHERE {_IN_SEGMENT} ORDER BY row"
        for record, class_, stream, probability in self._db.rows(query, (sequence,)):
            share = f"{self._routine_share:g}" if class_ == ROUTINE and probability is None else "1"
            probability_field = "" if probability is None else f',"sampling_probability":{probability!r}'
            kept_field = f',"kept":{{"because":"{CLASS_NAMES[class_]}","share":{share}}}'
            yield record[:-1] + f'{kept_field},"review_stream":"{NAMES[stream]}"{probability_field}}}\n'.encode()
        for table in _SEALED_TABLES[1:]:
            for (record,) in self._db.rows(f"SELECT record FROM {table} WHERE {_IN_SEGMENT} ORDER BY row", (sequence,)):
                yield record + b"\n"

    def previous_manifest_sha256(self, sequence: int) -> str:
        """Return the sha256 of the manifest before; empty for the first."""
        rows = self._db.rows("SELECT manifest_sha256 FROM segments WHERE sequence = ?", (sequence - 1,))
        return str(rows[0][0]) if rows else ""

    def lost_sequences(self) -> tuple[int, ...]:
        """Return the segments that are lost, all of them."""
        return tuple(row[0] for row in self._db.rows("SELECT sequence FROM segments WHERE state = 'lost'"))

    def to_reseal(self) -> tuple[int, ...]:
        """Return the lost segments that no manifest has listed yet."""
        query = "SELECT sequence FROM segments WHERE state = 'lost' AND resealed = 0 ORDER BY sequence LIMIT ?"
        return tuple(row[0] for row in self._db.rows(query, (_RESEALS_MAX,)))

    def mark_sealed(self, sequence: int, sealed: SealedFiles) -> None:
        """Record that the files of a segment are on the disk."""
        self._db.execute(
            "UPDATE segments SET state = 'sealed', size = ?, sha256 = ?, manifest_sha256 = ? WHERE sequence = ?",
            (sealed.size, sealed.sha256, sealed.manifest_sha256, sequence),
        )
        self._db.execute(f"UPDATE predictions SET spare = 1 WHERE {_IN_SEGMENT} AND class < ?", (sequence, REVIEWED))
        resealed = [(sequence, lost) for lost in sealed.reseals]
        self._db.executemany("UPDATE segments SET resealed = ? WHERE sequence = ?", resealed)
        self._spool.counters["segments_sealed"] += 1
        self._spool.counters["records_sealed"] += sealed.records
        self._count_sent(1, _IN_SEGMENT, (sequence,))

    def release_sequence(self, sequence: int) -> None:
        """Release a segment number whose records were all erased before sealing."""
        self._db.execute("DELETE FROM segments WHERE sequence = ? AND state = 'building'", (sequence,))

    def sealed_segments(self) -> list[LedgerSegment]:
        """Return the segments that wait for their receipt."""
        return [LedgerSegment(*row) for row in self._db.rows(f"{_SEGMENT} WHERE state = 'sealed' ORDER BY sequence")]

    def segments_between(self, first: int, last: int) -> list[LedgerSegment]:
        """Return the segments of a range of sequences."""
        rows = self._db.rows(f"{_SEGMENT} WHERE sequence BETWEEN ? AND ? ORDER BY sequence", (first, last))
        return [LedgerSegment(*row) for row in rows]

    def mark_received(self, sequences: Sequence[int]) -> None:
        """Record that the central team has these segments; records that only waited for this become spare."""
        for sequence in sequences:
            self._db.execute("UPDATE segments SET state = 'received' WHERE sequence = ?", (sequence,))
            self._db.execute("DELETE FROM tombstones WHERE segment = ?", (sequence,))
            self._db.execute(_MARK_SPARE, {"sequence": sequence})
        self._spool.counters["segments_received"] += len(sequences)

    def mark_lost(self, sequence: int) -> None:
        """Record that a segment is damaged, missing or refused; its records in the spool wait to be sealed again."""
        self._spool.note_departures()
        self._count_sent(-1, _IN_SEGMENT, (sequence,))
        self._db.execute("UPDATE segments SET state = 'lost' WHERE sequence = ?", (sequence,))
        for table in _TABLES:
            spare = ", spare = 0" if table == "predictions" else ""
            self._db.execute(f"UPDATE {table} SET segment = NULL{spare} WHERE {_IN_SEGMENT}", (sequence,))
        self._spool.counters["segments_lost"] += 1

    def begin_incarnation(self) -> None:
        """Begin a new incarnation, because a later state of this spool has already used the next numbers."""
        self._spool.note_departures()
        self._count_sent(-1, "segment IN (SELECT sequence FROM segments WHERE state = 'sealed')")
        for table in _TABLES:
            spare = ", spare = 0" if table == "predictions" else ""
            not_received = "segment NOT IN (SELECT sequence FROM segments WHERE state = 'received')"
            self._db.execute(f"UPDATE {table} SET segment = NULL{spare} WHERE segment > 0 AND {not_received}")
        for table in ("predictions", "feedback"):
            self._db.execute(f"UPDATE {table} SET segment = {SENT_BEFORE} WHERE segment > 0")
        self._db.execute("DELETE FROM segments")
        self._spool.incarnation = str(self._spool.set_meta("epoch", secrets.token_hex(8)))

    def _count_sent(self, sign: int, where: str, values: Sequence[int] = ()) -> None:
        """Count predictions as sent; with sign -1, as no longer sent, because they count again when resealed."""
        query = f"SELECT task, count(*) FROM predictions WHERE {where} GROUP BY task"
        for task, number in self._db.rows(query, values):
            self._spool.personal.count(task, SENT, sign * number)

    def _take(self, table: str, size: str, where: str, sequence: int, room: int) -> int:
        assignments = []
        query = f"SELECT row, {size} FROM {table} WHERE {where} ORDER BY row LIMIT ?"
        for row, bytes_ in self._db.rows(query, (_ROWS_AT_ONCE,)):
            if room <= 0:
                break
            assignments.append((sequence, row))
            room -= bytes_
        self._db.executemany(f"UPDATE {table} SET segment = ? WHERE row = ?", assignments)
        return room

    def _take_predictions(self, sequence: int, room: int) -> None:
        assignments, passed_over = [], []
        query = (
            "SELECT row, size, class, prediction_id, probability FROM predictions WHERE segment IS NULL AND consent = 2"
            " ORDER BY row LIMIT ?"
        )
        for row, size, class_, prediction_id, probability in self._db.rows(query, (_ROWS_AT_ONCE,)):
            if room <= 0:
                break
            # The audit is a random sample already; thinning it again would only make it smaller.
            if class_ != ROUTINE or probability is not None or is_in_routine_sample(prediction_id, self._routine_share):
                assignments.append((sequence, row))
                room -= size
            else:
                passed_over.append((row,))
        self._db.executemany("UPDATE predictions SET segment = ? WHERE row = ?", assignments)
        self._db.executemany(f"UPDATE predictions SET segment = {PASSED_OVER}, spare = 1 WHERE row = ?", passed_over)
        self._spool.counters["passed_over"] += len(passed_over)


def is_in_routine_sample(prediction_id: str, share: float) -> bool:
    """Return whether a routine prediction is in the sample; deterministic for an id."""
    hash_prefix = int.from_bytes(hashlib.sha256(prediction_id.encode()).digest()[:4], "big")
    return hash_prefix < share * 2**32
