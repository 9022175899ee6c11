"""The data in examples/: enough of it, rightly labelled, and nothing of a test split was seen in training."""

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
    """Return the rows of each split, as they stand in the files."""
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in row_files.SPLITS
    }


def test_the_till_has_enough_messages_of_every_intent():
    """Each split is as large as promised, and no intent is rare in it."""
    for split, rows in rows_of(POS / "data").items():
        assert len(rows) >= POS_ROWS_MIN[split], split
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == INTENTS, split
        assert min(counts.values()) >= len(rows) / len(INTENTS) / 2, f"{split}: {counts}"


def test_no_family_of_phrasings_stands_in_two_splits():
    """A family has one label and lies in one split whole: test phrasings are unseen in training."""
    place: dict[str, str] = {}
    for split, rows in rows_of(POS / "data").items():
        for row in rows:
            assert place.setdefault(row["family"], split) == split, row
            assert row["family"].split("/")[0] == row["label"], row


def test_no_message_is_another_with_its_words_in_another_order():
    """Neither case, punctuation nor word order makes a message new."""
    bags = Counter(
        " ".join(sorted("".join(c if c.isalnum() else " " for c in row["text"].lower()).split()))
        for rows in rows_of(POS / "data").values()
        for row in rows
    )
    assert [bag for bag, count in bags.items() if count > 1] == []


def test_what_was_written_afterwards_stands_in_no_split():
    """The messages that nobody was trained or looked at for are of all intents, and none of them is in the splits."""
    lines = (POS / "data" / "afterwards.jsonl").read_text(encoding="utf-8").splitlines()
    afterwards = [json.loads(line) for line in lines]
    assert len(afterwards) >= 150
    assert {row["label"] for row in afterwards} == INTENTS
    known = {DataRow(row["text"]).key for rows in rows_of(POS / "data").values() for row in rows}
    assert [] == [row for row in afterwards if DataRow(row["text"]).key in known]


@pytest.mark.parametrize("folder", [POS, POS / "encoder"])
def test_the_recipes_are_whole(folder: Path):
    """Every split is there and checks without a warning; the source, where it is installed, too."""
    summary = row_files.check(recipe.read(folder))
    assert summary.warnings == ()
    assert set(summary.rows) == set(row_files.SPLITS)


# --- data that scripts make out of packages ---------------------------------------------------------------------------

SCRIPTS = {"retail-categories": ("data",), "home-intents": ("data", "slots/data")}
MADE_ROWS_MIN = {"train": 1500, "importance": 50, "calibration": 500, "test": 450}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipes in examples/, with their data made."""
    folder = tmp_path_factory.mktemp("examples")
    for name in SCRIPTS:
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("data", "report"))
        make(name, folder / name / "data" if name == "retail-categories" else folder / name)
    return folder


def make(name: str, out: Path) -> None:
    """Run the script as its recipe says."""
    subprocess.run([sys.executable, EXAMPLES / name / "make_data.py", "--out", out], check=True, capture_output=True)


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in SCRIPTS.items() for part in parts])
def test_what_a_script_makes_is_split_by_family(made: Path, name: str, part: str):
    """Each split has its rows, and no family, nor any text, lies in two."""
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
def test_the_recipes_fit_what_the_scripts_make(made: Path, recipe_folder: str):
    """Labels are the task's, and every label has rows in every split that is used."""
    summary = row_files.check(recipe.read(made / recipe_folder))
    assert summary.warnings == ()


def test_slots_are_words_of_the_command(made: Path):
    """An answer is JSON whose values stand in the command, in that order."""
    for rows in rows_of(made / "home-intents" / "slots" / "data").values():
        for row in rows:
            slots = json.loads(row["completion"])
            places = [row["prompt"].find(value) for value in slots.values()]
            assert -1 not in places, row
            assert places == sorted(places), row


def test_a_script_makes_the_same_bytes_again(made: Path, tmp_path: Path):
    """The data of a report can be made anew."""
    make("home-intents", tmp_path)
    for split in row_files.SPLITS:
        again = (tmp_path / "data" / f"{split}.jsonl").read_bytes()
        assert (made / "home-intents" / "data" / f"{split}.jsonl").read_bytes() == again


def test_the_thresholds_that_the_examples_carry_were_tested_by_family_and_with_a_gate():
    """A task.yaml with a threshold shows users what a guarantee is, so it follows the rules of a recipe: the target is
    what was proved, each family counted once, and gate and floor were in force."""
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
