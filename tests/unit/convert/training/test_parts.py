"""Targets, losses, splits, row encoding and the training loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from convert.data.data_row import ChatMessage, DataRow, TextSpan
from convert.decoder.label_scores import task_tokens, tokenize
from convert.encoder.bio_tags import UNREAD, tag_tokens
from convert.training import decoder_trainer, training_loop
from convert.training.decoder_trainer import AnswerTarget, DecoderExampleEncoder, label_answers, targets
from convert.training.encoder_objective import EncodedRow, uniformity
from convert.training.encoder_trainer import shuffle_endlessly
from convert.training.training_loop import train_validation_split
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import PromptTemplate, TaskSpec
from tests.support import models, tiny_decoder

CPU = torch.device("cpu")


def minilm_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(models.minilm_dir())


# --- objective --------------------------------------------------------------------------------------------------------


def test_label_tokens_list_their_alternatives() -> None:
    """For each token of a label the choices are the tokens with which some label continues there, the right one
    first."""
    answers = label_answers([(1, 2), (1, 3, 4), (5,)])
    assert (
        AnswerTarget((1, 2), ((1, 5), (2, 3))),
        AnswerTarget((1, 3, 4), ((1, 5), (3, 2), (4,))),
        AnswerTarget((5,), ((5, 1),)),
    ) == answers


def test_label_loss_combines_labels_and_vocabulary() -> None:
    """For labels of one token, the loss is the cross-entropy over the labels plus the given share of that over the
    vocabulary."""
    logits = torch.tensor([[[2.0, 1.0, 0.0, -1.0]]])
    answers = label_answers([(0,), (1,)])
    among = math.log(1 + math.exp(-1.0))
    whole = math.log(sum(math.exp(each) for each in (2.0, 1.0, 0.0, -1.0))) - 2.0
    loss = decoder_trainer.loss(logits, targets([answers[0]], CPU), vocabulary_share=0.25)
    assert pytest.approx(among + 0.25 * whole, abs=1e-6) == float(loss)


def test_loss_adds_up_over_the_label_tokens() -> None:
    """The loss adds up over the tokens of a label that have an alternative, and the row of a shorter label is padded in
    front."""
    answers = label_answers([(1, 2), (1, 3), (0,)])
    wanted = targets([answers[0], answers[2]], CPU)
    assert [[1, 2], [-100, 0]] == wanted.tokens.tolist()
    loss = decoder_trainer.loss(torch.zeros(2, 2, 4), wanted, vocabulary_share=0.0)
    assert pytest.approx((2 * math.log(2) + math.log(2)) / 2) == float(loss)


def test_free_answers_are_learned_token_by_token() -> None:
    """Without choices the loss is the mean over the answer's tokens, and an answer counts as exact only if all tokens
    are right."""
    wanted = targets([AnswerTarget((1, 2)), AnswerTarget((3,))], CPU)
    logits = torch.zeros(2, 2, 4)
    assert pytest.approx(math.log(4)) == float(decoder_trainer.loss(logits, wanted))
    logits[0, 0, 1] = logits[0, 1, 2] = logits[1, 1, 0] = 1.0
    assert 1 == decoder_trainer.count_exact(logits, wanted)


# --- outliers ---------------------------------------------------------------------------------------------------------


def test_uniformity_loss_grows_with_confidence() -> None:
    """The loss of an outlier is 0 for equal logits, whatever the number of labels, and grows with the confidence."""
    assert pytest.approx(0.0, abs=1e-6) == float(uniformity(torch.ones(3, 7)))
    calm, sure = (float(uniformity(torch.tensor([[each, 0.0, 0.0]]))) for each in (1.0, 5.0))
    assert 0.0 < calm < sure


def test_outliers_are_shuffled_endlessly() -> None:
    """Each round has all outliers once, in another order; without outliers the iterator is empty."""
    items = [EncodedRow({"input_ids": [n]}, (UNREAD,)) for n in range(5)]
    drawn = list(itertools.islice(shuffle_endlessly(items), 15))
    turns = [drawn[at : at + 5] for at in (0, 5, 10)]
    assert all(sorted(map(repr, items)) == sorted(map(repr, turn)) for turn in turns)
    assert turns[0] != turns[1] or turns[1] != turns[2]
    assert [] == list(shuffle_endlessly([]))


# --- rows -------------------------------------------------------------------------------------------------------------


def test_validation_split_is_by_label_and_family() -> None:
    """Each label gives its share to validation, families and equal texts stay together, and synthetic rows are only
    used for training."""
    rows = [DataRow(f"{label} {n}", label=label, family=f"{label}/{n // 2}") for label in ("a", "b") for n in range(20)]
    rows += [
        DataRow("a 0!", label="a", family="a/0"),
        *(DataRow(f"s {n}", label="a", synthetic=True) for n in range(20)),
    ]
    kept = train_validation_split(rows, 0.3, seed=1)
    assert sorted(rows, key=repr) == sorted([*kept.train, *kept.validation], key=repr)
    assert not {row.family for row in kept.train if row.family} & {row.family for row in kept.validation}
    assert not any(row.synthetic for row in kept.validation)
    assert 6 == sum(row.label == "b" for row in kept.validation)
    assert kept == train_validation_split(rows, 0.3, seed=1)
    assert kept != train_validation_split(rows, 0.3, seed=2)


class CountedRow(DataRow):
    """A row that counts its comparisons with other rows."""

    compared = 0
    __hash__ = DataRow.__hash__

    def __eq__(self, other: object) -> bool:
        CountedRow.compared += 1
        return super().__eq__(other)


def test_validation_split_takes_linear_time() -> None:
    """The split compares no row with another, so its work grows with the number of rows and not with its square."""
    rows = [CountedRow(f"text {n}", label=str(n % 3)) for n in range(300)]
    train_validation_split(rows, 0.3, seed=1)
    assert 0 == CountedRow.compared


def test_validation_split_has_at_least_one_row() -> None:
    """A split that is too small for its share holds out one row of its largest label, and synthetic rows alone are
    refused."""
    rows = [DataRow("x", label="a"), DataRow("y", label="b"), DataRow("z", label="b")]
    assert ("b",) == tuple(row.label for row in train_validation_split(rows, 0.1, seed=1).validation)
    with pytest.raises(InvalidRequest, match="too few rows to hold one out"):
        train_validation_split([DataRow("x", synthetic=True), DataRow("y", synthetic=True)], 0.1, seed=1)


def test_training_example_ends_with_the_end_token() -> None:
    """A request is rendered as the agent renders it and its answer ends with the end token; a longer conversation
    follows the tokenizer's chat template."""
    tokenizer = tiny_decoder.tokenizer()
    task = TaskSpec(name="t", kind="generate", prompt=PromptTemplate(chat=True, system="Be brief."))
    tokens = task_tokens(task, tokenizer)
    system, asked, answered = (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "yes"),
    )
    simple = DataRow("hi", completion="yes", messages=(system, asked, answered))
    longer = DataRow("hi", completion="yes", messages=(asked, answered, asked, answered))
    (one, plain, two), _ = DecoderExampleEncoder(task, tokens).encode(
        [simple, DataRow("hi", completion="yes"), longer], 100
    )
    assert tokens.prompt("hi") == one.prompt == plain.prompt
    assert (*tokenize(tokenizer, "yes", special=False), tokenizer.eos_token_id) == one.answer.tokens
    written = tokenizer.decode([*two.prompt, *two.answer.tokens])
    turn = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"
    assert f"{turn}\n{turn}" == written


def test_rows_that_are_too_long_are_left_out_and_counted() -> None:
    """Rows with more than `tokens_max` tokens are left out and counted, and training is refused if no row remains."""
    task = TaskSpec(name="t", kind="classify", labels=("refund", "price"))
    lessons = DecoderExampleEncoder(task, task_tokens(task, tiny_decoder.tokenizer()))
    rows = [DataRow("hi", label="price"), DataRow("I want my money back " * 20, label="refund")]
    short, too_long = lessons.encode(rows, 40)
    assert (["hi"], 1) == ([lesson.row.text for lesson in short], too_long)
    with pytest.raises(InvalidRequest, match="all 1 training rows have more than 40 tokens"):
        lessons.encode(rows[1:], 40)


# --- tags -------------------------------------------------------------------------------------------------------------


def test_spans_are_converted_to_word_tags() -> None:
    """The first token of a word has its tag, other tokens are ignored, and a span that splits a word is counted."""
    labels, text = ("O", "B-item", "I-item", "B-size", "I-size"), "Two flat whites, 5kg"
    spans = (TextSpan(4, 15, "item"), TextSpan(17, 18, "size"))
    encoding = minilm_tokenizer()(text, return_offsets_mapping=True)
    found = tag_tokens(text, encoding, spans, labels)
    tags = [labels[tag] for tag in found.tags if tag != UNREAD]
    assert ["O", "B-item", "I-item", "O", "B-size"] == tags
    assert 1 == found.misfits
    assert UNREAD == found.tags[0] == found.tags[-1]


# --- loop -------------------------------------------------------------------------------------------------------------


class OneNumberTrainer:
    """A trainer of one number with scripted validation results."""

    def __init__(self, script: Sequence[float], start: float = 0.0, rate: float = 0.1) -> None:
        self.weight = torch.nn.Parameter(torch.tensor([start]))
        self.seen: list[tuple[int, ...]] = []
        self.weights: list[float] = []
        self._script, self._rate = list(script), rate

    @property
    def lengths(self) -> list[int]:
        return [5, 1, 4, 2, 3]

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.weight], "lr": self._rate, "weight_decay": 0.0}]

    def loss(self, rows: Sequence[int]) -> torch.Tensor:
        self.seen.append(tuple(rows))
        return ((self.weight - 3.0) ** 2).sum()

    def validate(self) -> training_loop.ValidationResult:
        self.weights.append(float(self.weight.detach()))
        return training_loop.ValidationResult(1.0, self._script[len(self.weights) - 1])


def settings(**changed: int) -> training_loop.TrainingSettings:
    return training_loop.TrainingSettings(**({"epochs": 6, "batch_rows": 2, "patience_epochs": 2, "seed": 1} | changed))


def test_training_stops_early_and_keeps_the_best_weights() -> None:
    """Training ends after two epochs without a better validation and keeps the weights of the best epoch."""
    learner = OneNumberTrainer([0.5, 0.7, 0.7, 0.6, 0.9, 0.9])
    said: list[tuple[str, int, int]] = []
    trained = training_loop.train(learner, settings(), lambda *line: said.append(line))
    assert (4, 2, True) == (len(trained.epochs), trained.best_epoch, trained.stopped_early)
    assert learner.weights[1] == float(learner.weight.detach())
    assert trained.epochs[0].train_loss > trained.epochs[-1].train_loss
    assert 0.7 == trained.report()["validation_accuracy"]
    assert (12, 18) == said[-1][1:]
    assert "validation accuracy 0.700" in said[-1][0]
    assert " s left" in said[-1][0]


@pytest.mark.parametrize(("script", "best"), [([0.8, 0.5, 0.6], 0), ([0.8, 0.5, 0.9, 0.5, 0.5], 2)])
def test_fitted_head_is_kept_if_no_epoch_is_better(script: list[float], best: int) -> None:
    """If the head was fitted first, the start is validated as epoch 0 and kept if no epoch is better."""
    learner = OneNumberTrainer(script, start=1.0)
    trained = training_loop.train(learner, settings(), lambda *_: None, head_fitted=True)
    assert (best, max(script)) == (trained.best_epoch, trained.report()["validation_accuracy"])
    assert learner.weights[best] == float(learner.weight.detach())


def test_epoch_uses_each_row_once_in_batches_of_similar_length() -> None:
    """An epoch uses each row once, batched with rows of similar length, in an order that depends only on the seed."""
    first, second, other = (OneNumberTrainer([0.5] * 6) for _ in range(3))
    for learner, seed in ((first, 1), (second, 1), (other, 2)):
        training_loop.train(learner, settings(epochs=1, seed=seed), lambda *_: None)
    assert first.seen == second.seen
    assert first.seen != other.seen
    assert {(1, 3), (4, 2), (0,)} == set(first.seen)


def test_non_finite_loss_stops_the_training() -> None:
    """A loss that is not finite stops the training, and the remedy is a lower learning_rate."""
    with pytest.raises(InvalidRequest, match="no longer finite in epoch 1") as caught:
        training_loop.train(OneNumberTrainer([0.5] * 6, start=math.inf), settings(), lambda *_: None)
    assert "learning_rate" in caught.value.remedy


def test_learning_rate_has_linear_warmup_and_cosine_decay() -> None:
    """The learning rate is highest after a tenth of the steps and almost 0 at the end."""
    rates = [training_loop.rate(step, 100) for step in range(100)]
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert sorted(rates[:10]) == rates[:10]
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert rates[-1] < 0.001


def test_remaining_training_time_is_in_hours() -> None:
    """A remaining time of 10,468 seconds is shown as `2 h left`."""
    assert training_loop.progress_sentence(1, 0.5, None, 10_468.0).endswith("2 h left")
