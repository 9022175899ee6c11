"""Which examples teach something, each once, and in which split; the table `chosen`.

- What the right answer is comes from people (`reviewed`), or also from the model where it was sure (`sure`).
- Of texts that are the same or nearly so with the same answer, one stays: a reviewed one, then the oldest.
- A text that people gave different answers to is left out; where people and model differ, people count.
- A split is a stretch of time (the newest is the test) or a set of sites. `calibration` and `test`, which figures rest
  on, take only answers that the random audit of a site drew and people labelled. Before the test all of these go to the
  calibration, and all other rows train; in the stretch, or at the sites, of the test the others are left out.
- A text that is the same or nearly so as one of another split is left out: of the training, since to take it out of the
  audit would make that no random sample; otherwise of the later one. What was learnt must not be measured on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from convert import splits
from convert.collect import joined
from edge_agent.errors import FileMissing, InvalidRequest

Answers = Literal["reviewed", "sure", "opinions"]
By = Literal["time", "site"]
MEASURED = ("calibration", "test")
"""Splits that figures rest on."""
SHARES = {"train": 0.65, "calibration": 0.19, "test": 0.16}

# What each purpose takes: a condition, and the answer that makes two rows the same.
_TRUE = ("truth IS NOT NULL", "truth")
_LARGE = "coalesce(opinion, CASE WHEN model <> '' THEN output END)"
_WANTED = {
    "reviewed": _TRUE,
    "opinions": (f"truth IS NOT NULL OR (verdict IS NULL AND {_LARGE} IS NOT NULL)", f"coalesce(truth, {_LARGE})"),
    "sure": ("truth IS NOT NULL OR (verdict IS NULL AND sure)", "coalesce(truth, output)"),
    "corrected": ("truth IS NOT NULL AND truth <> output", "truth"),
    "judged": ("verdict IS NOT NULL AND NOT conflict", "coalesce(truth, '') || chr(0) || output"),
}
_POOL = """
    CREATE OR REPLACE TEMP TABLE pool AS
    SELECT site, prediction_id, answered_at, text_key, cluster, verdict IS NOT NULL AS reviewed,
           truth IS NOT NULL AND sampling_probability IS NOT NULL AS audited, hash({answer}) AS answer
    FROM examples WHERE {condition}
"""
_UNIQUE = """
    CREATE OR REPLACE TEMP TABLE unique_rows AS
    WITH texts AS (
        SELECT text_key, bool_or(reviewed) AS reviewed FROM pool GROUP BY text_key
    ), sound AS (
        SELECT p.text_key FROM pool p JOIN texts t USING (text_key)
        WHERE p.reviewed = t.reviewed GROUP BY p.text_key HAVING count(DISTINCT answer) = 1 OR $torn
    )
    SELECT p.* FROM pool p JOIN texts t USING (text_key) SEMI JOIN sound s USING (text_key)
    WHERE p.reviewed = t.reviewed
    QUALIFY row_number() OVER (
        PARTITION BY cluster, answer ORDER BY p.reviewed DESC, p.audited DESC, answered_at, site, prediction_id
    ) = 1
"""
_BY_TIME = """
    CREATE OR REPLACE TEMP TABLE dealt_rows AS
    SELECT *, (SELECT min(place) FROM shares WHERE reach > passed) AS place
    FROM (SELECT *, (row_number() OVER (ORDER BY answered_at, site, prediction_id) - 0.5)
                    / count(*) OVER () AS passed FROM unique_rows)
"""
_BY_SITE = """
    CREATE OR REPLACE TEMP TABLE dealt_rows AS
    SELECT u.*, d.place FROM unique_rows u JOIN dealt d USING (site)
"""
# A place of NULL is none: $train, $calibration and $test are those of the splits, NULL where there is no such.
_PLACED = """
    CREATE OR REPLACE TEMP TABLE placed AS
    SELECT * FROM (
        SELECT * REPLACE (CASE
            WHEN audited THEN CASE WHEN place = $test THEN place ELSE coalesce($calibration, place) END
            WHEN place = $test THEN NULL
            WHEN place = $calibration THEN $train
            ELSE place END AS place)
        FROM dealt_rows
    ) WHERE place IS NOT NULL
"""
_CHOSEN = """
    CREATE OR REPLACE TEMP TABLE chosen AS
    SELECT site, prediction_id, place FROM (
        SELECT *, place NOT IN ($calibration, $test) AS trains FROM placed
    ) QUALIFY dense_rank() OVER (PARTITION BY cluster ORDER BY trains, place) = 1
"""
_AUDIT = """
    SELECT count(*), count(truth), count(*) FILTER (verdict IS NULL), min(sampling_probability),
           max(sampling_probability)
    FROM examples WHERE sampling_probability IS NOT NULL
"""


@dataclass(frozen=True)
class Choice:
    """What to choose."""

    collected: Path
    task: str
    purpose: str
    """reviewed, sure, opinions, corrected (truth and a wrong answer) or judged (whatever was said)."""
    by: By = "time"
    shares: Mapping[str, float] | None = None
    """Split: share of the rows, the oldest first; None = SHARES."""
    seed: str = "1"
    """Deals out sites."""

    @property
    def split_shares(self) -> dict[str, float]:
        """The shares, with their sum made 1."""
        given = dict(self.shares or SHARES)
        total = sum(given.values())
        return {name: share / total for name, share in given.items()}


@dataclass(frozen=True)
class Left:
    """How many examples there are, and how many were left out on the way."""

    examples: int
    not_wanted: int
    """No truth (or opinion), or a verdict of another kind than asked for."""
    contradicted: int
    """People gave the same text different answers, or a person overruled the model."""
    duplicates: int
    leaking: int
    """Their text, or nearly the same, stands in another split."""
    not_drawn: int
    """In the stretch, or at the sites, of the test, and not drawn by the audit."""
    chosen: int
    """What is left."""


@dataclass(frozen=True)
class Audit:
    """The random sample that figures may rest on, as far as it has come."""

    drawn: int
    labelled: int
    """People said what is right, and agree."""
    unreviewed: int
    """Nobody judged them: where these are not few, what was judged need not be like all."""
    without_label: int
    """People rejected the answer without a better one, or differ."""
    probability_min: float | None
    """None = nothing was drawn."""
    probability_max: float | None
    used: dict[str, int]
    """By split."""

    @property
    def left_out(self) -> int:
        """Labelled ones that are in no split: contradicted, repeated, or leaking."""
        return self.labelled - sum(self.used.values())


def open_examples(connection: duckdb.DuckDBPyConnection, collected: Path, task: str) -> None:
    """Make the view `examples` of one task.

    Raises:
        FileMissing: nothing was collected of it.
        InvalidRequest: what was, was by an edge-convert that knew less.
    """
    folder = collected / joined.FOLDER / f"task={task}"
    files = sorted(folder.glob(f"month=*/{joined.FILE_NAME}"))
    if not files:
        known = sorted(path.name.removeprefix("task=") for path in folder.parent.glob("task=*"))
        remedy = f"There is: {', '.join(known)}." if known else "Run 'edge-convert collect' first."
        raise FileMissing(f"{collected} holds no examples of task {task}", remedy=remedy)
    found = connection.read_parquet([*map(str, files)])
    if not {"opinion", "sampling_probability"} <= set(found.columns):
        said = f"the examples in {collected} were joined by an older edge-convert"
        raise InvalidRequest(said, remedy="Run 'edge-convert collect' again: it joins them anew from what it has.")
    found.create_view("examples")


def right_answer(purpose: str) -> str:
    """Return the expression for the right answer of a row of that purpose; NULL = the output, or nobody knows it."""
    return _WANTED[purpose][1] if purpose == "opinions" else "truth"


def choose(connection: duckdb.DuckDBPyConnection, choice: Choice) -> Left:
    """Make the table `chosen` (site, prediction_id, place): place 0 is the first split, and so on.

    Raises:
        FileMissing: nothing was collected of the task.
        InvalidRequest: there are fewer sites than splits.
    """
    open_examples(connection, choice.collected, choice.task)
    condition, answer = _WANTED[choice.purpose]
    connection.execute(_POOL.format(condition=condition, answer=answer))
    # Of what was judged, one text may be right once and wrong once: each is a lesson of its own.
    connection.execute(_UNIQUE, {"torn": choice.purpose == "judged"})
    _place(connection, choice)
    places = _measured(choice)
    connection.execute(_PLACED, places)
    connection.execute(_CHOSEN, {name: -1 if (at := places[name]) is None else at for name in ("calibration", "test")})
    return _left(connection)


def audit(connection: duckdb.DuckDBPyConnection, choice: Choice) -> Audit:
    """Count the random sample, after `choose`."""
    query = (
        "SELECT place, count(*) FROM chosen JOIN examples USING (site, prediction_id)"
        " WHERE sampling_probability IS NOT NULL AND truth IS NOT NULL GROUP BY place"
    )
    used = dict(connection.execute(query).fetchall())
    return audit_of(connection, {name: used.get(place, 0) for place, name in enumerate(choice.split_shares)})


def audit_of(connection: duckdb.DuckDBPyConnection, used: Mapping[str, int] | None = None) -> Audit:
    """Count the random sample of the view `examples`."""
    drawn, labelled, unreviewed, low, high = connection.execute(_AUDIT).fetchall()[0]
    return Audit(drawn, labelled, unreviewed, drawn - labelled - unreviewed, low, high, dict(used or {}))


def _measured(choice: Choice) -> dict[str, int | None]:
    """Return the places of the splits that figures rest on, and of the one that all other rows go to."""
    names = list(choice.split_shares)
    places: dict[str, int | None] = {name: names.index(name) if name in names else None for name in MEASURED}
    return {**places, "train": next((at for at, name in enumerate(names) if name not in MEASURED), None)}


def _place(connection: duckdb.DuckDBPyConnection, choice: Choice) -> None:
    shares = choice.split_shares
    if choice.by == "time":
        # The last one reaches further than 1, whatever the sum of the shares rounds to.
        reaches = [*itertools.accumulate([*shares.values()][:-1]), 2.0]
        connection.execute("CREATE OR REPLACE TEMP TABLE shares (place INTEGER, reach DOUBLE)")
        connection.executemany("INSERT INTO shares VALUES (?, ?)", list(enumerate(reaches)))
        connection.execute(_BY_TIME)
    else:
        _deal_sites(connection, shares, choice.seed)
        connection.execute(_BY_SITE)


def _deal_sites(connection: duckdb.DuckDBPyConnection, shares: Mapping[str, float], seed: str) -> None:
    counts = connection.execute("SELECT site, count(*) FROM unique_rows GROUP BY site ORDER BY site").fetchall()
    if counts and len(counts) < len(shares):
        said = f"there are examples of {len(counts)} sites, and {len(shares)} splits"
        raise InvalidRequest(said, remedy="Split by time, or into fewer: --shares train=0.8,test=0.2.")
    dealt = splits.deal({site: [site] * count for site, count in counts}, seed, shares)
    places = {site: place for place, split in enumerate(shares) for site in dealt[split]}
    connection.execute("CREATE OR REPLACE TEMP TABLE dealt (site VARCHAR, place INTEGER)")
    if places:
        connection.executemany("INSERT INTO dealt VALUES (?, ?)", list(places.items()))


def _left(connection: duckdb.DuckDBPyConnection) -> Left:
    examples, pool, unique, placed, chosen = (
        _count(connection, table) for table in ("examples", "pool", "unique_rows", "placed", "chosen")
    )
    sound = "(SELECT DISTINCT cluster, answer FROM unique_rows)"
    contradicted = _count(connection, f"pool ANTI JOIN {sound} USING (cluster, answer)")
    duplicates = pool - contradicted - unique
    return Left(examples, examples - pool, contradicted, duplicates, placed - chosen, unique - placed, chosen)


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - tables of this module
    return int(row[0]) if row else 0
