"""Deletes collected examples whose time is over, by site and task, and lists the records that sites had erased.

A prediction goes with its reviews and its teacher label. The raw files still list its segment, so that it is not
collected again; tombstones stay. Datasets made earlier keep their rows: convert/dataset/lineage.py lists them.

The age is that of the answer by the site's clock, unless that is later than the collection or more than a year before
it: then the clock was wrong, and the age is that of the collection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from convert.collect import collection, database, derived_examples, record_files
from edge_agent.errors import FileMissing, InvalidRequest

_ERASED = "SELECT DISTINCT site || '/' || prediction_id FROM records WHERE type = 'tombstone' ORDER BY 1"


def erased(collected: Path) -> list[str]:
    """Return the erased records of a collection, as SITE/PREDICTION_ID."""
    folder = collected / record_files.FOLDER
    with database.opened(folder, collected / ".erased", database.MEMORY_BYTES_DEFAULT) as connection:
        return [name for (name,) in connection.execute(_ERASED).fetchall()]


ANY = "*"
_RULE = re.compile(r"(?P<site>\*|[a-z0-9-]+)/(?P<task>\*|[a-z0-9-]+)=(?P<days>\d+(\.\d+)?)")
_DUE = """
    WITH aged AS (
        SELECT filename, site, prediction_id, task, type,
               CASE WHEN collected_at IS NULL OR recorded_at BETWEEN collected_at - INTERVAL 366 DAY AND collected_at
                    THEN recorded_at ELSE collected_at END AS moment
        FROM records WHERE type <> 'tombstone'
    ), due AS (
        SELECT site, prediction_id FROM aged
        WHERE ($site = '*' OR site = $site) AND ($task = '*' OR task = $task)
        GROUP BY site, prediction_id
        HAVING coalesce(min(moment) FILTER (type = 'prediction'), max(moment)) < $before
    )
    SELECT DISTINCT filename, site, prediction_id, task FROM aged SEMI JOIN due USING (site, prediction_id)
    ORDER BY ALL
"""


@dataclass(frozen=True)
class RetentionRule:
    """How long the examples of a site and a task are kept."""

    site: str
    """ANY = every site."""
    task: str
    """ANY = every task."""
    days: float


@dataclass(frozen=True)
class PurgeReport:
    """What was deleted, or would be."""

    predictions: int
    records: int
    """Lines of the raw files; 0 where nothing was deleted."""
    by_site_and_task: dict[str, int]
    """Predictions by SITE/TASK."""


def parse_rule(written: str) -> RetentionRule:
    """Read SITE/TASK=DAYS, where `*` stands for every site or task. Raises InvalidRequest."""
    match = _RULE.fullmatch(written)
    if not match:
        remedy = "Write SITE/TASK=DAYS, such as 'clinic-1/*=90' or '*/reception=30'."
        raise InvalidRequest(f"--keep {written!r} is not understood", remedy=remedy)
    return RetentionRule(match["site"], match["task"], float(match["days"]))


def purge(
    out: Path,
    rules: Sequence[RetentionRule],
    now: float,
    *,
    dry_run: bool,
    memory_bytes: int = database.MEMORY_BYTES_DEFAULT,
    progress: Callable[[str], None] = lambda _: None,
) -> PurgeReport:
    """Delete what is older than a rule allows, and join the examples again; with `dry_run` only count.

    Raises:
        FileMissing: nothing was collected there.
        InvalidRequest: a run of collect uses the folder, or the memory is not enough.
        OSError: a file cannot be written; files already rewritten stay so.
    """
    folder = out / record_files.FOLDER
    if not record_files.files(folder):
        raise FileMissing(
            f"nothing is collected in {out}", remedy="Name the folder that 'edge-convert collect' writes."
        )
    with collection.locked(out):
        due: dict[str, set[tuple[str, str]]] = {}
        found: dict[tuple[str, str], str] = {}
        with database.opened(folder, out / ".purge", memory_bytes) as connection:
            for rule in rules:
                before = datetime.fromtimestamp(now, UTC).replace(tzinfo=None) - timedelta(days=rule.days)
                values = {"site": rule.site, "task": rule.task, "before": before}
                for filename, site, prediction_id, task in connection.execute(_DUE, values).fetchall():
                    due.setdefault(filename, set()).add((site, prediction_id))
                    found[site, prediction_id] = f"{site}/{task}"
        records = 0
        if found and not dry_run:
            records = sum(record_files.forget(Path(filename), names) for filename, names in due.items())
            derived_examples.derive(out, memory_bytes, progress)
    counted: dict[str, int] = {}
    for place in found.values():
        counted[place] = counted.get(place, 0) + 1
    return PurgeReport(len(found), records, dict(sorted(counted.items())))
