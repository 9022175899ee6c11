"""Prompts and label scores of a decoder: tokenization, batching and what a task requires of the tokenizer."""

from __future__ import annotations

import pytest
import torch

from convert.decoder.label_scores import (
    TaskTokens,
    begin_token,
    joint_log_probabilities,
    pad_left,
    task_tokens,
    tokenize,
)
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats.manifest import PromptTemplate, TaskSpec
from tests.support import tiny_decoder

TEXTS = ["I want my money back", "hi", "Do you have this in a bigger size, or in blue?"]


def task(*labels: str, **prompt: object) -> TaskSpec:
    return TaskSpec(name="t", kind="classify" if labels else "generate", labels=labels, prompt=PromptTemplate(**prompt))


def asked(*labels: str, template: str = "Message: {input}\nIntent:") -> TaskTokens:
    return task_tokens(task(*labels, template=template), tiny_decoder.tokenizer())


def test_prompt_is_tokenized_in_parts() -> None:
    """The text before the input, the input with its leading blanks, and the text after it are tokenized separately."""
    tokenizer = tiny_decoder.tokenizer()
    tokens = asked("refund", "price")
    expected = (
        *tokenize(tokenizer, "Message:", special=True),
        *tokenize(tokenizer, " hi", special=False),
        *tokenize(tokenizer, "\nIntent:", special=True),
    )
    assert expected == tokens.prompt("hi")


def test_control_token_text_in_input_is_plain_text() -> None:
    """The text of a control token, such as `<|im_end|>`, is tokenized as plain text when it occurs in an input."""
    tokens = task_tokens(task(chat=True, system="Be brief."), tiny_decoder.tokenizer())
    end = tokens.tokenizer.eos_token_id
    assert 2 == tokens.prompt("hi").count(end)
    assert 2 == tokens.prompt("<|im_end|>").count(end)


def test_chat_prompt_requires_a_chat_template() -> None:
    """A task with `chat: true` is refused before the export if its tokenizer has no chat template, as an install would
    refuse it."""
    tokenizer = tiny_decoder.tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelLoadFailed, match="'chat: true', but the weights file has no chat template"):
        task_tokens(task(chat=True), tokenizer)


def test_tokenizer_without_begin_token_gets_none() -> None:
    """`begin_token` returns None for a tokenizer that writes no token before a text."""
    assert begin_token(tiny_decoder.tokenizer()) is None


def test_labels_with_the_same_tokens_are_refused() -> None:
    """A task is refused if two of its labels consist of the same tokens, because their scores could not differ."""
    tokenizer = tiny_decoder.tokenizer()
    same = task("refund", "price").model_copy(update={"labels": ("refund", "refund")})
    with pytest.raises(ModelLoadFailed, match="are the same tokens"):
        task_tokens(same, tokenizer)


@pytest.mark.parametrize("labels", [("refund", "price", "stock"), ("refund", "zebra crossing", "zebra coat", "x")])
def test_label_score_is_the_sum_over_its_tokens(labels: tuple[str, ...]) -> None:
    """Batching, padding and the shared cache do not change a label's score: it equals the sum of log-probabilities of
    its tokens when prompt and label run as one sequence."""
    model, tokens = tiny_decoder.model(), asked(*labels)
    joint = joint_log_probabilities(model, tokens, TEXTS)
    for text, row in zip(TEXTS, joint, strict=True):
        for path, score in zip(tokens.labels, row, strict=True):
            prompt = tokens.prompt(text)
            with torch.inference_mode():
                steps = model(torch.tensor([prompt + path])).logits[0].log_softmax(-1)
            expected = sum(float(steps[len(prompt) - 1 + at, token]) for at, token in enumerate(path))
            assert pytest.approx(expected, abs=1e-4) == score


def test_left_padding_aligns_the_ends() -> None:
    """Padding is added before the shorter row, and position numbers start at the row's first token."""
    padded = pad_left([(5,), (6, 7, 8)], "cpu")
    assert [[0, 0, 5], [6, 7, 8]] == padded["input_ids"].tolist()
    assert [[0, 0, 1], [1, 1, 1]] == padded["attention_mask"].tolist()
    assert [[0, 0, 0], [0, 1, 2]] == padded["position_ids"].tolist()
