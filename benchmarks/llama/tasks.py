"""The compared tasks: our bundles, the same prompts in llama-server's form, and texts for the measurements.

Texts are as long as wanted in the model's own tokens, and no two have a beginning in common: whoever keeps a cache of
prompts shall find nothing in it but the prompt that a task's texts share, so every text begins with two words drawn at
random.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.llama.goals import LABELS
from edge_agent.formats import manifest
from tests.support import bundles

SEED = 9
TRIES_MAX = 200
TOKENS_PER_WORD_MAX = 2
"""On average: so many words are too few, and need not be counted."""

Count = Callable[[str], int]
"""How many tokens a text is."""


class Texts:
    """Draws texts out of sentences; the same seed draws the same ones."""

    def __init__(self, sentences: Sequence[str], count: Count) -> None:
        """Take the sentences, and a counter of tokens."""
        self._random = random.Random(SEED)  # noqa: S311 - texts, no secrets
        self._sentences = [sentence.split() for sentence in sentences]
        self._words = sorted({word.strip(",.?!").lower() for sentence in self._sentences for word in sentence})
        self._count = count
        self._ahead: list[str] = []
        self._openings: set[tuple[str, ...]] = set()

    def short(self, tokens: int, frame: Callable[[str], str] = str) -> str:
        """Return a text that is exactly that long inside its frame.

        Raises:
            LookupError: no text of that length turned up, or the words do not suffice for another beginning.
        """
        least = (tokens - self._count(frame(""))) // TOKENS_PER_WORD_MAX
        for _ in range(TRIES_MAX):
            words = list(self._opening())
            counted = 0
            while counted < tokens:
                if len(words) >= least:
                    counted = self._count(frame(" ".join(words)))
                    if counted == tokens:
                        return " ".join(words)
                words += self._next_words(1 if len(words) + 1 >= least else least - len(words))
        raise LookupError(f"no text of {tokens} tokens in {TRIES_MAX} tries")

    def long(self, tokens: int) -> str:
        """Return a text of about that many tokens: within one in a hundred."""
        words = list(self._opening())
        while (missing := tokens - self._count(" ".join(words))) > 0:
            words += self._next_words(max(1, missing // TOKENS_PER_WORD_MAX))
        return " ".join(words)

    def opening(self) -> str:
        """Return two words that no other text begins with."""
        return " ".join(self._opening())

    def _next_words(self, number: int) -> list[str]:
        """Return the next words of sentences in a row."""
        while len(self._ahead) < number:
            self._ahead += self._random.choice(self._sentences)
        taken, self._ahead = self._ahead[:number], self._ahead[number:]
        return taken

    def _opening(self) -> tuple[str, ...]:
        for _ in range(TRIES_MAX):
            drawn = (self._random.choice(self._words).capitalize(), self._random.choice(self._words))
            if drawn not in self._openings:
                self._openings.add(drawn)
                return drawn
        raise LookupError(f"no two words in {TRIES_MAX} tries that no other text begins with")


CONTEXT_TOKENS = 4096
PROMPT_TOKENS_MAX = 3072
OUTPUT_TOKENS_MAX = CONTEXT_TOKENS - PROMPT_TOKENS_MAX
RECORD_TOKENS_MAX = 128

# 234 tokens of SmolLM2 before the input.
FEW_SHOT = (
    "Sort what a customer says at the till by what the customer wants. "
    "Answer with one word only.\n\n"
    "Customer: My kettle broke after a week, I want my money back.\nWants: refund\n\n"
    "Customer: Can I swap this shirt for a larger one?\nWants: exchange\n\n"
    "Customer: How much is the big blue lamp?\nWants: price\n\n"
    "Customer: Do you still have size nine boots?\nWants: stock\n\n"
    "Customer: When do you close on Sundays?\nWants: hours\n\n"
    "Customer: How many points are on my club card?\nWants: loyalty\n\n"
    "Customer: Can I pay half by card and half in cash?\nWants: payment\n\n"
    "Customer: The zip of these trousers is broken, please take them back.\nWants: refund\n\n"
    "Customer: What would six of the wine glasses cost me?\nWants: price\n\n"
    "Customer: I would rather have the green one, can we swap?\nWants: exchange\n\n"
    "Customer: Is the shop open on the day after tomorrow?\nWants: hours\n\n"
    "Customer: {input}\nWants:"
)
SHORT = "Customer: {input}\nWants:"
# A list goes on: a model that is told a story ends it.
_STORY = "{} is for sale in a small shop by the sea. A numbered list of one hundred more things in that shop:\n1."


@dataclass(frozen=True)
class Task:
    """One task."""

    name: str
    kind: str
    template: str
    labels: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    adapter: Path | None = None

    def prompt(self, text: str) -> str:
        """Return what the model reads."""
        return self.template.replace("{input}", text)

    def grammar(self) -> str:
        """Return the labels as GBNF, with the space before them."""
        return "root ::= " + " | ".join(json.dumps(f" {label}") for label in self.labels)


def story(texts: Texts) -> str:
    """Return a prompt that the model writes on and on behind; no two are alike."""
    return _STORY.format(texts.opening())


def input_of(task: Task, text: str) -> str:
    """Return the part of a prompt after the task's prefix, including blanks."""
    prefix, _, rest = task.template.partition("{input}")
    return prefix[len(prefix.rstrip(" ")) :] + text + rest


@functools.cache
def records() -> dict[str, Any]:
    """Return prompt, schema and the fifty texts of the extract task."""
    plain: dict[str, Any] = json.loads((Path(__file__).parent / "records.json").read_text(encoding="utf-8"))
    return plain


WRITE = Task("writer", "generate", "{input}")
CONTINUE = Task("continuer", "generate", FEW_SHOT)
CLASSIFY = Task("few-shot", "classify", FEW_SHOT, labels=LABELS)
CLASSIFY_SHORT = Task("fine-tuned", "classify", SHORT, labels=LABELS)
EXTRACT = Task("records", "extract", records()["template"], schema=records()["schema"])
COMPARED = (WRITE, CONTINUE, CLASSIFY, CLASSIFY_SHORT, EXTRACT)


def bundle(task: Task, weights: Path, folder: Path) -> Path:
    """Write a task's bundle. All of them share one engine."""
    limits = {"input_tokens_max": PROMPT_TOKENS_MAX, "output_tokens_max": OUTPUT_TOKENS_MAX}
    if task.kind == "extract":
        limits["output_tokens_max"] = RECORD_TOKENS_MAX
    plain = {"name": task.name, "kind": task.kind, "labels": task.labels, "limits": limits}
    plain |= {"prompt": {"template": task.template}}
    if task.schema is not None:
        plain["record_schema"] = task.schema
    fields = {"schema": manifest.SCHEMA, "runtime": "llama", "version": "1.0.0", "task": plain}
    fields |= {"confidence": {"policy": "always_escalate"}, "engine": {"context_tokens": CONTEXT_TOKENS}}
    files: dict[str, tuple[str, bytes | Path]] = {"weights": ("model.gguf", weights)}
    if task.adapter is not None:
        files["adapter"] = ("adapter.gguf", task.adapter)
    made: Path = bundles.write(folder, fields, {}, files)
    return made
