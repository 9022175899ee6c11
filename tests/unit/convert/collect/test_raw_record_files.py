"""Files of raw records: they name their segments, are written atomically, and can erase records."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convert.collect import derived_examples, record_files
from convert.collect.record_files import RecordWriter, SegmentEntry, SegmentOrigin
from convert.data.data_row import normalised
from edge_agent.durable import atomic_files
from tests.support.examples import EPOCH, NOW, feedback, opinion, prediction, tombstone


def entry(number: int) -> SegmentEntry:
    return SegmentEntry("site-1", EPOCH, number, f"{number:064x}", "", 100, 2, reseals=(number + 100,))


def batch(number: int):
    return record_files.table([prediction(number), feedback(number)], SegmentOrigin(EPOCH, number, NOW), 1)


def written(folder: Path, numbers: list[int]) -> list[Path]:
    writer = RecordWriter(folder)
    for number in numbers:
        writer.add(entry(number), [batch(number)])
    writer.close()
    return record_files.files(folder)


def test_record_files_name_their_segments(tmp_path: Path):
    """The segments that were taken, with all that receipts and gaps need, are read back from the files alone."""
    assert 1 == len(written(tmp_path, [1, 2, 3]))
    assert [entry(1), entry(2), entry(3)] == list(record_files.entries(tmp_path))


def test_repeated_write_replaces_the_same_file(tmp_path: Path):
    """Writing the same segments again after a crash gives the same file name and the same bytes."""
    (first,) = written(tmp_path, [1, 2])
    content = first.read_bytes()
    assert [first] == written(tmp_path, [1, 2])
    assert content == first.read_bytes()


def test_file_is_written_at_the_maximum_number_of_rows(tmp_path: Path):
    """After ROWS_MAX rows all segments so far are written; a segment is never divided between files."""
    writer = RecordWriter(tmp_path)
    large = record_files.table(
        [prediction(number) for number in range(record_files.ROWS_MAX // 100)], SegmentOrigin(EPOCH, 1, NOW), 1
    )
    assert not writer.add(entry(1), [large])
    assert writer.add(entry(2), [large] * 100)
    assert [entry(1), entry(2)] == list(record_files.entries(tmp_path))
    assert (
        record_files.ROWS_MAX + record_files.ROWS_MAX // 100
        == pq.read_metadata(record_files.files(tmp_path)[0]).num_rows
    )


def test_partial_file_of_a_crash_is_removed(tmp_path: Path):
    """The next run removes a partial file."""
    (tmp_path / f"abc.parquet{atomic_files.PARTIAL}").write_bytes(b"half")
    assert [] == written(tmp_path, [])
    assert [] == list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path: Path):
    """After a failed write the old content is unchanged and no partial file remains."""
    path = tmp_path / "file"
    atomic_files.write_atomically(path, b"old")

    def fail() -> None:
        with atomic_files.replacing(path) as partial:
            partial.write_bytes(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ([path], b"old") == (list(tmp_path.iterdir()), path.read_bytes())


def test_forget_erases_the_records_of_one_prediction_only(tmp_path: Path):
    """Other predictions, other sites, tombstones and the names of the segments stay in the file."""
    writer = RecordWriter(tmp_path)
    mine = record_files.table(
        [prediction(1), feedback(1), tombstone(1), prediction(2)], SegmentOrigin(EPOCH, 1, NOW), 1
    )
    other = record_files.table([prediction(1, site="site-2")], SegmentOrigin(EPOCH, 1, NOW), 1)
    writer.add(entry(1), [mine, other])
    writer.close()
    (path,) = record_files.files(tmp_path)
    assert 2 == record_files.forget(path, {("site-1", "p-1")})
    kept = pq.read_table(path).select(["type", "site", "prediction_id"]).to_pylist()
    assert [
        ("tombstone", "site-1", "p-1"),
        ("prediction", "site-1", "p-2"),
        ("prediction", "site-2", "p-1"),
    ] == [tuple(row.values()) for row in kept]
    assert [entry(1)] == list(record_files.entries(tmp_path))


def test_every_record_field_has_a_column():
    """Each field of a prediction, of feedback and of a teacher label has its column."""
    made = prediction(
        1,
        at="2026-11-25T10:00:00.25Z",
        route="deferred",
        reason="BELOW_THRESHOLD OFFLINE",
        redaction={"version": "3", "rules": ["card", "iban"], "counts": {"card": 2}},
        kept={"because": "escalated", "share": 0.5},
    )
    said = feedback(1, verdict="reject", value="", reason="nonsense", reviewer="ben")
    first, second, third = record_files.table([made, said, opinion(1)], SegmentOrigin(EPOCH, 7, NOW), 41).to_pylist()
    wanted = {
        "type": "prediction",
        "epoch": EPOCH,
        "sequence": 7,
        "line": 41,
        "recorded_at": datetime(2026, 11, 25, 10, 0, 0, 250_000),
        "input": "refund number 1",
        "scores": [{"label": "refund", "score": 0.75}, {"label": "price", "score": 0.25}],
        "route": "deferred",
        "route_reason": "BELOW_THRESHOLD OFFLINE",
        "redaction_rules": ["card", "iban"],
        "redaction_counts": [("card", 2)],
        "kept_because": "escalated",
        "kept_share": 0.5,
        "reviewer": None,
    }
    assert wanted == {key: first[key] for key in wanted}
    wanted = {"type": "feedback", "line": 42, "verdict": "reject", "review_reason": "nonsense", "input": None}
    assert wanted == {key: second[key] for key in wanted}
    wanted = {"type": "opinion", "line": 43, "value": "stock", "model": "oracle-1", "why": "deferred", "verdict": None}
    assert wanted == {key: third[key] for key in wanted}


def test_files_without_the_newest_columns_are_read(tmp_path: Path):
    """Files that were written before the newest columns existed are joined and erased like all others."""
    old = record_files.table([prediction(1), prediction(2)], SegmentOrigin(EPOCH, 1, NOW), 1).to_pylist()
    (tmp_path / "raw").mkdir()
    columns = [name for name in record_files.SCHEMA.names if name not in record_files.LATER_COLUMNS]
    before = pa.Table.from_pylist(old, record_files.SCHEMA).select(columns)
    record_files.write(tmp_path / "raw" / "old.parquet", before, [])
    record_files.write(
        tmp_path / "raw" / "new.parquet",
        pa.Table.from_batches([record_files.table([opinion(1)], SegmentOrigin(EPOCH, 2, NOW), 1)]),
        [],
    )
    with derived_examples.open_database(
        tmp_path / "raw", tmp_path / "spill", derived_examples.MEMORY_BYTES_MIN
    ) as connection:
        found = connection.execute("SELECT type, model FROM records ORDER BY sequence, line").fetchall()
        assert 3 == len(set(connection.execute("SELECT row_id FROM records").fetchall()))
    assert [("prediction", None), ("prediction", None), ("opinion", "oracle-1")] == found
    assert 1 == record_files.forget(tmp_path / "raw" / "old.parquet", {("site-1", "p-1")})
    assert record_files.SCHEMA.names == pq.read_schema(tmp_path / "raw" / "old.parquet").names


def test_version_0_1_outputs_are_split_into_local_and_teacher_answers(tmp_path: Path):
    """In files of version 0.1 the local answer is the label with the best local score; without scores, local answer and
    confidence are null."""
    taught = {"route": "upstream", "model": "large-1", "output": "price"}
    changes = [{}, taught, {**taught, "kind": "extract", "scores": []}, {"route": "abstained", "output": ""}]
    records = [prediction(number, **each) for number, each in enumerate(changes, 1)]
    old = record_files.table(records, SegmentOrigin(EPOCH, 1, NOW), 1).to_pylist()
    for row in old:  # what it wrote, whoever had given the output
        row.update({"confidence": 0.75, "threshold": 0.8, "sure": True})
    columns = [name for name in record_files.SCHEMA.names if name not in record_files.LATER_COLUMNS or name == "model"]
    (tmp_path / "raw").mkdir()
    record_files.write(
        tmp_path / "raw" / "old.parquet", pa.Table.from_pylist(old, record_files.SCHEMA).select(columns), []
    )
    with derived_examples.open_database(
        tmp_path / "raw", tmp_path / "spill", derived_examples.MEMORY_BYTES_MIN
    ) as connection:
        query = "SELECT local_answer, confidence, threshold, sure, teacher_answer FROM records ORDER BY line"
        found = connection.execute(query).fetchall()
    assert [
        ("refund", 0.75, 0.8, True, None),
        ("refund", 0.75, 0.8, True, "price"),
        (None, None, None, False, "price"),
        (None, None, None, False, None),
    ] == found


@pytest.mark.parametrize(
    ("one", "other"),
    [("Refund!", "  refund"), ("ﬁve   coffees", "five coffees"), ("STRASSE", "straße"), ("why?!…", "Why")],
)
def test_normalised_text_ignores_case_spaces_and_final_marks(one: str, other: str):
    """Case, white space, compatibility characters and final punctuation do not distinguish texts."""
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(("one", "other"), [("two", "2"), ("...", "?"), ("a.b", "ab"), ("re fund", "refund")])
def test_normalised_text_keeps_other_differences(one: str, other: str):
    """Punctuation inside a text, spaces inside a word, digits, and texts of punctuation alone distinguish texts."""
    assert normalised(one) != normalised(other)
