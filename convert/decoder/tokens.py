"""Turns an input into a decoder's tokens, by the agent's own rule and with a checkpoint's own tokenizer.

The rule and the code are those of edge_agent/engine/runtimes/llama/question_prompts.py: training and comparison must
use the tokens of the served model. `verify` proves that the exported tokenizer agrees.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from edge_agent.engine.runtimes.llama.question_prompts import ChatTemplate, split_prompt
from edge_agent.engine.runtimes.llama.token_probabilities import LabelTree
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
