"""The review page: a queue of answers, a form for each with one key a label, and what a reviewer decides.

The page fetches the next answers before they are needed. Reading a form is pure.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote, urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edge_agent.client import AsyncReviewClient, CallFailed, Prediction
from edge_agent.formatting import count
from edge_agent.web.daemon_access import CALL_SECONDS_MAX
from edge_agent.web.rendering import daemon_of, principal_of, read_form, render_page

REVIEWER_COOKIE = "edge_agent_reviewer"
REVIEWER_CHARS_MAX = 100
REVIEWER_SECONDS = 365 * 86_400
FIRST_PAGE_SIZE, NEXT_PAGE_SIZE = 8, 20
"""Answers that the page starts with, and answers that it fetches when few are left."""
JUDGE_SECONDS_MAX = 12.0
"""A judgement is retried this long while the daemon restarts."""

KEYS = "123456789" + string.ascii_lowercase
"""A key for each label, in the task's order, as in `edge-agent review`. Other actions use other keys."""
NO_REASON = "no reason given"
SHOWN_CHARS_MAX = 80
_STREAM_REASONS = {
    "UNCERTAIN": "among the least confident",
    "DIVERSE": "some of each label",
    "NEW": "unlike the calibration data",
}
LABEL_KINDS = ("CLASSIFY", "DECIDE")
"""Kinds whose right answer is one of a few labels."""
_EDITED_FORMATS = {"EXTRACT": "the right JSON object", "GENERATE": "the right text"}


class ReviewFormInvalid(ValueError):
    """A form without a judgement."""


@dataclass(frozen=True)
class LabelChoice:
    """A label that may be the right one."""

    label: str
    key: str
    """Empty when there are more labels than keys."""
    score: float | None
    is_answer: bool


@dataclass(frozen=True)
class ReviewForm:
    """An answer, as the page shows it for review."""

    prediction_id: str
    task: str
    """TASK/QUESTION of a question of a decide task."""
    kind: str
    input: str
    output: str
    """The answer that the client got, which is judged."""
    answer_time: datetime
    confidence: float | None
    """Of the local answer, like `confidence_label`."""
    confidence_label: str
    choices: tuple[LabelChoice, ...]
    edited_format: str
    """What the reviewer types for the right answer; empty when labels are chosen instead."""
    teacher_model: str = ""
    """The large model that gave `output`; empty when the local model did."""
    local_answer: str = ""
    """The local answer next to a large model's `output`; empty when it was not kept."""
    stream: str = ""
    """Its review stream: audit, uncertain, diverse or new; empty when the daemon reports none."""
    stream_reason: str = ""
    """The stream in words."""
    earlier_feedback: str = ""
    """Earlier judgements of it."""
    instructions: str = ""
    """What the question asks; empty for a task without questions."""

    @property
    def has_more_labels(self) -> bool:
        """Some labels have no key."""
        return any(not choice.key for choice in self.choices)


@dataclass(frozen=True)
class ReviewerJudgement:
    """A reviewer's judgement of an answer."""

    verdict: str
    """accept, correct or reject."""
    value: str = ""
    """The right answer, or why it is wrong."""

    @property
    def summary(self) -> str:
        """The judgement in a few words."""
        text = {"accept": "right", "correct": self.value, "reject": f"wrong: {self.value}"}[self.verdict]
        return text if len(text) <= SHOWN_CHARS_MAX else f"{text[: SHOWN_CHARS_MAX - 1]}…"


def make_review_form(prediction: Prediction) -> ReviewForm:
    """Return the form of an answer."""
    has_teacher = prediction.teacher_answer is not None
    earlier = [f"{feedback.reviewer}: {feedback.verdict} {feedback.value}".strip() for feedback in prediction.feedback]
    return ReviewForm(
        prediction_id=prediction.prediction_id,
        task=prediction.subject,
        instructions=prediction.instructions,
        kind=prediction.kind,
        input=prediction.input,
        output=readable_output(prediction.kind, prediction.output),
        answer_time=prediction.answer_time,
        confidence=prediction.confidence,
        confidence_label=_confidence_label(prediction),
        choices=_choices(prediction) if prediction.kind in LABEL_KINDS else (),
        edited_format=_EDITED_FORMATS.get(prediction.kind, ""),
        teacher_model=(prediction.teacher_model or "large model") if has_teacher else "",
        local_answer=readable_output(prediction.kind, prediction.local_answer or "") if has_teacher else "",
        stream=prediction.review_stream.lower(),
        stream_reason=_stream_reason(prediction),
        earlier_feedback="; ".join(earlier),
    )


def _stream_reason(prediction: Prediction) -> str:
    if prediction.sampling_probability is not None:
        interval = 1 / prediction.sampling_probability
        number = f"{interval:.3g}" if interval < 100 else count(interval)
        return f"random audit, one of {number} answers: please skip none"
    return _STREAM_REASONS.get(prediction.review_stream, "")


def readable_output(kind: str, output: str) -> str:
    """Return an answer for reading and editing: a record has one field a line."""
    if kind != "EXTRACT":
        return output
    try:
        return json.dumps(json.loads(output), ensure_ascii=False, indent=2)
    except ValueError:
        return output


def parse_judgement(form: Mapping[str, str]) -> ReviewerJudgement:
    """Read a form. Raises ReviewFormInvalid."""
    if "label" in form:
        return _correction(form["label"], form.get("answer", ""))
    if "text" in form:
        return _correction(form["text"].replace("\r\n", "\n"), form.get("answer", "").replace("\r\n", "\n"))
    if form.get("say") == "accept":
        return ReviewerJudgement("accept")
    if form.get("say") == "reject":
        return ReviewerJudgement("reject", form.get("reason", "").strip() or NO_REASON)
    raise ReviewFormInvalid("the form has no judgement")


def _correction(value: str, answer: str) -> ReviewerJudgement:
    """Return the correction; the unchanged answer counts as accepted."""
    if not value.strip():
        raise ReviewFormInvalid("the right answer is empty; press '!' to reject the answer without a correction")
    return ReviewerJudgement("accept") if value == answer else ReviewerJudgement("correct", value)


def _choices(prediction: Prediction) -> tuple[LabelChoice, ...]:
    scores, keys = dict(prediction.scores), dict(zip(prediction.labels, KEYS, strict=False))
    return tuple(
        LabelChoice(label, keys.get(label, ""), scores.get(label), label == prediction.output)
        for label in prediction.labels
    )


def _confidence_label(prediction: Prediction) -> str:
    if prediction.confidence is None:
        return ""
    if prediction.threshold is None:
        return "no threshold"
    return "below threshold" if prediction.below_threshold else "confident"


async def show_review(request: Request) -> Response:
    """Show the queue, or ask for the reviewer's name first."""
    tasks, name = await _tasks(request), _task_name(request)
    questions = tasks.get(name.partition("/")[0], ())
    context = {"tasks": list(tasks), "task": name, "questions": questions, "reviewer": _reviewer(request)}
    if not context["reviewer"] or "rename" in request.query_params:
        return render_page(request, "reviewer.html", context)
    return render_page(request, "review.html", {**context, **await _queue_context(request, FIRST_PAGE_SIZE)})


async def show_queue(request: Request) -> Response:
    """Show the queue alone: the page asks for it repeatedly while the daemon does not answer."""
    return render_page(
        request, "review_queue.html", {"task": _task_name(request), **await _queue_context(request, FIRST_PAGE_SIZE)}
    )


async def show_more(request: Request) -> Response:
    """Show the next answers, or that none is left."""
    context = await _queue_context(request, NEXT_PAGE_SIZE)
    if context["problem"]:
        return PlainTextResponse(str(context["problem"].message), 503)
    return render_page(request, "review_forms.html", {"task": _task_name(request), **context})


async def review_again(request: Request) -> Response:
    """Show an answer again: the newest judgement of a reviewer counts."""
    prediction = await _review_client(request).prediction(
        request.query_params.get("id", ""), timeout_seconds=CALL_SECONDS_MAX
    )
    return render_page(request, "review_form.html", {"form": make_review_form(prediction)})


async def submit_judgement(request: Request) -> Response:
    """Pass a judgement on. It is on the daemon's disk when this returns."""
    form, reviewer = await read_form(request), _reviewer(request)
    if not reviewer:
        return PlainTextResponse("The reviewer's name is missing: load this page again.", 409)
    try:
        judgement = parse_judgement(form)
    except ReviewFormInvalid as error:
        return PlainTextResponse(str(error), 422)
    prediction_id = form.get("prediction_id", "")
    client, seconds = _review_client(request), JUDGE_SECONDS_MAX
    if judgement.verdict == "accept":
        await client.accept(prediction_id, reviewer=reviewer, timeout_seconds=seconds)
    elif judgement.verdict == "correct":
        await client.correct(prediction_id, judgement.value, reviewer=reviewer, timeout_seconds=seconds)
    else:
        await client.reject(prediction_id, judgement.value, reviewer=reviewer, timeout_seconds=seconds)
    return render_page(
        request, "judged.html", {"prediction_id": prediction_id, "judgement": judgement, "about": form.get("about", "")}
    )


async def remember_reviewer(request: Request) -> Response:
    """Store the reviewer's name in a cookie."""
    name = (await read_form(request)).get("reviewer", "").strip()[:REVIEWER_CHARS_MAX]
    if not name:
        return PlainTextResponse("Enter a name.", 422)
    response = Response(status_code=204, headers={"hx-redirect": f"/review?{urlencode({'task': _task_name(request)})}"})
    response.set_cookie(REVIEWER_COOKIE, quote(name), max_age=REVIEWER_SECONDS, httponly=True, samesite="strict")
    return response


async def _queue_context(request: Request, size: int) -> dict[str, Any]:
    """Fetch answers. A failed call becomes `problem`, which the page shows."""
    after = request.query_params.get("after", "")
    try:
        predictions, token = await _review_client(request).page(
            _task_name(request), page_token=after, page_size=size, timeout_seconds=CALL_SECONDS_MAX
        )
    except CallFailed as problem:
        return {"forms": [], "after": "", "problem": problem}
    return {"forms": [make_review_form(each) for each in predictions], "after": token, "problem": None}


async def _tasks(request: Request) -> dict[str, list[str]]:
    """Return the tasks that the principal may see, to choose one, each with the questions that have a queue."""
    snapshot, principal = await daemon_of(request).snapshot(), principal_of(request)
    if snapshot.status and principal.has_role("admin"):
        tasks, examples = list(snapshot.status.tasks), snapshot.status.examples
        names = sorted(examples.collect) if examples else []
    else:
        tasks = list(snapshot.tasks or ()) if principal.has_role("infer") else []
        names = [task.name for task in tasks]
    questions = {task.name: [each.name for each in task.questions] for task in tasks if task.kind == "DECIDE"}
    return {name: questions.get(name, []) for name in names}


def _task_name(request: Request) -> str:
    return str(request.query_params.get("task", ""))


def _reviewer(request: Request) -> str:
    """Return the reviewer: the certificate's name, or the name in this browser's cookie."""
    return principal_of(request).name or unquote(request.cookies.get(REVIEWER_COOKIE, ""))[:REVIEWER_CHARS_MAX]


def _review_client(request: Request) -> AsyncReviewClient:
    return daemon_of(request).require_reviews()


ROUTES = [
    Route("/review", show_review),
    Route("/review/queue", show_queue),
    Route("/review/more", show_more),
    Route("/review/again", review_again),
    Route("/review/judge", submit_judgement, methods=["POST"]),
    Route("/review/name", remember_reviewer, methods=["POST"]),
]
