"""Selects the examples for training data, each text once, and assigns splits: the table `chosen`.

- Labels come from people (`reviewed`), or also from confident answers of the model (`sure`).
- Of equal and nearly equal texts with the same answer one stays: a reviewed one, then the oldest. Answers to different
  questions of a decide task are different; all examples of one text are in one split.
- A text with conflicting labels of people is left out; if people and model differ, people count.
- A split is a period (the newest is the test) or a set of sites. `calibration` and `test`, which figures rest on, take
  only answers that the random audit of a site drew and people labelled. Before the period of the test all of these go
  to the calibration, and all other rows to training; in the period, or at the sites, of the test the others are left
  out, unless nothing was drawn at all.
- A text that equals, or nearly equals, one of another split is left out: from training, because removing it from the
  audit would bias that sample; otherwise from the later split. So no measured text was trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb

from convert.data import splits
from convert.data.data_row import LABELED_BY_CHARS_MAX, LabelSource
from convert.dataset.example_scope import ExampleScope
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

Answers = Literal["reviewed", "sure", "opinions"]
By = Literal["time", "site"]
MEASURED = ("calibration", "test")
"""Splits that figures rest on."""
SHARES = {"train": 0.65, "calibration": 0.19, "test": 0.16}

# By purpose: the condition for a row, and the answer by which two rows count as equal.
_LARGE = "coalesce(opinion, teacher_answer)"
_WANTED = {
    "reviewed": ("truth IS NOT NULL", "truth"),
    "opinions": (f"truth IS NOT NULL OR (verdict IS NULL AND {_LARGE} IS NOT NULL)", f"coalesce(truth, {_LARGE})"),
    "sure": ("truth IS NOT NULL OR (verdict IS NULL AND sure AND judged)", "coalesce(truth, local_answer)"),
    "corrected": ("truth IS NOT NULL AND truth <> output", "truth"),
    "judged": ("verdict IS NOT NULL AND NOT conflict", "coalesce(truth, '') || chr(0) || output"),
}
MACHINE_LABELLED: dict[str, LabelSource] = {"opinions": "teacher", "sure": "model"}
"""Purposes that use labels of models, and the source of those labels."""
_POOL = """
    CREATE OR REPLACE TEMP TABLE pool AS
    SELECT site, prediction_id, moment, concat_ws('/', text_key, question) AS text_key, cluster,
           verdict IS NOT NULL AS reviewed, truth IS NOT NULL AND sampling_probability IS NOT NULL AS audited,
           hash(question, {answer}) AS answer
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
# The shares apply to rows that people labelled; the others follow by time.
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
# $train, $calibration and $test are the places of the splits; NULL = there is no such split. $audited: how many rows
# the audit drew and people labelled.
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
    """The requested selection."""

    collected: Path
    task: str
    purpose: str
    """reviewed, sure, opinions, corrected (truth and a wrong answer) or judged (any review)."""
    by: By = "time"
    shares: Mapping[str, float] | None = None
    """Split: share of the rows, the oldest first; None = SHARES."""
    seed: str = "1"
    """Seed for dividing sites."""
    scope: ExampleScope = field(default_factory=ExampleScope)
    """The scope of the view of examples."""

    @property
    def split_shares(self) -> dict[str, float]:
        """The shares, scaled to a sum of 1."""
        shares = dict(self.shares or SHARES)
        total = sum(shares.values())
        return {name: share / total for name, share in shares.items()}


@dataclass(frozen=True)
class SelectionCounts:
    """The number of examples, and how many were left out at each step."""

    examples: int
    out_of_scope: int
    """Of other versions, sites or days than requested."""
    not_wanted: int
    """Without a label, or with a verdict of another kind than requested."""
    contradicted: int
    """People gave the same text different labels, or a person overruled the model."""
    duplicates: int
    leaking: int
    """Their text, or a near duplicate, is in another split."""
    not_drawn: int
    """In the period, or at the sites, of the test, labelled by people, and not drawn by the audit."""
    machine_labelled: int
    """In the period, or at the sites, of the test, and labelled by a model."""
    chosen: int
    """The examples that remain."""


@dataclass(frozen=True)
class AuditSample:
    """The random sample that figures rest on."""

    drawn: int
    labelled: int
    """Answers with a label on which people agree."""
    unreviewed: int
    """Answers without a review; if they are many, the reviewed ones do not represent all."""
    without_label: int
    """People rejected the answer without a better one, or differ."""
    probability_min: float | None
    """None = nothing was drawn."""
    probability_max: float | None
    used: dict[str, int]
    """By split."""

    @property
    def left_out(self) -> int:
        """Labelled answers that are in no split: conflicting, duplicate, or leaking."""
        return self.labelled - sum(self.used.values())


def right_answer(purpose: str) -> str:
    """Return the expression for the right answer of a row of that purpose; NULL = unknown."""
    return _WANTED[purpose][1] if purpose in MACHINE_LABELLED else "truth"


def label_source(purpose: str) -> str:
    """Return the expression for the label source of a row of that purpose (docs/data-formats.md)."""
    by_people = "CASE verdict WHEN 'corrected' THEN 'corrected' ELSE 'reviewed' END"
    if purpose not in MACHINE_LABELLED:
        return by_people
    return f"CASE WHEN truth IS NOT NULL THEN {by_people} ELSE '{MACHINE_LABELLED[purpose]}' END"


def probabilities(purpose: str) -> str:
    """Return the expression for the large model's probabilities of the labels; NULL = it gave none, or people count."""
    if purpose != "opinions":
        return "NULL"
    return "CASE WHEN truth IS NULL THEN CASE WHEN opinion IS NULL THEN teacher_scores ELSE opinion_scores END END"


def labeled_by(purpose: str) -> str:
    """Return the expression for the person or model that labelled a row of that purpose."""
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
        InvalidRequest: there are fewer sites than splits, or no split for rows that a model labelled.
    """
    indexes: dict[str, int | None] = _split_indexes(choice)
    condition, answer = _WANTED[choice.purpose]
    connection.execute(_POOL.format(condition=condition, answer=answer))
    # Judgements of one text can be right and wrong; each is a row of its own.
    connection.execute(_UNIQUE, {"torn": choice.purpose == "judged"})
    query = "SELECT count(*) FILTER (reviewed), count(*) FILTER (audited) FROM unique_rows"
    ((people, audited),) = connection.execute(query).fetchall()
    if choice.by == "time":
        # The last one is above 1, so that rounding of the sum leaves out no row.
        reaches = [*itertools.accumulate([*choice.split_shares.values()][:-1]), 2.0]
        connection.execute("CREATE OR REPLACE TEMP TABLE shares (place INTEGER, reach DOUBLE)")
        connection.executemany("INSERT INTO shares VALUES (?, ?)", list(enumerate(reaches)))
        connection.execute(_BY_TIME, {"people": people})
    else:
        _deal_sites(connection, choice, people, indexes["train"] or 0)
        connection.execute(_BY_SITE)
    connection.execute(_PLACED, {**indexes, "audited": audited})
    connection.execute(_CHOSEN, {name: -1 if (index := indexes[name]) is None else index for name in MEASURED})
    return _selection_counts(connection)


def audit(connection: duckdb.DuckDBPyConnection, choice: DatasetSelection) -> AuditSample:
    """Count the random sample, after `choose`."""
    query = (
        "SELECT place, count(*) FROM chosen JOIN examples USING (site, prediction_id)"
        " WHERE sampling_probability IS NOT NULL AND truth IS NOT NULL GROUP BY place"
    )
    used = dict(connection.execute(query).fetchall())
    return audit_of(connection, {name: used.get(index, 0) for index, name in enumerate(choice.split_shares)})


def audit_of(connection: duckdb.DuckDBPyConnection, used: Mapping[str, int] | None = None) -> AuditSample:
    """Count the random sample of the view `examples`."""
    drawn, labelled, unreviewed, low, high = connection.execute(_AUDIT).fetchall()[0]
    return AuditSample(drawn, labelled, unreviewed, drawn - labelled - unreviewed, low, high, dict(used or {}))


def _split_indexes(choice: DatasetSelection) -> dict[str, int | None]:
    """Return the indexes of the splits that figures rest on, and of `train`, which takes rows that a model labelled."""
    names = list(choice.split_shares)
    indexes: dict[str, int | None] = {name: names.index(name) if name in names else None for name in MEASURED}
    train = next((index for index, name in enumerate(names) if name not in MEASURED), None)
    if train is None and choice.purpose in MACHINE_LABELLED:
        message = f"--answers {choice.purpose} takes labels of a {MACHINE_LABELLED[choice.purpose]},"
        message += f" and {' and '.join(names)} take labels of people only"
        raise InvalidRequest(message, remedy="Name a split to train on with --shares, or use --answers reviewed.")
    return {**indexes, "train": train}


def _deal_sites(connection: duckdb.DuckDBPyConnection, choice: DatasetSelection, people: int, train: int) -> None:
    """Divide the sites by the number of rows that people labelled; sites without such rows go to training."""
    query = (
        "SELECT site, count(*) FILTER ($people = 0 OR reviewed) AS rows FROM unique_rows GROUP BY site ORDER BY site"
    )
    site_counts, shares = connection.execute(query, {"people": people}).fetchall(), choice.split_shares
    counts = [(site, count) for site, count in site_counts if count]
    if counts and len(counts) < len(shares):
        message = f"there are examples of {counted(len(counts), 'site')}, and {len(shares)} splits"
        raise InvalidRequest(message, remedy="Split by time, or into fewer: --shares train=0.8,test=0.2.")
    sites_of = splits.deal_groups({site: [site] * count for site, count in counts}, choice.seed, shares)
    places = {site: train for site, count in site_counts if not count}
    places |= {site: place for place, split in enumerate(shares) for site in sites_of[split]}
    connection.execute("CREATE OR REPLACE TEMP TABLE dealt (site VARCHAR, place INTEGER)")
    if places:
        connection.executemany("INSERT INTO dealt VALUES (?, ?)", list(places.items()))


def _selection_counts(connection: duckdb.DuckDBPyConnection) -> SelectionCounts:
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
