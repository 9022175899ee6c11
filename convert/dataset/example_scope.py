"""Selects collected examples by bundle, site and day: the view `examples`.

One bundle is judged: unless one version or all are requested, the column `judged` is true for the newest one only. The
label of a text does not depend on the bundle that answered it, so the other rows stay.

The clock of a site can be wrong. An answer cannot be newer than the time at which its segment was collected. If it is,
by two days or more, the times of all answers of that segment are unknown: they are marked (`clock_ahead`), count as the
oldest (`moment`), and are in no requested period.

A correction can only name a label of the bundle that answered. An answer that needs another label is
rejected, with the new label as the reason: `new_labels` turns such rejections into corrections.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb

from convert.collect import derived_examples, example_join
from convert.version_order import precedence
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats.manifest import LABEL_KINDS

EVERY_VERSION = "all"
CLOCK_DAYS_AHEAD = 2
"""A site's clock counts as wrong from this many days ahead: less can be a time zone, and does no harm."""
REASONS_MAX = 100
"""Reasons of rejections that are listed."""
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_LATER_COLUMNS = {
    "question": "VARCHAR",
    "local_answer": "VARCHAR",
    "teacher_answer": "VARCHAR",
    "teacher_scores": "STRUCT(label VARCHAR, score DOUBLE)[]",
    "opinion_scores": "STRUCT(label VARCHAR, score DOUBLE)[]",
    "collected_at": "TIMESTAMP",
    "review_stream": "VARCHAR",
    "sampling_probability": "DOUBLE",
    "p_value": "DOUBLE",
    "reject_reason": "VARCHAR",
}
"""Columns that version 0.1 did not write, with their SQL type."""
# Segments with an answer that is newer than their collection. Version 0.1 did not store that time, so $now is used.
_AHEAD = """
    CREATE OR REPLACE TEMP TABLE ahead AS
    SELECT site, epoch, sequence, max(days) AS days FROM (
        SELECT *, date_diff('hour', coalesce(collected_at, $now::TIMESTAMP), answered_at) // 24 AS days FROM collected
    ) WHERE days >= $days GROUP BY ALL
"""
_MARKED = """
    CREATE OR REPLACE TEMP VIEW marked AS
    SELECT *, CASE WHEN clock_ahead THEN '-infinity'::TIMESTAMP ELSE answered_at END AS moment FROM (
        SELECT c.*, a.days IS NOT NULL AS clock_ahead FROM collected c LEFT JOIN ahead a USING (site, epoch, sequence)
    )
"""
# The temporary table of bundles has the selected and the judged ones.
_EXAMPLES = """
    CREATE OR REPLACE TEMP VIEW examples AS
    SELECT m.* REPLACE (
        CASE WHEN n.label IS NULL THEN m.verdict ELSE 'corrected' END AS verdict, coalesce(m.truth, n.label) AS truth
    ), b.judged
    FROM marked m JOIN bundles b USING (bundle_version, bundle_digest)
    LEFT JOIN new_labels n ON m.verdict = 'reject' AND m.truth IS NULL AND n.reason = m.reject_reason
    WHERE b.taken AND {limits}
"""
_REASONS = """
    SELECT reject_reason, count(*) FROM marked JOIN bundles USING (bundle_version, bundle_digest)
    WHERE taken AND reject_reason <> '' AND {limits}
    GROUP BY 1 ORDER BY 2 DESC, 1
"""
_BUNDLES = """
    SELECT bundle_version, bundle_digest, count(*), count(verdict), max(answered_at) FILTER (NOT clock_ahead)
    FROM marked WHERE {limits} GROUP BY 1, 2
"""
_CLOCKS = """
    SELECT site, (SELECT count(*) FROM marked m WHERE clock_ahead AND m.site = a.site), max(days)
    FROM ahead a WHERE {limits} GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True)
class ExampleScope:
    """The requested scope; by default everything, and the newest bundle is judged."""

    version: str = ""
    """A version, the beginning of a digest (8 characters or more), or EVERY_VERSION."""
    sites: tuple[str, ...] = ()
    since: date | None = None
    """The first day, in UTC."""
    until: date | None = None
    """The last day, in UTC."""
    new_labels: tuple[tuple[str, str], ...] = ()
    """Reason of rejections, and the label that is right for them. Case does not count, and "_" and "-" are spaces."""


@dataclass(frozen=True)
class AnsweringBundle:
    """A bundle that answered some of the examples."""

    version: str
    digest: str
    examples: int
    reviewed: int
    judged: bool
    """Its answers are judged; false = only their labels count, or they are left out."""


@dataclass(frozen=True)
class WrongClock:
    """A site whose clock was ahead of the time when its segments were collected."""

    site: str
    examples: int
    days: int
    """Smallest number of days that it was ahead."""


@dataclass(frozen=True)
class ScopedExamples:
    """The contents of the view."""

    collected: int
    """Examples of the task in all."""
    bundles: tuple[AnsweringBundle, ...]
    """Bundles at those sites in those days, the newest first."""
    clocks: tuple[WrongClock, ...]
    judged_by_default: bool
    """The judged bundle was not requested, so it is the newest."""
    reject_reasons: Mapping[str, int] = field(default_factory=dict)
    """Reasons of the rejected answers for which no right answer is known, new labels included, with the number of
    examples, the most frequent first, at most REASONS_MAX."""

    @property
    def judged(self) -> tuple[AnsweringBundle, ...]:
        """Bundles whose answers are judged."""
        return tuple(bundle for bundle in self.bundles if bundle.judged)

    @property
    def passed_over(self) -> tuple[AnsweringBundle, ...]:
        """Bundles whose answers are not judged."""
        return tuple(bundle for bundle in self.bundles if not bundle.judged)


def open_examples(
    connection: duckdb.DuckDBPyConnection,
    collected: Path,
    task: str,
    scope: ExampleScope = ExampleScope(),  # noqa: B008 - it cannot change
    now: Callable[[], float] = time.time,
    *,
    whole: bool = False,
) -> ScopedExamples:
    """Make the view `examples` of one task, or of one question, TASK/QUESTION, of a task that has several.

    `now` replaces the unknown time of collection of version 0.1. With `whole`, the view may have the examples of all
    questions of a task.

    Raises:
        FileMissing: nothing was collected of the task.
        InvalidRequest: an older edge-convert joined the examples, or there are none of that version, site or question;
            the task has several questions, and none is named.
    """
    _open_task(connection, collected, task.partition("/")[0])
    _select_question(connection, task, whole=whole)
    now_utc = datetime.fromtimestamp(now(), UTC).replace(tzinfo=None)
    connection.execute(_AHEAD, {"now": now_utc, "days": CLOCK_DAYS_AHEAD})
    connection.execute(_MARKED)
    sites, days = _site_condition(connection, scope), _day_condition(scope)
    limits = f"{sites} AND {days}"
    bundles = _bundles(connection.execute(_BUNDLES.format(limits=limits)).fetchall(), scope)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE bundles"
        " (bundle_version VARCHAR, bundle_digest VARCHAR, taken BOOLEAN, judged BOOLEAN)"
    )
    rows = [(each.version, each.digest, not scope.version or each.judged, each.judged) for each in bundles]
    if rows:
        connection.executemany("INSERT INTO bundles VALUES (?, ?, ?, ?)", rows)
    reasons = _read_reasons(connection, scope, limits, one_question=not (whole and _questions(connection)))
    connection.execute(_EXAMPLES.format(limits=limits))
    clocks = [WrongClock(*fields) for fields in connection.execute(_CLOCKS.format(limits=sites)).fetchall()]
    ((collected_count,),) = connection.execute("SELECT count(*) FROM collected").fetchall()
    return ScopedExamples(collected_count, bundles, tuple(clocks), not scope.version, reasons)


def _read_reasons(
    connection: duckdb.DuckDBPyConnection, scope: ExampleScope, limits: str, *, one_question: bool
) -> dict[str, int]:
    """Make the table of new labels, and count the reasons of the other rejections in scope."""
    counts: Counter[str] = Counter()
    spellings: dict[str, list[str]] = {}
    for reason, count in connection.execute(_REASONS.format(limits=limits)).fetchall():
        key = _normalize(reason)
        counts[key] += count
        spellings.setdefault(key, []).append(reason)
    connection.execute("CREATE OR REPLACE TEMP TABLE new_labels (reason VARCHAR, label VARCHAR)")
    if scope.new_labels:
        _check_new_labels(connection, scope, [*spellings], one_question=one_question)
        rows = [(spelling, label) for reason, label in scope.new_labels for spelling in spellings[_normalize(reason)]]
        connection.executemany("INSERT INTO new_labels VALUES (?, ?)", rows)
    renamed = {_normalize(reason) for reason, _ in scope.new_labels}
    others = [(spellings[key][0], count) for key, count in counts.most_common() if key not in renamed]
    return dict(others[:REASONS_MAX])


def _normalize(reason: str) -> str:
    """Return how reasons are compared: "Fraud report" and "fraud_report" are one."""
    return re.sub(r"[\s_-]+", " ", reason.lower()).strip()


def _check_new_labels(
    connection: duckdb.DuckDBPyConnection, scope: ExampleScope, reasons: Sequence[str], *, one_question: bool
) -> None:
    """Raise InvalidRequest for a task without labels, and for a reason that nobody gave, or that is named twice."""
    kinds = {kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM collected").fetchall()}
    if not kinds <= set(LABEL_KINDS):
        message = (
            f"new labels are for tasks of kind {' and '.join(sorted(LABEL_KINDS))}, not {', '.join(sorted(kinds))}"
        )
        raise InvalidRequest(message, remedy="Leave out --new-label.")
    if not one_question:
        message = "a new label belongs to one question, and this is about several"
        raise InvalidRequest(message, remedy="Name the question: --task NAME/QUESTION.")
    requested = [_normalize(reason) for reason, _ in scope.new_labels]
    if repeated := sorted({reason for reason in requested if requested.count(reason) > 1}):
        raise InvalidRequest(f"reason {repeated[0]!r} has several new labels", remedy="Name one label for each reason.")
    if missing := sorted(set(requested) - set(reasons)):
        listed = (
            f"Reasons in this scope: {', '.join(map(repr, reasons))[:500]}." if reasons else "There is none in scope."
        )
        raise InvalidRequest(f"nobody rejected an answer with the reason {missing[0]!r}", remedy=listed)


def _open_task(connection: duckdb.DuckDBPyConnection, collected: Path, task: str) -> None:
    folder = collected / example_join.FOLDER / f"task={task}"
    files = sorted(folder.glob(f"month=*/{example_join.FILE_NAME}"))
    if not files:
        known = sorted(path.name.removeprefix("task=") for path in folder.parent.glob("task=*"))
        remedy = f"There are: {', '.join(known)}." if known else "Run 'edge-convert collect' first."
        raise FileMissing(f"{collected} has no examples of task {task}", remedy=remedy)
    relation = connection.read_parquet([*map(str, files)], union_by_name=True)
    if "opinion" not in relation.columns:
        message = f"the examples in {collected} were joined by an older edge-convert"
        remedy = "Run 'edge-convert collect' again, which joins them again from the stored segments."
        raise InvalidRequest(message, remedy=remedy)
    derived_examples.split_answers(relation, _LATER_COLUMNS).create_view("collected_task")
    connection.execute("CREATE OR REPLACE TEMP VIEW collected AS SELECT * FROM collected_task")


def questions_of(collected: Path, task: str) -> list[str]:
    """Return the names TASK/QUESTION of a task's questions with examples; the task itself if its answers have no name.

    Raises what `open_examples` raises.
    """
    with duckdb.connect() as connection:
        _open_task(connection, collected, task.partition("/")[0])
        questions = _questions(connection)
    return [f"{task}/{name}" for name in questions] if questions and "/" not in task else [task]


def _questions(connection: duckdb.DuckDBPyConnection) -> list[str]:
    query = "SELECT DISTINCT question FROM collected_task WHERE question IS NOT NULL ORDER BY 1"
    return [name for (name,) in connection.execute(query).fetchall()]


def _select_question(connection: duckdb.DuckDBPyConnection, task: str, *, whole: bool) -> None:
    name, _, question = task.partition("/")
    questions = _questions(connection)
    listed = ", ".join(f"{name}/{each}" for each in questions)[:500]
    if question and question not in questions:
        message = f"there are no examples of question {question} of task {name}"
        remedy = f"Name one of: {listed}." if questions else f"Name the task alone: {name}."
        raise InvalidRequest(message, remedy=remedy)
    if questions and not question and not whole:
        message = f"task {name} has several questions, and this is about one of them"
        raise InvalidRequest(message, remedy=f"Name one of: {listed}.")
    if question:
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE asked_question AS SELECT $name AS question", {"name": question}
        )
        query = "SELECT * FROM collected_task SEMI JOIN asked_question USING (question)"
        connection.execute(f"CREATE OR REPLACE TEMP VIEW collected AS {query}")


def _site_condition(connection: duckdb.DuckDBPyConnection, scope: ExampleScope) -> str:
    """Return the condition for the requested sites."""
    if not scope.sites:
        return "true"
    known = {site for (site,) in connection.execute("SELECT DISTINCT site FROM collected").fetchall()}
    unknown = sorted(set(scope.sites) - known)
    if unknown:
        message = f"there are no examples of site {', '.join(unknown)}"
        raise InvalidRequest(message, remedy=f"There are examples of: {', '.join(sorted(known))[:500]}.")
    connection.execute("CREATE OR REPLACE TEMP TABLE asked_sites (site VARCHAR)")
    connection.executemany("INSERT INTO asked_sites VALUES (?)", [(site,) for site in scope.sites])
    return "site IN (SELECT site FROM asked_sites)"


def _day_condition(scope: ExampleScope) -> str:
    """Return the condition for the requested days."""
    conditions = ["NOT clock_ahead"] if scope.since or scope.until else ["true"]
    if scope.since:
        conditions.append(f"answered_at >= DATE '{scope.since:%Y-%m-%d}'")
    if scope.until:
        conditions.append(f"answered_at < DATE '{scope.until:%Y-%m-%d}' + INTERVAL 1 DAY")
    return " AND ".join(conditions)


def _bundles(rows: Sequence[tuple[str, str, int, int, datetime]], scope: ExampleScope) -> tuple[AnsweringBundle, ...]:
    newest_first = sorted(rows, key=lambda each: (precedence(each[0]), each[4] or datetime.min, each[1]), reverse=True)
    judged = {each[:2] for each in newest_first[:1]}
    if scope.version:
        judged = {each[:2] for each in rows if _matches_version(scope.version, *each[:2])}
        if not judged:
            available = ", ".join(f"{version} ({digest[:12]})" for version, digest, *_ in newest_first)
            message = f"there are no examples of version {scope.version}"
            raise InvalidRequest(message, remedy=f"There are examples of: {available[:500] or 'none in that scope'}.")
    return tuple(AnsweringBundle(*each[:4], judged=each[:2] in judged) for each in newest_first)


def _matches_version(requested: str, version: str, digest: str) -> bool:
    return requested in (EVERY_VERSION, version) or (
        bool(_DIGEST.fullmatch(requested)) and digest.startswith(requested)
    )
