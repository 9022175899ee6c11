"""Which collected examples count: versions of a bundle are not mixed, a scope is exact, and a wrong clock does not make
examples the newest."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from convert.calibrate.threshold import Risk
from convert.cli import app
from convert.dataset.assessment import assess
from convert.dataset.dataset_files import write
from convert.dataset.example_scope import ExampleScope, ScopedExamples, WrongClock, open_examples
from convert.dataset.selection import DatasetSelection
from edge_agent.errors import InvalidRequest
from edge_agent.formats.signed_document import format_timestamp
from tests.support.examples import NOW, distinct_text, feedback, prediction
from tests.support.segments import CentralTeam, Record, SealingSite

RISK = Risk(0.05, 0.1)
DAY = 86_400.0
OLD, NEW = "1.9.0", "1.10.0"
DIGESTS = {OLD: "0a" * 32, NEW: "1b" * 32}


def answered(number: int, version: str = NEW, at: float = 0.0, **changes: Any) -> Record:
    """Return a confident answer of a bundle, `at` days from NOW."""
    bundle = {"version": version, "digest": DIGESTS.get(version, "2c" * 32)}
    grades = {"sure": True, "confidence": 0.95, "scores": [["refund", 0.95], ["price", 0.05]]}
    when = format_timestamp(NOW + DAY * at)
    drawn = {"review_stream": "audit", "sampling_probability": 1.0}
    return prediction(number, input=distinct_text(number), at=when, **{"bundle": bundle, **grades, **drawn, **changes})


def judged(number: int, version: str = NEW, at: float = 0.0, **said: Any) -> list[Record]:
    """Return such an answer and a review that accepts it."""
    return [answered(number, version, at), feedback(number, **{"verdict": "accept", "value": "", **said})]


def collected(root: Path, **sites: list[Record]) -> Path:
    for site, records in sites.items():
        SealingSite(root / "store", site.replace("_", "-")).seal(records)
    central = CentralTeam(root)
    central.collect(root / "store")
    return central.out


def looked_at(folder: Path, **scope: Any) -> tuple[ScopedExamples, list[str]]:
    """Return the examples of a scope and the ids of its predictions in order of time."""
    with duckdb.connect() as connection:
        found = open_examples(connection, folder, "pos-intent", ExampleScope(**scope), now=lambda: NOW)
        rows = connection.execute("SELECT prediction_id FROM examples ORDER BY moment, prediction_id").fetchall()
    return found, [name for (name,) in rows]


def said_by(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--task", "pos-intent"])
    assert 0 == result.exit_code, result.output
    return " ".join(result.output.split())


@pytest.mark.slow
def test_assess_judges_only_the_newest_version(tmp_path: Path):
    """Corrections of a broken earlier version count as training examples, but the risk guarantee of the newest version
    uses its own answers alone."""
    broken = [record for n in range(1, 61) for record in judged(n, OLD, -9, verdict="corrected", value="price")]
    good = [record for n in range(101, 201) for record in judged(n)]
    folder = collected(tmp_path, site_1=[*broken, *good])
    found = assess(folder, "pos-intent", RISK)
    assert (160, 160, 100, 1.0) == (found.reviewed, found.usable, found.promise.reviews, found.right.value)
    assert found.promise.threshold is not None
    mixed = assess(folder, "pos-intent", RISK, ExampleScope(version="all"))
    assert (160, None) == (mixed.promise.reviews, mixed.promise.threshold)
    old = assess(folder, "pos-intent", RISK, ExampleScope(version=OLD))
    assert (60, 60, 0.0) == (old.examples, old.promise.reviews, old.right.value)
    output = said_by("assess", str(folder))
    assert "bundles that answered, the newest first" in output
    assert output.index(NEW) < output.index(OLD)
    assert "the newest is judged, the others only give training data" in output
    assert "left out: 60 of other versions, sites or days" in said_by("assess", str(folder), "--version", NEW)


def test_sure_takes_unreviewed_answers_of_the_newest_version(tmp_path: Path):
    """`sure` takes unreviewed answers of the newest version only, which the output states; reviews of all versions are
    taken."""
    records = [answered(1, OLD, -2), *judged(2, OLD, -2), answered(3), *judged(4)]
    folder = collected(tmp_path, site_1=records)

    def rows(**scope: Any) -> set[str]:
        choice = DatasetSelection(folder, "pos-intent", "sure", shares={"train": 1.0}, scope=ExampleScope(**scope))
        write(choice, "text-label", tmp_path / "data", force=True)
        lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines()
        return {json.loads(line)["prediction_id"] for line in lines}

    assert {"p-2", "p-3", "p-4"} == rows()
    assert {"p-1", "p-2", "p-3", "p-4"} == rows(version="all")
    assert {"p-1", "p-2"} == rows(version=OLD)
    output = said_by(
        "dataset", str(folder), "--format", "text-label", "--answers", "sure", "--out", str(tmp_path / "said")
    )
    assert f"answered by 2 versions: {NEW} (2), {OLD} (2); --version selects one" in output
    assert f"only those of the newest, {NEW} (2), are taken" in output
    sheet = json.loads((tmp_path / "said" / "dataset.json").read_text())
    assert [(NEW, True), (OLD, False)] == [(each["version"], each["judged"]) for each in sheet["scope"]["bundles"]]


def test_scope_limits_sites_and_days(tmp_path: Path):
    """A scope can limit sites and days, with the first and last day included; other examples are counted."""
    one = [answered(1, at=-3), answered(2, at=-2), answered(3, at=-1)]
    folder = collected(tmp_path, site_1=one, site_2=[answered(4, at=-2)], site_3=[answered(5, at=-2)])
    first, last = (date.fromisoformat(format_timestamp(NOW - DAY * days)[:10]) for days in (2, 1))
    assert ["p-2", "p-3", "p-4", "p-5"] == sorted(looked_at(folder, since=first, until=last)[1])
    assert ["p-1", "p-2", "p-4", "p-5"] == sorted(looked_at(folder, until=first)[1])
    found, names = looked_at(folder, sites=("site-2", "site-3"), since=first)
    assert (5, ["p-4", "p-5"]) == (found.collected, names)
    arguments = ["--format", "text-label", "--answers", "sure", "--shares", "train=1", "--site", "site-1"]
    output = said_by(
        "dataset", str(folder), *arguments, "--since", str(first), "--until", str(first), "--out", str(tmp_path / "d")
    )
    assert "4 of other versions, sites or days" in output
    assert 1 == len((tmp_path / "d" / "train.jsonl").read_text().splitlines())


@pytest.mark.parametrize(
    ("scope", "said", "remedy"),
    [
        ({"version": "3.0.0"}, "no examples of version 3.0.0", f"{NEW} (1b1b1b1b1b1b)"),
        ({"version": "1b1b"}, "no examples of version 1b1b", NEW),
        ({"sites": ("site-1", "site-9")}, "no examples of site site-9", "examples of: site-1"),
    ],
)
def test_unknown_version_or_site_is_refused(tmp_path: Path, scope: dict[str, Any], said: str, remedy: str):
    """The error names the unknown version or site, and the remedy lists the existing ones."""
    folder = collected(tmp_path, site_1=[answered(1)])
    with pytest.raises(InvalidRequest, match=said) as caught:
        looked_at(folder, **scope)
    assert remedy in caught.value.remedy


def test_bundles_of_one_version_are_distinguished_by_digest(tmp_path: Path):
    """The bundle that answered last is judged; a digest selects the other one."""
    twin = {"version": NEW, "digest": "3d" * 32}
    folder = collected(tmp_path, site_1=[answered(1, at=-2), answered(2, at=-1, bundle=twin)])
    assert ["3d" * 32] == [bundle.digest for bundle in looked_at(folder)[0].judged]
    assert ["p-1"] == looked_at(folder, version="1b1b1b1b")[1]
    assert ["p-1", "p-2"] == looked_at(folder, version=NEW)[1]


@pytest.mark.slow
def test_site_clock_that_is_ahead_is_reported(tmp_path: Path):
    """All answers of that segment count as the oldest, so they are not in the test split, and no range of days includes
    them."""
    right = [record for n in range(1, 21) for record in judged(n, at=-n / 10)]
    ahead = [record for n in range(31, 35) for record in judged(n, at=31)] + judged(35, at=-5)
    folder = collected(tmp_path, site_1=right, site_2=ahead)
    found, names = looked_at(folder)
    assert (WrongClock("site-2", 5, 31),) == found.clocks
    assert [f"p-{n}" for n in range(31, 36)] == names[:5]
    assert "p-1" == names[-1]
    assert not {f"p-{n}" for n in range(31, 36)} & set(looked_at(folder, since=date(2000, 1, 1))[1])
    write(DatasetSelection(folder, "pos-intent", "reviewed"), "text-label", tmp_path / "data")
    assert '"site-2"' not in (tmp_path / "data" / "test.jsonl").read_text()
    for command in (("assess",), ("dataset", "--format", "text-label", "--out", str(tmp_path / "more"))):
        output = said_by(*command, str(folder))
        assert "warning: the clock of site-2 is wrong: 5 examples up to 31 days newer than the time" in output


def test_examples_of_version_0_1_are_read(tmp_path: Path):
    """Without the newest columns, answers are separated by their route, and clocks are compared with the current
    time."""
    taught = {"route": "upstream", "model": "large-1", "output": "price", "sure": False}
    folder = collected(tmp_path, site_1=[answered(1), answered(2, **taught), answered(3, at=40)])
    for path in folder.glob("examples/*/*/examples.parquet"):
        old = pq.read_table(path)
        rows = old.to_pylist()
        for row in rows:  # what 0.1 wrote beside the large model's output
            row.update({"confidence": 0.95, "sure": True})
        table = old.from_pylist(rows, old.schema).drop_columns(["local_answer", "teacher_answer", "collected_at"])
        pq.write_table(table, path)
    query = "SELECT local_answer, confidence, teacher_answer FROM examples ORDER BY prediction_id"
    with duckdb.connect() as connection:
        found = open_examples(connection, folder, "pos-intent", now=lambda: NOW)
        rows = connection.execute(query).fetchall()
    assert [("refund", 0.95, None), ("refund", 0.95, "price"), ("refund", 0.95, None)] == rows
    assert (WrongClock("site-1", 3, 40),) == found.clocks
