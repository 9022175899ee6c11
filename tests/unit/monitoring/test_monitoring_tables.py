"""The number of series, and which of them are evicted."""

from __future__ import annotations

from pathlib import Path

from edge_agent.monitoring import monitoring_tables
from tests.support.site_cases import SiteCase, answered


def test_open_questions_evict_no_other_task(tmp_path: Path) -> None:
    """Beyond the limit, a series of the task with the most series is evicted: one without a guarantee, and the
    oldest."""
    site = SiteCase(tmp_path)
    site.keep(answered(1))
    later, db = 10_000_000_000.0, site.worker.spool.db
    asked = [(f"open/q{number}", 0.0, later + number) for number in range(monitoring_tables.SERIES_MAX - 2)]
    tables = monitoring_tables.MonitoringTables(db)
    with db.transaction():
        db.executemany(
            "INSERT INTO field_series (task, digest, version, target, delta, first_at, last_at)"
            " VALUES (?, 'd', '1.0.0', ?, 0.1, 0, ?)",
            [("open/own", 0.05, later - 1), *asked],
        )
        for number in range(3):
            row = monitoring_tables.SeriesRow(0, f"open/new{number}", "d", "1.0.0", 0.0, 0.1, later, 2 * later)
            tables.begin(row)
    left = [row.task for row in tables.all_series()]
    assert monitoring_tables.SERIES_MAX == len(left)
    assert {"pos-intent", "open/own", "open/new0", "open/new1", "open/new2", "open/q3"} <= set(left)
    assert {"open/q0", "open/q1", "open/q2"}.isdisjoint(left)
