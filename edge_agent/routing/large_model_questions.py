"""Questions to the large model, and the check of its answers. Pure.

A question consists of the task's own words (its system message, or its prompt before the input), the labels, the
questions of a decide task or the schema of the record, and the redacted input. A JSON schema is sent with it; not every
server enforces that, so the answer is checked here, too. A large model that answers typed questions gets these instead,
and gives probabilities.

Such a model speaks `/v1/decisions` or `/v1/systemone` (`protocol` under `escalation` in agent.yaml). Its probabilities
train better than a label alone, so only a complete, finite distribution over the question's own options is accepted.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Literal

from edge_agent.formats import record_schema, strict_json
from edge_agent.formats.manifest import Manifest, TaskSpec
from edge_agent.formats.questions import QuestionSpec

PROBLEM_CHARACTERS_MAX = 300
SUM_ERROR_MAX = 1e-3
"""Tolerance of the sum of probabilities, which servers round."""


@dataclass(frozen=True)
class LargeModelTypedQuestion:
    """One question about a text."""

    name: str
    type: Literal["predicate", "choice", "score"]
    instructions: str
    """Never empty: the APIs require them."""
    options: tuple[str, ...]
    """Every possible output, in order; "no" and "yes" for a predicate."""
    descriptions: tuple[str, ...] = ()
    """One for each option, or none."""


@dataclass(frozen=True)
class ModelAnswer:
    """A large model's answer to one question, unchecked."""

    question: str
    probabilities: tuple[tuple[str, float], ...] = ()
    """Option and probability; empty = it declined the question."""


def read_distribution(
    question: LargeModelTypedQuestion, answers: Sequence[ModelAnswer]
) -> tuple[tuple[str, float], ...]:
    """Return each option of a question with its probability, in order, with the sum 1.

    Raises:
        ValueError: there is no usable answer; the message names the question, and quotes only a sum from the answer.
    """
    subject = f"question {question.name!r}"
    matches = [each for each in answers if each.question == question.name]
    if len(matches) != 1:
        raise ValueError(f"it gave {len(matches)} answers to {subject} instead of 1")
    if not matches[0].probabilities:
        raise ValueError(f"it declined {subject}")
    probabilities = _ordered_probabilities(question, matches[0])
    if not all(math.isfinite(probability) and probability >= 0 for probability in probabilities):
        raise ValueError(f"a probability in its answer to {subject} is not a finite number of at least 0")
    total = math.fsum(probabilities)
    if abs(total - 1) > SUM_ERROR_MAX:
        raise ValueError(f"the probabilities in its answer to {subject} add up to {total:.4g} instead of 1")
    pairs = zip(question.options, probabilities, strict=True)
    return tuple((option, probability / total) for option, probability in pairs)


def _ordered_probabilities(question: LargeModelTypedQuestion, answer: ModelAnswer) -> list[float]:
    """Return the numbers in the order of the options. Raises ValueError if the options differ."""
    probability_by_option = dict(answer.probabilities)
    missing = sum(option not in probability_by_option for option in question.options)
    if missing:
        raise ValueError(f"its answer to question {question.name!r} lacks {missing} of {len(question.options)} options")
    if len(answer.probabilities) != len(question.options):
        raise ValueError(f"its answer to question {question.name!r} has an option that is not one, or one twice")
    return [probability_by_option[option] for option in question.options]


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
    """A caller waits for the answer; other questions have lower priority."""
    questions: tuple[LargeModelTypedQuestion, ...] = ()
    """The same as typed questions about `text`; empty = the answer is a record or a text."""
    text: str = ""
    """The redacted input."""

    def follow_up(self, answer: str, problem: str) -> LargeModelQuestion:
        """Return the question that asks again after an answer with a problem."""
        correction = f"That cannot be used: {problem}. Answer again, with the JSON alone."
        extra_turns = (("assistant", answer[:ANSWER_CHARACTERS_MAX]), ("user", correction))
        return replace(self, turns=self.turns + extra_turns)


def build_question(manifest: Manifest, text: str, subset: Sequence[QuestionSpec] | None = None) -> LargeModelQuestion:
    """Build the question about a redacted text; `subset`: which questions of a decide task, None = all of its own."""
    task = manifest.task
    questions = task.questions_asked if subset is None else tuple(subset)
    instructions = _task_instructions(task)
    schema = answer_schema(task, questions)
    schema_text = "" if schema is None else json.dumps(schema, ensure_ascii=False)
    if task.kind == "classify":
        instructions += "\n\nThe labels: " + ", ".join(map(_json_text, task.labels))
    elif task.kind == "decide":
        instructions += "\n\nThe questions:\n" + "\n".join(map(_question_line, questions))
    if schema_text:
        instructions += "\n\nAnswer with JSON of this schema and nothing else:\n" + schema_text
    answer_tokens = [len(question.name) + max(map(len, question.outputs)) for question in questions]
    tokens_max = LABEL_TOKENS + sum(answer_tokens) if questions else task.limits.output_tokens_max
    turns = (("system", instructions), ("user", text))
    typed = typed_questions(task, questions)
    return LargeModelQuestion(task.name, turns, schema_text, tokens_max, questions=typed, text=text)


def typed_questions(
    task: TaskSpec, subset: Sequence[QuestionSpec] | None = None
) -> tuple[LargeModelTypedQuestion, ...]:
    """Return the task as typed questions; empty for a record or a text. `subset`: as in `build_question`."""
    if task.kind == "classify":
        return (LargeModelTypedQuestion(task.name, "choice", _task_instructions(task), tuple(task.labels)),)
    return tuple(
        LargeModelTypedQuestion(each.name, each.type, each.instructions, each.outputs, each.descriptions)
        for each in (task.questions if subset is None else subset)
    )


def answer_schema(task: TaskSpec, subset: Sequence[QuestionSpec] | None = None) -> dict[str, Any] | None:
    """Return the JSON schema of an answer, with a member for each question; None = free text. `subset`: as before."""
    if questions := task.questions_asked if subset is None else subset:
        return _object_schema(
            {
                _KEY if task.kind == "classify" else each.name: {"type": "string", "enum": list(each.outputs)}
                for each in questions
            }
        )
    if task.kind != "extract":
        return None
    if task.record_schema is not None:
        return dict(task.record_schema)
    texts = {"type": "array", "items": {"type": "string"}, "maxItems": record_schema.ITEMS_MAX}
    return _object_schema(dict.fromkeys(task.record_fields, texts))


@dataclass(frozen=True)
class LargeModelReply:
    """The content of a large model's answer, or its problem."""

    value: str = ""
    """A label, a record as JSON, or a text; empty for a decide task."""
    problem: str = ""
    probabilities: tuple[tuple[str, float], ...] = ()
    """Each label with its probability, in the order of the task; empty = the large model gave no probabilities."""
    answers: Mapping[str, LargeModelReply] = field(default_factory=dict)
    """decide: the answers by question; if there is a problem, the usable ones."""


def parse_reply(task: TaskSpec, reply: str, questions: Sequence[LargeModelTypedQuestion] = ()) -> LargeModelReply:
    """Check an answer against the task's labels or schema, or, for a decide task, the options of `questions`."""
    if task.kind == "generate":
        return LargeModelReply(reply) if reply.strip() else LargeModelReply(problem="it is empty")
    text = reply.strip()[:ANSWER_CHARACTERS_MAX]
    if text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) > 2 * len(_FENCE):
        # Many models put JSON into a Markdown fence.
        text = text.removeprefix(_FENCE).removesuffix(_FENCE).removeprefix("json")
    try:
        decoded = strict_json.decode(text)
        encoded = strict_json.encode(decoded)
    except ValueError:
        return LargeModelReply(problem="it is not JSON")
    if task.kind == "decide":
        return _parse_answers(questions, decoded)
    schema = answer_schema(task)
    assert schema is not None, "generate and embed are answered elsewhere"
    if problem := broken_rule(schema, decoded):
        return LargeModelReply(problem=problem)
    return LargeModelReply(decoded[_KEY] if task.kind == "classify" else encoded.decode())


def _parse_answers(questions: Sequence[LargeModelTypedQuestion], decoded: object) -> LargeModelReply:
    """Take the valid answers; the first invalid one is the problem."""
    if not isinstance(decoded, dict):
        return LargeModelReply(problem="it is not a JSON object")
    answers = {
        each.name: LargeModelReply(value)
        for each in questions
        if isinstance(value := decoded.get(each.name), str) and value in each.options
    }
    unanswered = [each.name for each in questions if each.name not in answers]
    problem = f"{unanswered[0]!r} must be one of its possible answers" if unanswered else ""
    return LargeModelReply(problem=problem, answers=answers)


def parse_typed_reply(
    task: TaskSpec, questions: Sequence[LargeModelTypedQuestion], answers: Sequence[ModelAnswer]
) -> LargeModelReply:
    """Check the answers to typed questions; the likeliest option of each is its label.

    In a decide task, the first question without a usable answer is the problem.
    """
    replies = {question.name: _typed_answer(question, answers) for question in questions}
    if task.kind != "decide":
        return replies[questions[0].name]
    problem = next((reply.problem for reply in replies.values() if reply.problem), "")
    usable = {name: reply for name, reply in replies.items() if not reply.problem}
    return LargeModelReply(problem=problem, answers=usable)


def _typed_answer(question: LargeModelTypedQuestion, answers: Sequence[ModelAnswer]) -> LargeModelReply:
    try:
        distribution = read_distribution(question, answers)
    except ValueError as error:
        return LargeModelReply(problem=str(error))
    return LargeModelReply(max(distribution, key=itemgetter(1))[0], probabilities=distribution)


_OPENINGS: Mapping[str, str] = {
    "classify": "You choose one label for each text. Choose the one that fits best.",
    "decide": "You answer questions about a text. Give each question the one of its possible answers that fits best.",
    "extract": "You find values in texts and write them into a record. Take only what the text says.",
    "generate": "",
    "embed": "",
}


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _question_line(question: QuestionSpec) -> str:
    """Return a question on one line, with its possible answers and their meanings."""
    meanings = question.descriptions or ("",) * len(question.outputs)
    answers = (
        f"{_json_text(output)} ({meaning})" if meaning else _json_text(output)
        for output, meaning in zip(question.outputs, meanings, strict=True)
    )
    prefix = "Is this true: " if question.type == "predicate" else ""
    order = ", from the lowest to the highest level" if question.type == "score" else ""
    return (
        f"- {_json_text(question.name)}: {prefix}{question.instructions} Possible answers{order}: {', '.join(answers)}"
    )


def _task_instructions(task: TaskSpec) -> str:
    """Return what the model shall do, and the part of the task's prompt before the input: instructions or examples."""
    introduction = task.prompt.template.partition("{input}")[0].strip()
    return "\n\n".join(filter(None, (_OPENINGS[task.kind], task.prompt.system.strip(), introduction)))


def _object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def broken_rule(schema: Mapping[str, Any], answer: object) -> str:
    """Return the rule of the schema that an answer breaks, and where; empty = none."""
    # Loaded only at a site with a large model.
    from jsonschema import ValidationError  # noqa: PLC0415

    try:
        _load_validator()(schema).validate(answer)
    except ValidationError as error:
        location = "/".join(str(part) for part in error.absolute_path)
        return f"{location or 'the answer'} breaks the rule {error.validator!r}"[:PROBLEM_CHARACTERS_MAX]
    return ""


@functools.cache
def _load_validator() -> Callable[[Mapping[str, Any]], Any]:
    """Return a factory of schema validators with bounded running time."""
    import re2  # noqa: PLC0415
    from jsonschema import Draft202012Validator, FormatChecker, ValidationError  # noqa: PLC0415
    from jsonschema.validators import extend  # noqa: PLC0415

    def pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Any:
        # RE2 has bounded time: the answer is untrusted, and Python's `re` is exponential for some patterns.
        if isinstance(instance, str) and not re2.search(pattern, instance):
            yield ValidationError(f"{pattern!r} does not match")

    def is_format(name: str) -> Callable[[object], bool]:
        matches = re2.compile(record_schema.FORMATS[name]).search
        return lambda value: not isinstance(value, str) or matches(value) is not None

    formats = FormatChecker(formats=())
    for name in record_schema.FORMATS:
        formats.checks(name)(is_format(name))
    return functools.partial(extend(Draft202012Validator, {"pattern": pattern}), format_checker=formats)
