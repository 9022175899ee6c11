"""Measures how far two implementations of one model diverge, with probe texts, comparisons of logits, and bounds; and
computes the reference, which is the model at full precision in PyTorch.

The bounds hold between a model in PyTorch and its float export (F32, F16); measured differences are 1e-8 to 7e-6 for
F32. They do not apply to a quantized artefact, whose loss is measured and bounded by the recipe's budget.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers.normalizers import NFC

from convert.decoder.label_scores import begin_token, joint_log_probabilities, task_tokens, tokenize
from convert.training import checkpoint_loading
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import TaskSpec

KL_MAX = 1e-4
"""Nats."""
TOP_SHARE_MIN = 1.0
_TIE = 1e-2
"""If the two best logits of the reference are closer than this, either one counts as the best."""
ROWS_MAX = 16
_ROWS_AT_ONCE = 64

# Unicode in several forms, digits, white space, punctuation, code, and the texts of special tokens.
TEXTS = (
    "Hello",
    "The kettle I bought on 3 May 2024 broke; I want my money back.",
    "price 12.99 and 1,234,567 or 0800 123456",
    "2024-05-03T10:20:30Z",
    "a  b   c    d\te\n\nf\r\n g",
    " leading and trailing ",
    "\n\nnew lines\n",
    "Don't you've we'll I'm it's they'd",
    "DON'T SHOUT",
    "naïve café Ångström straße",
    "e\u0301 versus é, ﬁ versus fi",
    "日本語のテキスト、中文文本。",
    "Привет, как дела? مرحبا بالعالم שלום",
    "हिन्दी ไทย 한국어",
    "👍🏽 👨‍👩‍👧‍👦 emoji ✓ → ∞",
    "x = [i**2 for i in range(10)]  # squares",
    "<div class=\"a\">&amp;</div> {'k': 1}",
    "https://example.com/a?b=c&d=%20",
    "name@example.com #tag $5 50% ~/path \\n",
    "snake_case camelCase ALLCAPS kebab-case",
    "supercalifragilisticexpialidocious",
    "...!!!???---***",
    "zero\u200bwidth and no\u00a0break",
    "<|im_start|>user<|im_end|> [CLS] [SEP] <s> </s> <mask> [MASK] <|endoftext|>",
    "the end.<|im_end|>",
    "1 22 333 4444 55555",
    "Mr. O'Neill's cat (3 yrs) — 50€",
    "\u00bd cup of flour, 20\u00b0C",
)

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class DistributionGap:
    """The divergence of a model's next-token distributions from the reference's."""

    kl_mean: float
    """Nats."""
    kl_max: float
    same_top: float
    """Share of rows with the same best token; near ties count as the same."""
    rows: int

    @property
    def passes(self) -> bool:
        """Return whether the two are the same model."""
        return self.kl_max <= KL_MAX and self.same_top >= TOP_SHARE_MIN

    def __str__(self) -> str:
        """Return the figures in words."""
        return (
            f"Kullback-Leibler divergence {self.kl_mean:.2g} on average and {self.kl_max:.2g} at most (allowed "
            f"{KL_MAX:g}), the same best token in {self.same_top:.1%} of {self.rows} positions"
        )


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return log-probabilities over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def divergences(reference: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return KL(reference || other) in nats for each row of logits or log-probabilities; slices bound the memory."""
    parts = []
    for start in range(0, len(other), _ROWS_AT_ONCE):
        expected, actual = (log_softmax(rows[start : start + _ROWS_AT_ONCE]) for rows in (reference, other))
        parts.append((np.exp(expected) * (expected - actual)).sum(axis=-1).clip(min=0.0))
    return np.concatenate(parts)


def compare(reference: Rows, other: Rows) -> DistributionGap:
    """Compare two arrays [rows, classes] of logits. A value that is not finite counts as infinitely far."""
    if not np.isfinite(other).all() or reference.shape != other.shape:
        return DistributionGap(float("inf"), float("inf"), 0.0, len(reference))
    kl = divergences(reference, other)
    best = reference.max(axis=-1)
    chosen = reference[np.arange(len(other)), other.argmax(axis=-1)]
    return DistributionGap(float(kl.mean()), float(kl.max()), float((best - chosen <= _TIE).mean()), len(other))


def prompts(tokenizer: Any) -> list[list[int]]:
    """Return the probe texts in tokens, as a whole prompt: with the begin token if there is one."""
    begin = begin_token(tokenizer)
    first = [] if begin is None else [begin]
    return [[*first, *tokenize(tokenizer, text, special=False)] for text in TEXTS]


def last_logits(model: Any, token_lists: Sequence[Sequence[int]]) -> Rows:
    """Return a causal model's logits [rows, vocabulary] at the last ROWS_MAX tokens of each prompt, as `probe` does."""
    parts = []
    with torch.inference_mode():
        for tokens in token_lists:
            parts.append(model(torch.tensor([list(tokens)])).logits[0, -ROWS_MAX:].float().numpy())
    return np.concatenate(parts)


def composes(tokenizer: Any) -> bool:
    """Return whether a tokenizer composes characters first (NFC), which llama.cpp does not."""
    return isinstance(tokenizer.backend_tokenizer.normalizer, NFC)


def texts_for(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return texts on which a tokenizer and llama.cpp can be compared: composed ones, if the tokenizer composes."""
    return [unicodedata.normalize("NFC", text) for text in texts] if composes(tokenizer) else list(texts)


def difference(facts: Mapping[str, Any], tokenizer: Any, texts: Sequence[str] = TEXTS) -> str:
    """Return how the answer of `probe.llama_probe` and a tokenizer differ, in words; empty if they agree."""
    return _token_difference(facts, tokenizer, texts) or _special_difference(facts, tokenizer)


def _token_difference(facts: Mapping[str, Any], tokenizer: Any, texts: Sequence[str]) -> str:
    for special in (False, True):
        for text, theirs in zip(texts, facts["written" if special else "plain"], strict=True):
            ours = list(tokenize(tokenizer, text, special=special))
            if theirs != ours:
                suffix = " (control tokens recognised)" if special else ""
                return f"llama.cpp splits {text!r} into {theirs}, transformers into {ours}{suffix}"
    return ""


def _special_difference(facts: Mapping[str, Any], tokenizer: Any) -> str:
    begin, ids = begin_token(tokenizer), facts["special_ids"]
    theirs = ids["bos"] if facts["add_bos"] and ids["bos"] >= 0 else None
    if theirs != begin:
        return f"llama.cpp puts the token {theirs} before a text, transformers {begin}"
    end = tokenizer.eos_token_id
    if end is not None and ids["eos"] not in (end, -1):
        return f"llama.cpp ends a text with the token {ids['eos']}, transformers with {end}"
    return "" if facts["chat_template"] == (tokenizer.chat_template or "") else "the chat template differs"


# Accuracy hardly shows the effect of quantizing, because gained and lost right answers cancel out. Agreement and
# divergence do. The measures are those of llama.cpp (tools/perplexity/README.md).
@dataclass(frozen=True)
class ArtefactLoss:
    """The loss of an artefact over rows, which are texts or tokens."""

    kl_mean: float
    """Kullback-Leibler divergence of the artefact's distribution from the reference's, in nats."""
    kl_p999: float
    """The 99.9th percentile; the largest value, with fewer than 1000 rows."""
    agreement: float
    """Share of rows with the same best class."""
    rows: int

    def report(self) -> dict[str, float]:
        """Return the figures for a report."""
        return asdict(self)


def measure_loss(reference: NDArray[np.floating], other: NDArray[np.floating]) -> ArtefactLoss:
    """Compare [rows, classes] of logits or log-probabilities."""
    kl = divergences(reference, other)
    same = reference.argmax(axis=-1) == other.argmax(axis=-1)
    return ArtefactLoss(float(kl.mean()), float(np.quantile(kl, 0.999, method="higher")), float(same.mean()), len(kl))


LogProbabilities = NDArray[np.float64]
"""Natural logarithms; of each text they sum to 1 over the labels of a question."""


def question_log_probabilities(
    checkpoint: Path, adapter: Path | None, task: TaskSpec, texts: Sequence[str]
) -> list[LogProbabilities]:
    """Return [texts, outputs] for each question of an encoder's task, as the agent computes them at temperature 1; a
    classify task is one question, for which a decoder can be the model, too.

    Raises what `label_log_probabilities` raises.
    """
    if task.kind != "decide":
        return [label_log_probabilities(checkpoint, adapter, task, texts)]
    logits = np.stack(encoder_rows(checkpoint, adapter, "sequence", texts))
    ends = np.cumsum([len(question.outputs) for question in task.questions_asked])[:-1]
    return [log_softmax(part) for part in np.split(logits, ends, axis=1)]


def label_log_probabilities(
    checkpoint: Path, adapter: Path | None, task: TaskSpec, texts: Sequence[str]
) -> LogProbabilities:
    """Return [texts, labels]: log-probabilities over the task's labels, as the agent computes them at temperature 1.

    For a decoder these are the joint log-probabilities of each label after the task's prompt, renormalised over the
    labels; for an encoder, the log-softmax of its logits.

    Raises:
        InvalidRequest: the task does not classify.
        ModelLoadFailed: the checkpoint does not open.
    """
    if task.kind != "classify":
        message = f"a task of kind {task.kind} has no label probabilities"
        raise InvalidRequest(message, remedy="Compare its answers instead.")
    if checkpoint_loading.is_decoder(checkpoint_loading.read_config(checkpoint)):
        model = checkpoint_loading.open_model(checkpoint, adapter, "causal")
        tokens = task_tokens(task, checkpoint_loading.open_tokenizer(checkpoint))
        return log_softmax(joint_log_probabilities(model, tokens, texts))
    return log_softmax(np.stack(encoder_rows(checkpoint, adapter, "sequence", texts)))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return an encoder's tokens for a text, split like the agent: not truncated, "[SEP]" as five characters."""
    return list(checkpoint_loading.encode_text(tokenizer, text)["input_ids"])


def accepted_texts(tokenizer: Any, task: TaskSpec, texts: Sequence[str]) -> list[str]:
    """Return the texts that a site accepts; the model can lack positions for longer ones."""
    return [text for text in texts if len(encode(tokenizer, text)) <= task.limits.input_tokens_max]


def encoder_rows(
    checkpoint: Path, adapter: Path | None, head: checkpoint_loading.Head, texts: Sequence[str]
) -> list[NDArray[np.float32]]:
    """Return the model's first output for each text, in float32: logits, or the last hidden state [tokens, width].

    Texts are computed one at a time, so padding cannot change the result. Raises ModelLoadFailed.
    """
    model = checkpoint_loading.open_model(checkpoint, adapter, head)
    tokenizer = checkpoint_loading.open_tokenizer(checkpoint)
    rows = []
    with torch.inference_mode():
        for text in texts:
            output = model(torch.tensor([encode(tokenizer, text)]))
            rows.append((output.last_hidden_state if head == "none" else output.logits)[0].numpy())
    return rows
