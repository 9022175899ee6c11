"""Compose the splits of this recipe from the situations and phrases in this folder.

    python examples/front-desk/make_data.py                 # into examples/front-desk/data

A message has a situation (situations.tsv: intent, department, severity, text), and often a phrase that makes it urgent
or says that it can wait, a phrase with personal data or a neutral one, and an opening (phrases.json). Names, telephone
numbers and addresses are made up; the numbers come from ranges that no subscriber has.

Rules: a situation and every phrase lie in one split, so the test has no phrase that training had. The rows of one
situation are one family. An answer that is left out stands for a label that nobody gave: a part of the training rows
answers only some questions. Every step is seeded: the same files give the same rows. docs/data.md describes the data.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from convert.data import splits

HERE = Path(__file__).parent
SEED = "front-desk 1"
SHARES = {"train": 0.45, "calibration": 0.35, "test": 0.2}
ROWS_PER_SITUATION = {"train": 8, "calibration": 4, "test": 4}
DEALT = ("urgent", "calm", "personal", "neutral", "opening")
"""Phrases that lie in one split; names and towns are in all."""
URGENT_SHARE, CALM_SHARE = 0.35, 0.35
PERSONAL_SHARE, NEUTRAL_SHARE = 0.4, 0.35
UNANSWERED = {"severity": 0.25, "personal-data": 0.15, "department": 0.1}
"""Share of training rows that do not answer a question."""

Phrases = dict[str, list[str]]
Situation = tuple[str, str, str, str]


def situations() -> dict[str, dict[str, Situation]]:
    """Return the situations of each intent, by family."""
    found: dict[str, dict[str, Situation]] = {}
    for line in (HERE / "situations.tsv").read_text(encoding="utf-8").splitlines():
        intent, department, severity, text = line.split("\t")
        members = found.setdefault(intent, {})
        members[f"{intent}/{len(members):02}"] = (intent, department, severity, text)
    return found


def dealt_phrases() -> dict[str, Phrases]:
    """Return the phrases of each split."""
    every: Phrases = json.loads((HERE / "phrases.json").read_text(encoding="utf-8"))
    dealt: dict[str, Phrases] = {split: {} for split in SHARES}
    for name, phrases in every.items():
        parts = splits.deal_groups({phrase: [phrase] for phrase in phrases}, f"{SEED} {name}", SHARES)
        for split in SHARES:
            dealt[split][name] = parts[split] if name in DEALT else phrases
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


def _row(family: str, situation: Situation, phrases: Phrases, chance: random.Random, split: str) -> dict[str, Any]:
    intent, department, severity, text = situation
    parts, urgent, personal = [text], severity == "danger", False
    drawn = chance.random()
    if drawn < URGENT_SHARE:
        parts.append(chance.choice(phrases["urgent"]))
        urgent = True
    elif drawn < URGENT_SHARE + CALM_SHARE and not urgent:
        parts.append(chance.choice(phrases["calm"]))
    drawn = chance.random()
    if drawn < PERSONAL_SHARE:
        parts.append(_filled(chance.choice(phrases["personal"]), phrases, chance))
        personal = True
    elif drawn < PERSONAL_SHARE + NEUTRAL_SHARE:
        parts.append(chance.choice(phrases["neutral"]))
    if chance.random() < 0.3:
        parts[0], parts[-1] = parts[-1], parts[0]
    said = ". ".join(part[0].upper() + part[1:] for part in parts)
    answers = {
        "intent": intent,
        "urgent": "yes" if urgent else "no",
        "personal-data": "yes" if personal else "no",
        "department": department,
        "severity": severity,
    }
    if split == "train":
        answers = {name: label for name, label in answers.items() if chance.random() >= UNANSWERED.get(name, 0.0)}
    text = f"{chance.choice(phrases['opening'])} {said}{chance.choice(['.', '.', '!', ''])}".strip()
    return {"text": text, "answers": answers, "family": family}


def main() -> None:
    """Write the splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=HERE / "data", help="folder to write to")
    out, phrases = parser.parse_args().out, dealt_phrases()
    parts = []
    for intent, members in situations().items():
        dealt = splits.deal_groups({family: [family] for family in members}, f"{SEED} {intent}", SHARES)
        rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SHARES}
        for split, families in dealt.items():
            for family in families:
                chance = random.Random(f"{SEED} {split} {family}")  # noqa: S311 - a fixed order, not a secret
                made: dict[str, dict[str, Any]] = {}
                while len(made) < ROWS_PER_SITUATION[split]:
                    row = _row(family, members[family], phrases[split], chance, split)
                    made.setdefault(row["text"].casefold(), row)
                rows[split] += made.values()
        parts.append(rows)
    whole = splits.join_splits(parts, SEED)
    splits.write_splits(out, whole)
    for split, members_ in whole.items():
        print(f"{out / split}.jsonl: {len(members_)} rows")  # noqa: T201 - a script


if __name__ == "__main__":
    main()
