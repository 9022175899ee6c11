"""The data in examples/: enough of it, rightly labelled, and nothing of a test split was seen in training."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from convert import data, recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
POS = EXAMPLES / "pos-intent"
POS_ROWS_MIN = {"train": 750, "importance": 50, "calibration": 250, "test": 250}
INTENTS = {"refund", "exchange", "price", "stock", "hours", "loyalty", "payment", "other"}


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each split, as they stand in the files."""
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in data.SPLITS
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


@pytest.mark.parametrize("folder", [POS, POS / "encoder"])
def test_the_recipes_are_whole(folder: Path):
    """Every split is there and checks without a warning; the source, where it is installed, too."""
    summary = data.check(recipe.read(folder))
    assert summary.warnings == ()
    assert set(summary.rows) == set(data.SPLITS)
