"""Compose the splits of this recipe: of the messages of examples/pos-intent, and messages and phrases in this folder.

    python examples/front-desk/make_data.py                         # into examples/front-desk/data
    python examples/front-desk/make_data.py --csv messages.csv      # all rows in one file, a column for each question

A row is a message to a front desk, with its intent; often a phrase that makes it urgent or says that it can wait; often
a phrase with personal data, or a neutral one; in any order, after an opening. The department follows from the intent,
the severity from intent and urgency, so these labels are rules and not opinions. Names, numbers and addresses are made
up; telephone numbers come from a range that no subscriber has. Messages that press, or hold personal data, in their own
words are left out (`left_out` in messages.json), because the labels follow from the added phrases.

Rules: a family of messages lies in one split, and so does a phrase: the test has neither a message nor a phrase of
training. Families are dealt intent by intent, in two deals: those of pos-intent with the first phrases, then what was
written later, so that what was added has moved nothing from one split to another. A phrase is used again only when all
of its split are used. An answer that is left out stands for a label that nobody gave: a part of the training rows
answers only some questions. Every step is seeded: the same files give the same rows. docs/data.md describes the data.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert.data import splits

HERE = Path(__file__).parent
MESSAGES = HERE.parent / "pos-intent" / "data"
SEED = "front-desk 1"
LATER_SEED = "front-desk 2"
"""Of the second deal."""
SHARES = {"train": 0.5, "calibration": 0.33, "test": 0.17}
"""Of the families of each intent, and of the phrases."""
FAMILY_ROWS_MAX = {"train": 3, "calibration": 2, "test": 3}
"""Messages of one family, at most; with all of them training takes twice as long and hardly gains. Of a family in
calibration, one row tests the thresholds."""
DEALT = ("urgent", "calm", "personal", "neutral", "opening")
"""The kinds of phrases; a phrase lies in one split, while names and towns are in all."""
URGENT_SHARE, CALM_SHARE = 0.35, 0.35
PERSONAL_SHARE, NEUTRAL_SHARE = 0.4, 0.35
UNANSWERED = {"severity": 0.25, "personal-data": 0.15, "department": 0.1}
"""Share of training rows that do not answer a question."""
DEPARTMENTS = {
    **{"refund": "service", "exchange": "service", "payment": "accounts", "loyalty": "accounts"},
    **{"stock": "sales", "price": "sales", "hours": "reception", "other": "reception"},
}
PRESSING = ("refund", "exchange", "payment")
"""Intents that are one level more severe."""
LEVELS = ("low", "middle", "high")
QUESTIONS = ("intent", "urgent", "personal-data", "department", "severity")

Phrases = dict[str, list[str]]
Row = dict[str, Any]
Families = dict[str, dict[str, list[Row]]]
"""The messages of each family, by intent."""


def dealt_messages() -> dict[str, list[Row]]:
    """Return the messages of each split, some of each family."""
    first, later = _families()
    every = {intent: later.get(intent, {}) | families for intent, families in first.items()}
    parts = []
    for deal, seed in ((first, SEED), (later, LATER_SEED)):
        for intent, families in sorted(deal.items()):
            names = splits.deal_groups({name: [name] for name in families}, f"{seed} {intent}", SHARES)
            parts.append({split: _some(names[split], every[intent], FAMILY_ROWS_MAX[split]) for split in SHARES})
    return splits.join_splits(parts, SEED)


def _families() -> tuple[Families, Families]:
    """Return the families of pos-intent, which later messages join, and the families that were written later."""
    first: Families = {}
    later: Families = {}
    written = json.loads((HERE / "messages.json").read_text(encoding="utf-8"))
    left_out = set(written["left_out"])
    for file in sorted(MESSAGES.glob("*.jsonl")):
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if "family" in row and row["text"] not in left_out:  # afterwards.jsonl has no families
                first.setdefault(row["label"], {}).setdefault(row["family"], []).append(row)
    for intent, families in written["messages"].items():
        for name, texts in families.items():
            family = f"{intent}/{name}"
            home = first if family in first[intent] else later
            rows = [{"text": text, "label": intent, "family": family} for text in texts]
            home.setdefault(intent, {}).setdefault(family, []).extend(rows)
    return first, later


def _some(names: list[str], families: dict[str, list[Row]], most: int) -> list[Row]:
    """Return so many rows of each family."""
    shuffled = {name: random.Random(f"{SEED} {name}") for name in names}  # noqa: S311 - a fixed order, not a secret
    return [row for name in names for row in shuffled[name].sample(families[name], min(most, len(families[name])))]


def dealt_phrases() -> dict[str, Phrases]:
    """Return the phrases of each split."""
    written = json.loads((HERE / "phrases.json").read_text(encoding="utf-8"))
    dealt: dict[str, Phrases] = {split: dict(written["fill"]) for split in SHARES}
    for deal, seed in zip(written["deals"], (SEED, LATER_SEED), strict=True):
        for name, phrases in deal.items():
            parts = splits.deal_groups({phrase: [phrase] for phrase in phrases}, f"{seed} {name}", SHARES)
            for split in SHARES:
                dealt[split][name] = [*dealt[split].get(name, []), *parts[split]]
    return dealt


def _filled(phrase: str, phrases: Phrases, chance: random.Random) -> str:
    """Fill the names and numbers of a phrase."""
    first, last = chance.choice(phrases["first"]), chance.choice(phrases["last"])
    return phrase.format(
        first=first,
        last=last,
        phone=f"07700 900{chance.randrange(1000):03}",  # kept free by Ofcom for films and books
        email=f"{first}.{last}@example.com".lower(),
        passport=f"X{chance.randrange(10**7):07}",
        birthday=f"{chance.randrange(1, 29)} May {chance.randrange(1940, 2004)}",
        card=f"{chance.randrange(10**4):04}",
        number=chance.randrange(1, 120),
        street=chance.choice(phrases["street"]),
        town=chance.choice(phrases["town"]),
    )


def _decks(phrases: Phrases, chance: random.Random) -> dict[str, Iterator[str]]:
    """Return the phrases of each kind in a random order, again and again."""
    return {name: itertools.cycle(chance.sample(phrases[name], len(phrases[name]))) for name in DEALT}


def _row(message: Row, phrases: Phrases, decks: dict[str, Iterator[str]], chance: random.Random) -> Row:
    intent, parts, urgent, personal = message["label"], [message["text"].rstrip(".!")], False, False
    drawn = chance.random()
    if drawn < URGENT_SHARE:
        parts.append(next(decks["urgent"]))
        urgent = True
    elif drawn < URGENT_SHARE + CALM_SHARE:
        parts.append(next(decks["calm"]))
    drawn = chance.random()
    if drawn < PERSONAL_SHARE:
        parts.append(_filled(next(decks["personal"]), phrases, chance))
        personal = True
    elif drawn < PERSONAL_SHARE + NEUTRAL_SHARE:
        parts.append(next(decks["neutral"]))
    answers = {
        "intent": intent,
        "urgent": "yes" if urgent else "no",
        "personal-data": "yes" if personal else "no",
        "department": DEPARTMENTS[intent],
        "severity": LEVELS[(intent in PRESSING) + urgent],
    }
    chance.shuffle(parts)
    said = " ".join(part[0].upper() + part[1:] + ("" if part.endswith("?") else ".") for part in parts)
    return {
        "text": f"{chance.choice(phrases['opening'])} {said}".strip(),
        "answers": answers,
        "family": message["family"],
    }


def _leave_out(rows: list[Row]) -> None:
    """Take some answers out of the rows."""
    chance = random.Random(f"{SEED} unanswered")  # noqa: S311 - likewise
    for row in rows:
        kept = [name for name in QUESTIONS if chance.random() >= UNANSWERED.get(name, 0.0)]
        row["answers"] = {name: row["answers"][name] for name in kept}


def _write_csv(path: Path, rows: list[Row], questions: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "family", *questions])
        for row in rows:
            writer.writerow([row["text"], row["family"], *(row["answers"].get(name, "") for name in questions)])


def main() -> None:
    """Write the splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=HERE / "data", help="folder to write to")
    parser.add_argument("--csv", type=Path, help="one CSV file to write instead")
    parser.add_argument("--questions", default=",".join(QUESTIONS), help="the columns of the CSV file")
    given = parser.parse_args()
    phrases = dealt_phrases()
    whole = {}
    for split, messages in dealt_messages().items():
        chance = random.Random(f"{SEED} rows {split}")  # noqa: S311 - likewise
        decks = _decks(phrases[split], chance)
        whole[split] = [_row(message, phrases[split], decks, chance) for message in messages]
    _leave_out(whole["train"])
    if given.csv:
        _write_csv(given.csv, [row for rows in whole.values() for row in rows], given.questions.split(","))
        return
    splits.write_splits(given.out, whole)
    for split, members in whole.items():
        print(f"{given.out / split}.jsonl: {len(members)} rows")  # noqa: T201 - a script


if __name__ == "__main__":
    main()
