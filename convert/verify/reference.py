"""Computes the model at full precision in PyTorch: the reference for exported and quantized artefacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convert.decoder.scores import joint_log_probabilities
from convert.decoder.tokens import task_tokens
from convert.training import checkpoint_loading
from convert.verify import divergence
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import TaskSpec

LogProbabilities = NDArray[np.float64]
"""Natural logarithms; of each text they sum to 1 over the labels of a question."""
Done = Callable[[int], None]
"""Called with the number of texts done."""


def quiet(_done: int) -> None:
    """Tell nobody."""


def question_log_probabilities(
    checkpoint: Path, adapter: Path | None, task: TaskSpec, texts: Sequence[str], done: Done = quiet
) -> list[LogProbabilities]:
    """Return [texts, outputs] for each question of an encoder's task, as the agent computes them at temperature 1; a
    classify task is one question, for which a decoder can be the model, too.

    Raises what `label_log_probabilities` raises.
    """
    if task.kind != "decide":
        return [label_log_probabilities(checkpoint, adapter, task, texts, done)]
    logits = np.stack(encoder_rows(checkpoint, adapter, "sequence", texts, done))
    ends = np.cumsum([len(question.outputs) for question in task.questions_asked])[:-1]
    return [divergence.log_softmax(part) for part in np.split(logits, ends, axis=1)]


def label_log_probabilities(
    checkpoint: Path, adapter: Path | None, task: TaskSpec, texts: Sequence[str], done: Done = quiet
) -> LogProbabilities:
    """Return [texts, labels]: log-probabilities over the task's labels, as the agent computes them at temperature 1.

    A decoder's are the joint log-probabilities of each label behind the task's prompt, renormalised over the labels; an
    encoder's the log-softmax of its logits.

    Raises:
        InvalidRequest: the task does not classify.
        ModelLoadFailed: the checkpoint does not open.
    """
    if task.kind != "classify":
        raise InvalidRequest(f"a task of kind {task.kind} has no label probabilities", remedy="Compare its answers.")
    if checkpoint_loading.is_decoder(checkpoint_loading.read_config(checkpoint)):
        model = checkpoint_loading.open_model(checkpoint, adapter, "causal")
        tokens = task_tokens(task, checkpoint_loading.open_tokenizer(checkpoint))
        return divergence.log_softmax(joint_log_probabilities(model, tokens, texts, done))
    rows = encoder_rows(checkpoint, adapter, "sequence", texts, done)
    return divergence.log_softmax(np.stack(rows))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return an encoder's tokens for a text as the agent splits it: not truncated, and "[SEP]" in it is five
    characters."""
    return list(checkpoint_loading.encoded(tokenizer, text)["input_ids"])


def encoder_rows(
    checkpoint: Path, adapter: Path | None, head: checkpoint_loading.Head, texts: Sequence[str], done: Done = quiet
) -> list[NDArray[np.float32]]:
    """Return the model's first output for each text, in float32: logits, or the last hidden state [tokens, width].

    Texts are computed one at a time, so padding cannot change the result. Raises ModelLoadFailed.
    """
    model, tokenizer = (
        checkpoint_loading.open_model(checkpoint, adapter, head),
        checkpoint_loading.open_tokenizer(checkpoint),
    )
    rows = []
    with torch.inference_mode():
        for count, text in enumerate(texts, 1):
            output = model(torch.tensor([encode(tokenizer, text)]))
            rows.append((output.last_hidden_state if head == "none" else output.logits)[0].numpy())
            done(count)
    return rows
