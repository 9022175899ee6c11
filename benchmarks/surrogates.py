"""Gain from made-up values in place of placeholders: MiniLM trained on either, measured on raw texts.

Three encoders learn from the same rows: as a site redacts them; with placeholders filled, as `edge-convert dataset`
does; and raw, which no site sends. All are tested on raw texts. What customers want (examples/pos-intent) is said in a
text with a card number, an address or the like, which people wrote (tests/data/redaction.jsonl); the test has other
phrasings and other values.

extract: the encoder finds the value; a text is right if every word is tagged right.
classify: it tells what the customer wants.

--small trains on a quarter of the rows, to see that it works.
"""

from __future__ import annotations

import functools
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from benchmarks.bars import Bar, main
from convert.data import row_files
from convert.dataset.row_builder import RedactedExample, RowBuilder
from convert.dataset.row_formats import CollectedExample
from convert.dataset.surrogates import SurrogateSettings
from convert.pipeline import recipe
from convert.pipeline import task_file as tasks
from convert.pipeline.stage import CHECKPOINT, StageJob
from convert.training import checkpoint_loading, finetune_stage
from convert.training.encoder_objective import objective_of
from convert.training.encoder_trainer import EncoderTrainer, RowEncoder, classifier
from edge_agent.capture.redact.builtin_rules import RULES
from edge_agent.capture.redact.redactor import Redactor
from edge_agent.formats.manifest import Kind
from tests.support import models as packaged

ROOT = Path(__file__).parents[1]
LABELED, INTENTS = ROOT / "tests" / "data" / "redaction.jsonl", ROOT / "examples" / "pos-intent"
LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "pl_PL", "sv_SE", "pt_BR")
SEED = "surrogates 1"
TRAIN_ROWS, TEST_ROWS = 480, 320
SMALL = 4
"""--small takes one row in so many."""
EXTRACT_GAIN_MIN = 0.3
"""How much larger the share of texts is in which the value is found, than with placeholders."""
LOSS_MAX = 0.04
"""How much smaller a share may be: two standard errors of the difference on 320 texts of which an eighth differs."""
_WORDS = {rule.name: rule.placeholder.lower() for rule in RULES}
_SAID = {
    "card": ("my card is {}", "charge {} then", "paid with {}"),
    "iban": ("my account is {}", "send it to {}"),
    "email": ("mail me at {}", "i'm {}"),
    "phone": ("call me on {}", "my number is {}"),
    "date": ("born {}", "date of birth {}"),
    "id": ("my id is {}", "number {}"),
}
Source = Literal["placeholders", "surrogates", "raw"]
Form = Literal["text-spans", "text-label"]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class LabeledText:
    """A text with the values in it."""

    text: str
    values: tuple[tuple[str, str], ...]
    """Label and value, as the text has it."""


def measure() -> Iterator[Bar]:
    """Train three encoders for each task, and compare them on raw texts."""
    every = [_labeled(json.loads(line)) for line in LABELED.read_text(encoding="utf-8").splitlines()]
    train = [text for number, text in enumerate(every) if number % 3 != 2]
    held_out = every[2::3]
    share = SMALL if "--small" in sys.argv[1:] else 1
    texts = _said("train", TRAIN_ROWS // share, train)
    tests = _said("test", TEST_ROWS // share, held_out)
    with tempfile.TemporaryDirectory(prefix="surrogates-bench-") as work:
        found = _extract(Path(work, "extract"), texts, tests)
        yield from _bars("extract: texts with the value found", found)
        yield _gain("extract: surrogates over placeholders", found, EXTRACT_GAIN_MIN)
        yield _gain("extract: surrogates over raw texts", found, -LOSS_MAX, "raw")
        found = _classify(Path(work, "classify"), texts, tests)
        yield from _bars("classify: texts with the right label", found)
        yield _gain("classify: surrogates over placeholders", found, -LOSS_MAX)
        yield _gain("classify: surrogates over raw texts", found, -LOSS_MAX, "raw")


def _bars(name: str, found: Mapping[Source, float]) -> Iterator[Bar]:
    yield from (Bar(f"{name}, {source}", share, None, "higher") for source, share in found.items())


def _gain(name: str, found: Mapping[Source, float], limit: float, over: Source = "placeholders") -> Bar:
    return Bar(name, found["surrogates"] - found[over], limit, "higher")


def _labeled(plain: dict[str, Any]) -> LabeledText:
    return LabeledText(plain["text"], tuple((_WORDS[rule], value) for rule, value in plain["pii"]))


@dataclass(frozen=True)
class Request:
    """A customer's message with a personal value."""

    text: str
    intent: str
    kind: str
    value: str


def _said(split: str, count: int, texts: Sequence[LabeledText]) -> list[Request]:
    """Return texts of a split, with values of those texts in them."""
    chance = random.Random(f"{SEED} {split}")  # noqa: S311 - a fixed draw, not a secret
    values = [pair for text in texts for pair in text.values if pair[0] in _SAID]
    lines = (INTENTS / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for line in chance.sample(lines, count):
        row, (kind, value) = json.loads(line), chance.choice(values)
        parts = [row["text"], chance.choice(_SAID[kind]).format(value)]
        chance.shuffle(parts)
        found.append(Request(", ".join(parts), row["label"], kind, value))
    return found


def _extract(folder: Path, train: Sequence[Request], test: Sequence[Request]) -> dict[Source, float]:
    tags = ["O", *(f"{edge}-{label}" for label in _SAID for edge in "BI")]
    task = {"name": "values", "kind": "extract", "labels": tags}
    settings = {"method": "full", "epochs": 6, "patience_epochs": 6, "batch_rows": 16, "learning_rate": 0.0003}
    return _compared(folder, task, "text-spans", settings, (train, test))


def _classify(folder: Path, train: Sequence[Request], test: Sequence[Request]) -> dict[Source, float]:
    task = yaml.safe_load((INTENTS / "encoder" / "task.yaml").read_text(encoding="utf-8"))["task"]
    settings = {"method": "full", "epochs": 4, "batch_rows": 16, "learning_rate": 0.0001}
    return _compared(folder, task, "text-label", settings, (train, test))


def _compared(
    folder: Path,
    task: dict[str, Any],
    form: Form,
    settings: dict[str, Any],
    parts: tuple[Sequence[Request], Sequence[Request]],
) -> dict[Source, float]:
    """Train on each kind of rows, and return the share of raw texts that is right."""
    train, test = parts
    raw = [row for request in test for row in _rows(request, form, "raw")]
    found: dict[Source, float] = {}
    for source in ("placeholders", "surrogates", "raw"):
        rows = [row for request in train for row in _rows(request, form, source)]
        found[source] = _trained(folder / source, task, form, settings, (rows, raw))
    return found


def _rows(request: Request, form: Form, source: Source) -> Rows:
    """Return the rows that `edge-convert dataset` makes of a request, redacted as at a site or not."""
    redaction, text, record = Redactor().start(), request.text, {request.kind: request.value}
    if source != "raw":
        text, record = redaction.text(text), redaction.value(record)
    answer, kind = (json.dumps(record), "extract") if form == "text-spans" else (request.intent, "classify")
    example = CollectedExample("site", request.text, text, answer, answer, "accept")
    built, _ = _builder(form, source).build(RedactedExample(example, cast(Kind, kind), redaction.counts))
    return built


@functools.cache
def _builder(form: Form, source: Source) -> RowBuilder:
    return RowBuilder(form, SurrogateSettings("fill" if source == "surrogates" else "keep", LOCALES), SEED)


def _trained(
    folder: Path, task: dict[str, Any], form: Form, settings: dict[str, Any], parts: tuple[Rows, Rows]
) -> float:
    """Train on rows, and return the share of the others that is right as a whole."""
    train, test = parts
    folder.mkdir(parents=True)
    (folder / "prepared").mkdir()
    (folder / "prepared" / CHECKPOINT).symlink_to(packaged.minilm_dir())
    (folder / "task.yaml").write_text(yaml.safe_dump({"version": "1.0.0", "runtime": "onnx", "task": task}))
    for split, rows in (("train", train), ("calibration", test), ("test", test)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    named = {"format": form, **{split: f"{split}.jsonl" for split in ("train", "calibration", "test")}}
    plain = {"source": {"checkpoint": "m"}, "data": named, "finetune": {**settings, "tokens_max": 128}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain))
    (folder / "out").mkdir()
    made = recipe.read(folder)
    finetune_stage.run(StageJob(made, folder / "out", {"prepare": folder / "prepared"}, lambda *_: None))
    return _share_right(folder / "out" / CHECKPOINT, made)


def _share_right(checkpoint: Path, made: recipe.Recipe) -> float:
    task, tokenizer = tasks.of(made.path(made.task)), checkpoint_loading.open_tokenizer(checkpoint)
    rows = RowEncoder(tokenizer, task, 512).encode(row_files.rows(made, "test"))
    model = classifier(str(checkpoint), task, "full")
    learner = EncoderTrainer(model, tokenizer, (rows, rows), 0.0, objective_of(task))
    return learner.validate().accuracy


if __name__ == "__main__":
    sys.exit(main(measure))
