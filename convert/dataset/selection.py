"""Which examples teach something, each once, and in which split; the table `chosen`.

- What the right answer is comes from people (`reviewed`), or also from the model where it was sure (`sure`).
- Of texts that are the same or nearly so with the same answer, one stays: a reviewed one, then the oldest.
- A text that people gave different answers to is left out; where people and model differ, people count.
- A split is a stretch of time (the newest is the test) or a set of sites. `calibration` and `test`, which figures rest
  on, take only answers that the random audit of a site drew and people labelled. Before the test all of these go to the
  calibration, and all other rows train; in the stretch, or at the sites, of the test the others are left out, unless
  nothing was drawn at all.
- A text that is the same or nearly so as one of another split is left out: of the training, since to take it out of the
  audit would make that no random sample; otherwise of the later one. What was learnt must not be measured on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb

from convert.data import splits
from convert.data.row_files import LABELED_BY_CHARS_MAX, LabelSource
from convert.dataset.example_scope import ExampleScope
from edge_agent.errors import InvalidRequest

Answers = Literal["reviewed", "sure", "opinions"]
By = Literal["time", "site"]
MEASURED = ("calibration", "test")
"""Splits that figures rest on."""
SHARES = {"train": 0.65, "calibration": 0.19, "test": 0.16}

# What each purpose takes: a condition, and the answer that makes two rows the same.
_TRUE = ("truth IS NOT NULL", "truth")
_LARGE = "coalesce(opinion, teacher_answer)"
_WANTED = {
    "reviewed": _TRUE,
    "opinions": (f"truth IS NOT NULL OR (verdict IS NULL AND {_LARGE} IS NOT NULL)", f"coalesce(truth, {_LARGE})"),
    "sure": ("truth IS NOT NULL OR (verdict IS NULL AND sure AND judged)", "coalesce(truth, local_answer)"),
    "corrected": ("truth IS NOT NULL AND truth <> output", "truth"),
    "judged": ("verdict IS NOT NULL AND NOT conflict", "coalesce(truth, '') || chr(0) || output"),
}
MACHINE_LABELLED: dict[str, LabelSource] = {"opinions": "teacher", "sure": "model"}
"""Purposes that take what people did not label, and where those labels come from."""
_POOL = """
    CREATE OR REPLACE TEMP TABLE pool AS
    SELECT site, prediction_id, moment, text_key, cluster, verdict IS NOT NULL AS reviewed,
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
        PARTITION BY cluster, answer ORDER BY p.reviewed DESC, p.audited DESC, moment, site, prediction_id
    ) = 1
"""
# The shares are those of what people labelled: the rest falls where it came in time.
_BY_TIME = """
    CREATE OR REPLACE TEMP TABLE dealt_rows AS
    WITH counted AS (
        SELECT *, $people = 0 OR reviewed AS counts FROM unique_rows
    ), ordered AS (
        SELECT *, count(*) FILTER (counts) OVER (ORDER BY moment, site, prediction_id) AS nth,
               count(*) FILTER (counts) OVER () AS rows
        FROM counted
    )
    SELECT *, (SELECT min(place) FROM shares WHERE reach > (nth - CASE WHEN counts THEN 0.5 ELSE 0 END) / rows) AS place
    FROM ordered
"""
_BY_SITE = """
    CREATE OR REPLACE TEMP TABLE dealt_rows AS
    SELECT u.*, d.place FROM unique_rows u JOIN dealt d USING (site)
"""
# A place of NULL is none: $train, $calibration and $test are those of the splits, NULL where there is no such.
# $audited: how many rows the audit drew and people labelled.
_PLACED = """
    CREATE OR REPLACE TEMP TABLE placed AS
    SELECT * FROM (
        SELECT * REPLACE (CASE
            WHEN audited THEN CASE WHEN place = $test THEN place ELSE coalesce($calibration, place) END
            WHEN place = $test AND $audited > 0 THEN NULL
            WHEN place IN ($test, $calibration) THEN $train
            ELSE place END AS place)
        FROM dealt_rows
    ) WHERE place IS NOT NULL
"""
_CHOSEN = """
    CREATE OR REPLACE TEMP TABLE chosen AS
    SELECT site, prediction_id, place FROM (
        SELECT *, place NOT IN ($calibration, $test) AS trains FROM placed
    ) QUALIFY dense_rank() OVER (PARTITION BY cluster ORDER BY trains, NOT reviewed, place) = 1
"""
_AUDIT = """
    SELECT count(*), count(truth), count(*) FILTER (verdict IS NULL), min(sampling_probability),
           max(sampling_probability)
    FROM examples WHERE sampling_probability IS NOT NULL
"""


@dataclass(frozen=True)
class DatasetSelection:
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
    scope: ExampleScope = field(default_factory=ExampleScope)
    """What the view of examples was made with."""

    @property
    def split_shares(self) -> dict[str, float]:
        """The shares, with their sum made 1."""
        given = dict(self.shares or SHARES)
        total = sum(given.values())
        return {name: share / total for name, share in given.items()}


@dataclass(frozen=True)
class SelectionCounts:
    """How many examples there are, and how many were left out on the way."""

    examples: int
    out_of_scope: int
    """Of other versions, sites or days than asked for."""
    not_wanted: int
    """No truth (or opinion), or a verdict of another kind than asked for."""
    contradicted: int
    """People gave the same text different answers, or a person overruled the model."""
    duplicates: int
    leaking: int
    """Their text, or nearly the same, stands in another split."""
    not_drawn: int
    """In the stretch, or at the sites, of the test, labelled by people, and not drawn by the audit."""
    machine_labelled: int
    """In the stretch, or at the sites, of the test, and labelled by a model."""
    chosen: int
    """What is left."""


@dataclass(frozen=True)
class AuditSample:
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


def right_answer(purpose: str) -> str:
    """Return the expression for the right answer of a row of that purpose; NULL = nobody knows it."""
    return _WANTED[purpose][1] if purpose in MACHINE_LABELLED else "truth"


def label_source(purpose: str) -> str:
    """Return the expression for where the label of a row of that purpose comes from (docs/data-formats.md)."""
    by_people = "CASE verdict WHEN 'corrected' THEN 'corrected' ELSE 'reviewed' END"
    if purpose not in MACHINE_LABELLED:
        return by_people
    return f"CASE WHEN truth IS NOT NULL THEN {by_people} ELSE '{MACHINE_LABELLED[purpose]}' END"


def labeled_by(purpose: str) -> str:
    """Return the expression for who or what gave the label of a row of that purpose."""
    machine = {
        "opinions": "CASE WHEN opinion IS NOT NULL THEN opinion_model ELSE model END",
        "sure": "concat($task, ' ', bundle_version, ' ', left(bundle_digest, 12))",
    }
    by = f"CASE WHEN truth IS NOT NULL THEN reviewer ELSE {machine[purpose]} END" if purpose in machine else "reviewer"
    return f"left(coalesce({by}, ''), {LABELED_BY_CHARS_MAX})"


def choose(connection: duckdb.DuckDBPyConnection, choice: DatasetSelection) -> SelectionCounts:
    """Make the table `chosen` (site, prediction_id, place) from the view that `open_examples` made.

    Place 0 is the first split, and so on.

    Raises:
        InvalidRequest: there are fewer sites than splits, or no split that may have what a model labelled.
    """
    places: dict[str, int | None] = _measured(choice)
    condition, answer = _WANTED[choice.purpose]
    connection.execute(_POOL.format(condition=condition, answer=answer))
    # Of what was judged, one text may be right once and wrong once: each is a lesson of its own.
    connection.execute(_UNIQUE, {"torn": choice.purpose == "judged"})
    query = "SELECT count(*) FILTER (reviewed), count(*) FILTER (audited) FROM unique_rows"
    ((people, audited),) = connection.execute(query).fetchall()
    _place(connection, choice, people, places["train"] or 0)
    connection.execute(_PLACED, {**places, "audited": audited})
    connection.execute(_CHOSEN, {name: -1 if (at := places[name]) is None else at for name in MEASURED})
    return _left(connection)


def audit(connection: duckdb.DuckDBPyConnection, choice: DatasetSelection) -> AuditSample:
    """Count the random sample, after `choose`."""
    query = (
        "SELECT place, count(*) FROM chosen JOIN examples USING (site, prediction_id)"
        " WHERE sampling_probability IS NOT NULL AND truth IS NOT NULL GROUP BY place"
    )
    used = dict(connection.execute(query).fetchall())
    return audit_of(connection, {name: used.get(place, 0) for place, name in enumerate(choice.split_shares)})


def audit_of(connection: duckdb.DuckDBPyConnection, used: Mapping[str, int] | None = None) -> AuditSample:
    """Count the random sample of the view `examples`."""
    drawn, labelled, unreviewed, low, high = connection.execute(_AUDIT).fetchall()[0]
    return AuditSample(drawn, labelled, unreviewed, drawn - labelled - unreviewed, low, high, dict(used or {}))


def _measured(choice: DatasetSelection) -> dict[str, int | None]:
    """Return the places of the splits that figures rest on, and of the one that what a model labelled goes to."""
    names = list(choice.split_shares)
    places: dict[str, int | None] = {name: names.index(name) if name in names else None for name in MEASURED}
    train = next((at for at, name in enumerate(names) if name not in MEASURED), None)
    if train is None and choice.purpose in MACHINE_LABELLED:
        said = f"--answers {choice.purpose} takes labels of a {MACHINE_LABELLED[choice.purpose]},"
        said += f" and {' and '.join(names)} take labels of people only"
        raise InvalidRequest(said, remedy="Name a split to train on with --shares, or use --answers reviewed.")
    return {**places, "train": train}


def _place(connection: duckdb.DuckDBPyConnection, choice: DatasetSelection, people: int, train: int) -> None:
    shares = choice.split_shares
    if choice.by == "time":
        # The last one reaches further than 1, whatever the sum of the shares rounds to.
        reaches = [*itertools.accumulate([*shares.values()][:-1]), 2.0]
        connection.execute("CREATE OR REPLACE TEMP TABLE shares (place INTEGER, reach DOUBLE)")
        connection.executemany("INSERT INTO shares VALUES (?, ?)", list(enumerate(reaches)))
        connection.execute(_BY_TIME, {"people": people})
    else:
        _deal_sites(connection, choice, people, train)
        connection.execute(_BY_SITE)


def _deal_sites(connection: duckdb.DuckDBPyConnection, choice: DatasetSelection, people: int, train: int) -> None:
    """Deal the sites out by what people labelled there; those where they labelled nothing train."""
    query = (
        "SELECT site, count(*) FILTER ($people = 0 OR reviewed) AS rows FROM unique_rows GROUP BY site ORDER BY site"
    )
    found, shares = connection.execute(query, {"people": people}).fetchall(), choice.split_shares
    counts = [(site, count) for site, count in found if count]
    if counts and len(counts) < len(shares):
        said = f"there are examples of {len(counts)} sites, and {len(shares)} splits"
        raise InvalidRequest(said, remedy="Split by time, or into fewer: --shares train=0.8,test=0.2.")
    dealt = splits.deal_groups({site: [site] * count for site, count in counts}, choice.seed, shares)
    places = {site: train for site, count in found if not count}
    places |= {site: place for place, split in enumerate(shares) for site in dealt[split]}
    connection.execute("CREATE OR REPLACE TEMP TABLE dealt (site VARCHAR, place INTEGER)")
    if places:
        connection.executemany("INSERT INTO dealt VALUES (?, ?)", list(places.items()))


def _left(connection: duckdb.DuckDBPyConnection) -> SelectionCounts:
    every, examples, pool, unique, placed, chosen = (
        _count(connection, table) for table in ("collected", "examples", "pool", "unique_rows", "placed", "chosen")
    )
    sound = "(SELECT DISTINCT cluster, answer FROM unique_rows)"
    contradicted = _count(connection, f"pool ANTI JOIN {sound} USING (cluster, answer)")
    not_drawn = _count(connection, "dealt_rows ANTI JOIN placed USING (site, prediction_id) WHERE reviewed")
    return SelectionCounts(
        examples=every,
        out_of_scope=every - examples,
        not_wanted=examples - pool,
        contradicted=contradicted,
        duplicates=pool - contradicted - unique,
        leaking=placed - chosen,
        not_drawn=not_drawn,
        machine_labelled=unique - placed - not_drawn,
        chosen=chosen,
    )


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - tables of this module
    return int(row[0]) if row else 0
