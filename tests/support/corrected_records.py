"""Records that people corrected, as sites keep and the central team collects them, and a recipe over their dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.pipeline.recipe import Recipe
from edge_agent.capture.redact.redactor import Redactor
from tests.support.examples import feedback, prediction
from tests.support.recipes import recipe_of
from tests.support.segments import CentralTeam, Record, SealingSite

ITEMS = ("kettle", "lamp", "toaster", "mug", "radio", "chair", "blue rug", "fan", "clock", "bike")
TRAINS_MAX = 8
"""The corrections with higher numbers are of the random audit."""
CARDS = ("4111 1111 1111 1111", "5500 0000 0000 0004")


def corrected(number: int, text: str, wrong: dict[str, Any], right: dict[str, Any]) -> list[Record]:
    """Return what a site keeps of an extraction and of its correction, redacted as it does."""
    redaction = Redactor().start()
    stored, output = redaction.text(text), json.dumps(redaction.value(wrong))
    value = json.dumps(redaction.value(right))
    drawn = {"review_stream": "audit", "sampling_probability": 0.5} if number > TRAINS_MAX else {}
    made = prediction(
        number, **drawn, kind="extract", input=stored, output=output, scores=[],
        redaction={"version": "1", "rules": ["card", "email"], "counts": dict(redaction.counts)},
    )  # fmt: skip
    return [made, feedback(number, value=value)]


def collected(root: Path) -> Path:
    """Collect ten corrections that are usable for training and two that are not."""
    records = corrected(1, "two mats or maybe two pillows", {"count": "two"}, {"count": "two", "item": "mats"})
    records += corrected(2, "send them back", {"item": "them"}, {"item": "shoes"})
    for n, item in enumerate(ITEMS, 3):
        card = CARDS[n % 2]
        records += corrected(n, f"refund the {item} to card {card}", {"item": "the"}, {"item": item, "card": [card]})
    SealingSite(root / "store").seal(records)
    central = CentralTeam(root)
    central.collect(root / "store")
    return central.out


def recipe_over(root: Path) -> Recipe:
    """Return a recipe of an encoder that extracts, over the dataset."""
    splits = {name: (root / "data" / f"{name}.jsonl").read_text() for name in ("train", "calibration", "test")}
    sections = "finetune: {method: full, epochs: 1}"
    made = recipe_of(root, kind="extract", format_="text-spans", sections=sections, **splits)
    task = root / "task.yaml"
    short = "name: t, limits: {input_tokens_max: 60}"  # the tiny encoder has 64 positions
    task.write_text(task.read_text().replace("name: t", short).replace("I-item", "I-item, B-card, I-card"))
    return made
