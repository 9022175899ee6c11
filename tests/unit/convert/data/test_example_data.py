"""The data in examples/: enough rows, correct labels, and no test text that training has seen."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from convert.data import row_files
from convert.data.data_row import DataRow
from convert.pipeline import recipe

EXAMPLES = Path(__file__).parents[4] / "examples"
POS = EXAMPLES / "pos-intent"
POS_ROWS_MIN = {"train": 750, "importance": 50, "calibration": 250, "test": 250}
INTENTS = {"refund", "exchange", "price", "stock", "hours", "loyalty", "payment", "other"}


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each split, as they are in the files."""
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in row_files.SPLITS
    }


def test_pos_intent_has_enough_rows_of_every_intent():
    """Each split of examples/pos-intent has its minimum of rows, and each intent at least half of an equal share."""
    for split, rows in rows_of(POS / "data").items():
        assert len(rows) >= POS_ROWS_MIN[split], split
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == INTENTS, split
        assert min(counts.values()) >= len(rows) / len(INTENTS) / 2, f"{split}: {counts}"


def test_pos_intent_families_are_in_one_split():
    """A family has one label and is in one split, so training never sees the phrasings of the test split."""
    place: dict[str, str] = {}
    for split, rows in rows_of(POS / "data").items():
        for row in rows:
            assert place.setdefault(row["family"], split) == split, row
            assert row["family"].split("/")[0] == row["label"], row


def test_pos_intent_texts_differ_in_more_than_word_order():
    """No text repeats another one with different case, punctuation or word order."""
    bags = Counter(
        " ".join(sorted("".join(c if c.isalnum() else " " for c in row["text"].lower()).split()))
        for rows in rows_of(POS / "data").values()
        for row in rows
    )
    assert [bag for bag, count in bags.items() if count > 1] == []


def test_afterwards_rows_are_in_no_split():
    """afterwards.jsonl has at least 150 texts, of all intents, that are in no split."""
    lines = (POS / "data" / "afterwards.jsonl").read_text(encoding="utf-8").splitlines()
    afterwards = [json.loads(line) for line in lines]
    assert len(afterwards) >= 150
    assert {row["label"] for row in afterwards} == INTENTS
    known = {DataRow(row["text"]).key for rows in rows_of(POS / "data").values() for row in rows}
    assert [] == [row for row in afterwards if DataRow(row["text"]).key in known]


@pytest.mark.parametrize("folder", [POS, POS / "encoder"])
def test_pos_intent_recipes_have_all_splits_without_warnings(folder: Path):
    """Both recipes of examples/pos-intent name every split, and the check of their data gives no warning."""
    summary = row_files.check(recipe.read(folder))
    assert summary.warnings == ()
    assert set(summary.rows) == set(row_files.SPLITS)


# --- data that scripts make out of packages ---------------------------------------------------------------------------

SCRIPTS = {"retail-categories": ("data",), "home-intents": ("data", "slots/data")}
MADE_ROWS_MIN = {"train": 1500, "importance": 50, "calibration": 500, "test": 450}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the recipes in examples/ with their generated data."""
    folder = tmp_path_factory.mktemp("examples")
    for name in SCRIPTS:
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("data", "report"))
        make(name, folder / name / "data" if name == "retail-categories" else folder / name)
    return folder


def make(name: str, out: Path) -> None:
    """Run make_data.py of an example as its recipe describes."""
    subprocess.run([sys.executable, EXAMPLES / name / "make_data.py", "--out", out], check=True, capture_output=True)


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in SCRIPTS.items() for part in parts])
def test_generated_data_is_split_by_family(made: Path, name: str, part: str):
    """Each split has its minimum of rows, no family is in two splits (except for slots), and no text occurs twice."""
    place: dict[str, str] = {}
    texts: set[str] = set()
    for split, rows in rows_of(made / name / part).items():
        assert len(rows) >= MADE_ROWS_MIN[split], split
        for row in rows:
            kin = f"{row.get('label', '')} {row['family']}"
            assert part == "slots/data" or place.setdefault(kin, split) == split, row
            texts.add(row.get("text", row.get("prompt", "")).casefold())
    assert len(texts) == sum(len(rows) for rows in rows_of(made / name / part).values())


@pytest.mark.parametrize(
    "recipe_folder",
    [pytest.param("retail-categories", marks=pytest.mark.slow), "home-intents", "home-intents/slots"],
)
def test_recipes_fit_the_generated_data(made: Path, recipe_folder: str):
    """The check of the generated data gives no warning, so each label has rows in each split."""
    summary = row_files.check(recipe.read(made / recipe_folder))
    assert summary.warnings == ()


def test_slots_are_words_of_the_command(made: Path):
    """The values of an answer's JSON occur in the command, in the same order."""
    for rows in rows_of(made / "home-intents" / "slots" / "data").values():
        for row in rows:
            slots = json.loads(row["completion"])
            places = [row["prompt"].find(value) for value in slots.values()]
            assert -1 not in places, row
            assert places == sorted(places), row


def test_generated_data_is_reproducible(made: Path, tmp_path: Path):
    """make_data.py writes the same bytes again, so the data of a report can be reproduced."""
    make("home-intents", tmp_path)
    for split in row_files.SPLITS:
        again = (tmp_path / "data" / f"{split}.jsonl").read_bytes()
        assert (made / "home-intents" / "data" / f"{split}.jsonl").read_bytes() == again


def test_thresholds_in_examples_have_gate_floor_and_proved_target():
    """A task.yaml with a threshold shows users a guarantee, so it has a gate, a floor of at least 0.5 and a target that
    was proved."""
    carrying = []
    for file in sorted(EXAMPLES.rglob("task.yaml")):
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
        whole = plain.get("confidence") or {}
        found = [whole, *(plain.get("question_confidence") or {}).values()]
        proved = [each for each in found if each.get("policy") == "threshold"]
        if proved:
            carrying.append(file.parent.relative_to(EXAMPLES).as_posix())
            assert whole["gate"], file
            assert all(each["bound"] == each["target_risk"] and each["floor"] >= 0.5 for each in proved), file
    assert {"front-desk/head", "pos-intent", "pos-intent/head"} == set(carrying)
