"""Writes predictions with their reviews as hive-partitioned Parquet: examples/task=…/month=…/examples.parquet.

A file is replaced as a whole, and a prediction always stays in the file of its own month, so a reader during a run sees
each prediction once. docs/collect.md explains the columns.

The last review by each reviewer counts. If reviewers differ, there is no `truth`, only a `conflict`. A review by the
central team overrides all others. A later teacher label is an `opinion`, with columns of its own, and never a `truth`.
A duplicate is a prediction with the same answer and the same or nearly the same text as another one. It is marked, not
dropped, so that corrections of both stay visible.

Nearly equal texts of a task are grouped first. Each text is compared with the first text and the previous text of each
band of its sketch. Near duplicates are joined, also through a third text. A cluster has the name of its smallest key.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from convert.collect import near_duplicates
from convert.collect.record_files import REVIEWED_CENTRALLY
from convert.data.data_row import normalised
from edge_agent.durable import atomic_files

_BATCH_PAIRS = 20_000
# `kept` holds the distinct predictions of the task.
_TEXTS = """
    CREATE OR REPLACE TEMP TABLE texts AS
    SELECT r.text_key, any_value(r.sketch) AS sketch,
           any_value(CASE WHEN length(r.input) <= $letters THEN r.input END) AS short
    FROM records r JOIN kept USING (row_id)
    GROUP BY r.text_key
"""
_PAIRS = """
    CREATE OR REPLACE TEMP TABLE pairs AS
    WITH bands AS (
        SELECT text_key, unnest(sketch) AS band, generate_subscripts(sketch, 1) AS place FROM texts
    ), neighbours AS (
        SELECT text_key,
               first_value(text_key) OVER (PARTITION BY place, band ORDER BY text_key) AS first,
               lag(text_key) OVER (PARTITION BY place, band ORDER BY text_key) AS before
        FROM bands
        QUALIFY count(*) OVER (PARTITION BY place, band) > 1
    )
    SELECT DISTINCT text_key AS b, unnest([first, before]) AS a FROM neighbours
"""
_SKETCHES = """
    SELECT p.a, p.b, x.sketch AS left_sketch, y.sketch AS right_sketch, x.short AS left_text, y.short AS right_text
    FROM pairs p JOIN texts x ON x.text_key = p.a JOIN texts y ON y.text_key = p.b
    WHERE p.a <> p.b
"""

Keys = npt.NDArray[np.uint64]


def group_near_duplicates(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `groups` from the table `kept`."""
    connection.execute(_TEXTS, {"letters": near_duplicates.SHORT_LETTERS_MAX})
    connection.execute(_PAIRS)
    keys, clusters = _components(list(_links(connection)))
    connection.register("linked", pa.table({"text_key": keys, "cluster": clusters}))
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE groups AS
        SELECT text_key, coalesce(l.cluster, text_key) AS cluster FROM texts LEFT JOIN linked l USING (text_key)
    """)
    connection.unregister("linked")
    connection.execute("DROP TABLE texts; DROP TABLE pairs")


def _links(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[Keys, Keys]]:
    """Yield the pairs of near duplicates."""
    reader: Any = connection.sql(_SKETCHES).to_arrow_reader(_BATCH_PAIRS)
    for batch in reader:
        left, right = (batch[name].flatten().to_numpy(zero_copy_only=False) for name in ("left_sketch", "right_sketch"))
        texts = [
            (first and normalised(first), second and normalised(second))
            for first, second in zip(batch["left_text"].to_pylist(), batch["right_text"].to_pylist(), strict=True)
        ]
        alike = near_duplicates.alike(
            left.reshape(-1, near_duplicates.BANDS), right.reshape(-1, near_duplicates.BANDS), texts
        )
        yield batch["a"].to_numpy()[alike], batch["b"].to_numpy()[alike]


def _components(links: list[tuple[Keys, Keys]]) -> tuple[Keys, Keys]:
    """Return each linked text, and the smallest key of its component."""
    if not links:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    left, right = (np.concatenate(side) for side in zip(*links, strict=True))
    keys, indexes = np.unique(np.concatenate([left, right]), return_inverse=True)
    ends = indexes[: len(left)], indexes[len(left) :]
    graph = sparse.coo_matrix((np.ones(len(left), np.int8), ends), shape=(len(keys), len(keys)))
    component: npt.NDArray[np.int32] = sparse.csgraph.connected_components(graph, directed=False)[1]
    # Keys are sorted, so the first one of a component is its smallest.
    _, firsts = np.unique(component, return_index=True)
    return keys, keys[firsts][component]


FOLDER = "examples"
FILE_NAME = "examples.parquet"
_GROUP_ROWS = 20_000

# The first record of each prediction: the same record can arrive twice, never with different content.
_KEPT = """
    CREATE OR REPLACE TEMP TABLE kept AS
    SELECT row_id, site, prediction_id, recorded_at, text_key,
           strftime(recorded_at, '%Y-%m') AS month
    FROM records
    WHERE type = 'prediction' AND task = $task
    QUALIFY row_number() OVER (
        PARTITION BY site, prediction_id ORDER BY epoch, sequence, line, row_id
    ) = 1
"""
# Within an epoch the order of the segments counts, not the site's clock.
_FEEDBACK = """
    CREATE OR REPLACE TEMP TABLE feedback AS
    WITH once AS (
        SELECT * FROM records
        WHERE type = 'feedback' AND task = $task
        QUALIFY row_number() OVER (
            PARTITION BY site, record_id ORDER BY epoch, sequence, line, row_id
        ) = 1
    )
    SELECT site, prediction_id, reviewer, verdict, value, review_reason, recorded_at, epoch = $centre AS central,
           row_number() OVER (
               PARTITION BY site, prediction_id
               ORDER BY epoch_began, epoch, CASE WHEN epoch = $centre THEN recorded_at END, sequence, line, record_id
           ) AS turn
    FROM (SELECT *, min(recorded_at) OVER (PARTITION BY site, epoch) AS epoch_began FROM once)
"""
_LAST_REVIEWS = """
    CREATE OR REPLACE TEMP TABLE last_reviews AS
    WITH outputs AS (
        SELECT k.site, k.prediction_id, r.output
        FROM kept k JOIN records r USING (row_id)
        WHERE (k.site, k.prediction_id) IN (SELECT (site, prediction_id) FROM feedback)
    ), claims AS (
        SELECT f.*, o.output, CASE verdict WHEN 'accept' THEN o.output WHEN 'corrected' THEN f.value END AS claim
        FROM feedback f JOIN outputs o USING (site, prediction_id)
    ), latest AS (
        SELECT *, max(central) OVER (PARTITION BY site, prediction_id) AS settled FROM claims
        QUALIFY row_number() OVER (PARTITION BY site, prediction_id, central, reviewer ORDER BY turn DESC) = 1
    ), judged AS (
        SELECT site, prediction_id,
               arg_max(verdict, turn) AS verdict,
               arg_max(reviewer, turn) AS reviewer,
               arg_max(recorded_at, turn) AS reviewed_at,
               count(DISTINCT coalesce('=' || claim, '-')) > 1 AS conflict,
               min(claim) AS claim,
               CASE WHEN bool_and(verdict = 'reject') AND count(DISTINCT lower(trim(review_reason))) = 1
                    THEN trim(arg_max(review_reason, turn)) END AS reject_reason
        FROM latest WHERE central = settled GROUP BY site, prediction_id
    ), review_lists AS (
        SELECT site, prediction_id, list({
            'reviewer': reviewer, 'verdict': verdict, 'value': value, 'reason': review_reason,
            'reviewed_at': recorded_at
        } ORDER BY turn) AS reviews
        FROM feedback GROUP BY site, prediction_id
    )
    SELECT j.* EXCLUDE (claim), CASE WHEN NOT conflict THEN claim END AS truth, l.reviews
    FROM judged j JOIN review_lists l USING (site, prediction_id)
"""
_OPINIONS = """
    CREATE OR REPLACE TEMP TABLE opinions AS
    SELECT site, prediction_id, value AS opinion, why AS opinion_why, model AS opinion_model, recorded_at AS opinion_at,
           teacher_scores AS opinion_scores
    FROM records
    WHERE type = 'opinion' AND task = $task
    QUALIFY row_number() OVER (
        PARTITION BY site, prediction_id ORDER BY epoch, sequence, line, row_id
    ) = 1
"""
# Of duplicates the representative is a reviewed one if there is any, then the oldest.
_MARKED = """
    CREATE OR REPLACE TEMP TABLE marked AS
    WITH answered AS (
        SELECT row_id, k.site, k.prediction_id, k.recorded_at, g.cluster, s.conflict,
               hash(r.question, coalesce(s.truth, r.output), s.verdict IS NOT NULL AND s.truth IS NULL) AS answer,
               s.verdict IS NOT NULL AS reviewed
        FROM kept k
        JOIN records r USING (row_id)
        JOIN groups g ON g.text_key = k.text_key
        LEFT JOIN last_reviews s ON s.site = k.site AND s.prediction_id = k.prediction_id
    ), placed AS (
        SELECT row_id, cluster,
               first_value(row_id) OVER (
                   PARTITION BY cluster, answer, coalesce(conflict, false)
                   ORDER BY reviewed DESC, recorded_at, site, prediction_id
               ) AS first
        FROM answered
    )
    SELECT row_id, month, cluster, f.site || '/' || f.prediction_id AS duplicate_of
    FROM placed p
    JOIN kept k USING (row_id)
    LEFT JOIN (SELECT row_id AS first, site, prediction_id FROM kept) f ON f.first = p.first AND p.first <> p.row_id
"""
_EXAMPLES = """
    SELECT r.site, r.prediction_id, r.recorded_at AS answered_at, r.kind, r.question, r.bundle_version, r.bundle_digest,
           r.input, r.output, r.local_answer, r.teacher_answer, r.scores, r.confidence, r.threshold, r.sure,
           r.label_mass, r.route, r.route_reason, coalesce(r.model, '') AS model,
           s.verdict, s.truth, s.reject_reason, s.reviewer, s.reviewed_at, coalesce(s.conflict, false) AS conflict,
           coalesce(s.reviews, []) AS reviews, o.opinion, o.opinion_why, o.opinion_model, o.opinion_at,
           r.teacher_scores, o.opinion_scores,
           printf('%016x', r.text_key) AS text_key, printf('%016x', m.cluster) AS cluster, m.duplicate_of,
           r.kept_because, r.kept_share, r.review_stream, r.p_value,
           -- A row was stored, then drawn: both probabilities are known, and independent of its content.
           CASE WHEN r.review_stream = 'audit' THEN r.kept_share * r.sampling_probability END AS sampling_probability,
           r.redaction_version, r.redaction_rules, r.redaction_counts, r.epoch, r.sequence, r.line, r.collected_at
    FROM marked m
    JOIN records r USING (row_id)
    LEFT JOIN last_reviews s ON s.site = r.site AND s.prediction_id = r.prediction_id
    LEFT JOIN opinions o ON o.site = r.site AND o.prediction_id = r.prediction_id
    WHERE m.month = $month
    ORDER BY answered_at, r.site, r.prediction_id
"""
_ORPHANS = """
    SELECT count(*) FROM feedback f ANTI JOIN kept k USING (site, prediction_id)
"""
_COUNTS = """
    SELECT count(*) AS examples, count(verdict) AS reviewed, count(truth) AS with_truth,
           count(*) FILTER (verdict = 'corrected') AS corrected, count(*) FILTER (conflict) AS conflicts,
           count(duplicate_of) AS duplicates, count(opinion) AS opinions,
           count(sampling_probability) AS audited, count(verdict) FILTER (sampling_probability > 0) AS audited_reviewed
    FROM read_parquet($files, hive_partitioning = false)
"""


@dataclass(frozen=True)
class TaskExampleCounts:
    """The counts of one task."""

    task: str
    examples: int = 0
    reviewed: int = 0
    with_truth: int = 0
    corrected: int = 0
    conflicts: int = 0
    duplicates: int = 0
    waiting: int = 0
    """Feedback whose prediction has not arrived."""
    opinions: int = 0
    """Predictions with a later teacher label."""
    audited: int = 0
    """Predictions that the random audit has drawn."""
    audited_reviewed: int = 0
    """Of these, those that people have reviewed."""


def join(
    connection: duckdb.DuckDBPyConnection, task: str, out: Path, progress: Callable[[str], None]
) -> TaskExampleCounts:
    """Write the examples of one task below `out`, and remove months without examples.

    Raises:
        OSError: a file cannot be written; earlier files are new, later ones unchanged.
    """
    progress(f"{task}: join")
    parameters = {"task": task, "centre": REVIEWED_CENTRALLY}
    for step in (_KEPT, _FEEDBACK, _LAST_REVIEWS, _OPINIONS):
        connection.execute(step, {name: value for name, value in parameters.items() if f"${name}" in step})
    progress(f"{task}: find duplicates")
    group_near_duplicates(connection)
    connection.execute(_MARKED)
    folder = out / f"task={task}"
    months = [month for (month,) in connection.execute("SELECT DISTINCT month FROM marked ORDER BY 1").fetchall()]
    paths = []
    for month in months:
        progress(f"{task}: write {month}")
        paths.append(_write(connection, month, folder / f"month={month}" / FILE_NAME))
    _remove_stale(folder, {path.parent for path in paths})
    waiting = connection.execute(_ORPHANS).fetchall()[0][0]
    counts: dict[str, int] = {}
    if paths:
        totals: Any = connection.sql(_COUNTS, params={"files": [*map(str, paths)]}).to_arrow_table()
        counts = totals.to_pylist()[0]
    for table in ("kept", "feedback", "last_reviews", "opinions", "groups", "marked"):
        connection.execute(f"DROP TABLE {table}")
    return TaskExampleCounts(task=task, waiting=waiting, **counts)


def _write(connection: duckdb.DuckDBPyConnection, month: str, path: Path) -> Path:
    """Write one month. The same rows give the same bytes, unlike with DuckDB's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    reader: Any = connection.sql(_EXAMPLES, params={"month": month}).to_arrow_reader(_GROUP_ROWS)
    with (
        atomic_files.replacing(path) as partial,
        pq.ParquetWriter(partial, reader.schema, compression="zstd") as writer,
    ):
        pending: list[pa.RecordBatch] = []
        for batch in reader:
            pending.append(batch)
            while sum(part.num_rows for part in pending) >= _GROUP_ROWS:
                rows = pa.Table.from_batches(pending).combine_chunks()
                writer.write_table(rows.slice(0, _GROUP_ROWS).combine_chunks())
                pending = rows.slice(_GROUP_ROWS).to_batches()
        writer.write_table(pa.Table.from_batches(pending, reader.schema).combine_chunks())
    return path


def _remove_stale(folder: Path, months: set[Path]) -> None:
    """Remove months without examples, and files that a crash left incomplete."""
    for month in folder.glob("month=*"):
        for partial in month.glob(f"*{atomic_files.PARTIAL}"):
            partial.unlink()
        if month not in months:
            shutil.rmtree(month)
    if folder.is_dir() and not months:
        folder.rmdir()
