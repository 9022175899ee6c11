"""One conversation with the large model: a question, its answer, and once more when that cannot be used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from edge_agent.errors import UpstreamFailed
from edge_agent.formats.manifest import TaskSpec
from edge_agent.routing import question
from edge_agent.routing.question import Question
from edge_agent.server.upstream import Finish, Link

TRIES_MAX = 2


class Asking:
    """See the module."""

    def __init__(self, link: Link, task: TaskSpec, wanted: Question) -> None:
        """Ask that about an input of a task."""
        self._link, self._task, self._wanted = link, task, wanted
        self.heard = 0
        """Answers that have come, usable or not."""

    async def said(self, seconds: Callable[[], float]) -> tuple[str, Finish]:
        """Return the label, the record as JSON, or the text; each try takes no longer than `seconds` says then.

        Raises:
            EdgeAgentError: there is no answer, or none that keeps to the labels or the schema.
        """
        problem = ""
        for _ in range(TRIES_MAX):
            written, finish = await self._whole(seconds())
            self.heard += 1
            reply = question.read(self._task, written)
            problem = reply.problem
            if not problem:
                return reply.value, finish
            self._wanted = self._wanted.repaired(written, problem)
        raise UpstreamFailed(f"the large model's answer cannot be used: {problem}")

    async def _whole(self, seconds: float) -> tuple[str, Finish]:
        parts: list[str] = []
        async with contextlib.aclosing(self._link.ask(self._wanted, seconds)) as events:
            async for event in events:
                if isinstance(event, Finish):
                    return "".join(parts), event
                parts.append(event)
        raise UpstreamFailed("the large model gave no whole answer")
