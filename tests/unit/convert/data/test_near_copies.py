"""Near duplicates between splits: their definition, their count, and the refusal of a run with many of them."""

import random
import string
from pathlib import Path

import numpy as np
import pytest

from convert.collect import near_duplicates
from convert.data import row_files
from convert.data.data_row import normalised
from convert.data.splits import BAND_ROWS_MAX, NO_COPY, SplitSketches, copies_between
from edge_agent.errors import InvalidRequest
from tests.support.recipes import CALIBRATION, TEST, recipe_of, text_label

BUS = "Which bus stops near you?"
UM = "um which bus stops near you!"
WORDS = "".join(random.Random(1).choices(string.ascii_lowercase + "   ", k=20_000)).split()


def text_of(number: int, words: int = 9) -> str:
    return " ".join(WORDS[number * words % len(WORDS) :][:words]) + f" {number}"


def test_text_with_um_before_it_is_a_near_duplicate():
    """20 of 23 pieces are equal, which is over 0.85."""
    assert 20 / 23 == pytest.approx(near_duplicates.common_share(normalised(UM), normalised(BUS)))
    assert [0, NO_COPY] == SplitSketches([UM, "Is there a bus at night?"]).copies_of(SplitSketches([BUS])).tolist()


def test_near_duplicates_agree_with_an_exact_count():
    """All texts with a common share of 0.9 or more are found, and none with 0.75 or less."""
    chance = random.Random(2)
    sources = [normalised(text_of(number)) for number in range(150)]
    varied = []
    for source in sources:
        letters = list(source)
        for _ in range(chance.randrange(5)):
            letters[chance.randrange(len(letters))] = chance.choice(string.ascii_lowercase)
        varied.append("".join(letters))
    found = SplitSketches(varied).copies_of(SplitSketches(sources)) != NO_COPY
    shares = np.array(
        [near_duplicates.common_share(*map(normalised, pair)) for pair in zip(varied, sources, strict=True)]
    )
    assert found[shares >= 0.9].all()
    assert not found[shares <= 0.75].any()
    assert (found == (shares >= near_duplicates.ALIKE_SHARE_MIN)).mean() >= 0.95


def test_number_of_comparisons_is_linear_in_the_rows():
    """A row is compared with at most BAND_ROWS_MAX others for each band, however many texts begin alike."""
    same = SplitSketches([f"{'the same beginning of a text ' * 3}{number % 50}" for number in range(500)])
    pairs, _ = same._candidate_pairs(same, 0, 500)
    assert len(pairs) <= 500 * BAND_ROWS_MAX * near_duplicates.BANDS


def test_near_duplicates_are_counted_for_each_pair_of_splits():
    """Training is compared with calibration and test, and calibration with test; importance is ignored; the sentence
    has an example."""
    splits = {"train": [BUS, "a b c"], "importance": [BUS], "calibration": [UM], "test": [UM + "!", "no such text"]}
    found = copies_between(splits)
    assert [("train", "calibration", 1, 1), ("train", "test", 1, 2), ("calibration", "test", 1, 2)] == [
        (each.of, each.split, each.rows, each.all_rows) for each in found
    ]
    assert (
        f"1 of 2 test rows (50.0%) are near duplicates of train rows, such as {UM + '!'!r} of {BUS!r}"
        == found[1].sentence()
    )
    assert () == copies_between({"calibration": [BUS]})


def rows(*texts: str) -> str:
    return text_label(*((text, ("refund", "price")[at % 2]) for at, text in enumerate(texts)))


def test_recipe_with_many_near_duplicates_is_refused(tmp_path: Path):
    """Over 5% near duplicates, the check refuses the data with an example and the recipe key; with `near_copies_max` it
    warns."""
    test = [text_of(number) for number in range(33)] + [f"um {text_of(100 + number)}!" for number in range(27)]
    train = [text_of(100 + number) for number in range(60)]
    files = {"train": rows(*train), "test": rows(*test)}
    with pytest.raises(InvalidRequest) as refused:
        row_files.check(recipe_of(tmp_path, **files))
    said = f"27 of 60 test rows (45.0%) are near duplicates of train rows, such as {test[33]!r} of {train[0]!r}"
    assert refused.value.message.startswith(said)
    assert "'near_copies_max: 0.45' under 'data' in the recipe" in refused.value.remedy
    written = recipe_of(tmp_path, **files)
    taken = written.model_copy(update={"data": written.data.model_copy(update={"near_copies_max": 0.45})})
    summary = row_files.check(taken)
    assert 1 == sum(line.startswith(said) for line in summary.warnings)
    assert [27] == [each.rows for each in summary.near_copies if (each.of, each.split) == ("train", "test")]


def test_few_near_duplicates_are_counted_without_a_warning(tmp_path: Path):
    """One near duplicate in 40 rows is in the summary and gives no warning."""
    test = [text_of(number) for number in range(39)] + [f"um {text_of(100)}"]
    summary = row_files.check(recipe_of(tmp_path, train=rows(text_of(100), text_of(101)), test=rows(*test)))
    assert [] == [line for line in summary.warnings if "near dup" in line]
    assert [0, 1, 0] == [each.rows for each in summary.near_copies]


def test_splits_without_near_duplicates_have_zero_counts(tmp_path: Path):
    """The summary has a count of 0 for each pair of splits."""
    summary = row_files.check(recipe_of(tmp_path, calibration=CALIBRATION, test=TEST))
    assert [0, 0, 0] == [each.rows for each in summary.near_copies]
