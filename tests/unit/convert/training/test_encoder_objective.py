"""Objectives of an encoder's head: several questions, missing answers, distributions, and the cosine margin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import normalize

from convert.data.data_row import DataRow, RowAnswer
from convert.encoder import logistic_regression
from convert.encoder.bio_tags import UNREAD
from convert.pipeline.recipe import FinetuneSection
from convert.training import finetune_stage
from convert.training.encoder_objective import (
    MARGIN,
    RATE_FACTOR,
    SCALE,
    CosineMargin,
    EncodedRow,
    QuestionObjective,
    TagObjective,
    balanced_weights,
    log_priors,
    objective_of,
    uniformity,
)
from convert.training.encoder_trainer import EncoderTrainer, RowEncoder, classifier, targets_of
from convert.training.training_loop import TrainingSettings, train
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Kind, TaskSpec
from edge_agent.formats.questions import QuestionSpec
from tests.support import tiny_encoder

QUESTIONS = (
    QuestionSpec(name="intent", type="choice", instructions="What?", labels=("refund", "price", "other")),
    QuestionSpec(name="urgent", type="predicate", instructions="It cannot wait."),
)
TASK = TaskSpec(name="desk", kind="decide", questions=QUESTIONS)
SIZES = [3, 2]
LOGITS = torch.tensor([[2.0, 0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 3.0, 0.0]])


def encoded(*targets: float) -> EncodedRow:
    return EncodedRow({"input_ids": [1]}, targets=targets)


def test_loss_is_the_mean_over_given_answers():
    """Each question has its own softmax, and a question that a row does not answer adds nothing to the loss."""
    rows = [encoded(1, 0, 0, 0, 0), encoded(0, 1, 0, 1, 0)]
    parts = [LOGITS[0, :3].log_softmax(0)[0], LOGITS[1, :3].log_softmax(0)[1], LOGITS[1, 3:].log_softmax(0)[0]]
    assert pytest.approx(-float(sum(parts)) / 3) == float(QuestionObjective(SIZES).loss(LOGITS, rows))
    losses, count, right, answered = QuestionObjective(SIZES).validation_sums(LOGITS, rows).tolist()
    assert (pytest.approx(-float(sum(parts))), 3, 3, 3) == (losses, count, right, answered)


def test_classify_loss_is_cross_entropy():
    """The loss of a classify task is the cross-entropy of its labels, and an extract task has a tag objective."""
    task = TaskSpec(name="t", kind="classify", labels=("refund", "price", "other"))
    rows = [
        EncodedRow({"input_ids": [1]}, targets=targets_of(DataRow("x", label=each), task)) for each in task.labels[:2]
    ]
    expected = torch.nn.functional.cross_entropy(LOGITS[:, :3], torch.tensor([0, 1]))
    assert pytest.approx(float(expected)) == float(objective_of(task).loss(LOGITS[:, :3], rows))
    assert isinstance(objective_of(TaskSpec(name="t", kind="extract", labels=("O", "B-x"))), TagObjective)


def test_loss_of_a_distribution_is_least_at_that_distribution():
    """The loss of a row with a distribution is least, and equal to its entropy, if the model gives that
    distribution."""
    row = encoded(0.7, 0.2, 0.1, 0, 0)
    fitting = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1), 0.0, 0.0]])
    entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    objective = QuestionObjective(SIZES)
    assert pytest.approx(entropy, abs=1e-6) == float(objective.loss(fitting, [row]))
    assert float(objective.loss(LOGITS[:1], [row])) > entropy


def test_rows_are_converted_to_target_distributions():
    """A label becomes a distribution with one answer, and outputs are in the order of the questions."""
    soft = RowAnswer("urgent", "yes", (("no", 0.4), ("yes", 0.6)))
    assert (0.0, 1.0, 0.0, 0.4, 0.6) == targets_of(DataRow("x", answers=(soft, RowAnswer("intent", "price"))), TASK)
    assert (0.0,) * 5 == targets_of(DataRow("x"), TASK)


def test_batch_without_words_has_zero_loss():
    """A batch whose texts have only invisible characters has loss and gradient 0, and other batches are averaged over
    their words."""
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    loss = TagObjective().loss(logits, [EncodedRow({"input_ids": [1, 2]}, (UNREAD, UNREAD))])
    loss.backward()
    assert (0.0, 0.0) == (float(loss.detach()), float(logits.grad.abs().sum()))
    tags = [EncodedRow({"input_ids": [1, 2]}, (UNREAD, 1)), EncodedRow({"input_ids": [1, 2]}, (2, 0))]
    assert pytest.approx(math.log(3)) == float(TagObjective().loss(torch.zeros(2, 2, 3), tags))


def test_batch_without_answers_has_zero_loss():
    """A batch without any answer has loss and gradient 0 instead of a division by zero."""
    logits = LOGITS.clone().requires_grad_()
    loss = QuestionObjective(SIZES).loss(logits, [encoded(0, 0, 0, 0, 0)] * 2)
    loss.backward()
    assert (0.0, 0.0) == (float(loss.detach()), float(logits.grad.abs().sum()))


def test_balanced_weights_equalize_answers():
    """With balanced weights, nine rows of one answer count as much as one row of the other, and the mean weight of a
    row is 1."""
    rows = [encoded(0, 0, 0, 1, 0)] * 9 + [encoded(0, 0, 0, 0, 1)]
    weights = balanced_weights(rows, SIZES)
    assert [0.0, 0.0, 0.0] == weights[:3]
    assert (pytest.approx(5.0), pytest.approx(5.0)) == (9 * weights[3], weights[4])
    even = torch.zeros(10, 5)
    assert pytest.approx(math.log(2)) == float(objective_of(TASK, weights).loss(even, rows))


def test_log_priors_make_equal_logits_optimal():
    """For nine rows of one answer and one of the other, equal logits have the least loss with log priors; without them
    the priors themselves have it."""
    rows = [encoded(0, 0, 0, 1, 0)] * 9 + [encoded(0, 0, 0, 0, 1)]
    priors = log_priors(rows, SIZES)
    assert [0.0, 0.0, 0.0, pytest.approx(math.log(0.9)), pytest.approx(math.log(0.1))] == priors
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    even, own = torch.zeros(10, 5), torch.tensor(priors).expand(10, 5)
    assert pytest.approx(entropy) == float(objective_of(TASK, (), priors).loss(even, rows))
    assert pytest.approx(entropy) == float(objective_of(TASK).loss(own, rows))
    assert float(objective_of(TASK, (), priors).loss(own, rows)) > entropy + 0.1


def test_outlier_loss_is_the_mean_over_questions():
    """The loss of an outlier is the mean of its uniformity losses over the questions."""
    expected = (float(uniformity(LOGITS[:, :3])) + float(uniformity(LOGITS[:, 3:]))) / 2
    assert pytest.approx(expected) == float(QuestionObjective(SIZES).uniformity(LOGITS))


def test_logistic_regression_learns_distributions():
    """On vectors that do not distinguish rows, logistic regression gives the mean distribution of the rows."""
    fitted = logistic_regression.fit_shares(np.zeros((2, 3)), np.array([[0.9, 0.1], [0.5, 0.5]]))
    assert pytest.approx(np.log([[0.7, 0.3]]), abs=1e-3) == fitted.log_probabilities(np.zeros((1, 3)))


def test_logistic_regression_accepts_row_weights():
    """On vectors that do not distinguish rows, nine rows of one label and one of another give equal probabilities with
    balancing weights."""
    wanted = np.eye(2)[[0] * 9 + [1]]
    plain, even = (
        logistic_regression.fit_shares(np.zeros((10, 3)), wanted, weights=weights).log_probabilities(np.zeros((1, 3)))
        for weights in (1.0, [1 / 9, 1])
    )
    assert pytest.approx(np.log([[0.9, 0.1]]), abs=1e-3) == plain
    assert pytest.approx(np.log([[0.5, 0.5]]), abs=1e-3) == even


LABELS = ("refund", "price", "hours")
MARGIN_TASK = TaskSpec(name="intent", kind="classify", labels=LABELS)
ROWS = [
    DataRow(f"{text} {word}", label)
    for label, word in zip(LABELS, ("money", "cost", "open"), strict=True)
    for text in ("where is", "what about", "tell me of", "I need", "say", "show")
]


def square(size: int = 3, weight: float = 1.0) -> CosineMargin:
    """Return a margin whose label directions are the axes."""
    head = torch.nn.Linear(size, size)
    with torch.no_grad():
        head.weight.copy_(torch.eye(size))
    return CosineMargin(head, weight)


def test_margin_loss_uses_cosines_minus_the_margin():
    """The margin loss depends on the cosines minus the margin and not on the vector's length, and is scaled by the
    weight."""
    cosine = math.sqrt(0.5)
    expected = math.log(1 + math.exp(SCALE * MARGIN) + math.exp(-SCALE * (cosine - MARGIN)))
    for length in (0.1, 1.0, 50.0):
        between = length * torch.tensor([[1.0, 1.0, 0.0]])
        assert pytest.approx(expected, rel=1e-5) == float(square().loss(between, torch.tensor([0])).detach())
        halved = square(weight=0.5).loss(between, torch.tensor([1]))
        assert pytest.approx(0.5 * expected, rel=1e-5) == float(halved.detach())


def test_margin_loss_applies_to_correct_rows_within_the_margin():
    """A row that is nearer to its own label by less than the margin has the loss of a wrong row."""
    near = normalize(torch.tensor([[1.0, 0.95, 0.0]]), dim=-1)
    least = torch.log(1 + torch.exp(torch.tensor(-SCALE * (1 - MARGIN))))
    assert float(square().loss(near, torch.tensor([0])).detach()) > math.log(2) > float(least)


def trainer(folder: Path, weight: float) -> tuple[EncoderTrainer, Any, CosineMargin]:
    """Return an untrained trainer of a tiny pooled encoder, the encoder, and its margin."""
    tiny_encoder.checkpoint(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.classifier_pooling = "mean"
    config.save_pretrained(folder)
    torch.manual_seed(0)
    model = classifier(str(folder), MARGIN_TASK, "full")
    rows = encoder_of(folder).encode(ROWS)
    margin = CosineMargin(model.classifier, weight)
    given = margin if weight else None
    learner = EncoderTrainer(
        model, encoder_of(folder).tokenizer, (rows, rows), 0.002, objective_of(MARGIN_TASK), margin=given
    )
    return learner, model, margin


def encoder_of(folder: Path) -> RowEncoder:
    return RowEncoder(transformers.AutoTokenizer.from_pretrained(folder), MARGIN_TASK, 32)


def test_training_reduces_the_margin_loss(tmp_path: Path):
    """Training with the margin lowers the margin loss of all rows by 30% and also the loss of the answers."""
    learner, model, margin = trainer(tmp_path, 0.5)
    rows = encoder_of(tmp_path).encode(ROWS).items
    labels = torch.tensor([row.targets for row in rows]).argmax(-1)

    def loss() -> float:
        with torch.inference_mode():
            vectors = torch.cat([model.eval().vectors(torch.tensor([row.inputs["input_ids"]])) for row in rows])
            return float(margin.loss(vectors, labels))

    before, answers_before = loss(), learner.validate().loss
    train(learner, TrainingSettings(epochs=8, batch_rows=6, patience_epochs=8, seed=1), lambda *_: None)
    assert loss() < 0.7 * before
    assert learner.validate().loss < answers_before


@pytest.mark.parametrize(("method", "kind"), [("head", "classify"), ("full", "extract")])
def test_margin_weight_is_refused_if_unsupported(method: Literal["head", "full"], kind: Kind, tmp_path: Path):
    """A recipe with `margin_weight` is refused for a method or task that has no margin, instead of training without
    it."""
    _, model, _ = trainer(tmp_path, 0.0)
    task = MARGIN_TASK if kind == "classify" else TaskSpec(name="t", kind=kind, labels=("O", "B-item"))
    asked = FinetuneSection(method=method, margin_weight=0.5)
    with pytest.raises(InvalidRequest, match="margin_weight"):
        finetune_stage.margin_of(model, task, asked)
    assert finetune_stage.margin_of(model, task, FinetuneSection(method=method)) is None


def test_margin_directions_are_trained_but_not_saved(tmp_path: Path):
    """The margin's directions have a parameter group with a higher learning rate and no decay, and are not parameters
    of the model."""
    learner, model, margin = trainer(tmp_path, 1.0)
    (group,) = (group for group in learner.groups() if any(each is margin.directions for each in group["params"]))
    assert (RATE_FACTOR * 0.002, 0.0, 1) == (group["lr"], group["weight_decay"], len(group["params"]))
    assert all(each is not margin.directions for each in model.parameters())
    learner.loss([0, 1, 2]).backward()
    assert margin.directions.grad is not None
    assert float(margin.directions.grad.abs().sum()) > 0
