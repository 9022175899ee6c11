"""The two wire formats in which a server answers typed questions: OpenAI's `/v1/decisions` and `/v1/systemone`. Pure.

`build_body` writes the questions; `parse_answers` reads the response. Only the format is checked here: the daemon,
which does not trust this process, checks the probabilities. No text from the server becomes part of an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.formats import strict_json

DecisionProtocol = Literal["decisions", "systemone"]
QUESTION_TYPES = ("predicate", "choice", "score")
NO, YES = "no", "yes"
"""The outputs of a predicate."""
MODEL_CHARACTERS_MAX = 200


@dataclass(frozen=True)
class TypedQuestion:
    """One question as the daemon sends it."""

    name: str
    type: str
    """One of QUESTION_TYPES."""
    instructions: str
    options: tuple[tuple[str, str], ...]
    """Values and descriptions, which can be empty, in order; "no" and "yes" for a predicate."""
    named: bool = True
    """False = the one question of a classify task, whose name is the task's: `decisions` asks it without a name."""


@dataclass(frozen=True)
class TypedAnswer:
    """The answer to one question."""

    question: str
    probabilities: tuple[tuple[str, float], ...] = ()
    """Option and probability; empty = the server declined the question."""


@dataclass(frozen=True)
class ParsedAnswers:
    """A whole response."""

    model: str
    """Empty = the server did not name it."""
    answers: tuple[TypedAnswer, ...]
    input_tokens: int | None = None
    """None = the server does not count tokens; so for output_tokens."""
    output_tokens: int | None = None


def build_body(protocol: DecisionProtocol, model: str, text: str, questions: Sequence[TypedQuestion]) -> dict[str, Any]:
    """Return the JSON body of a request about a text."""
    if protocol == "decisions":
        return {"model": model, "input": text, "questions": [_decisions_question(each) for each in questions]}
    return {"model": model, "state": text, "questions": {each.name: _system_one_question(each) for each in questions}}


def parse_answers(protocol: DecisionProtocol, raw: bytes, questions: Sequence[TypedQuestion]) -> ParsedAnswers:
    """Read the body of a response.

    Raises:
        ValueError: the body does not have the format; the message completes a sentence and quotes nothing of the
        response.
    """
    try:
        plain = strict_json.decode(raw)
    except ValueError:  # also for bytes that are not UTF-8
        raise ValueError("it is not JSON, or it holds NaN, Infinity or a repeated key") from None
    try:
        if protocol == "decisions":
            return _from_decisions(strict_json.validate(_DecisionsResponse, plain), questions)
        return _from_system_one(strict_json.validate(_SystemOneResponse, plain), questions)
    except ValidationError as error:
        raise ValueError(f"it breaks a rule of the API: {error.errors()[0]['type']}") from None


# --- OpenAI ----------------------------------------------------------------------------------------------------------


def _decisions_question(question: TypedQuestion) -> dict[str, Any]:
    plain: dict[str, Any] = {"type": question.type, "instructions": question.instructions}
    if question.named:
        plain["name"] = question.name
    keys = {"choice": ("choices", "value"), "score": ("levels", "label")}.get(question.type)
    if keys is not None:
        plain[keys[0]] = [
            {keys[1]: value} | ({"description": description} if description else {})
            for value, description in question.options
        ]
    return plain


class _WireFormat(BaseModel):
    """Unknown members are ignored, because servers add their own."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class _TokenUsage(_WireFormat):
    input_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None
    output_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = None


class _DeclinedAnswer(_WireFormat):
    type: Literal["refusal"]
    name: str | None = None


class _DecisionsPredicate(_WireFormat):
    type: Literal["predicate"]
    name: str | None = None
    probability: float


class _ValueProbability(_WireFormat):
    value: str | bool
    probability: float


class _DecisionsChoice(_WireFormat):
    type: Literal["choice"]
    name: str | None = None
    probabilities: tuple[_ValueProbability, ...]


class _LevelProbability(_WireFormat):
    value: int
    probability: float


class _DecisionsScore(_WireFormat):
    type: Literal["score"]
    name: str | None = None
    probabilities: tuple[_LevelProbability, ...]


_DecisionsAnswer = Annotated[
    _DecisionsPredicate | _DecisionsChoice | _DecisionsScore | _DeclinedAnswer, Field(discriminator="type")
]


class _DecisionsResponse(_WireFormat):
    model: str = ""
    answers: tuple[_DecisionsAnswer, ...]
    """In the order of the questions."""
    usage: _TokenUsage | None = None


def _from_decisions(response: _DecisionsResponse, questions: Sequence[TypedQuestion]) -> ParsedAnswers:
    if len(response.answers) != len(questions):
        raise ValueError(f"it has {len(response.answers)} answers to {len(questions)} questions")
    pairs = zip(questions, response.answers, strict=True)
    answers = tuple(_typed_answer(question, question.type, answer) for question, answer in pairs)
    return _parsed_answers(response.model, answers, response.usage)


# --- System One ------------------------------------------------------------------------------------------------------

_SYSTEM_ONE_TYPES = {"predicate": "noul", "choice": "choice", "score": "score"}


def _system_one_question(question: TypedQuestion) -> dict[str, Any]:
    plain: dict[str, Any] = {"type": _SYSTEM_ONE_TYPES[question.type], "instructions": question.instructions}
    if question.type == "choice":
        plain["criteria"] = {value: description or None for value, description in question.options}
    elif question.type == "score":
        plain["criteria"] = [description or value for value, description in question.options]
    return plain


class _SystemOnePredicate(_WireFormat):
    type: Literal["noul"]
    probability: Annotated[float, Field(alias="noul")]


class _SystemOneChoice(_WireFormat):
    type: Literal["choice"]
    probabilities: dict[str, float]


class _SystemOneScore(_WireFormat):
    type: Literal["score"]
    probabilities: dict[str, float]


_SystemOneAnswer = Annotated[
    _SystemOnePredicate | _SystemOneChoice | _SystemOneScore | _DeclinedAnswer, Field(discriminator="type")
]


class _SystemOneResponse(_WireFormat):
    model: str = ""
    answers: dict[str, _SystemOneAnswer]
    usage: _TokenUsage | None = None


def _from_system_one(response: _SystemOneResponse, questions: Sequence[TypedQuestion]) -> ParsedAnswers:
    answered = [each for each in questions if each.name in response.answers]
    answers = tuple(_typed_answer(each, _SYSTEM_ONE_TYPES[each.type], response.answers[each.name]) for each in answered)
    return _parsed_answers(response.model, answers, response.usage)


# --- both ------------------------------------------------------------------------------------------------------------


def _typed_answer(question: TypedQuestion, expected: str, answer: Any) -> TypedAnswer:
    """Return an answer, with the labels of a score's levels; `expected` is the protocol's type of the question."""
    if answer.type not in (expected, "refusal"):
        raise ValueError(f"its answer to question {question.name!r} is of another type than the question")
    if answer.type == "refusal":
        return TypedAnswer(question.name)
    if question.type == "predicate":
        return TypedAnswer(question.name, ((NO, 1 - answer.probability), (YES, answer.probability)))
    if isinstance(answer.probabilities, dict):
        pairs = tuple(answer.probabilities.items())
    else:
        pairs = tuple((_text(each.value), each.probability) for each in answer.probabilities)
    if question.type == "choice":
        return TypedAnswer(question.name, pairs)
    labels = {str(level): value for level, (value, _) in enumerate(question.options)}
    if any(level not in labels for level, _ in pairs):
        raise ValueError(f"its answer to question {question.name!r} has a level that the question does not have")
    return TypedAnswer(question.name, tuple((labels[level], probability) for level, probability in pairs))


def _text(value: str | bool | int) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _parsed_answers(model: str, answers: tuple[TypedAnswer, ...], usage: _TokenUsage | None) -> ParsedAnswers:
    tokens = usage or _TokenUsage()
    return ParsedAnswers(model[:MODEL_CHARACTERS_MAX], answers, tokens.input_tokens, tokens.output_tokens)
