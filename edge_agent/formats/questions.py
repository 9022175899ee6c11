"""The questions of a decide task: their types and possible answers.

A question has one of three types. *predicate*: whether the statement in the instructions is true; its outputs are "no"
and "yes". *choice*: one of several options. *score*: one of several ordered levels; its score is the expected index of
the level, from 0. A classify task is the special case of a single choice (`TaskSpec.questions_asked`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edge_agent.formats.strict_json import StrictModel

QuestionType = Literal["predicate", "choice", "score"]
QuestionName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$")]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=2000)]

QUESTIONS_MAX = 64
"""Of one bundle."""
PREDICATE_OUTPUTS = ("no", "yes")
"""In the order of the model's outputs."""
QUESTION_OUTPUT = "logits.{}"
"""The output that answers a question of a decide task, by the question's name: float32, [batch, answers]."""
OPTIONS = {"choice": (2, 255), "score": (2, 10)}
"""The fewest and the most labels of a question, by its type."""


class QuestionSpec(StrictModel):
    """One question."""

    name: QuestionName
    type: QuestionType
    instructions: str = Field(min_length=1, max_length=2000)
    """The question; for a predicate, a statement that is true or not."""
    labels: tuple[Label, ...] = Field(default=(), max_length=255)
    """choice: the options. score: the levels, the lowest first. predicate: none."""
    descriptions: tuple[Description, ...] = Field(default=(), max_length=255)
    """What each output means, in the order of `outputs`; an empty text describes nothing."""

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The possible answers, in the order of the model's outputs."""
        return self.labels or PREDICATE_OUTPUTS

    @model_validator(mode="after")
    def _check_question(self) -> QuestionSpec:
        if not self.instructions.strip():
            raise ValueError(f"'instructions' of question {self.name!r} have no text")
        if self.type == "predicate":
            if self.labels:
                raise ValueError(f"question {self.name!r} is a predicate, whose answers are no and yes: no 'labels'")
        else:
            fewest, most = OPTIONS[self.type]
            if not fewest <= len(self.labels) <= most:
                count = len(self.labels)
                raise ValueError(f"question {self.name!r}: a {self.type} has {fewest} to {most} labels, not {count}")
            if repeated_labels := duplicates(self.labels):
                raise ValueError(f"question {self.name!r} has duplicate labels: {', '.join(repeated_labels)}")
        if self.descriptions and len(self.descriptions) != len(self.outputs):
            have, need = len(self.descriptions), len(self.outputs)
            raise ValueError(f"question {self.name!r} has {need} possible answers and {have} 'descriptions'")
        return self


@lru_cache(maxsize=256)
def single_choice(name: str, labels: tuple[str, ...]) -> tuple[QuestionSpec]:
    """Return the only question of a classify task; unlike a declared one it may have up to 1,000 labels."""
    return (QuestionSpec.model_construct(name=name, type="choice", instructions="", labels=labels, descriptions=()),)


def expected_level(probabilities: Sequence[float]) -> float:
    """Return the expected level of a score question: the mean index of the levels, from 0, weighted by probability."""
    return sum(level * probability for level, probability in enumerate(probabilities))


def duplicates(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)
