"""Mean pooling for classifiers: which checkpoints get it, and that training, export and serving compute the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from convert.encoder import logistic_regression
from tests.support import models, tiny_encoder

SENTENCES = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
BERT = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "architectures": ["BertModel"]}


def sentence_encoder(folder: Path) -> Path:
    """Write a tiny BERT whose files declare mean pooling."""
    tiny_encoder.checkpoint(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(SENTENCES))
    return folder


def pooled(folder: Path, labels: int = 3) -> Any:
    """Return the classifier that training starts from."""
    from convert.prepare import checkpoint_source  # noqa: PLC0415 - likewise
    from convert.training.encoder_trainer import classifier  # noqa: PLC0415 - loads PyTorch
    from edge_agent.formats.manifest import TaskSpec  # noqa: PLC0415 - beside it

    checkpoint_source.take(sentence_encoder(folder / "source"), folder / "checkpoint")
    names = [f"label-{number}" for number in range(labels)]
    task = TaskSpec.model_validate({"name": "t", "kind": "classify", "labels": names})
    return classifier(str(folder / "checkpoint"), task, "full")


@pytest.mark.parametrize(
    ("config", "told", "expected"),
    [
        (BERT, SENTENCES, {"classifier_pooling": "mean"}),
        (BERT, {**SENTENCES, "pooling_mode_mean_tokens": False}, {}),
        (BERT, None, {}),
        ({**BERT, "architectures": ["BertForSequenceClassification"]}, SENTENCES, {}),
        ({**BERT, "hidden_act": "relu"}, SENTENCES, {}),
        ({**BERT, "model_type": "roberta"}, SENTENCES, {}),
        ({**BERT, "classifier_pooling": "cls"}, SENTENCES, {}),
        (BERT, "no JSON", {}),
    ],
)
def test_mean_pooling_only_for_headless_bert_sentence_encoders(
    tmp_path: Path, config: dict[str, Any], told: Any, expected: dict[str, str]
) -> None:
    """A checkpoint gets mean pooling only if it is a BERT of the supported shape, its 1_Pooling/config.json declares
    the mean, and it has no classifier or pooling setting yet."""
    from convert.encoder import pooling  # noqa: PLC0415 - loads PyTorch

    (tmp_path / "1_Pooling").mkdir()
    if told is not None:
        written = told if isinstance(told, str) else json.dumps(told)
        (tmp_path / "1_Pooling" / "config.json").write_text(written)
    assert expected == pooling.of_source(tmp_path, config)


def test_minilm_is_pooled_by_the_mean() -> None:
    """The MiniLM encoder of the examples gets mean pooling."""
    from convert.encoder import pooling  # noqa: PLC0415 - loads PyTorch

    config = json.loads((models.minilm_dir() / "config.json").read_text())
    assert {"classifier_pooling": "mean"} == pooling.of_source(models.minilm_dir(), config)


def test_saved_and_exported_model_give_the_logits_of_training(tmp_path: Path) -> None:
    """The reopened checkpoint and the exported ONNX graph give the logits of the trained model, with and without
    padding."""
    import torch  # noqa: PLC0415 - takes seconds to load

    from convert.export import onnx_export  # noqa: PLC0415 - likewise
    from convert.training import checkpoint_loading  # noqa: PLC0415 - likewise

    model = pooled(tmp_path).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.classifier.weight)
        short, padded = torch.tensor([[101, 2000, 102]]), torch.tensor([[101, 2000, 102, 0, 0]])
        wanted = model(short).logits
        masked = model(padded, attention_mask=torch.tensor([[1, 1, 1, 0, 0]])).logits
    model.save_pretrained(tmp_path / "trained")
    shutil.copyfile(models.minilm_dir() / "tokenizer.json", tmp_path / "trained" / "tokenizer.json")
    with torch.no_grad():
        again = checkpoint_loading.open_model(tmp_path / "trained", None, "sequence")(short).logits
    (tmp_path / "out").mkdir()
    onnx_export.export(tmp_path / "trained", None, "sequence", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    mask = np.array([[1, 1, 1, 0, 0]])
    feed = {"input_ids": padded.numpy(), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    served = session.run(["logits"], feed)[0]
    assert torch.equal(wanted, again)
    assert pytest.approx(wanted.numpy(), abs=1e-5) == masked.numpy()
    assert pytest.approx(wanted.numpy(), abs=1e-5) == served


def test_logistic_regression_separates_clusters() -> None:
    """Logistic regression separates clusters that are far from the origin, and gives a label without rows less than
    5%."""
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(3), 40)
    vectors = 100.0 + 5.0 * rng.standard_normal((3, 8))[truth] + 0.5 * rng.standard_normal((120, 8))
    fitted = logistic_regression.fit(vectors, truth, 4)
    chances = np.exp(fitted.log_probabilities(vectors))
    assert truth.tolist() == chances.argmax(axis=1).tolist()
    assert pytest.approx(np.ones(120)) == chances.sum(axis=1)
    assert chances[:, 3].max() < 0.05
