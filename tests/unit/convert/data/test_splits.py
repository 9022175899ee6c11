"""Dealing groups of variants to splits."""

import json
from itertools import chain
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from convert.data import splits

GROUPS = st.dictionaries(st.text(max_size=3), st.lists(st.integers(), min_size=1, max_size=9), max_size=20)


@given(GROUPS)
def test_group_is_dealt_whole_to_one_split(groups):
    """Each item is dealt once, to the same split as all other items of its group."""
    named = {name: [(name, item) for item in items] for name, items in groups.items()}
    dealt = splits.deal_groups(named, "seed")
    assert sorted(chain(*named.values())) == sorted(chain(*dealt.values()))
    places = [{split for split, items in dealt.items() for item in items if item[0] == name} for name in named]
    assert all(len(place) == 1 for place in places)


def test_split_sizes_approximate_the_shares():
    """Many small groups fill the splits in proportion to the requested shares."""
    groups = {str(number): [number] * (number % 3 + 1) for number in range(300)}
    dealt = splits.deal_groups(groups, "seed", {"train": 0.5, "test": 0.3, "calibration": 0.2})
    assert [300, 180, 120] == [round(len(dealt[split]), -1) for split in ("train", "test", "calibration")]


def test_four_equal_groups_fill_training_calibration_and_test():
    """A label with four families has items in training, calibration and test."""
    dealt = splits.deal_groups({name: [name] * 5 for name in "abcd"}, "seed")
    assert {"train": 10, "importance": 0, "calibration": 5, "test": 5} == {
        split: len(items) for split, items in dealt.items()
    }


def test_deal_depends_only_on_the_seed():
    """The order of the groups does not matter; another seed gives another deal."""
    groups = {str(number): [number] for number in range(50)}
    turned = dict(reversed(groups.items()))
    assert splits.deal_groups(groups, "1") == splits.deal_groups(turned, "1")
    assert splits.deal_groups(groups, "1") != splits.deal_groups(groups, "2")


def test_deals_are_joined_and_shuffled():
    """The items of two labels are mixed in each split, and none is lost."""
    parts = [{"train": list(range(50))}, {"train": list(range(50, 100)), "test": [7]}]
    joined = splits.join_splits(parts, "seed")
    assert list(range(100)) == sorted(joined["train"])
    assert joined["train"] != sorted(joined["train"])
    assert [7] == joined["test"]


def test_rows_are_written_one_per_line(tmp_path: Path):
    """Letters outside ASCII are not escaped."""
    splits.write_splits(tmp_path / "new", {"train": [{"text": "crème"}, {"text": "b"}], "test": []})
    lines = (tmp_path / "new" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[0] == '{"text": "crème"}'
    assert [{"text": "crème"}, {"text": "b"}] == [json.loads(line) for line in lines]
    assert (tmp_path / "new" / "test.jsonl").read_text(encoding="utf-8") == ""
