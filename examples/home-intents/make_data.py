"""Make the data of both recipes here from the English sentences of home-assistant-intents.

    python examples/home-intents/make_data.py              # into examples/home-intents/data and slots/data

The package holds sentence templates such as "<turn> on [<the>] {name} <in> [<the>] {area}". hassil parses them; each
is expanded by a seeded walk through its alternatives, and the lists that a home fills (rooms, devices, things to buy)
come from names.json, which is made up. Two rows come of each utterance: its intent, and the JSON of its slots, each
with the words that were said.

Rules: a template and those that differ from it only in units or in what they name ("for {timer_hours} hours", "for
{timer_minutes} minutes") are one family, and a family lies in one split whole: test templates are unseen in training.
Intents that are halves of one thing are one label here, those with fewer than four families are left out, and so is an
utterance that two intents share. Labels are single tokens of SmolLM2, which makes scoring them one step of the model.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hassil import expression, intents

from convert.data import splits

HERE = Path(__file__).parent
SEED = "home-intents 1"
ROWS_PER_LABEL = 90
FAMILIES_MIN = 4
TRIES_PER_ROW = 6
POLITE_SHARE = 0.2
# Intent: label. What is not here has too few sentences.
LABELS = {
    "HassTurnOn": "on",
    "HassTurnOff": "off",
    "HassGetState": "state",
    "HassLightSet": "light",
    "HassSetPosition": "position",
    "HassFanSetSpeed": "speed",
    "HassClimateGetTemperature": "temperature",
    "HassClimateSetTemperature": "heating",
    "HassClimateSetFanMode": "mode",
    "HassGetWeather": "weather",
    "HassLawnMowerStartMowing": "lawn",
    "HassLawnMowerDock": "lawn",
    "HassVacuumCleanArea": "clean",
    "HassVacuumStart": "clean",
    "HassVacuumReturnToBase": "clean",
    "HassMediaNext": "next",
    "HassMediaPrevious": "previous",
    "HassMediaPause": "pause",
    "HassMediaUnpause": "resume",
    "HassMediaSearchAndPlay": "play",
    "HassMediaPlayerMute": "quiet",
    "HassMediaPlayerUnmute": "quiet",
    "HassSetVolume": "volume",
    "HassSetVolumeRelative": "louder",
    "HassStartTimer": "timer",
    "HassIncreaseTimer": "longer",
    "HassDecreaseTimer": "shorter",
    "HassTimerStatus": "remaining",
    "HassCancelTimer": "cancel",
    "HassCancelAllTimers": "cancel",
    "HassPauseTimer": "hold",
    "HassUnpauseTimer": "continue",
    "HassListAddItem": "list",
    "HassListCompleteItem": "list",
    "HassListRemoveItem": "list",
    "HassShoppingListAddItem": "list",
    "HassShoppingListCompleteItem": "list",
    "HassGetCurrentTime": "clock",
    "HassGetCurrentDate": "clock",
    "HassRespond": "chat",
}


@dataclass
class Walk:
    """One expansion of one template: chooses at random, and remembers what stands in the slots."""

    home: intents.Intents
    names: dict[str, Any]
    domains: set[str]
    random: random.Random
    slots: dict[str, str] = field(default_factory=dict)

    def text(self, part: expression.Expression) -> str:
        """Return one wording of a part of a template."""
        if isinstance(part, expression.TextChunk):
            return part.original_text
        if isinstance(part, expression.Alternative):
            return self.text(self.random.choice(part.items))
        if isinstance(part, expression.Permutation):
            return " ".join(self.text(item) for item in self.random.sample(part.items, len(part.items)))
        if isinstance(part, expression.Group):
            return "".join(self.text(item) for item in part.items)
        if isinstance(part, expression.RuleReference):
            return self.text(self.home.expansion_rules[part.rule_name].expression)
        assert isinstance(part, expression.ListReference)
        said = _clean(self._value(part))
        self.slots[part.slot_name] = said
        return f"{part.prefix or ''}{said}{part.suffix or ''}"

    def _value(self, slot: expression.ListReference) -> str:
        if slot.list_name == "name":
            fitting = [name for domain in sorted(self.domains) for name in self.names["name"].get(domain, ())]
            return str(self.random.choice(fitting or self.names["name"][""]))
        if slot.list_name in self.names:
            return str(self.random.choice(self.names[slot.list_name]))
        values = self.home.slot_lists[slot.list_name]
        if isinstance(values, intents.RangeSlotList):
            return str(self.random.randrange(values.start, values.stop + 1, values.step))
        assert isinstance(values, intents.TextSlotList), slot.list_name
        return self.text(self.random.choice(values.values).text_in)


def templates(home: intents.Intents) -> Iterator[tuple[str, str, intents.IntentData, expression.Sentence]]:
    """Yield label, family, block and sentence of every template that is used."""
    for name, label in LABELS.items():
        for block in home.intents[name].data:
            for sentence in block.sentences:
                yield label, family(sentence.text or ""), block, sentence


def family(template: str) -> str:
    """Return what a template has in common with those that only name another thing or unit."""
    plain = re.sub(r"\{timer_(hours|minutes|seconds|half)[^}]*\}", "{time}", template)
    plain = re.sub(r"\[?\(?[ |-]*\)?\]?(hour|minute|second)\[?s?\]?", " unit", plain)
    plain = re.sub(r"(\[?(and)?\]?\s*\{time\}\s*unit\s*)+", " {time} ", plain)
    plain = re.sub(r"\{(area|floor|name|timer_name)[^}]*\}( \[floor\])?", "{where}", plain)
    return " ".join(plain.split())


def utterances(home: intents.Intents, names: dict[str, Any]) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Return, for each label and family, distinct rows with text, label, family and slots (JSON)."""
    grouped: dict[str, dict[str, list[tuple[intents.IntentData, expression.Sentence]]]] = {}
    for label, kin, block, sentence in templates(home):
        grouped.setdefault(label, {}).setdefault(kin, []).append((block, sentence))
    found = {}
    for label, families in grouped.items():
        if len(families) >= FAMILIES_MIN:
            wanted = -(-ROWS_PER_LABEL // len(families))
            found[label] = {
                kin: _expanded(home, names, members, wanted, label, kin) for kin, members in families.items()
            }
    return _without_shared(found)


def _expanded(
    home: intents.Intents, names: dict[str, Any], members: list[Any], wanted: int, label: str, kin: str
) -> list[dict[str, str]]:
    chance = random.Random(f"{SEED} {label} {kin}")  # noqa: S311 - a fixed draw, not a secret
    rows: dict[str, dict[str, str]] = {}
    for _ in range(wanted * TRIES_PER_ROW):
        block, sentence = chance.choice(members)
        walk = Walk(home, names, block.domains, chance)
        text = _clean(walk.text(sentence.expression))
        if chance.random() < POLITE_SHARE:
            text = f"{chance.choice(['please', 'can you', 'could you', 'would you'])} {text}"
        slots = {slot: walk.slots[slot] for slot in sorted(walk.slots, key=lambda slot: text.find(walk.slots[slot]))}
        rows.setdefault(text, {"text": text, "label": label, "family": kin, "slots": json.dumps(slots)})
        if len(rows) == wanted:
            break
    return list(rows.values())


def _without_shared(
    found: dict[str, dict[str, list[dict[str, str]]]],
) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Leave out texts of two families: either their intent is not clear, or they would stand in two splits."""
    places: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for label, families in found.items():
        for kin, rows in families.items():
            for row in rows:
                places[_key(row["text"])].add((label, kin))
    return {
        label: {kin: [row for row in rows if len(places[_key(row["text"])]) == 1] for kin, rows in families.items()}
        for label, families in found.items()
    }


def _key(text: str) -> str:
    words = [word for word in text.casefold().split() if word not in {"please", "can", "could", "would", "you"}]
    return " ".join(words)


def _clean(text: str) -> str:
    return " ".join(text.split())


def main() -> None:
    """Write the splits of both recipes and say how many rows they have."""
    parser = argparse.ArgumentParser(description="Make the splits of the recipes here.")
    parser.add_argument("--out", type=Path, default=HERE, help="data and slots/data go below it")
    folder = parser.parse_args().out
    packaged = importlib.resources.files("home_assistant_intents") / "data" / "en.json"
    home = intents.Intents.from_dict(json.loads(packaged.read_text(encoding="utf-8")))
    names = json.loads((HERE / "names.json").read_text(encoding="utf-8"))
    found = utterances(home, names)
    dealt = splits.join_splits(
        (splits.deal_groups(families, f"{SEED} {label}") for label, families in found.items()), SEED
    )
    kept = ("text", "label", "family")
    splits.write_splits(
        folder / "data", {split: [{key: row[key] for key in kept} for row in dealt[split]] for split in dealt}
    )
    records = {
        split: [{"prompt": row["text"], "completion": row["slots"], "family": row["family"]} for row in dealt[split]]
        for split in dealt
    }
    splits.write_splits(folder / "slots" / "data", records)
    sizes = ", ".join(f"{split} {len(rows)}" for split, rows in dealt.items())
    sys.stdout.write(f"{folder}: {len(found)} labels; {sizes}\n")


if __name__ == "__main__":
    main()
