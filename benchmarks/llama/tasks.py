"""The tasks that are compared: our bundles, and the same prompts as llama-server wants them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.llama.goals import LABELS
from benchmarks.llama.texts import Texts
from edge_agent.formats import manifest
from tests.support import bundles

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
        """Return the labels as GBNF, with the space that stands before them."""
        return "root ::= " + " | ".join(json.dumps(f" {label}") for label in self.labels)


def story(texts: Texts) -> str:
    """Return a prompt that the model writes on and on behind; no two are alike."""
    return _STORY.format(texts.opening())


def input_of(task: Task, text: str) -> str:
    """Return what stands behind a task's prefix, blanks included."""
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
