"""One input on its way between the local model and the large one: what the policy decides is done here.

The caller's deadline is never given away: the large model gets what is left of it but MARGIN_SECONDS, and then the
local answer stands. Nothing leaves before it was redacted, and what comes back is checked, mended once if need be, and
has its values put back in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import structlog

from edge_agent.capture.redact.redactor import RedactionSession
from edge_agent.errors import EdgeAgentError, UpstreamBusy, UpstreamFailed
from edge_agent.formats.manifest import Manifest, TaskSpec
from edge_agent.formats.plan import Mode
from edge_agent.routing import large_model_questions, policy
from edge_agent.routing.large_model_questions import LargeModelQuestion
from edge_agent.routing.policy import EscalationContext, LowConfidencePolicy, RouteDecision, RouteReason
from edge_agent.server import finished_answers
from edge_agent.server.finished_answers import FinishedAnswer, LargeModelAnswer
from edge_agent.server.uplink_client import LargeModelFinish, UplinkClient
from edge_agent.store.state import InstalledBundle

log = structlog.get_logger("edge_agent.server")

PLACEHOLDER_CHARACTERS_MAX = 64
MARGIN_SECONDS = 0.1
"""Kept back of the caller's time, for the local answer to be written and read."""
BEGINS_SHARE = 0.5
"""Of the caller's time. A text that has not begun by then is written here, if it can be: that takes its time, too."""


@dataclass(frozen=True)
class ModelRouterDependencies:
    """What the servicers are handed of other rooms."""

    link: UplinkClient
    mode: Callable[[str], Mode]
    """Of a task, as the plan, the operator or agent.yaml says."""
    redact: Callable[[], RedactionSession]
    defers: Callable[[str], bool] = lambda _: False
    """Whether an input of a task can be kept until the large model can be asked."""
    audit_share: float = 0.0
    """Of the sure answers, how many the large model is asked about all the same, later."""
    drawn: Callable[[], float] = random.random
    """Gives a number from 0 to below 1: not for secrets."""


class RoutedInput(NamedTuple):
    """One input; its deadline is on the event loop's clock."""

    text: str
    bundle: InstalledBundle
    deadline: float


class ModelRouter:
    """See the module."""

    def __init__(self, around: ModelRouterDependencies) -> None:
        """Ask over that link."""
        self._around = around

    def mode(self, manifest: Manifest) -> Mode:
        """Return the mode of a task; without a model of its own it can be in no other than bootstrap."""
        return "bootstrap" if manifest.runtime == "upstream" else self._around.mode(manifest.task.name)

    def asked(self, manifest: Manifest, wish: LowConfidencePolicy, deadline: float) -> EscalationContext:
        """Say how things stand for a task and a caller with that deadline, on the event loop's clock."""
        seconds_left = deadline - MARGIN_SECONDS - asyncio.get_running_loop().time()
        task = manifest.task.name
        blocked = policy.escalation_blocker(self._around.link.standing(task), seconds_left)
        return EscalationContext(self.mode(manifest), wish, blocked, self._around.defers(task))

    async def answer(
        self, item: RoutedInput, asked: EscalationContext, local: Callable[[], Awaitable[FinishedAnswer]]
    ) -> FinishedAnswer:
        """Answer an input of a task whose local answers have a confidence.

        Raises:
            EdgeAgentError: the local model failed, and no other has answered.
        """
        if asked.mode == "bootstrap":
            return await self._alone(item, asked)
        if policy.decide_before_local_answer(asked) is not None:
            return await self._beside(item, asked, local)
        finished = await local()
        decision = finished_answers.decide_on_local_answer(finished, asked)
        if decision.route != "upstream":
            # Drawn when the answer is given, so that load and connection have no say in what is checked.
            audited = policy.is_drawn_for_audit(decision, asked, self._around.audit_share, self._around.drawn())
            return finished._replace(decision=decision, audited=audited)
        said = await self._said(item)
        if isinstance(said, RouteReason):
            return finished._replace(
                decision=finished_answers.decide_on_local_answer(finished, policy.with_blocker(asked, said))
            )
        return finished._replace(decision=decision, said=said)

    async def writing(self, item: RoutedInput) -> AsyncGenerator[str | LargeModelAnswer, None]:
        """Let the large model write a text; yield its pieces, and at last what it took.

        Raises:
            EdgeAgentError: there is no text, or no whole one.
        """
        async with contextlib.aclosing(self._pieces(item)) as pieces:
            with _contained(item):
                async for piece in pieces:
                    yield piece

    async def _pieces(self, item: RoutedInput) -> AsyncGenerator[str | LargeModelAnswer, None]:
        began, redaction = time.monotonic(), self._around.redact()
        wanted, held, parts = self._question(item, redaction), "", list[str]()
        seconds = _seconds(item)
        begins = None if self.mode(item.bundle.manifest) == "bootstrap" else BEGINS_SHARE * seconds
        async with contextlib.aclosing(_begun(self._around.link.ask(wanted, seconds), begins)) as events:
            async for event in events:
                # A placeholder may come in pieces: what may still become one is held back.
                whole, held = (held, "") if isinstance(event, LargeModelFinish) else _split(held + event)
                if whole:
                    parts.append(redaction.restore(whole))
                    yield parts[-1]
                if isinstance(event, LargeModelFinish):
                    yield LargeModelAnswer(
                        "".join(parts), event.model, 1000 * (time.monotonic() - began), event.complete
                    )

    async def _alone(self, item: RoutedInput, asked: EscalationContext) -> FinishedAnswer:
        """Let the large model answer where there is no local one, or nobody."""
        decision = policy.decide_before_local_answer(asked)
        assert decision is not None, "bootstrap is decided before anybody is asked"
        said = await self._said(item) if decision.route == "upstream" else None
        if isinstance(said, RouteReason):
            return finished_answers.without_local_answer(
                *item[:2], policy.decide_before_local_answer(policy.with_blocker(asked, said)) or decision, None
            )
        return finished_answers.without_local_answer(*item[:2], decision, said)

    async def _beside(
        self, item: RoutedInput, asked: EscalationContext, local: Callable[[], Awaitable[FinishedAnswer]]
    ) -> FinishedAnswer:
        """Let both answer, for comparison; the large one's answer is given."""
        try:
            async with asyncio.TaskGroup() as group:
                computing = group.create_task(_finished(local))
                said = await self._said(item)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finished = computing.result()
        if isinstance(finished, EdgeAgentError):
            if isinstance(said, RouteReason):
                raise finished
            degraded = (finished.reason,)
            return finished_answers.without_local_answer(
                *item[:2], RouteDecision("upstream", RouteReason.MODE_SHADOW, degraded=degraded), said
            )
        if isinstance(said, RouteReason):
            return finished._replace(
                decision=finished_answers.decide_on_local_answer(finished, policy.with_blocker(asked, said))
            )
        graded = finished_answers.decide_on_local_answer(finished, policy.with_blocker(asked))
        shadow = replace(graded, route="upstream", reason=RouteReason.MODE_SHADOW, degraded=(), later=False)
        return finished._replace(decision=shadow, said=said)

    async def _said(self, item: RoutedInput) -> LargeModelAnswer | RouteReason:
        """Ask the large model, and once more when its answer cannot be used; return why there is none.

        Whatever goes wrong on the way costs the large model's answer and nothing else: the local one may be there.
        """
        try:
            with _contained(item):
                return await self._asked(item)
        except UpstreamBusy:
            return RouteReason.UPSTREAM_BUSY
        except EdgeAgentError as error:
            task = item.bundle.manifest.task.name
            log.info("escalation_failed", task=task, reason=error.reason, message=error.message)
            return RouteReason.UPSTREAM_FAILED

    async def _asked(self, item: RoutedInput) -> LargeModelAnswer:
        began, redaction, manifest = time.monotonic(), self._around.redact(), item.bundle.manifest
        asking = LargeModelConversation(self._around.link, manifest.task, self._question(item, redaction))
        value, finish = await asking.said(lambda: _seconds(item))
        return LargeModelAnswer(_restored(value, manifest, redaction), finish.model, 1000 * (time.monotonic() - began))

    def _question(self, item: RoutedInput, redaction: RedactionSession) -> LargeModelQuestion:
        return large_model_questions.build_question(item.bundle.manifest, redaction.text(item.text))


@contextlib.contextmanager
def _contained(item: RoutedInput) -> Iterator[None]:
    """Turn an exception of no error tree, as of a rule of the site, into a failure of the large model.

    Raises:
        UpstreamFailed: instead of it; the log has the exception.
    """
    try:
        yield
    except EdgeAgentError:
        raise
    except Exception as error:
        log.exception("escalation_broke", task=item.bundle.manifest.task.name, error=type(error).__name__)
        raise UpstreamFailed(f"asking the large model ended with an unexpected {type(error).__name__}") from None


async def _finished(local: Callable[[], Awaitable[FinishedAnswer]]) -> FinishedAnswer | EdgeAgentError:
    """Return what came of it: an error of the local model must not end the asking of the other."""
    try:
        return await local()
    except EdgeAgentError as error:
        return error


def _seconds(item: RoutedInput) -> float:
    seconds = item.deadline - MARGIN_SECONDS - asyncio.get_running_loop().time()
    if seconds <= 0:
        raise UpstreamFailed("no time is left for the large model")
    return seconds


async def _begun(
    asking: AsyncGenerator[str | LargeModelFinish, None], seconds: float | None
) -> AsyncGenerator[str | LargeModelFinish, None]:
    """Pass an answer on, unless it takes longer than that to begin; None = it may."""
    async with contextlib.aclosing(asking) as events:
        try:
            async with asyncio.timeout(seconds):
                first = await anext(events)
        except TimeoutError:
            raise UpstreamFailed("the large model had not begun when half of the caller's time was over") from None
        yield first
        async for event in events:
            yield event


def _split(text: str) -> tuple[str, str]:
    """Cut off what may be the beginning of a placeholder."""
    at = text.rfind("[")
    held = at >= 0 and len(text) - at <= PLACEHOLDER_CHARACTERS_MAX and "]" not in text[at:]
    return (text[:at], text[at:]) if held else (text, "")


def _restored(value: str, manifest: Manifest, redaction: RedactionSession) -> str:
    """Put personal data back into a record or a text; a label has none."""
    kind = manifest.task.kind
    if kind == "extract":
        return json.dumps(_each(json.loads(value), redaction), ensure_ascii=False)
    return redaction.restore(value) if kind == "generate" else value


def _each(value: Any, redaction: RedactionSession) -> Any:
    if isinstance(value, str):
        return redaction.restore(value)
    if isinstance(value, list):
        return [_each(each, redaction) for each in value]
    if isinstance(value, dict):
        return {key: _each(each, redaction) for key, each in value.items()}
    return value


# One conversation with the large model: a question, its answer, and once more when that cannot be used.
TRIES_MAX = 2


class LargeModelConversation:
    """See the module."""

    def __init__(self, link: UplinkClient, task: TaskSpec, wanted: LargeModelQuestion) -> None:
        """Ask that about an input of a task."""
        self._link, self._task, self._wanted = link, task, wanted
        self.heard = 0
        """Answers that have come, usable or not."""

    async def said(self, seconds: Callable[[], float]) -> tuple[str, LargeModelFinish]:
        """Return the label, the record as JSON, or the text; each try takes no longer than `seconds` says then.

        Raises:
            EdgeAgentError: there is no answer, or none that keeps to the labels or the schema.
        """
        problem = ""
        for _ in range(TRIES_MAX):
            written, finish = await self._whole(seconds())
            self.heard += 1
            reply = large_model_questions.parse_reply(self._task, written)
            problem = reply.problem
            if not problem:
                return reply.value, finish
            self._wanted = self._wanted.repaired(written, problem)
        raise UpstreamFailed(f"the large model's answer cannot be used: {problem}")

    async def _whole(self, seconds: float) -> tuple[str, LargeModelFinish]:
        parts: list[str] = []
        async with contextlib.aclosing(self._link.ask(self._wanted, seconds)) as events:
            async for event in events:
                if isinstance(event, LargeModelFinish):
                    return "".join(parts), event
                parts.append(event)
        raise UpstreamFailed("the large model gave no whole answer")
