"""The margin between labels: its loss, and what it does to an encoder's vectors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from torch.nn.functional import normalize

from convert import training
from convert.data.data_row import DataRow
from convert.pipeline.recipe import FinetuneSection
from convert.training.cosine_margin import MARGIN, RATE_FACTOR, SCALE, CosineMargin
from convert.training.encoder_objective import objective_of
from convert.training.encoder_trainer import EncoderTrainer, RowEncoder, classifier
from convert.training.training_loop import TrainingSettings, train
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Kind, TaskSpec
from tests.support import tiny_encoder

LABELS = ("refund", "price", "hours")
TASK = TaskSpec(name="intent", kind="classify", labels=LABELS)
ROWS = [
    DataRow(f"{text} {word}", label)
    for label, word in zip(LABELS, ("money", "cost", "open"), strict=True)
    for text in ("where is", "what about", "tell me of", "I need", "say", "show")
]


def square(size: int = 3, weight: float = 1.0) -> CosineMargin:
    """Return a margin whose directions are the axes."""
    head = torch.nn.Linear(size, size)
    with torch.no_grad():
        head.weight.copy_(torch.eye(size))
    return CosineMargin(head, weight)


def test_the_loss_is_that_of_the_cosines_less_the_margin():
    """A vector between two axes has the cosine 0.707 with both; its length does not matter, and the weight scales."""
    cosine = math.sqrt(0.5)
    expected = math.log(1 + math.exp(SCALE * MARGIN) + math.exp(-SCALE * (cosine - MARGIN)))
    for length in (0.1, 1.0, 50.0):
        between = length * torch.tensor([[1.0, 1.0, 0.0]])
        assert pytest.approx(expected, rel=1e-5) == float(square().loss(between, torch.tensor([0])).detach())
        halved = square(weight=0.5).loss(between, torch.tensor([1]))
        assert pytest.approx(0.5 * expected, rel=1e-5) == float(halved.detach())


def test_a_row_on_the_right_side_still_has_a_loss_within_the_margin():
    """Nearer to its own axis by less than the margin, it counts as nearer to the other one."""
    near = normalize(torch.tensor([[1.0, 0.95, 0.0]]), dim=-1)
    least = torch.log(1 + torch.exp(torch.tensor(-SCALE * (1 - MARGIN))))
    assert float(square().loss(near, torch.tensor([0])).detach()) > math.log(2) > float(least)


def trainer(folder: Path, weight: float) -> tuple[EncoderTrainer, Any, CosineMargin]:
    """Return a trainer of a tiny pooled encoder that has seen nothing yet, the encoder, and its margin."""
    tiny_encoder.checkpoint(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.classifier_pooling = "mean"
    config.save_pretrained(folder)
    torch.manual_seed(0)
    model = classifier(str(folder), TASK, "full")
    rows = encoder_of(folder).of(ROWS)
    margin = CosineMargin(model.classifier, weight)
    given = margin if weight else None
    learner = EncoderTrainer(model, encoder_of(folder).tokenizer, (rows, rows), 0.002, objective_of(TASK), margin=given)
    return learner, model, margin


def encoder_of(folder: Path) -> RowEncoder:
    return RowEncoder(transformers.AutoTokenizer.from_pretrained(folder), TASK, 32)


def test_training_brings_each_text_nearer_to_its_label(tmp_path: Path):
    """The loss of the margin over all rows falls, beside the one of the answers."""
    learner, model, margin = trainer(tmp_path, 0.5)
    rows = encoder_of(tmp_path).of(ROWS).items
    labels = torch.tensor([row.targets for row in rows]).argmax(-1)

    def loss() -> float:
        with torch.inference_mode():
            vectors = torch.cat([model.eval().vectors(torch.tensor([row.given["input_ids"]])) for row in rows])
            return float(margin.loss(vectors, labels))

    before, answers_before = loss(), learner.validate().loss
    train(learner, TrainingSettings(epochs=8, batch_rows=6, patience_epochs=8, seed=1), lambda *_: None)
    assert loss() < 0.7 * before
    assert learner.validate().loss < answers_before


@pytest.mark.parametrize(("method", "kind"), [("head", "classify"), ("full", "extract")])
def test_a_margin_that_nothing_can_have_is_refused(method: Literal["head", "full"], kind: Kind, tmp_path: Path):
    """A recipe that asks for one is not trained without it."""
    _, model, _ = trainer(tmp_path, 0.0)
    task = TASK if kind == "classify" else TaskSpec(name="t", kind=kind, labels=("O", "B-item"))
    asked = FinetuneSection(method=method, margin_weight=0.5)
    with pytest.raises(InvalidRequest, match="margin_weight"):
        training.margin_of(model, task, asked)
    assert training.margin_of(model, task, FinetuneSection(method=method)) is None


def test_the_directions_learn_faster_and_are_no_part_of_the_model(tmp_path: Path):
    """They have a group of parameters of their own, without decay; what is saved has no such tensor."""
    learner, model, margin = trainer(tmp_path, 1.0)
    (group,) = (group for group in learner.groups() if any(each is margin.directions for each in group["params"]))
    assert (RATE_FACTOR * 0.002, 0.0, 1) == (group["lr"], group["weight_decay"], len(group["params"]))
    assert all(each is not margin.directions for each in model.parameters())
    learner.loss([0, 1, 2]).backward()
    assert margin.directions.grad is not None
    assert float(margin.directions.grad.abs().sum()) > 0
