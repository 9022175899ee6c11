"""Installed tasks, their bundles and questions, as all calls return them; and a JSON state as text. No gRPC; pure.

A task takes one text as input, so a state is rendered as text. Equal values give equal texts with every client: members
are sorted by name, a whole number has no fraction (1.0 is 1), and there is no white space. Training rows must be
rendered the same way, so that a model gets the same texts at a site as in training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BundleRef:
    """The exact version of a task."""

    task: str
    version: str
    digest: str
    """Lower-case hexadecimal sha256 of the stored manifest.json."""


@dataclass(frozen=True)
class QuestionOption:
    """One possible answer to a question, and what it means."""

    label: str
    description: str = ""


@dataclass(frozen=True)
class TaskQuestion:
    """What is asked about an input: by a task, or by a call where the task takes questions from calls."""

    name: str
    type: str = ""
    """PREDICATE, CHOICE or SCORE; empty in a call = the task's own question of that name."""
    instructions: str = ""
    options: tuple[QuestionOption, ...] = ()
    """In their order; a call may leave them out for a predicate."""
    threshold: float | None = None
    """The least confidence of a confident answer; None when the question has none, and in a call."""


@dataclass(frozen=True)
class Task:
    """An installed task."""

    name: str
    kind: str
    """CLASSIFY, DECIDE, EXTRACT, GENERATE or EMBED."""
    bundle: BundleRef
    labels: tuple[str, ...]
    input_tokens_max: int
    output_tokens_max: int
    inputs_max: int
    ready: bool
    signed: bool
    threshold: float | None
    mode: str = "LOCAL"
    """BOOTSTRAP, SHADOW, HYBRID or LOCAL: which model answers."""
    mode_by: str = ""
    """operator, plan, configuration, bundle or alarm: what set the mode; empty from an older daemon."""
    record_schema: str = ""
    """Set only by `task`: the JSON Schema of its records; empty for another kind."""
    confidence_blocker: str = ""
    """Why no answer of this task is confident on this machine; empty = answers can be confident."""
    gate: str = ""
    """The measure that detects inputs unlike the training data: "ood_score", "label_mass" or "none"; empty from an
    older daemon."""
    questions: tuple[TaskQuestion, ...] = ()
    """Of a decide task, in the model's order."""
    open_questions: bool = False
    """A call of `decide` may contain its own questions."""


_EXACT_MAX = 2**53
"""Up to this number every whole number is exact as a float."""
STATE_LEVELS_MAX = 32
STATE_VALUES_MAX = 10_000
STATE_BYTES_MAX = 256 * 2**10
"""The limits of OpenAI's `input_json`: levels of objects and lists, values in all, and bytes of the text as UTF-8."""


def render_state(state: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return an object or a list as compact JSON with sorted member names, in UTF-8 without escapes.

    Raises:
        ValueError: it is empty or too large, or holds what JSON cannot: NaN, an infinite number, half of a surrogate
            pair, another type. The message completes a sentence about the state.
    """
    if not state:
        raise ValueError("must not be empty")
    _check_size(state)
    try:
        text = json.dumps(_plain(state), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is not text") from None
    except TypeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except ValueError:
        raise ValueError("holds a number that is not finite") from None
    if size > STATE_BYTES_MAX:
        raise ValueError(f"has {size} bytes as compact JSON; the limit is {STATE_BYTES_MAX}")
    return text


def _plain(value: Any) -> Any:
    """Return the value with whole floats as integers. Its depth is bounded, so recursion is safe."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_MAX else value


def _check_size(state: Any) -> None:
    """Count levels and values, without recursion. Raises ValueError."""
    level, values = 0, [state]
    count = 1
    while containers := [each for each in values if isinstance(each, Mapping | list | tuple)]:
        level += 1
        if level > STATE_LEVELS_MAX:
            raise ValueError(f"is nested in more than {STATE_LEVELS_MAX} levels of objects and lists")
        values = [one for each in containers for one in (each.values() if isinstance(each, Mapping) else each)]
        count += len(values)
        if count > STATE_VALUES_MAX:
            raise ValueError(f"has more than {STATE_VALUES_MAX} values")
