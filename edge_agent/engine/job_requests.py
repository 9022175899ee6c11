"""Golden cases and questions as jobs of an engine, and answers in the words of the case. Pure."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence

from edge_agent.engine.protocol import AskedQuestion, JobRequest, JobResult
from edge_agent.formats.golden_cases import GoldenAnswer
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.questions import QuestionSpec

SEED = 1


def golden_job(manifest: Manifest, digest: str, text: str, job_id: str) -> JobRequest:
    """Return the job that asks a bundle what a golden file asks it."""
    task = manifest.task
    return JobRequest(
        job_id=job_id,
        digest=digest,
        text=text,
        output_tokens_max=task.written_tokens_max,
        temperature=task.prompt.temperature,
        seed=SEED,
        stops=task.prompt.stops,
    )


def golden_answer(manifest: Manifest, written: str, done: JobResult) -> GoldenAnswer:
    """Put an answer, and the text of its chunks, in the words of a golden case."""
    strangeness = ood_score(manifest, done)
    match manifest.task.kind:
        case "classify":
            return GoldenAnswer(manifest.task.labels[argmax(done.scores)], done.scores, strangeness)
        case "decide":
            questions, scores = manifest.task.questions, done.question_scores
            by_name = {question.name: each for question, each in zip(questions, scores, strict=True)}
            labels = {each.name: each.outputs[argmax(by_name[each.name])] for each in questions}
            return GoldenAnswer("", (), strangeness, labels, by_name)
        case "extract" | "redact":
            found = [[each.label, each.start, each.end] for each in done.entities]
            return GoldenAnswer(done.record or json.dumps(found), (done.confidence,), strangeness)
        case "embed":
            return GoldenAnswer("", struct.unpack(f"<{len(done.vector) // 4}f", done.vector), strangeness)
        case _:
            return GoldenAnswer(written)


def argmax(scores: Sequence[float]) -> int:
    """Return the place of the largest score, the first one of several."""
    return scores.index(max(scores))


def ood_score(manifest: Manifest, done: JobResult) -> float | None:
    """Return how strange an input is by the score of the bundle's gate; None = the bundle has no gate."""
    gate = manifest.confidence.gate
    return gate.score_of(done.ood_score, done.label_mass) if gate else None


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
