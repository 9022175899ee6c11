"""The data of examples/redact: valid spans, families in one split, and phrases with known slots."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.redacting.labelled_texts import clean_texts
from convert.pipeline import task_file
from edge_agent.formats.calibration_and_gate import tag_types

EXAMPLE = Path(__file__).parents[4] / "examples" / "redact"
LANGUAGES = ("da", "de", "en", "es", "fi", "fr", "it", "nl", "no", "pl", "pt", "sv")
SECTIONS = {"personal", "clean", "opening", "closing", "fields", "more personal", "more clean"}
CLEAN_SLOTS = {
    *("city", "n", "article", "code", "price", "dose", "drug", "brand", "product", "color", "time", "date", "size"),
    *("reading", "car", "firm", "job", "country"),
}
PERSONAL_SLOTS = {
    *(
        "name",
        "given",
        "surname",
        "phone",
        "email",
        "street",
        "address",
        "zip",
        "birth",
        "id",
        "record",
        "iban",
        "card",
    ),
    *("plate", "passport", "licence", "url", "ip"),
}


def sections(language: str) -> dict[str, list[str]]:
    """Return the lines of each section of a file of phrases."""
    text = (EXAMPLE / "phrases" / f"{language}.txt").read_text(encoding="utf-8")
    parts = re.split(r"^\[([\w ]+)\]\n", text, flags=re.MULTILINE)
    return {name: lines.split("\n")[:-1] for name, lines in zip(parts[1::2], parts[2::2], strict=True)}


def words_of(text: str) -> str:
    """Return the words of a text in lower case."""
    return " ".join(re.findall(r"\w+", text.casefold()))


@pytest.mark.parametrize("language", LANGUAGES)
def test_phrases_of_each_language_have_known_slots(language: str):
    """Clean sentences have no personal slot, personal ones have at least one, and no sentence occurs twice."""
    found = sections(language)
    assert SECTIONS == found.keys()
    found |= {name: found[name] + found[f"more {name}"] for name in ("personal", "clean")}
    slots = {name: [set(re.findall(r"\{(\w+)\}", line)) for line in lines] for name, lines in found.items()}
    assert set() == set().union(*slots["clean"]) - CLEAN_SLOTS
    assert set() == set().union(*slots["personal"]) - CLEAN_SLOTS - PERSONAL_SLOTS
    assert [] == [
        line for line, used in zip(found["personal"], slots["personal"], strict=True) if not used & PERSONAL_SLOTS
    ]
    assert len(found["personal"]) == len(set(found["personal"]))
    assert len(found["clean"]) == len(set(found["clean"]))
    assert set() == {line.split(": ")[0] for line in found["fields"]} - CLEAN_SLOTS - PERSONAL_SLOTS


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Make the splits."""
    folder = tmp_path_factory.mktemp("redact")
    subprocess.run([sys.executable, EXAMPLE / "make_data.py", "--out", folder], check=True, capture_output=True)
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in ("train", "calibration", "test")
    }


@pytest.mark.slow
def test_generated_texts_have_valid_spans(splits: dict[str, list[dict[str, Any]]]):
    """Spans are inside the text, disjoint and of the task's types, which the training split has all; a family is in one
    split."""
    types = set(tag_types(task_file.of(EXAMPLE / "task.yaml").labels))
    place: dict[str, str] = {}
    for split, rows in splits.items():
        assert 500 < len(rows) == len({row["text"] for row in rows})
        seen = set()
        for row in rows:
            assert place.setdefault(row["family"], split) == split
            ends = [0, *(span["end"] for span in row["spans"])]
            assert all(end <= span["start"] < span["end"] for end, span in zip(ends, row["spans"], strict=False)), row
            assert max(ends) <= len(row["text"])
            seen |= {span["label"] for span in row["spans"]}
        assert (types if split == "train" else seen & types) == seen


@pytest.mark.slow
def test_clean_texts_of_the_benchmark_are_not_learned(splits: dict[str, list[dict[str, Any]]]):
    """No training or calibration row has the same words as a clean text of the benchmark."""
    measured = {words_of(text) for texts in clean_texts().values() for text in texts}
    learned = [row["text"] for split in ("train", "calibration") for row in splits[split]]
    assert [] == [text for text in learned if words_of(text) in measured]
