"""Recipes that tests write: a task, splits, and a recipe.yaml over them."""

import json
from pathlib import Path

from convert.pipeline import recipe
from tests.support import bert_onnx, bundles

KINDS = {
    "classify": "kind: classify, labels: [refund, price, other]",
    "extract": "kind: extract, labels: [O, B-item, I-item]",
    "generate": "kind: generate",
    "embed": "kind: embed",
}


def text_label(*pairs: tuple[str, str]) -> str:
    """Return rows of that format."""
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs)


TRAIN = text_label(("I want my money back", "refund"), ("How much is it?", "price"), ("Nice day", "other"))
CALIBRATION = text_label(("Give it back", "refund"), ("What does it cost?", "price"))
TEST = text_label(("Refund please", "refund"), ("Price of milk", "price"))


def recipe_of(
    folder: Path, kind: str = "classify", format_: str = "text-label", sections: str = "", **files: str
) -> recipe.Recipe:
    """Write a recipe, a task and splits; a split given as empty text is not named."""
    files = {"train": TRAIN, "calibration": CALIBRATION, "test": TEST} | files
    (folder / "task.yaml").write_text(f"version: 1.0.0\nruntime: onnx\ntask: {{name: t, {KINDS[kind]}}}\n")
    for split, lines in files.items():
        (folder / f"{split}.jsonl").write_text(lines)
    named = "".join(f", {split}: {split}.jsonl" for split, lines in files.items() if lines)
    text = f"work: work\nsource: {{checkpoint: m}}\ndata: {{format: {format_}{named}}}\n{sections}\n"
    (folder / "recipe.yaml").write_text(text)
    return recipe.read(folder)


def ready_classifier(folder: Path, *, finds_nothing: bool = False) -> Path:
    """Write a ready ONNX token classifier as model makers publish it: random weights, the tags of the tests.

    Random weights find much that is harmless at every cut-off that a calibration tries.
    """
    weights = bert_onnx.random_weights(bert_onnx.TINY, outputs=len(bundles.TAGS))
    weights["classifier.bias"][bundles.TAGS.index("O")] += 100.0 * finds_nothing
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(bert_onnx.build(bert_onnx.TINY, weights, "tags"))
    (folder / "tokenizer.json").write_bytes(bert_onnx.tiny_tokenizer())
    names = {str(place): tag for place, tag in enumerate(bundles.TAGS)}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "id2label": names}))
    (folder / "LICENSE").write_text("CC BY 4.0")
    return folder
