"""Asks the site's redaction model what is personal in texts: long ones in windows that overlap.

The model is the bundle that answers the task under `redaction` in agent.yaml, in an engine of its own, behind the calls
of client devices. Whatever goes wrong there is one error, RedactionHeld; its caller decides whether the text waits.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings, join_windows, narrower_windows, windows
from edge_agent.capture.redaction_queue import RedactionDependencies
from edge_agent.engine.protocol import JobRequest
from edge_agent.errors import EdgeAgentError, EmptyInput, InputQuarantined, InputTooLong, ModelFailed, RedactionHeld

if TYPE_CHECKING:
    from edge_agent.config import RedactionConfig
    from edge_agent.engine.pool import EnginePool
    from edge_agent.formats.redaction_section import MissedBound
    from edge_agent.store.state_database import InstalledBundle
    from edge_agent.update.activation import Activation

PRIORITY = 10
"""Client devices come first."""
CLIENT = "redaction"
WINDOWS_AT_ONCE = 4
KIND = "redact"


class ModelRedactor:
    """See the module. One event loop owns it."""

    def __init__(self, config: RedactionConfig, activation: Activation, engines: EnginePool) -> None:
        """Ask the bundle that answers `config.task` when a text comes."""
        self._task, self._activation, self._engines = config.task, activation, engines
        self._ids = itertools.count()

    @property
    def model(self) -> str:
        """The bundle that answers, task@version; empty = none does."""
        bundle = self._activation.serving.get(self._task)
        ready = bundle is not None and bundle.manifest.task.kind == KIND and self._engines.ready(bundle.digest)
        return _name(bundle) if bundle is not None and ready else ""

    def dependencies(self) -> RedactionDependencies:
        """Return what capture needs of this."""
        return RedactionDependencies(self.find, lambda: self.model, self.bound)

    def bound(self) -> MissedBound | None:
        """Return what the bundle promises of what it misses; None = nothing, or none answers."""
        bundle = self._activation.serving.get(self._task)
        return bundle.manifest.redaction_rule.bound if bundle is not None else None

    async def find(self, texts: Iterable[str], seconds: float) -> ModelFindings:
        """Return what is personal in each text, within that time.

        Raises:
            RedactionHeld: the model does not answer, or not about these texts; then `permanent` in its metadata is
                "True".
        """
        bundle = self._bundle()
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout(seconds):
                found = {text: await self._read(text, bundle, deadline) for text in dict.fromkeys(texts)}
        except TimeoutError:
            raise RedactionHeld(f"the redaction model did not read the text within {seconds:g} s") from None
        except (InputTooLong, InputQuarantined, ModelFailed) as error:
            said = f"the redaction model does not read the text: {error.message}"
            raise RedactionHeld(said, permanent=True, cause=error.reason) from None
        except EdgeAgentError as error:
            raise RedactionHeld(f"the redaction model does not answer: {error.message}", cause=error.reason) from None
        return ModelFindings(found, _name(bundle))

    def _bundle(self) -> InstalledBundle:
        bundle = self._activation.serving.get(self._task)
        if bundle is None:
            raise RedactionHeld(f"no bundle answers the task {self._task!r}, which redacts", cause="TASK_UNKNOWN")
        if (kind := bundle.manifest.task.kind) != KIND:
            said = f"the task {self._task!r} is to redact, and its bundle is of kind {kind}"
            raise RedactionHeld(said, cause="TASK_KIND_MISMATCH")
        return bundle

    async def _read(self, text: str, bundle: InstalledBundle, deadline: float) -> tuple[FoundValue, ...]:
        """Return the personal values of one text: a few windows at a time, so that a long one takes no whole queue."""
        parts = [(start, text[start:end]) for start, end in windows(text) if text[start:end].strip()]
        found: list[FoundValue] = []
        for place in range(0, len(parts), WINDOWS_AT_ONCE):
            batch = parts[place : place + WINDOWS_AT_ONCE]
            reading = (self._read_window(part, bundle, deadline) for _, part in batch)
            read = await asyncio.gather(*reading, return_exceptions=True)
            for (start, _), values in zip(batch, read, strict=True):
                if isinstance(values, BaseException):
                    raise values
                found += [_moved(each, start) for each in values]
        return join_windows(found)

    async def _read_window(self, text: str, bundle: InstalledBundle, deadline: float) -> list[FoundValue]:
        """Return the values of one window; what has too many tokens is divided again."""
        run = JobRequest(job_id=f"redaction-{next(self._ids)}", digest=bundle.digest, text=text)
        try:
            answer = await self._engines.answer(run, deadline, PRIORITY, CLIENT)
        except EmptyInput:
            return []
        except InputTooLong:
            if not (narrower := narrower_windows(text)):
                raise
            read = [(start, await self._read_window(text[start:end], bundle, deadline)) for start, end in narrower]
            return [_moved(each, start) for start, values in read for each in values]
        return [FoundValue(each.start, each.end, each.label, each.score) for each in answer.done.entities]


def _moved(value: FoundValue, start: int) -> FoundValue:
    return value._replace(start=value.start + start, end=value.end + start)


def _name(bundle: InstalledBundle) -> str:
    return f"{bundle.manifest.task.name}@{bundle.manifest.version}"
