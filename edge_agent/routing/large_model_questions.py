"""Questions to the large model, and the check of its answers. Pure.

A question consists of the task's own words (its system message, or its prompt before the input), the labels or the
schema of the record, and the redacted input. A JSON schema goes with it; not every server keeps to that, so the answer
is checked here too. A large model that answers typed questions gets these instead, and gives probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from edge_agent.formats import record_schema
from edge_agent.formats.manifest import Manifest, TaskSpec
from edge_agent.routing import decision_questions
from edge_agent.routing.decision_questions import LargeModelTypedQuestion, ModelAnswer

ANSWER_CHARACTERS_MAX = 64 * 1024
LABEL_TOKENS = 64
_KEY = "label"
_FENCE = "```"


@dataclass(frozen=True)
class LargeModelQuestion:
    """A conversation with the large model so far."""

    task: str
    turns: tuple[tuple[str, str], ...]
    """Role and text."""
    schema_text: str
    """JSON schema of the answer; empty = free text."""
    output_tokens_max: int
    waited_for: bool = True
    """A caller waits for the answer; without one the question yields to those with one."""
    questions: tuple[LargeModelTypedQuestion, ...] = ()
    """The same as typed questions about `text`; empty = its answer is no choice."""
    text: str = ""
    """The redacted input."""

    def repaired(self, answer: str, problem: str) -> LargeModelQuestion:
        """Return the question that follows an answer with a problem."""
        wrong = f"That cannot be used: {problem}. Answer again, with the JSON alone."
        more = (("assistant", answer[:ANSWER_CHARACTERS_MAX]), ("user", wrong))
        return replace(self, turns=self.turns + more)


def build_question(manifest: Manifest, text: str) -> LargeModelQuestion:
    """Build the question about a redacted text."""
    task = manifest.task
    words = "\n\n".join(part for part in (_OPENINGS[task.kind], _own_words(task)) if part)
    schema = answer_schema(task)
    if task.kind == "classify":
        words += "\n\nThe labels: " + ", ".join(json.dumps(label, ensure_ascii=False) for label in task.labels)
    if schema is not None:
        words += "\n\nAnswer with JSON of this schema and nothing else:\n" + json.dumps(schema, ensure_ascii=False)
    tokens = LABEL_TOKENS + max(len(label) for label in task.labels) if task.kind == "classify" else 0
    wanted = tokens or task.limits.output_tokens_max
    written = json.dumps(schema, ensure_ascii=False) if schema is not None else ""
    turns = (("system", words), ("user", text))
    return LargeModelQuestion(task.name, turns, written, wanted, questions=typed_questions(task), text=text)


def typed_questions(task: TaskSpec) -> tuple[LargeModelTypedQuestion, ...]:
    """Return what a task asks as typed questions; empty = its answer is no choice."""
    if task.kind != "classify":
        return ()
    instructions = "\n\n".join(part for part in (_OPENINGS["classify"], _own_words(task)) if part)
    return (LargeModelTypedQuestion(task.name, "choice", instructions, tuple(task.labels)),)


def answer_schema(task: TaskSpec) -> dict[str, Any] | None:
    """Return the JSON schema of an answer; None = free text."""
    if task.kind == "classify":
        return _object({_KEY: {"type": "string", "enum": list(task.labels)}})
    if task.kind != "extract":
        return None
    if task.record_schema is not None:
        return dict(task.record_schema)
    texts = {"type": "array", "items": {"type": "string"}, "maxItems": record_schema.ITEMS_MAX}
    return _object(dict.fromkeys(task.record_fields, texts))


@dataclass(frozen=True)
class LargeModelReply:
    """The content of a large model's answer: a label, a record as JSON, or a text; or its problem."""

    value: str = ""
    problem: str = ""
    probabilities: tuple[tuple[str, float], ...] = ()
    """Each label with its probability, in the order of the task; empty = the large model gave none."""


def parse_reply(task: TaskSpec, said: str) -> LargeModelReply:
    """Check an answer against the labels or the schema of a task."""
    if task.kind == "generate":
        return LargeModelReply(said) if said.strip() else LargeModelReply(problem="it is empty")
    try:
        plain = json.loads(_without_fence(said), parse_constant=_no_number)
    except (ValueError, RecursionError):
        return LargeModelReply(problem="it is not JSON")
    schema = answer_schema(task)
    assert schema is not None, "generate and embed are answered elsewhere"
    # Only a site that asks a large model loads the library that checks its answers.
    from edge_agent.routing.schema_check import broken_rule  # noqa: PLC0415

    if problem := broken_rule(schema, plain):
        return LargeModelReply(problem=problem)
    if task.kind == "classify":
        return LargeModelReply(plain[_KEY])
    return LargeModelReply(json.dumps(plain, ensure_ascii=False))


def parse_typed_reply(question: LargeModelTypedQuestion, answers: Sequence[ModelAnswer]) -> LargeModelReply:
    """Check the answers to typed questions; the likeliest option of `question` is the label."""
    try:
        found = decision_questions.read_distribution(question, answers)
    except ValueError as error:
        return LargeModelReply(problem=str(error))
    return LargeModelReply(max(found, key=itemgetter(1))[0], probabilities=found)


_OPENINGS: Mapping[str, str] = {
    "classify": "You choose one label for each text. Choose the one that fits best.",
    "extract": "You find values in texts and write them into a record. Take only what the text says.",
    "generate": "",
    "embed": "",
}


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _own_words(task: TaskSpec) -> str:
    """Return the part of the task's prompt before the input: instructions or examples."""
    before = task.prompt.template.partition("{input}")[0].strip()
    return "\n\n".join(part for part in (task.prompt.system.strip(), before) if part)


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _without_fence(said: str) -> str:
    """Remove the Markdown fence that many models put around JSON."""
    text = said.strip()[:ANSWER_CHARACTERS_MAX]
    if text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) > 2 * len(_FENCE):
        return text.removeprefix(_FENCE).removesuffix(_FENCE).removeprefix("json")
    return text
