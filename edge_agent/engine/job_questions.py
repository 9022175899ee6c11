"""Questions as a job asks them of a runtime. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from edge_agent.engine.protocol import AskedQuestion
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.questions import QuestionSpec


def own_questions(manifest: Manifest) -> tuple[AskedQuestion, ...]:
    """Return the questions that a bundle defines; of a classify task its only one."""
    return as_asked(manifest, manifest.task.questions_asked)


def as_asked(manifest: Manifest, questions: Iterable[QuestionSpec]) -> tuple[AskedQuestion, ...]:
    """Return questions of a bundle, or of a call, each with the temperature that the bundle has for it."""
    return tuple(
        AskedQuestion(
            *(each.name, each.type, each.instructions, each.outputs, each.descriptions),
            temperature=manifest.confidence_of(each.name).temperature,
        )
        for each in questions
    )
