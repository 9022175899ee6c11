"""Scores labels with a decoder in PyTorch, on the tokens and by the formula of the agent, at full precision.

A prompt is split by the code of edge_agent/engine/runtimes/llama/question_prompts.py, and tokenized by the checkpoint's
own tokenizer: training and comparison must use the tokens of the served model. `verify` proves that the
exported tokenizer agrees.

A score has the same definition as in edge_agent/engine/runtimes/llama/token_probabilities.py: the sum, over a label's
tokens, of log p(token | prompt, tokens before), over the whole vocabulary, not divided by the number of tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from edge_agent.engine.runtimes.llama.question_prompts import ChatTemplate, split_prompt
from edge_agent.engine.runtimes.llama.token_probabilities import LabelScorer, LabelTree
from edge_agent.formats.manifest import TaskSpec

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class TaskTokens:
    """A task's prompt and labels in the tokens of one tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    prefix: Tokens
    blanks: str
    """Spaces that are tokenized together with the input."""
    rest: Tokens
    labels: tuple[Tokens, ...]
    """classify: the tokens of each label, `label_prefix` included."""
    tree: LabelTree | None
    """classify only."""

    def prompt(self, text: str) -> Tokens:
        """Return the tokens of an input up to the beginning of the answer."""
        return self.prefix + tokenize(self.tokenizer, self.blanks + text, special=False) + self.rest


def task_tokens(task: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> TaskTokens:
    """Tokenize the prompt and labels of a task.

    Raises:
        ModelLoadFailed: the chat template fails, or labels have the same or too many tokens.
    """
    special = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token or ""}
    text = split_prompt(task.prompt, ChatTemplate(tokenizer.chat_template or "", special))
    prefix = tokenize(tokenizer, text.before, special=True)
    begin = begin_token(tokenizer)
    if begin is not None and prefix[:1] != (begin,):
        prefix = (begin, *prefix)
    rest = tokenize(tokenizer, text.after, special=True)
    if task.kind != "classify":
        return TaskTokens(tokenizer, prefix, text.blanks, rest, (), None)
    paths = tuple(tokenize(tokenizer, task.prompt.label_prefix + label, special=False) for label in task.labels)
    return TaskTokens(tokenizer, prefix, text.blanks, rest, paths, LabelTree(task.labels, paths))


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> Tokens:
    """Return the tokens of a text, none added; with `special`, the texts of control tokens become those tokens."""
    return tuple(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not special))


def begin_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that this tokenizer writes before every text; None if it writes none."""
    first = tokenizer.encode("a", add_special_tokens=True)[:1]
    return int(first[0]) if first == [tokenizer.bos_token_id] else None


BATCH_ROWS = 16
"""Largest number of prompts in a batch, or of branches after one prompt, each with a copy of the cache."""

LogProbabilities = npt.NDArray[np.float64]


def joint_log_probabilities(model: Any, tokens: TaskTokens, texts: Sequence[str]) -> LogProbabilities:
    """Return [texts, labels] of a causal language model of transformers, with or without a PEFT adapter.

    The model is set to evaluation mode, and stays in it.
    """
    assert tokens.tree is not None, "only a classify task has labels"
    model.eval()
    prompts = [tokens.prompt(text) for text in texts]
    # Prompts of similar length share a batch, which reduces padding.
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    joint = np.zeros((len(prompts), tokens.tree.size))
    size = 1 if tokens.tree.branches else BATCH_ROWS
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        with torch.inference_mode():
            joint[rows] = _joint(model, tokens.tree, [prompts[row] for row in rows])
    return joint


def pad_left(rows: Sequence[Tokens], device: Any) -> dict[str, torch.Tensor]:
    """Return `input_ids`, `attention_mask` and `position_ids`, [rows, longest], with the ends of all rows aligned."""
    longest = max(map(len, rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = torch.tensor(row)
        mask[index, longest - len(row) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "position_ids": positions.to(device)}


def _joint(model: Any, tree: LabelTree, prompts: Sequence[Tokens]) -> LogProbabilities:
    """Score the labels after some prompts: many at a time for labels of one token, otherwise one at a time."""
    out = model(**pad_left(prompts, model.device), logits_to_keep=1, use_cache=bool(tree.branches))
    scorers = [LabelScorer(tree) for _ in prompts]
    for scorer, row in zip(scorers, out.logits[:, -1].float().cpu().numpy(), strict=True):
        scorer.add_prompt(row)
    if tree.branches:
        _add_branches(model, tree, scorers[0], out.past_key_values, len(prompts[0]))
    return np.stack([scorer.joint for scorer in scorers])


def _add_branches(model: Any, tree: LabelTree, scorer: LabelScorer, cache: Any, length: int) -> None:
    """Compute the branches after one prompt, in batches of one length."""
    for branches in _batches(tree.branches):
        size = len(branches[0])
        branch_cache = copy.deepcopy(cache)
        branch_cache.batch_repeat_interleave(len(branches))
        ids = torch.tensor(branches, device=model.device)
        positions = torch.arange(length, length + size, device=model.device).expand(len(branches), size)
        mask = torch.ones((len(branches), length + size), dtype=torch.long, device=model.device)
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=branch_cache, use_cache=True
        )
        for branch, rows in zip(branches, out.logits.float().cpu().numpy(), strict=True):
            scorer.add_branch(branch, rows)


def _batches(branches: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    for size in sorted({len(branch) for branch in branches}):
        same_length = [branch for branch in branches if len(branch) == size]
        yield from (same_length[start : start + BATCH_ROWS] for start in range(0, len(same_length), BATCH_ROWS))
